//! Cache volumes of this host: a volume is a disk in a folder, a copy of a snapshot is an empty disk above the snapshot's.
//!
//! | file | idea |
//! | --- | --- |
//! | `store` | folders, records, locks, and what is swept |
//! | `disk` | the qcow2 files, and what they are backed by |
//! | `make`, `freeze` | volumes and snapshots come and go, repeatable at any line |
//! | `plug` | on a machine and off it |
//! | `carry` | in and out of this host, and what changed between two snapshots |
//!
//! What a guest wrote is never mounted, checked or probed on the host. Reads, writes: the data folder. Calls: `qemu-img`, QMP.
//! Not here: which volume a job gets, and what is kept (`domain::plan::cache`).

pub(super) mod carry;
mod disk;
mod freeze;
mod make;
mod plug;
pub(super) mod store;

use super::{OnHost, blocking, host};
use crate::domain::ids::InstallationId;
use crate::domain::lineage::Lineage;
use crate::provider::volumes::{
    Copies, ProviderSnapshot, SnapshotListing, SnapshotSpec, SnapshotState, Space, VolumeSpec, Volumes,
};
use crate::provider::{ProviderError, ProviderVolume, VolumeListing};
use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt::Write;
use store::{Snapshot, Store};

/// What is named after a token: the same token is the same thing, in any process. 68 bits: a serial has no room for more.
fn name(kind: &str, installation: InstallationId, client_token: &str) -> anyhow::Result<String> {
    let plain = client_token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain || !(1..=64).contains(&client_token.len()) {
        return store::refused("a client token has 1 to 64 ASCII letters, digits and dashes".to_owned());
    }
    let hash = digest(&SHA256, format!("{} {client_token}", installation.0).as_bytes());
    let mut name = format!("{kind}-");
    for byte in hash.as_ref() {
        write!(name, "{byte:02x}")?;
    }
    name.truncate(kind.len() + 1 + 17);
    Ok(name)
}

/// Names an error by what the caller does next.
fn told(what: String, error: anyhow::Error) -> ProviderError {
    error.downcast::<ProviderError>().unwrap_or_else(|error| ProviderError::transient(what, error))
}

/// What cannot be swept now is swept at the next look.
fn sweep_or_say(store: &Store) {
    if let Err(error) = store.sweep() {
        tracing::warn!(error = format!("{error:#}"), "what is left of volumes and snapshots cannot be removed");
    }
}

/// Sweeps unless somebody works there.
fn tidy(store: &Store) -> anyhow::Result<()> {
    if let Some(_held) = store.try_lock()? {
        sweep_or_say(store);
    }
    Ok(())
}

/// A volume, and where it is now.
pub(super) async fn find(on_host: &OnHost, volume: &str) -> anyhow::Result<Option<ProviderVolume>> {
    let store = &on_host.store;
    let Some(record) = store.our_volume(volume, on_host.config.installation)? else { return Ok(None) };
    let mut link = store.link(volume)?;
    // Somebody who works on it lets it arrive; else it is done now.
    if link.is_some()
        && let Some(lock) = store.try_lock_volume(volume)?
    {
        link = plug::settle(on_host, volume, &lock).await?;
    }
    Ok(Some(record.shown(link)))
}

/// All volumes, and whether every folder could be read.
pub(super) async fn list(on_host: &OnHost) -> anyhow::Result<VolumeListing> {
    let store = on_host.store.clone();
    let names = blocking(move || {
        tidy(&store)?;
        store.volume_names()
    });
    let names = names.await?;
    let mut listing = VolumeListing { volumes: Vec::new(), complete: true };
    for (name, found) in names.iter().zip(futures::future::join_all(names.iter().map(|name| find(on_host, name))).await) {
        match found {
            Ok(found) => listing.volumes.extend(found),
            Err(error) => {
                tracing::warn!(volume = name, error = format!("{error:#}"), "a volume's folder cannot be read");
                listing.complete = false;
            }
        }
    }
    Ok(listing)
}

fn shown(snapshot: Snapshot) -> ProviderSnapshot {
    ProviderSnapshot {
        provider_id: snapshot.provider_id,
        tags: snapshot.tags,
        size_gib: snapshot.size_gib,
        state: SnapshotState::Completed,
    }
}

#[async_trait]
impl Volumes for OnHost {
    fn copies(&self) -> Copies {
        Copies::Cheap
    }

    async fn space(&self) -> Result<Option<Space>, ProviderError> {
        let data = self.store.data().to_owned();
        let found = blocking(move || Ok(Space { free_bytes: host::free_bytes(&data)?, total_bytes: host::total_bytes(&data)? }));
        found.await.map(Some).map_err(|error| told("reading the room that is left".to_owned(), error))
    }

    fn serial(&self, volume: &str) -> String {
        plug::serial(volume)
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        make::create(self, spec).await.map_err(|error| told(format!("making the volume of {}", spec.client_token), error))
    }

    async fn attach_volume(&self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError> {
        let attached = plug::attach(self, volume, machine, owner).await;
        attached.map_err(|error| told(format!("attaching {volume} to {machine}"), error))
    }

    async fn detach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        plug::detach(self, volume, machine).await.map_err(|error| told(format!("detaching {volume}"), error))
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError> {
        make::delete(self, volume).await.map_err(|error| told(format!("deleting {volume}"), error))
    }

    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        freeze::snapshot(self, volume, spec).await.map_err(|error| told(format!("making a snapshot of {volume}"), error))
    }

    async fn find_snapshot(&self, snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        let found = self.store.our_snapshot(snapshot, self.config.installation);
        found.map(|found| found.map(shown)).map_err(|error| told(format!("reading {snapshot}"), error))
    }

    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        let (store, ours) = (self.store.clone(), self.config.installation);
        let listing = blocking(move || {
            tidy(&store)?;
            let mut listing = SnapshotListing { snapshots: Vec::new(), complete: true };
            for name in store.snapshot_names()? {
                match store.our_snapshot(&name, ours) {
                    Ok(found) => listing.snapshots.extend(found.map(shown)),
                    Err(error) => {
                        tracing::warn!(snapshot = name, error = format!("{error:#}"), "a snapshot's folder cannot be read");
                        listing.complete = false;
                    }
                }
            }
            Ok(listing)
        });
        listing.await.map_err(|error| told("reading the snapshots' folder".to_owned(), error))
    }

    async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ProviderError> {
        let deleting = async {
            let held = self.store.lock().await?;
            let (store, ours, snapshot) = (self.store.clone(), self.config.installation, snapshot.to_owned());
            let deleted = blocking(move || {
                if store.our_snapshot(&snapshot, ours)?.is_some() {
                    store.mark_deleted(&snapshot)?;
                }
                sweep_or_say(&store);
                drop(held);
                Ok(())
            });
            deleted.await
        };
        deleting.await.map_err(|error| told(format!("deleting {snapshot}"), error))
    }
}

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod plug_tests;
#[cfg(test)]
mod tests;
