//! Clears caches that nobody needs any more, and holds the provider's snapshots against our rows: one without a row goes back to its
//! project, to be checked; a row without a snapshot ends after a direct look.
//!
//! Reads: `volumes`, `generations`, `Volumes`. Writes: `volumes`, `generations`. Calls: `domain::plan::gc_cache`. Runs: in `gc`.
//!
//! Not here: volumes without a row (`collect_volumes`); the deletion itself (`volumes`, `generations`).

use super::{About, Act, Loop, World, told};
use crate::domain::plan::gc_cache::{SeenSnapshot, Snapshot, plan_gc_cache};
use crate::provider::Provider;
use crate::provider::volumes::Volumes;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Between looks: what is not used costs little by the minute.
const EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct CollectCache(pub World);

#[async_trait]
impl Loop for CollectCache {
    fn name(&self) -> &'static str {
        "collect cache"
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in self.0.providers.all() {
            let Some(volumes) = provider.volumes() else { continue };
            if self.0.db.take_turn("collect cache", (provider.name(), provider.place()), EVERY, now).await? {
                told(clear(&self.0, provider.as_ref(), volumes, now).await, About::what(provider.name()));
                told(snapshots(&self.0, provider.as_ref(), volumes, now).await, About::what(provider.name()));
            }
        }
        Ok(Vec::new())
    }
}

/// What a decision is made of.
///
/// # Errors
/// The provider's or the database's: nothing can be concluded.
pub async fn gather(world: &World, provider: &dyn Provider, volumes: &dyn Volumes, now: DateTime<Utc>) -> anyhow::Result<Snapshot> {
    let (db, place) = (&world.db, (provider.name(), provider.place()));
    let (in_use, count, limit) = db.volume_census().await?;
    Ok(Snapshot {
        volumes: db.list_idle_volumes(place, now).await?,
        generations: db.list_idle_generations(place).await?,
        in_use,
        count,
        limit,
        free: volumes.space().await?.filter(|space| !space.is_plenty()).map(|space| space.free_part()),
        inactive: world.settings().cache.inactive(),
    })
}

async fn clear(world: &World, provider: &dyn Provider, volumes: &dyn Volumes, now: DateTime<Utc>) -> anyhow::Result<()> {
    let decision = plan_gc_cache(&gather(world, provider, volumes, now).await?, now);
    Ok(world.db.drop_idle(&decision, now).await?)
}

async fn snapshots(world: &World, provider: &dyn Provider, volumes: &dyn Volumes, now: DateTime<Utc>) -> anyhow::Result<()> {
    // The provider first: a snapshot bound after this list is not missed.
    let listing = volumes.list_snapshots().await?;
    let seen: Vec<_> = listing
        .snapshots
        .into_iter()
        .map(|it| SeenSnapshot { provider_id: it.provider_id, tags: it.tags, size_gib: it.size_gib })
        .collect();
    let since = now - TimeDelta::from_std(provider.pace().settles).unwrap_or_default();
    let missing =
        world.db.collect_snapshots((provider.name(), provider.place()), &seen, since, world.fresh_id.as_ref(), now).await?;
    for (generation, snapshot) in missing.into_iter().filter(|_| listing.complete) {
        if volumes.find_snapshot(&snapshot).await?.is_none() {
            world.db.drop_generation(generation, "the provider does not know it any more", now).await?;
        }
    }
    Ok(())
}
