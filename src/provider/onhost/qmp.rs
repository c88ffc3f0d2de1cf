//! What is said to a running QEMU; the only file that speaks QMP.
//!
//! Calls: the socket `qmp.sock` in a machine's folder. QEMU talks to one client at a time, so every call has a deadline.

use anyhow::{Context, bail, ensure};
use qapi::ExecuteError;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{self, QmpCommand};
use serde_json::json;
use std::os::fd::{AsRawFd, RawFd};
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
            let folder = std::fs::File::open(folder)?;
            let stream = QmpStreamTokio::open_uds(near(folder.as_raw_fd(), SOCKET)).await?.negotiate().await?;
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

    /// Stops the guest's processors.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(super) async fn stop(&self, deadline: Duration) -> anyhow::Result<()> {
        self.ask(qmp::stop {}, deadline).await.map(drop)
    }

    /// Sends the machine, but for its memory, which is a file of its own, to a socket in QEMU's folder that somebody listens on.
    ///
    /// # Errors
    /// QEMU refuses it, or it was not sent in time.
    pub(super) async fn save(&self, socket: &str, deadline: Duration) -> anyhow::Result<()> {
        self.leave_memory_out(deadline).await?;
        let to = qmp::migrate { uri: Some(format!("unix:{socket}")), channels: None, detach: None, resume: None };
        self.ask(to, deadline).await?;
        self.moved(deadline).await
    }

    /// Lets a QEMU that was started for it wait on a socket in its folder for what [`Self::save`] has sent.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub(super) async fn listen(&self, socket: &str, deadline: Duration) -> anyhow::Result<()> {
        self.leave_memory_out(deadline).await?;
        let on = qmp::migrate_incoming { uri: Some(format!("unix:{socket}")), channels: None, exit_on_error: None };
        self.ask(on, deadline).await.map(drop)
    }

    /// Lets the guest go on where it was stopped, once everything of it has come.
    ///
    /// # Errors
    /// What came does not fit this QEMU, or did not come in time.
    pub(super) async fn go_on(&self, deadline: Duration) -> anyhow::Result<()> {
        self.moved(deadline).await?;
        self.ask(qmp::cont {}, deadline).await.map(drop)
    }

    async fn leave_memory_out(&self, deadline: Duration) -> anyhow::Result<()> {
        let capability = qmp::MigrationCapability::x_ignore_shared;
        let capabilities = vec![qmp::MigrationCapabilityStatus { capability, state: true }];
        self.ask(qmp::migrate_set_capabilities { capabilities }, deadline).await.map(drop)
    }

    async fn moved(&self, deadline: Duration) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + deadline;
        loop {
            let seen = self.ask(qmp::query_migrate {}, deadline).await?;
            match seen.status {
                Some(qmp::MigrationStatus::completed) => return Ok(()),
                Some(qmp::MigrationStatus::failed) => bail!("QEMU: {}", seen.error_desc.unwrap_or_default()),
                _ => ensure!(tokio::time::Instant::now() < until, "the machine was not moved in time"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
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

/// A socket in an open folder. The name of a socket has at most 107 bytes (unix(7)); so every folder is near enough.
pub(super) fn near(folder: RawFd, socket: &str) -> String {
    format!("/proc/self/fd/{folder}/{socket}")
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
