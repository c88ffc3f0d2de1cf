//! Real VMs behind the instances of a cloud: each instance is a machine of the on-host provider, each volume a file that is plugged in.
//!
//! The VMs' network is closed. A disk is found in the guest by its serial, as on EC2: the volume's id without the dash.
//! Writes: a folder of the test's. Calls: the on-host provider, QEMU. Not here: what is shown of it (`ec2_wire::backing`).

use super::qmp::Qmp;
use crate::ec2_wire::backing::{Backing, Stands};
use crate::onhost;
use async_trait::async_trait;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use uuid::Uuid;
use vm_service::domain::ids::InstallationId;
use vm_service::domain::settings::VmNetwork;
use vm_service::provider::onhost::OnHost;
use vm_service::provider::{Machine, MachineState, Provider as _};

/// Free slots of an on-host machine (`provider::onhost::qemu`).
const PORTS: u32 = 4;

/// See the module.
pub(super) struct Vms {
    on_host: Arc<OnHost>,
    folder: PathBuf,
    /// By instance; gone when it has ended.
    boots: Mutex<BTreeMap<String, JoinHandle<()>>>,
    /// By volume: the instance that has it, and the port.
    plugs: tokio::sync::Mutex<BTreeMap<String, (String, u32)>>,
}

/// The host's own installation: its machines are known to nobody else.
const HOST: InstallationId = InstallationId(Uuid::from_u128(0xec2));

impl Vms {
    pub(super) async fn open(folder: &Path) -> Self {
        let folder = folder.to_owned();
        std::fs::create_dir_all(folder.join("volumes")).unwrap();
        let on_host = Arc::new(onhost::open(&folder, HOST, VmNetwork::Closed).await);
        Self { on_host, folder, boots: Mutex::default(), plugs: tokio::sync::Mutex::default() }
    }

    /// What the host has of machines and disks: processes by name, folders and files.
    pub(super) fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = onhost::processes_in(&self.folder).into_iter().collect();
        for folder in ["machines", "volumes"] {
            let entries = std::fs::read_dir(self.folder.join(folder)).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        }
        left
    }

    /// After a failed test.
    pub(super) async fn end_all(&self) {
        let boots = std::mem::take(&mut *self.boots.lock().unwrap());
        for boot in boots.into_values() {
            boot.await.ok();
        }
        let machines = self.on_host.list_machines().await.map(|listing| listing.machines).unwrap_or_default();
        let ids: Vec<String> = machines.into_iter().map(|machine| machine.provider_id).collect();
        self.on_host.terminate(&ids).await.ok();
    }

    /// The file of a volume.
    pub(super) fn disk(&self, volume: &str) -> PathBuf {
        self.folder.join("volumes").join(format!("{volume}.raw"))
    }

    async fn qmp(&self, instance: &str) -> std::io::Result<Qmp> {
        Qmp::connect(&self.folder.join("machines").join(machine(instance))).await
    }
}

/// The on-host provider's name for what was launched with this token.
fn machine(instance: &str) -> String {
    format!("onhost-{instance}-0")
}

/// QEMU's name for a disk, and its serial.
fn serial(volume: &str) -> String {
    volume.replace('-', "")
}

#[async_trait]
impl Backing for Vms {
    async fn boot(&self, instance: &str, user_data: &str) {
        let mut spec = onhost::spec(instance, HOST, user_data);
        (spec.class.vcpus, spec.class.memory_mib) = (2, 2048);
        let on_host = self.on_host.clone();
        let boot = async move {
            if let Err(error) = on_host.launch(&spec).await {
                eprintln!("{}: {error:?}", spec.client_token);
            }
        };
        self.boots.lock().unwrap().entry(instance.to_owned()).or_insert_with(|| tokio::spawn(boot));
    }

    async fn look(&self, instance: &str) -> Stands {
        if !self.boots.lock().unwrap().get(instance).is_some_and(JoinHandle::is_finished) {
            return Stands::Pending;
        }
        match self.on_host.find_machine(&machine(instance)).await.unwrap() {
            Some(Machine { state: MachineState::Running, address: Some(at), .. }) => {
                assert_eq!((at.ssh_port, at.docker_port), (22, 2376), "all that EC2 knows");
                Stands::Running(at.ip)
            }
            Some(Machine { state: MachineState::Pending, .. }) => Stands::Pending,
            _ => Stands::Ended,
        }
    }

    async fn end(&self, instance: &str) {
        let boot = self.boots.lock().unwrap().remove(instance);
        if let Some(boot) = boot {
            boot.await.unwrap();
        }
        self.on_host.terminate(&[machine(instance)]).await.unwrap();
        self.plugs.lock().await.retain(|_, (holder, _)| holder != instance);
    }

    async fn console(&self, instance: &str) -> String {
        self.on_host.console(&machine(instance)).await.unwrap()
    }

    async fn make_disk(&self, volume: &str, gib: u32) {
        let file = File::options().create(true).truncate(false).write(true).open(self.disk(volume)).unwrap();
        file.set_len(u64::from(gib) << 30).unwrap();
    }

    async fn plug(&self, volume: &str, instance: &str) {
        let mut plugs = self.plugs.lock().await;
        let is_free = |port: &u32| !plugs.values().any(|(holder, used)| holder == instance && used == port);
        let port = (0..PORTS).find(is_free).unwrap();
        let name = serial(volume);
        let mut qmp = self.qmp(instance).await.unwrap();
        let file = json!({ "driver": "file", "filename": self.disk(volume), "discard": "unmap" });
        // The format is said, never guessed from what a guest wrote.
        let node = json!({ "driver": "raw", "node-name": name, "discard": "unmap", "file": file });
        qmp.ask("blockdev-add", node).await.unwrap();
        let bus = format!("hotplug{port}");
        let device = json!({ "driver": "virtio-blk-pci", "id": name, "drive": name, "serial": name, "bus": bus });
        qmp.ask("device_add", device).await.unwrap();
        plugs.insert(volume.to_owned(), (instance.to_owned(), port));
    }

    async fn unplug(&self, volume: &str) -> bool {
        let mut plugs = self.plugs.lock().await;
        let Some((instance, _)) = plugs.get(volume) else { return true };
        let name = serial(volume);
        match self.qmp(instance).await {
            Ok(mut qmp) => {
                let devices = qmp.ask("qom-list", json!({ "path": "/machine/peripheral" })).await.unwrap();
                if devices.as_array().unwrap().iter().any(|device| device["name"] == name.as_str()) {
                    // Refused while an earlier wish is under way.
                    qmp.ask("device_del", json!({ "id": name })).await.ok();
                    return false;
                }
                qmp.ask("blockdev-del", json!({ "node-name": name })).await.unwrap();
            }
            Err(error) => assert_eq!(self.look(instance).await, Stands::Ended, "its QEMU does not answer: {error}"),
        }
        plugs.remove(volume);
        true
    }

    async fn delete_disk(&self, volume: &str) {
        std::fs::remove_file(self.disk(volume)).unwrap();
    }
}
