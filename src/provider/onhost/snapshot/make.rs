//! Makes one snapshot: boots a machine that nobody can reach until it waits for its identity, and keeps what it is then.
//!
//! At most one at a time in all processes of this host. QEMU ends with the service; what it leaves is removed by the next making.

use super::{INPUTS, MEMORY, OVERLAY, STATE, Snapshots, Wanted, key_of};
use crate::domain::resource_class::ResourceClass;
use crate::provider::onhost::address::Ports;
use crate::provider::onhost::image::{DISK, Image};
use crate::provider::onhost::qemu::{self, Accelerator, Begin, Link, Machine};
use crate::provider::onhost::qmp::{self, Qmp};
use crate::provider::onhost::{blocking, host, restore};
use anyhow::{Context, ensure};
use std::fs::{DirBuilder, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::process::Command;

/// For one boot on a host that is busy with everything else.
const BOOT_WITHIN: Duration = Duration::from_secs(600);
/// For what QEMU is asked.
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// Beside the memory: the disk's overlay and the devices.
const ROOM: u64 = 4 << 30;
const SOCKET: &str = "save.sock";

/// The machine that a snapshot is made of.
pub(in crate::provider::onhost) fn machine<'a>(
    class: &'a ResourceClass,
    image: &'a Image,
    accelerator: Accelerator,
    memory: &'a Path,
    words: &'a str,
) -> Machine<'a> {
    Machine {
        provider_id: "snapshot",
        class,
        image,
        accelerator,
        link: Link::Apart,
        ip: Ipv4Addr::UNSPECIFIED,
        ports: Ports { ssh: 0, docker: 0 },
        begin: Begin::Wait { memory, words },
    }
}

/// Makes it in the background; nothing where one is being made already.
pub(super) fn aside(snapshots: Snapshots, wanted: Wanted) {
    tokio::spawn(async move {
        let began = Instant::now();
        let inputs = &wanted.inputs;
        match make(&snapshots, &wanted).await {
            Ok(true) => tracing::info!(key = key_of(inputs), seconds = began.elapsed().as_secs(), "made a snapshot of a machine"),
            Ok(false) => {}
            Err(error) => {
                snapshots.rest(&key_of(inputs));
                tracing::warn!(error = format!("{error:#}"), "no snapshot of a machine could be made; machines boot");
            }
        }
    });
}

async fn make(snapshots: &Snapshots, wanted: &Wanted) -> anyhow::Result<bool> {
    let Wanted { class, image, inputs, .. } = wanted;
    let Some(_held) = snapshots.try_lock()? else { return Ok(false) };
    if snapshots.find(inputs).is_some() {
        return Ok(false);
    }
    let tidied = snapshots.clone();
    blocking(move || Ok(tidied.tidy()?)).await?;
    let room = host::free_bytes(&snapshots.folder)?;
    let needed = (u64::from(class.memory_mib) << 20) + ROOM;
    ensure!(room > needed, "{room} bytes are free in {}, and {needed} are needed", snapshots.folder.display());
    let aside = snapshots.folder.join(format!(".{}", key_of(inputs)));
    DirBuilder::new().mode(0o700).create(&aside)?;
    let kept = snapshots.folder.join(key_of(inputs));
    let whole = async {
        fill(&aside, wanted).await?;
        image.create_overlay_of(&kept.join(DISK), &aside.join(OVERLAY), class.disk_gib).await?;
        std::fs::write(aside.join(INPUTS), inputs)?;
        let (aside, kept) = (aside.clone(), kept.clone());
        blocking(move || Ok(put_in_place(&aside, &kept)?)).await
    };
    let made = whole.await;
    if made.is_err() {
        super::remove(&aside);
    }
    made.map(|()| true)
}

/// A loss of power leaves it whole or leaves none, and what stands in its place without being it goes.
fn put_in_place(aside: &Path, kept: &Path) -> std::io::Result<()> {
    for name in [MEMORY, STATE, DISK, OVERLAY, INPUTS] {
        File::open(aside.join(name))?.sync_all()?;
    }
    File::open(aside)?.sync_all()?;
    if kept.exists() {
        std::fs::remove_dir_all(kept)?;
    }
    std::fs::rename(aside, kept)?;
    kept.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
}

async fn fill(folder: &Path, wanted: &Wanted) -> anyhow::Result<()> {
    let Wanted { class, image, accelerator, words, .. } = wanted;
    image.create_overlay(folder, class.disk_gib).await?;
    let line = qemu::command(&machine(class, image, *accelerator, Path::new(MEMORY), words));
    let console = File::create(folder.join("console"))?;
    // It ends with this process. Jobs come before it, but on a host that is never idle it must come to its end too.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "nice", "-n", "5"]).args(&line);
    qemu.current_dir(folder).env_clear().env("PATH", host::PATH).stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
    let mut qemu = qemu.kill_on_drop(true).spawn().context("starting QEMU (setpriv, of util-linux)")?;
    let until = Instant::now() + BOOT_WITHIN;
    loop {
        if restore::is_awake(folder, Duration::from_secs(1)).await {
            break;
        }
        let ended = qemu.try_wait()?;
        ensure!(
            ended.is_none() && Instant::now() < until,
            "it did not come to where it waits for its identity: {}",
            last_words(folder)
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let opened = File::open(folder)?;
    let listener = UnixListener::bind(qmp::near(opened.as_raw_fd(), SOCKET))?;
    let qmp = Qmp::connect(folder, ASK_WITHIN).await?;
    qmp.stop(ASK_WITHIN).await?;
    let state = folder.join(STATE);
    let received = async {
        let (mut stream, _) = listener.accept().await?;
        let mut file = tokio::fs::File::create(&state).await?;
        tokio::io::copy(&mut stream, &mut file).await?;
        file.sync_all().await.context("keeping the devices")
    };
    let moved = async { tokio::join!(qmp.save(SOCKET, ASK_WITHIN), received) };
    let (sent, received) = tokio::time::timeout(ASK_WITHIN, moved).await.context("the devices were not kept in time")?;
    sent?;
    received?;
    qmp.quit(ASK_WITHIN).await?;
    tokio::time::timeout(ASK_WITHIN, qemu.wait()).await.context("QEMU does not end")??;
    for rest in ["console", SOCKET, restore::DOOR, qmp::SOCKET] {
        drop(std::fs::remove_file(folder.join(rest)));
    }
    Ok(())
}

fn last_words(folder: &Path) -> String {
    let said = std::fs::read(folder.join("console")).unwrap_or_default();
    String::from_utf8_lossy(&said[said.len().saturating_sub(500)..]).trim().replace('\n', "; ")
}
