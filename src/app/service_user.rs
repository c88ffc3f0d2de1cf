//! Root starts the service, but does not run it: `up` continues as the user `vm-service` before anything listens, forks or writes,
//! with one right left, to bind the standard ports below 1024.
//!
//! Reads: `/proc/self`, `/etc/passwd`. Writes: the user, the data folder's owner, `DATA/bin/vm-service` (root's home may be closed
//! to that user). Calls: `useradd`, `chown`, `setpriv`.

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

/// Becomes the service user and starts this program again with the same arguments; returns only an error.
pub(super) fn continue_as_service_user(data: &Path) -> anyhow::Error {
    match prepare(data) {
        Ok(program) => {
            let error = Command::new("setpriv")
                .args(["--reuid", USER, "--regid", USER, "--init-groups", "--no-new-privs"])
                .args(["--inh-caps", "-all,+net_bind_service", "--ambient-caps", "-all,+net_bind_service"])
                .args(["--bounding-set", "-all,+net_bind_service"])
                .arg(program)
                .args(std::env::args_os().skip(1))
                .exec();
            anyhow::Error::new(error).context("starting setpriv (package util-linux)")
        }
        Err(error) => error,
    }
}

fn prepare(data: &Path) -> anyhow::Result<PathBuf> {
    ensure_user()?;
    std::fs::create_dir_all(data.join("bin")).with_context(|| {
        format!("cannot make the folder {}: choose a data folder that root may write, with --data", data.display())
    })?;
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o711))?;
    run(Command::new("chown").arg(format!("{USER}:{USER}")).arg(data))?;
    let program = data.join("bin/vm-service");
    let fresh = data.join("bin/.vm-service.new");
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
