//! Machines on this host: each is a folder and a QEMU that outlives the service; any number of services may share the folder.
//!
//! A machine is *running* while its lock is held (`keeper`), *terminated* when it had started and the lock is free, and *pending* when
//! nothing was started yet. No process number is trusted, and no state is kept in memory: a restarted service finds everything again.
//! A guest's disk is never opened on the host but by its own QEMU.
//!
//! | file | idea |
//! | --- | --- |
//! | `launch`, `end` | the two ways through a machine's life, each repeatable at any line |
//! | `snapshot/` | machines that have booted and wait: where the next ones go on from |
//! | `volumes/` | disks that outlive machines, their copies and snapshots |
//! | `folder`, `address`, `seed`, `image`, `images` | what is on disk |
//! | `keeper/` | the process beside each VM: its lock, its console, and the filter between VM and network |
//! | `qemu`, `passt`, `qmp`, `process` | the programs and how they are spoken to |
//! | `kvm`, `host`, `check` | what this host can do |
//!
//! Reads, writes: the data folder. Calls: QEMU, `qemu-img`, passt. Runs: from `loops` and `admin`. Not here: what happens in a VM (`guest`).

mod address;
mod check;
mod config;
#[cfg(test)]
mod doors_tests;
mod end;
mod folder;
mod host;
mod image;
mod images;
pub mod keeper;
mod kvm;
mod launch;
mod passt;
mod process;
mod qemu;
mod qmp;
mod seed;
mod snapshot;
mod volumes;

pub use config::{AcceleratorChoice, OnHostConfig};
pub use volumes::carry::CLUSTER_BYTES;

use super::images::Images;
use super::volumes::Volumes;
use super::{Finding, LaunchSpec, Listing, Machine, Pace, Provider, ProviderError, ProviderVolume, VolumeListing};
use crate::domain::ec2::Architecture;
use crate::domain::plan::images::Registered;
use crate::domain::rate::LaunchRate;
use crate::domain::resource_class::ResourceClass;
use crate::domain::secret::Secret;
use crate::domain::settings::{Budget, OnHostSettings, ProviderChoice, Settings, VmNetwork};
use address::{Doors, Pool};
use anyhow::Context;
use async_trait::async_trait;
use folder::Folders;
use image::Image;
use snapshot::{Snapshots, restore};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use volumes::store::Store;

/// The on-host provider.
#[derive(Debug)]
pub struct OnHost {
    config: OnHostConfig,
    folders: Folders,
    store: Store,
    doors: RwLock<Doors>,
    snapshots: Snapshots,
    closed: AtomicBool,
    /// New machines go on from snapshots.
    restores: AtomicBool,
    accelerator: Arc<OnceCell<kvm::Choice>>,
}

/// Longer than a probe takes.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

impl OnHost {
    /// Opens the data folder, finds the ports and, when there is an image, the accelerator (up to 15 s the first time).
    ///
    /// # Errors
    /// One sentence for the operator: the folder cannot be made. A missing QEMU, image or passt, and addresses that cannot be bound, are no
    /// errors here: `check` and `launch` say it.
    pub async fn open(config: OnHostConfig) -> anyhow::Result<Self> {
        let (folders, store, snapshots, doors) = {
            let data = config.data.clone();
            // Until the settings are heard of.
            let pool = Pool::of(&OnHostSettings::default().addresses).context("the default is no network")?;
            blocking(move || {
                let folders = Folders::open(&data)?;
                let store = Store::open(&data, &folders)?;
                let doors = Doors::find(pool, &folders.taken()?);
                Ok((folders, store, Snapshots::open(&data)?, doors))
            })
            .await?
        };
        tracing::info!(ports = doors.explain(), "on-host provider");
        let closed = AtomicBool::new(config.network == VmNetwork::Closed);
        let restores = AtomicBool::new(config.snapshots);
        let on_host =
            Self { config, folders, store, doors: RwLock::new(doors), snapshots, closed, restores, accelerator: Arc::default() };
        if let Ok(image) = on_host.open_image(None) {
            on_host.accelerator(&image, PROBE_PATIENCE).await?;
        }
        Ok(on_host)
    }

    fn network(&self) -> VmNetwork {
        if self.closed.load(Ordering::Relaxed) { VmNetwork::Closed } else { VmNetwork::Open }
    }

    /// Where new machines answer; what did not work is looked at once more.
    fn doors(&self) -> anyhow::Result<Doors> {
        let known = self.doors.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.ports.is_ok() { Ok(known) } else { self.find_doors(known.pool) }
    }

    fn find_doors(&self, pool: Pool) -> anyhow::Result<Doors> {
        let found = Doors::find(pool, &self.folders.taken()?);
        *self.doors.write().unwrap_or_else(PoisonError::into_inner) = found.clone();
        Ok(found)
    }

    fn restores(&self) -> bool {
        self.restores.load(Ordering::Relaxed)
    }

