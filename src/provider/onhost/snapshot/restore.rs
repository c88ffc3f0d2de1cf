//! Brings a machine to where its snapshot was made, and asks it whether it is awake; the way in beside its network.
//!
//! Everything within the few seconds that a launch may take. What fails leaves the rest to its caller, who ends the machine.

use super::Snapshot;
use crate::provider::onhost::qmp::{self, Qmp};
use anyhow::{Context, bail};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

/// The machine's port `vm-service`, in its folder.
pub(in crate::provider::onhost) const DOOR: &str = "door.sock";
/// Says that a machine goes on from a snapshot; empty until it is awake.
pub(in crate::provider::onhost) const RESTORED: &str = "restored";
const SOCKET: &str = "load.sock";
/// From QEMU's greeting to the machine's answer.
const WITHIN: Duration = Duration::from_secs(3);

/// The machine of this folder is to go on from a snapshot.
pub(in crate::provider::onhost) fn mark(folder: &Path) -> std::io::Result<()> {
    std::fs::write(folder.join(RESTORED), "")
}

/// It was to go on from a snapshot, and did not wake up while somebody waited for it.
pub(in crate::provider::onhost) fn is_half(folder: &Path) -> bool {
    folder.join(RESTORED).metadata().is_ok_and(|found| found.len() == 0)
}

/// The machine of this folder, whose QEMU waits for what it is to become.
pub(in crate::provider::onhost) async fn restore(folder: &Path, snapshot: &Snapshot) -> anyhow::Result<()> {
    let until = Instant::now() + WITHIN;
    timeout_at(until, async {
        let qmp = Qmp::connect(folder, WITHIN).await?;
        qmp.listen(SOCKET, WITHIN).await?;
        let mut stream = connect(folder, SOCKET).await?;
        let mut state = tokio::fs::File::open(snapshot.state()).await?;
        tokio::io::copy(&mut state, &mut stream).await?;
        drop(stream);
        qmp.go_on(WITHIN).await
    })
    .await
    .context("QEMU does not take the snapshot in time")??;
    while Instant::now() < until {
        if is_awake(folder, until - Instant::now()).await {
            return tokio::fs::write(folder.join(RESTORED), "awake").await.context("noting that the machine is awake");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("the machine does not wake up")
}

/// Whether somebody waits for an identity inside the machine.
pub(in crate::provider::onhost) async fn is_awake(folder: &Path, within: Duration) -> bool {
    let asked = async {
        let name = Uuid::new_v4().simple();
        let mut door = BufReader::new(connect(folder, DOOR).await.ok()?);
        door.write_all(format!("{name} 0 -\n").as_bytes()).await.ok()?;
        let expected = format!("{name} 0 0");
        // Answers to earlier questions come first.
        let mut lines = door.lines();
        while let Some(line) = lines.next_line().await.ok()? {
            if line == expected {
                return Some(());
            }
        }
        None
    };
    timeout(within, asked).await.ok().flatten().is_some()
}

/// The name of a socket has at most 107 bytes (unix(7)); through the folder's own number every folder is near enough.
pub(in crate::provider::onhost) async fn connect(folder: &Path, socket: &str) -> std::io::Result<UnixStream> {
    let folder = std::fs::File::open(folder)?;
    UnixStream::connect(qmp::near(folder.as_raw_fd(), socket)).await
}
