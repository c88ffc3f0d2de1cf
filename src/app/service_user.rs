//! Root starts the service, but does not run it: `up` continues as the user `vm-service` before anything listens, forks or writes,
//! with one right left, to bind the standard ports below 1024.
//!
//! Reads: `/proc/self`, `/etc/passwd`. Writes: the user, the data folder, `DATA/bin/vm-service` (root's home may be closed to that
//! user). The folder is root's, with the sticky bit: that user makes its own files in it and cannot touch `bin`, so that root never
//! follows a link or starts a program of that user's making. Calls: `useradd`, `chown`, `setpriv`.

use anyhow::{Context as _, bail};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user and its group.
const USER: &str = "vm-service";

/// Whether this process is root.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Whether the service runs as that user over this data folder.
pub(super) fn has_taken(data: &Path) -> bool {
    data.join("bin/vm-service").is_file()
}

/// Becomes the service user and starts this program again over the same data folder; returns only an error.
pub(super) fn continue_as_service_user(data: &Path, images: &Path) -> anyhow::Error {
    match prepare(data) {
        Ok(program) => {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", USER, "--regid", USER, "--init-groups", "--no-new-privs"])
                .args(["--inh-caps", "-all,+net_bind_service", "--ambient-caps", "-all,+net_bind_service"])
                .args(["--bounding-set", "-all,+net_bind_service"])
                .arg(program)
                .args(std::env::args_os().skip(1))
                .env("HOME", data)
                .env("VM_SERVICE_DATA", data)
                .env("VM_SERVICE_IMAGES", images)
                .env_remove("XDG_DATA_HOME")
                .env_remove("XDG_CACHE_HOME");
            anyhow::Error::new(command.exec()).context("starting setpriv (package util-linux)")
        }
        Err(error) => error,
    }
}

fn prepare(data: &Path) -> anyhow::Result<PathBuf> {
    ensure_user()?;
    std::fs::create_dir_all(data).with_context(|| {
        format!("cannot make the folder {}: choose a data folder that root may write, with --data", data.display())
    })?;
    let bin = data.join("bin");
    if let Err(error) = std::fs::create_dir(&bin)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("making {}", bin.display()));
    }
    for folder in [data, &bin] {
        let found = std::fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != 0 {
            bail!("{} is not a folder of root's: choose another data folder with --data", folder.display());
        }
    }
    run(Command::new("chown").arg(format!("root:{USER}")).arg(data))?;
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o1775))?;
    let program = bin.join("vm-service");
    let fresh = bin.join(".vm-service.new");
    std::fs::copy("/proc/self/exe", &fresh).context("copying the program into the data folder")?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&fresh, &program)?;
    Ok(program)
}

/// Makes the user on a machine that lacks it; in the group `kvm` where there is one.
fn ensure_user() -> anyhow::Result<()> {
    let has = |file: &str, name: &str| {
        std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.split(':').next() == Some(name)))
    };
    if !has("/etc/passwd", USER) {
        run(Command::new("useradd").args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]).args([
            "--shell",
            "/usr/sbin/nologin",
            USER,
        ]))?;
    }
    if has("/etc/group", "kvm") {
        run(Command::new("usermod").args(["--append", "--groups", "kvm", USER]))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("starting {name}"))?;
    if !done.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
