//! Follows each snapshot until it is completed, and deletes those that are not kept.
//!
//! Reads, writes: `generations`. Calls: `Volumes`. Runs: in `serve`. Not here: when one is made (`volumes`), which are kept
//! (`domain::plan::cache`).

use super::{About, Act, Loop, World, lease};
use crate::db::generations::LeasedGeneration;
use crate::db::leases::Lease;
use crate::provider::Provider;
use crate::provider::volumes::SnapshotState;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// Between looks at a snapshot that is being made: it takes minutes.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(15);
/// One that was never bound may exist all the same; after this it would have been found by its tags.
const UNBOUND_FOR: TimeDelta = TimeDelta::minutes(30);

/// See the module.
pub struct Generations(pub World);

#[async_trait]
impl Loop for Generations {
    fn name(&self) -> &'static str {
        "generations"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for it in self.0.db.lease_generations((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), Arc::clone(&provider));
                acts.push(Act::new(format!("following good state {}", it.id), About::default(), async move {
                    let lease = Lease::Generation(it.id, it.lease);
                    lease::hold(&world, lease, follow(&world, provider.as_ref(), &it)).await
                }));
            }
        }
        Ok(acts)
    }
}

async fn follow(world: &World, provider: &dyn Provider, it: &LeasedGeneration) -> anyhow::Result<()> {
    let volumes = provider.volumes().context("the provider keeps volumes")?;
    let (db, now) = (&world.db, world.clock.now());
    let later = async || Ok(db.postpone_generation(it, now + LOOK_AGAIN).await?);
    match (it.deleting, &it.provider_id) {
        (true, Some(snapshot)) => {
            if let Err(error) = volumes.delete_snapshot(snapshot).await {
                tracing::warn!(generation = %it.id, %error, "a snapshot could not be deleted this time");
                return later().await;
            }
            Ok(db.generation_deleted(it, now).await?)
        }
        (true, None) if now - it.created_at >= UNBOUND_FOR => Ok(db.generation_deleted(it, now).await?),
        (true, None) => later().await,
        // Whoever makes it has `bind_generation` still to do; after its deadline nobody will.
        (false, None) => Ok(db.drop_generation(it.id, "it was not made in time", now).await?),
        (false, Some(snapshot)) => match volumes.find_snapshot(snapshot).await?.map(|seen| seen.state) {
            Some(SnapshotState::Completed) => Ok(db.complete_generation(it, now).await?),
            Some(SnapshotState::Failed) => Ok(db.drop_generation(it.id, "its snapshot failed", now).await?),
            Some(SnapshotState::Pending) | None if now >= it.deadline_at => {
                Ok(db.drop_generation(it.id, "its snapshot was not completed in time", now).await?)
            }
            Some(SnapshotState::Pending) | None => later().await,
        },
    }
}
