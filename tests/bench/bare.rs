//! The baseline: QEMU alone, with the command that the service gave its own VM, and a client that waits for SSH as the service does.
//!
//! Taken over from the VM: image, disk size, every flag. Its own: name, ports, disk, seed and keys.

use crate::report::said;
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use vm_service::domain::identity::{Bootstrap, USER};
use vm_service::guest::user_data;
use vm_service::ssh::{Session, SshError, Target};

/// No host is so slow that a boot takes longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// After a login that was refused because the machine still boots; as in `guest::linux`.
const RETRY: Duration = Duration::from_millis(500);
/// The guest ends itself should this benchmark be killed; as long as the service says by default.
const SILENT_FOR: Duration = Duration::from_secs(600);

/// How to boot one machine as the service did.
pub(crate) struct Recipe {
    command: Vec<String>,
    ssh: String,
    docker: String,
    image: PathBuf,
    disk_bytes: u64,
}

/// Milliseconds from the start of QEMU's process.
#[derive(Clone, Copy)]
pub(crate) struct Boot {
    /// To the session.
    pub(crate) session: f64,
    /// To the end of `true`.
    pub(crate) command: f64,
}

/// `machine.json`.
#[derive(Deserialize)]
struct Record {
    ip: Ipv4Addr,
    ssh_port: u16,
    docker_port: u16,
}

/// `keeper.json`.
#[derive(Deserialize)]
struct Plan {
    qemu: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Disk {
    virtual_size: u64,
    backing_filename: PathBuf,
}

impl Recipe {
    /// Reads the folder of a machine that runs.
    pub(crate) fn of_machine(folder: &Path) -> anyhow::Result<Self> {
        let record: Record = serde_json::from_slice(&std::fs::read(folder.join("machine.json"))?)?;
        let plan: Plan = serde_json::from_slice(&std::fs::read(folder.join("keeper.json"))?)?;
        ensure!(plan.qemu.iter().any(|word| word.contains("restrict=on")), "the network is not closed: {:?}", plan.qemu);
        let disk = said("qemu-img", &["info", "-U", "--output=json", &folder.join("disk.qcow2").to_string_lossy()])?;
        let disk: Disk = serde_json::from_str(&disk)?;
        Ok(Self {
            command: plan.qemu,
            ssh: format!("tcp:{}:{}-", record.ip, record.ssh_port),
            docker: format!("tcp:{}:{}-", record.ip, record.docker_port),
            image: disk.backing_filename,
            disk_bytes: disk.virtual_size,
        })
    }

    /// What decides how fast it is.
    pub(crate) fn describe(&self) -> String {
        let chosen = ["-accel", "-cpu", "-smp", "-m"];
        let pairs = self.command.windows(2).filter(|pair| chosen.contains(&pair[0].as_str()));
        let words: Vec<String> = pairs.map(|pair| pair.join(" ")).collect();
        format!("{}, disk {} GiB, network closed", words.join(" "), self.disk_bytes >> 30)
    }

    /// Boots it, runs `true` over SSH, and ends it.
    pub(crate) async fn boot(&self, work: &Path) -> anyhow::Result<Boot> {
        let folder = tempfile::tempdir_in(work)?;
        let bootstrap = Bootstrap::generate()?;
        write_seed(&folder.path().join("seed.img"), &user_data::cloud_config(&bootstrap, SILENT_FOR))?;
        self.create_disk(&folder.path().join("disk.qcow2"))?;
        let ports = (free_port()?, free_port()?);
        let command = self.command_with(ports)?;
        let (program, arguments) = command.split_first().context("no program")?;
        let target = Target {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.0)),
            user: USER.to_owned(),
            host_key: bootstrap.host_public.clone(),
            login: bootstrap.login_private.clone(),
        };
        let console = File::create(folder.path().join("console"))?;
        let errors = File::create(folder.path().join("errors"))?;
        let mut qemu = Command::new(program);
        qemu.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).stdout(console).stderr(errors);
        qemu.process_group(0).kill_on_drop(true);

        let began = Instant::now();
        let mut qemu = qemu.spawn().with_context(|| format!("starting {program}"))?;
        let done = tokio::select! {
            done = first_command(&target, began) => done.context("the bare VM"),
            status = qemu.wait() => Err(anyhow::anyhow!("QEMU ended: {status:?}")),
        };
        drop(qemu.kill().await);
        if done.is_err() {
            let said = ["errors", "console"].map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default());
            eprintln!("the bare VM said: {}", said.join("\n"));
        }
        done
    }

    fn command_with(&self, ports: (u16, u16)) -> anyhow::Result<Vec<String>> {
        let mut command = self.command.clone();
        for (old, port) in [(&self.ssh, ports.0), (&self.docker, ports.1)] {
            let word = command.iter_mut().find(|word| word.contains(old.as_str())).with_context(|| format!("no {old}"))?;
            *word = word.replace(old.as_str(), &format!("tcp:127.0.0.1:{port}-"));
        }
        let name = command.iter().position(|word| word == "-name").context("no -name")?;
        command[name + 1] = "vm-service-bench".to_owned();
        Ok(command)
    }

    /// As the provider makes it.
    fn create_disk(&self, path: &Path) -> anyhow::Result<()> {
        let backing = self.image.to_string_lossy().replace(',', ",,");
        let options = format!("backing_fmt=qcow2,lazy_refcounts=on,backing_file={backing}");
        let size = self.disk_bytes.to_string();
        said("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &path.to_string_lossy(), &size]).map(drop)
    }
}

async fn first_command(target: &Target, began: Instant) -> anyhow::Result<Boot> {
    let deadline = began + PATIENCE;
    let session = loop {
        match Session::connect_when_up(target, deadline).await {
            Err(SshError::LoginRefused | SshError::WrongHostKey) if Instant::now() + RETRY < deadline => sleep(RETRY).await,
            other => break other?,
        }
    };
    let session_ms = ms(began);
    let output = session.exec("true", b"", 1024, deadline).await?;
    ensure!(output.status.success(), "true failed: {}", output.status);
    Ok(Boot { session: session_ms, command: ms(began) })
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// A FAT volume `CIDATA`, as `provider::onhost` makes it.
fn write_seed(path: &Path, user_data: &str) -> anyhow::Result<()> {
    let mut disk = File::options().read(true).write(true).create_new(true).open(path)?;
    disk.set_len((u64::try_from(user_data.len())? + 512 * 1024).next_multiple_of(4096))?;
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     "))?;
    let volume = fatfs::FileSystem::new(disk, fatfs::FsOptions::new())?;
    {
        let root = volume.root_dir();
        root.create_file("user-data")?.write_all(user_data.as_bytes())?;
        root.create_file("meta-data")?.write_all(b"instance-id: bench\nlocal-hostname: bench\n")?;
    }
    Ok(volume.unmount()?)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
