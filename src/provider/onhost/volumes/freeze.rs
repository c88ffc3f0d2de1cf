//! Makes a snapshot: the volume's disk becomes the snapshot's, and the volume goes on with an empty one above it.
//!
//! The steps, under the volume's lock and the store's: a second name for the disk in the snapshot's folder; the folder gets its name, and
//! the snapshot is there; a new disk above it takes the volume's name for it. A volume whose disk has *two names* was left between the last
//! two: before anything is written to it, the last step is done ([`finish`]). Left before, it has not happened.
//! A chain of snapshots that is as long as it may be is *flattened* instead: copied into one disk that stands alone. That takes as long as
//! a copy takes, goes on when the caller does not wait, and is found by its repetition.
//! Not here: making a copy of a snapshot (`make`).

use super::store::{Snapshot, Store, Volume, gone, refused};
use super::{disk, name, plug};
use crate::provider::onhost::{OnHost, blocking};
use crate::provider::volumes::SnapshotSpec;
use anyhow::Context;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Each snapshot below a disk is one more file to look into for what was never written above.
pub(super) const DEEPEST: usize = 8;
/// How long a call waits for a copy.
const FLATTEN_PATIENCE: Duration = Duration::from_secs(4);
/// Files of a volume that are not its disk yet.
const NEXT: &str = "next.qcow2";
const FLAT: &str = "flat.qcow2";

pub(super) async fn snapshot(on_host: &OnHost, volume: &str, spec: &SnapshotSpec) -> anyhow::Result<String> {
    let (store, ours) = (&on_host.store, on_host.config.installation);
    let id = name("snap", ours, &spec.client_token)?;
    if let Some(made) = made(store, &id)? {
        return same(made, volume, spec);
    }
    let Some((lock, record)) = store.lock_volume(volume, ours).await? else {
        return refused(format!("InvalidVolume.NotFound: {volume}"));
    };
    let (of, wanted) = (&record.tags.lineage, &spec.tags.lineage);
    if spec.tags.installation != ours || (&of.project_id, of.trust) != (&wanted.project_id, wanted.trust) {
        return refused(format!("WrongOwner: {volume} belongs to {} project {}", of.trust, of.project_id));
    }
    if let Some(made) = made(store, &id)? {
        return same(made, volume, spec);
    }
    if let Some(link) = plug::settle(on_host, volume, &lock).await? {
        return refused(format!("VolumeInUse: {volume} is on {}", link.machine));
    }
    finish(store, &record).await?;
    let (parent, depth) = (disk::backing(&store.disk(volume))?, store.depth(volume)?);
    let (provider_id, tags, volume) = (id.clone(), spec.tags.clone(), volume.to_owned());
    let mut snapshot = Snapshot { provider_id, tags, volume, size_gib: record.size_gib, parent };
    if depth < DEEPEST {
        freeze(store, &record, &snapshot).await?;
    } else {
        snapshot.parent = None;
        let flattening = tokio::spawn(flatten(store.clone(), lock, record, snapshot));
        tokio::time::timeout(FLATTEN_PATIENCE, flattening).await.context("the copy is still being written")???;
    }
    Ok(id)
}

fn made(store: &Store, id: &str) -> anyhow::Result<Option<Snapshot>> {
    Ok(store.any_snapshot(id)?.or(store.spent(id)?))
}

fn same(made: Snapshot, volume: &str, spec: &SnapshotSpec) -> anyhow::Result<String> {
    if (made.volume.as_str(), &made.tags) == (volume, &spec.tags) {
        return Ok(made.provider_id);
    }
    refused("IdempotentParameterMismatch: this client token was used with other parameters".to_owned())
}

async fn freeze(store: &Store, volume: &Volume, snapshot: &Snapshot) -> anyhow::Result<()> {
    let _held = store.lock().await?;
    let disk = store.disk(&volume.provider_id);
    store.place_snapshot(snapshot, |place| std::fs::hard_link(&disk, place))?;
    thaw(store, volume, &snapshot.provider_id).await
}

/// The volume goes on above the snapshot.
async fn thaw(store: &Store, volume: &Volume, snapshot: &str) -> anyhow::Result<()> {
    let next = store.of_volume(&volume.provider_id, NEXT);
    gone(std::fs::remove_file(&next))?;
    disk::create(&next, volume.size_gib, Some(snapshot)).await?;
    std::fs::set_permissions(store.snapshot_disk(snapshot), Permissions::from_mode(0o400))?;
    Ok(std::fs::rename(next, store.disk(&volume.provider_id))?)
}

/// Does the last step of a freeze that an ended process left. Under the volume's lock, while it is on no machine.
pub(super) async fn finish(store: &Store, volume: &Volume) -> anyhow::Result<()> {
    let disk = store.disk(&volume.provider_id);
    if !disk::has_two_names(&disk)? {
        return Ok(());
    }
    let _held = store.lock().await?;
    for snapshot in store.snapshot_names()? {
        if disk::is_same(&disk, &store.snapshot_disk(&snapshot))? {
            return thaw(store, volume, &snapshot).await;
        }
    }
    // The snapshot did not come about; its folder is rubbish, and must not stay another name of what is written from now on.
    let store = store.clone();
    blocking(move || store.sweep()).await
}

/// Holds the volume's lock to its end.
async fn flatten(store: Store, _lock: File, volume: Volume, snapshot: Snapshot) -> anyhow::Result<()> {
    let flat = store.of_volume(&volume.provider_id, FLAT);
    gone(std::fs::remove_file(&flat))?;
    let placed = async {
        disk::flatten(&store.disk(&volume.provider_id), &flat).await?;
        let held = store.lock().await?;
        store.place_snapshot(&snapshot, |place| std::fs::rename(&flat, place)).map(|()| held)
    };
    let placed = placed.await;
    if placed.is_err() {
        // It may be as large as the whole cache.
        gone(std::fs::remove_file(&flat))?;
    }
    let _held = placed?;
    thaw(&store, &volume, &snapshot.provider_id).await
}
