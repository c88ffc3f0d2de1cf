//! Makes and deletes volumes, once per token; a repetition at any line goes on or finds what was made.
//!
//! Not here: snapshots (`freeze`), machines (`plug`).

use super::store::{Snapshot, Volume, refused};
use super::{disk, name, plug};
use crate::domain::lineage::Trust;
use crate::provider::ProviderVolume;
use crate::provider::onhost::folder::ZONE;
use crate::provider::onhost::image::DISK;
use crate::provider::onhost::{OnHost, blocking};
use crate::provider::volumes::VolumeSpec;

pub(super) async fn create(on_host: &OnHost, spec: &VolumeSpec) -> anyhow::Result<ProviderVolume> {
    let (store, ours) = (&on_host.store, on_host.config.installation);
    let id = name("vol", ours, &spec.client_token)?;
    if spec.zone != ZONE || spec.tags.installation != ours {
        return refused(format!("InvalidParameterValue: this host has the zone {ZONE}, and volumes of installation {}", ours.0));
    }
    let _held = store.lock().await?;
    if let Some(record) = store.volume(&id)? {
        return if is_asked(&record, spec) { Ok(record.shown(store.link(&id)?)) } else { refused(MISMATCH.to_owned()) };
    }
    if store.spent::<Volume>(&id)?.is_some() {
        return refused(format!("IdempotentParameterMismatch: the volume of this client token, {id}, was deleted"));
    }
    let snapshot = match &spec.snapshot {
        None => None,
        Some(snapshot) => match store.our_snapshot(snapshot, ours)? {
            None => return refused(format!("InvalidSnapshot.NotFound: {snapshot}")),
            Some(found) if !may_copy(&found, spec) => {
                let of = &found.tags.lineage;
                return refused(format!("WrongOwner: {snapshot} belongs to {} project {}", of.trust, of.project_id));
            }
            found => found,
        },
    };
    let record = Volume {
        provider_id: id.clone(),
        tags: spec.tags.clone(),
        client_token: spec.client_token.clone(),
        asked_gib: spec.size_gib,
        size_gib: spec.size_gib.max(snapshot.as_ref().map_or(1, |snapshot| snapshot.size_gib)),
        snapshot: spec.snapshot.clone(),
    };
    let prepared = store.prepare_volume(&id)?;
    disk::create(&prepared.join(DISK), record.size_gib, spec.snapshot.as_deref()).await?;
    store.place_volume(&prepared, &record)?;
    Ok(record.shown(None))
}

const MISMATCH: &str = "IdempotentParameterMismatch: this client token was used with other parameters";

fn is_asked(record: &Volume, spec: &VolumeSpec) -> bool {
    (&record.tags, record.asked_gib, &record.snapshot) == (&spec.tags, spec.size_gib, &spec.snapshot)
}

/// Only within the project; what an untrusted job wrote is read by untrusted ones alone.
fn may_copy(snapshot: &Snapshot, spec: &VolumeSpec) -> bool {
    let (from, to) = (&snapshot.tags.lineage, &spec.tags.lineage);
    from.project_id == to.project_id && (from.trust == Trust::Trusted || to.trust == Trust::Untrusted)
}

pub(super) async fn delete(on_host: &OnHost, volume: &str) -> anyhow::Result<()> {
    let store = &on_host.store;
    let Some((lock, _)) = store.lock_volume(volume, on_host.config.installation).await? else { return Ok(()) };
    if let Some(link) = plug::settle(on_host, volume, &lock).await? {
        return refused(format!("VolumeInUse: {volume} is on {}", link.machine));
    }
    let held = store.lock().await?;
    let (store, volume) = (store.clone(), volume.to_owned());
    let removed = blocking(move || {
        store.remove_volume(&volume)?;
        // What it was made of may be needed no more; the volume is gone in any case.
        super::sweep_or_say(&store);
        drop(held);
        Ok(())
    });
    removed.await
}