    /// Chosen once in this process's life. The probe goes on when a caller's patience ends.
    async fn accelerator(&self, image: &Image, patience: Duration) -> Result<kvm::Choice, ProviderError> {
        if let Some(choice) = self.accelerator.get() {
            return Ok(choice.clone());
        }
        let (cell, image, choice, data) =
            (Arc::clone(&self.accelerator), image.clone(), self.config.accelerator, self.config.data.clone());
        let choosing = tokio::spawn(async move { cell.get_or_init(|| kvm::choose(choice, &data, &image)).await.clone() });
        let failed = |error: anyhow::Error| ProviderError::transient("looking whether KVM works", error);
        tokio::time::timeout(patience, choosing).await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }
}

/// Runs file work aside from the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work was given up")?
}

/// A machine's files could not be read.
fn unreadable(error: anyhow::Error) -> ProviderError {
    ProviderError::transient("reading the machines' folder", error)
}

#[async_trait]
impl Provider for OnHost {
    fn name(&self) -> &'static str {
        "onhost"
    }

    fn is_chosen(&self, settings: &Settings) -> bool {
        settings.provider == ProviderChoice::OnHost
    }

    fn place(&self) -> &str {
        &self.config.host
    }

    fn max_batch(&self) -> u32 {
        1
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        None
    }

    fn pace(&self) -> Pace {
        Pace {
            list: Duration::from_secs(10),
            watch: Duration::from_millis(500),
            watch_ends: Duration::from_millis(500),
            first_look: Duration::ZERO,
            terminate: Duration::ZERO,
            settles: Duration::ZERO,
            notices: None,
        }
    }

    fn leaves_remains(&self) -> bool {
        true
    }

    fn default_image(&self, _class: &ResourceClass) -> Option<String> {
        Some(self.open_image(None).ok()?.manifest.hash)
    }

    fn architecture(&self, _class: &ResourceClass) -> Architecture {
        std::env::consts::ARCH.parse().unwrap_or_default()
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn capacity(&self) -> Budget {
        host::capacity()
    }

    fn configure(&self, settings: &Settings, _secret: Option<&Secret>) {
        self.closed.store(settings.on_host.network == VmNetwork::Closed, Ordering::Relaxed);
        self.restores.store(settings.on_host.snapshots, Ordering::Relaxed);
        let known = self.doors.read().unwrap_or_else(PoisonError::into_inner).pool;
        if let Some(pool) = Pool::of(&settings.on_host.addresses).filter(|pool| *pool != known) {
            match self.find_doors(pool) {
                Ok(doors) => tracing::info!(ports = doors.explain(), "new machines have other addresses"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the addresses of new machines cannot be changed yet"),
            }
        }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        launch::launch(self, spec).await
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        let (folders, installation) = (self.folders.clone(), self.config.installation);
        let (machines, complete) = blocking(move || folders.list(installation)).await.map_err(unreadable)?;
        Ok(Listing { machines, complete })
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        let (folders, installation, id) = (self.folders.clone(), self.config.installation, provider_id.to_owned());
        blocking(move || folders.find(&id, installation)).await.map_err(unreadable)
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        let (folders, installation, ids) = (self.folders.clone(), self.config.installation, provider_ids.to_vec());
        let look = move || ids.iter().filter_map(|id| folders.find(id, installation).transpose()).collect();
        blocking(look).await.map_err(unreadable)
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        volumes::list(self).await.map_err(|error| ProviderError::transient("reading the volumes' folder", error))
    }

    async fn find_volume(&self, provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        let found = volumes::find(self, provider_id).await;
        found.map_err(|error| ProviderError::transient(format!("reading {provider_id}"), error))
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        end::terminate(self, provider_ids).await
    }

    async fn console(&self, provider_id: &str) -> Result<String, ProviderError> {
        if self.find_machine(provider_id).await?.is_none() {
            return Ok(String::new());
        }
        let path = self.folders.machine(provider_id).join(keeper::CONSOLE);
        let limit = usize::try_from(keeper::CONSOLE_BYTES).unwrap_or(usize::MAX);
        blocking(move || Ok(keeper::log::read_end(&path, limit)?)).await.map_err(unreadable)
    }

    async fn channel(&self, provider_id: &str) -> Result<Option<UnixStream>, ProviderError> {
        let folder = self.folders.machine(provider_id);
        if !folder.join(restore::RESTORED).exists() {
            return Ok(None);
        }
        let door = restore::connect(&folder, restore::DOOR).await;
        door.map(Some).map_err(|error| ProviderError::transient(format!("the way in beside the network of {provider_id}"), error))
    }

    async fn check(&self, registered: &[Registered]) -> Vec<Finding> {
        check::check(self, self.network(), self.doors(), registered).await
    }

    async fn preflight(&self, settings: &Settings, registered: &[Registered]) -> Vec<Finding> {
        let doors = match Pool::of(&settings.on_host.addresses) {
            Some(pool) => self.folders.taken().map(|taken| Doors::find(pool, &taken)),
            None => self.doors(),
        };
        let mut findings = check::check(self, settings.on_host.network, doors, registered).await;
        findings.push(check::probe_boot(self, registered).await);
        findings
    }
}
