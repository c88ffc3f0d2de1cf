//! Volumes and snapshots carried in and out of this host, and held against each other: raw images, and what lies between two snapshots.
//!
//! A raw file that comes in was written by us; one that goes out is read by nobody here.

use super::store::{Snapshot, refused};
use super::{disk, freeze, name, plug, told};
use crate::provider::ProviderError;
use crate::provider::onhost::{OnHost, process};
use crate::provider::volumes::{SnapshotSpec, Volumes as _};
use anyhow::Context as _;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// Changes are found in pieces of so many bytes.
pub const CLUSTER_BYTES: u64 = disk::CLUSTER_BYTES;
/// For reading the tables of one disk.
const MAP_DEADLINE: Duration = Duration::from_secs(60);

/// An extent as `qemu-img map` tells it; `depth` 0 is the disk itself. One without data reads as zeros.
#[derive(Debug, Deserialize)]
struct Extent {
    start: u64,
    length: u64,
    depth: usize,
    data: bool,
}

impl OnHost {
    /// Writes what a free volume holds into a raw, sparse file.
    ///
    /// # Errors
    /// The volume is not there, or on a machine; or the file cannot be written.
    pub async fn export_volume(&self, volume: &str, raw: &Path) -> anyhow::Result<()> {
        let Some((lock, record)) = self.store.lock_volume(volume, self.config.installation).await? else {
            anyhow::bail!("there is no volume {volume}");
        };
        anyhow::ensure!(plug::settle(self, volume, &lock).await?.is_none(), "volume {volume} is on a machine");
        freeze::finish(&self.store, &record).await?;
        disk::convert(&self.store.disk(volume), "qcow2", raw, "raw").await
    }

    /// Makes a snapshot of what a raw file holds, once per token, and answers its name.
    ///
    /// # Errors
    /// As of [`super::Volumes::snapshot_volume`].
    pub async fn import_snapshot(&self, raw: &Path, spec: &SnapshotSpec, size_gib: u32) -> Result<String, ProviderError> {
        let imported = import(self, raw, spec, size_gib).await;
        imported.map_err(|error| told(format!("making a snapshot of {}", raw.display()), error))
    }

    /// How large a snapshot is, and where it was written over an older one that it stands on: begin and length; all in bytes. None: it stands
    /// on it no more, or never did.
    ///
    /// # Errors
    /// One is not there, or its tables cannot be read.
    pub async fn changed_since(&self, older: &str, newer: &str) -> anyhow::Result<Option<(u64, Vec<(u64, u64)>)>> {
        for snapshot in [older, newer] {
            anyhow::ensure!(self.find_snapshot(snapshot).await?.is_some(), "there is no snapshot {snapshot} on this host");
        }
        let mut steps = 0;
        let mut at = newer.to_owned();
        while at != older {
            steps += 1;
            let Some(below) = disk::backing(&self.store.snapshot_disk(&at))? else { return Ok(None) };
            at = below;
        }
        let (before, after) = (extents(&self.store.snapshot_disk(older)).await?, extents(&self.store.snapshot_disk(newer)).await?);
        let size = after.last().map_or(0, |last| last.start + last.length);
        Ok(Some((size, changed(&before, &after, steps))))
    }
}

async fn extents(disk: &Path) -> anyhow::Result<Vec<Extent>> {
    let arguments = ["map", "--output=json", "-f", "qcow2", &disk.to_string_lossy()];
    let said = process::run("qemu-img", &arguments, MAP_DEADLINE).await.context("reading the tables of a snapshot")?;
    serde_json::from_str(&said).context("reading what qemu-img says")
}

/// Where the newest `steps` disks hold data, and where they say zeros over data: a guest gives free space back at each unmount, and
/// zeros over nothing are no change.
fn changed(before: &[Extent], after: &[Extent], steps: usize) -> Vec<(u64, u64)> {
    let mut changed = Vec::new();
    for it in after.iter().filter(|it| it.depth < steps) {
        if it.data {
            changed.push((it.start, it.length));
            continue;
        }
        for was in before.iter().filter(|was| was.data) {
            let (from, to) = (it.start.max(was.start), (it.start + it.length).min(was.start + was.length));
            if from < to {
                changed.push((from, to - from));
            }
        }
    }
    changed
}

async fn import(on_host: &OnHost, raw: &Path, spec: &SnapshotSpec, size_gib: u32) -> anyhow::Result<String> {
    let (store, ours) = (&on_host.store, on_host.config.installation);
    let id = name("snap", ours, &spec.client_token)?;
    if let Some(made) = store.any_snapshot(&id)?.or(store.spent(&id)?) {
        return if made.tags == spec.tags {
            Ok(id)
        } else {
            refused("IdempotentParameterMismatch: this client token was used with other parameters".to_owned())
        };
    }
    // Gone with whoever gives up.
    let aside = tempfile::Builder::new().prefix("import-").suffix(".qcow2").tempfile_in(store.data())?.into_temp_path();
    disk::convert(raw, "raw", &aside, "qcow2").await?;
    let snapshot = Snapshot { provider_id: id.clone(), tags: spec.tags.clone(), volume: String::new(), size_gib, parent: None };
    let _held = store.lock().await?;
    store.place_snapshot(&snapshot, |place| std::fs::rename(&aside, place))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_a_change_and_zeros_only_over_data() {
        let extent = |start, length, depth, data| Extent { start, length, depth, data };
        let before = [extent(0, 10, 0, true), extent(10, 90, 0, false)];
        let after = [extent(0, 4, 2, true), extent(4, 2, 1, true), extent(6, 50, 0, false), extent(56, 44, 2, false)];
        assert_eq!(changed(&before, &after, 2), [(4, 2), (6, 4)]);
    }
}
