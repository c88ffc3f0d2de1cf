//! What is said to a running QEMU; the only file that speaks QMP.
//!
//! Calls: the socket `qmp.sock` in a machine's folder. QEMU talks to one client at a time, so every call has a deadline.

use anyhow::Context;
use qapi::ExecuteError;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{self, QmpCommand};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::UnixStream;

pub(super) const SOCKET: &str = "qmp.sock";
/// The free ports are `hotplug0` and so on.
pub(super) const PORT: &str = "hotplug";
/// Where QEMU's object model keeps them.
const DEVICES: &str = "/machine/peripheral";

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

    async fn ask<C: QmpCommand>(&self, command: C, deadline: Duration) -> anyhow::Result<C::Ok> {
        let said = tokio::time::timeout(deadline, self.service.execute(command)).await.context("QEMU does not answer")?;
        said.map_err(|error| anyhow::anyhow!("QEMU refuses {}: {error}", C::NAME))
    }

    /// Asks QEMU to end itself now; the guest is not asked.
    ///
    /// # Errors
    /// It did not say that it will within the deadline.
    pub(super) async fn quit(&self, deadline: Duration) -> anyhow::Result<()> {
        self.ask(qmp::quit {}, deadline).await.map(drop)
    }

    /// All that was given a name. What PCI shows is no source: the guest decides what can be seen behind a port.
    async fn devices(&self, deadline: Duration) -> anyhow::Result<Vec<String>> {
        let listed = self.ask(qmp::qom_list { path: DEVICES.to_owned() }, deadline).await?;
        Ok(listed.into_iter().filter(|it| it.type_.starts_with("child<")).map(|it| it.name).collect())
    }

    /// Whether a device that was plugged in is still there.
    ///
    /// # Errors
    /// QEMU does not say it.
    pub(super) async fn has_device(&self, id: &str, deadline: Duration) -> anyhow::Result<bool> {
        Ok(self.devices(deadline).await?.iter().any(|device| device == id))
    }

    async fn free_port(&self, deadline: Duration) -> anyhow::Result<String> {
        let (mut ports, others): (Vec<_>, Vec<_>) = self.devices(deadline).await?.into_iter().partition(|it| it.starts_with(PORT));
        for device in others {
            let asked = qmp::qom_get { path: format!("{DEVICES}/{device}"), property: "parent_bus".to_owned() };
            let bus = self.ask(asked, deadline).await?;
            ports.retain(|port| !bus.as_str().is_some_and(|bus| bus.ends_with(&format!("/{port}"))));
        }
        ports.into_iter().min().context("every port is taken")
    }

    async fn has_disk(&self, id: &str, deadline: Duration) -> anyhow::Result<bool> {
        let nodes = self.ask(qmp::query_named_block_nodes { flat: Some(true) }, deadline).await?;
        Ok(nodes.iter().any(|node| node.node_name.as_deref() == Some(id)))
    }

    /// Opens a qcow2 disk and gives it to the guest in a free port, under one word for disk, device and serial. What is there already is
    /// left as it is. What the guest syncs is on the host's disk, and QEMU keeps every other QEMU from writing there.
    ///
    /// # Errors
    /// QEMU refuses it; then the disk may be open without a device.
    pub(super) async fn plug(&self, id: &str, disk: &Path, deadline: Duration) -> anyhow::Result<()> {
        if self.has_device(id, deadline).await? {
            return Ok(());
        }
        let port = self.free_port(deadline).await?;
        if !self.has_disk(id, deadline).await? {
            let cache = json!({ "direct": false, "no-flush": false });
            let file = json!({ "driver": "file", "filename": disk, "locking": "on", "discard": "unmap", "cache": cache });
            // The format is said here, and that of what is below in the disk's own header.
            let node = json!({ "driver": "qcow2", "node-name": id, "discard": "unmap", "detect-zeroes": "unmap", "cache": cache, "file": file });
            self.ask(AddDisk(node), deadline).await?;
        }
        let arguments = [("drive", id), ("serial", id)].map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect();
        let device = qmp::device_add { bus: Some(port), id: Some(id.to_owned()), driver: "virtio-blk-pci".to_owned(), arguments };
        self.ask(device, deadline).await.map(drop)
    }

    /// Asks the guest to let a device go; that it is being asked already is fine.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(super) async fn unplug(&self, id: &str, deadline: Duration) -> anyhow::Result<()> {
        let asked = self.service.execute(qmp::device_del { id: id.to_owned() });
        match tokio::time::timeout(deadline, asked).await.context("QEMU does not answer")? {
            Ok(_) => Ok(()),
            Err(ExecuteError::Qapi(error)) => {
                tracing::debug!(device = id, %error, "QEMU does not ask the guest again");
                Ok(())
            }
            Err(ExecuteError::Io(error)) => Err(error.into()),
        }
    }

    /// Closes a disk that has no device; one that is not open is fine.
    ///
    /// # Errors
    /// It is still in use.
    pub(super) async fn forget_disk(&self, id: &str, deadline: Duration) -> anyhow::Result<()> {
        if self.has_disk(id, deadline).await? {
            self.ask(qmp::blockdev_del { node_name: id.to_owned() }, deadline).await?;
        }
        Ok(())
    }
}

/// `blockdev-add` in words: the crate's own type of it names every option of every driver.
#[derive(Debug, serde::Serialize)]
struct AddDisk(serde_json::Value);

impl QmpCommand for AddDisk {}

impl qapi::Command for AddDisk {
    type Ok = qapi::Empty;
    const NAME: &'static str = "blockdev-add";
    const ALLOW_OOB: bool = false;
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.events.abort();
    }
}
