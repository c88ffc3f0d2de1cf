//! What is said to a running QEMU; the only file that speaks QMP.
//!
//! Calls: the socket `qmp.sock` in a machine's folder. QEMU talks to one client at a time, so every call has a deadline.

use anyhow::Context;
use qapi::futures::{QapiService, QmpStreamTokio};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::UnixStream;

pub(super) const SOCKET: &str = "qmp.sock";

type Half<T> = QmpStreamTokio<T>;

/// A QEMU that answered.
pub(super) struct Qmp {
    service: QapiService<Half<WriteHalf<UnixStream>>>,
    events: tokio::task::JoinHandle<()>,
}

impl Qmp {
    /// Connects to the QEMU of a folder and waits for its greeting.
    ///
    /// # Errors
    /// None is there, it is busy with another client, or it does not answer within the deadline.
    pub(super) async fn connect(folder: &Path, deadline: Duration) -> anyhow::Result<Self> {
        let connecting = async {
            // The name of a socket has at most 107 bytes (unix(7)); through the folder's own number every folder is near enough.
            let folder = std::fs::File::open(folder)?;
            let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
            let stream = QmpStreamTokio::open_uds(path).await?.negotiate().await?;
            drop(folder);
            anyhow::Ok(stream)
        };
        let stream: qapi::futures::QapiStream<Half<ReadHalf<UnixStream>>, _> =
            tokio::time::timeout(deadline, connecting).await.context("QEMU does not answer")??;
        let (service, events) = stream.spawn_tokio();
        Ok(Self { service, events })
    }

    /// Asks QEMU to end itself now; the guest is not asked.
    ///
    /// # Errors
    /// It did not say that it will within the deadline.
    pub(super) async fn quit(&self, deadline: Duration) -> anyhow::Result<()> {
        let said =
            tokio::time::timeout(deadline, self.service.execute(qapi::qmp::quit {})).await.context("QEMU does not answer")?;
        said.map(drop).map_err(|error| anyhow::anyhow!("QEMU refuses to quit: {error}"))
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.events.abort();
    }
}
