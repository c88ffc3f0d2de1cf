//! Holds the provider's cache volumes against our rows: one without a row goes back to its project, a row without a volume ends.
//!
//! Reads: `Provider::list_volumes`, `volumes`. Writes: `volumes`. Calls: `domain::plan::gc_volumes`, `Provider::find_volume` (the direct
//! look). Runs: in `gc`.
//!
//! Not here: deleting what is not used (`collect_cache`).

use super::{About, Act, Loop, World, told};
use crate::domain::ids::VolumeId;
use crate::domain::plan::gc_volumes::{SeenVolume, Snapshot, plan_gc_volumes};
use crate::provider::Provider;
use crate::telemetry::names;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use std::time::Duration;

/// Between lists: a volume that was forgotten costs little.
const EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct CollectVolumes(pub World);

#[async_trait]
impl Loop for CollectVolumes {
    fn name(&self) -> &'static str {
        "collect volumes"
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in self.0.providers.all() {
            let place = (provider.name(), provider.place());
            if self.0.db.take_turn("collect volumes", place, EVERY, now).await? {
                told(collect(&self.0, provider.as_ref(), now).await, About::what(provider.name()));
            }
        }
        Ok(Vec::new())
    }
}

/// What a decision is made of.
///
/// # Errors
/// The provider's or the database's: nothing can be concluded.
pub async fn gather(world: &World, provider: &dyn Provider) -> anyhow::Result<Snapshot> {
    // The provider first: a volume bound after this list is only missed once.
    let listing = provider.list_volumes().await?;
    let volumes =
        listing.volumes.into_iter().map(|v| SeenVolume { provider_id: v.provider_id, tags: v.tags, zone: v.zone }).collect();
    let rows = world.db.list_volume_rows((provider.name(), provider.place())).await?;
    let settles = TimeDelta::from_std(provider.pace().settles).unwrap_or_default();
    Ok(Snapshot { volumes, complete: listing.complete, rows, settles })
}

async fn collect(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let db = &world.db;
    let decision = plan_gc_volumes(&gather(world, provider).await?, now);
    for (row, volume) in &decision.bind {
        db.bind_volume(*row, volume).await?;
    }
    for volume in &decision.adopt {
        let (place, fresh) = ((provider.name(), provider.place()), VolumeId((world.fresh_id)()));
        match db.adopt_volume(place, volume, fresh, now).await {
            Ok(adopted) => counter!(names::LEAKS_FOUND, "kind" => "volume").increment(adopted.into()),
            error => told(
                error.map_err(anyhow::Error::from),
                About { volume: Some(volume.tags.volume), ..About::what(&volume.provider_id) },
            ),
        }
    }
    db.note_missing_volumes(&decision.missing, &decision.seen_again, now).await?;
    for row in &decision.never_made {
        db.end_lost_volume(*row, now).await?;
    }
    for (row, volume) in &decision.lost {
        if provider.find_volume(volume).await?.is_none() {
            db.end_lost_volume(*row, now).await?;
        }
    }
    Ok(())
}
