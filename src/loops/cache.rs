//! Decides which volume is brought to each VM that is to have one: a free one of the lineage, a copy of its best state, or an empty one;
//! and tells a task when it goes without. While a VM boots its volume comes already.
//!
//! Reads: `vms`, `volumes`, `generations`. Writes: intents on `volumes`; why a task has no cache. Calls: `domain::plan::cache`. Runs: in
//! `serve`.
//!
//! Not here: for which VM that boots a volume is brought (`assign`); how volumes move (`volumes`); the mount (`prepare`).

use super::{About, Act, Loop, World, told};
use crate::db::DbError;
use crate::db::cache::Want;
use crate::db::cache_gifts::NewVolume;
use crate::domain::ids::VolumeId;
use crate::domain::lineage::Lineage;
use crate::domain::plan::cache::{Choice, choose};
use crate::domain::settings::CacheSettings;
use crate::provider::Provider;
use crate::provider::volumes::Volumes;
use crate::telemetry::tell;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Less than this of the disk is left: no new volume is made.
const LEAST_FREE: f64 = 0.05;

/// See the module.
pub struct Cache(pub World);

#[async_trait]
impl Loop for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let world = &self.0;
        for provider in world.providers.all() {
            let Some(volumes) = provider.volumes() else { continue };
            let settings = world.settings().cache;
            for want in world.db.list_cache_wants((provider.name(), provider.place())).await? {
                told(
                    serve(world, provider.as_ref(), volumes, &settings, &want, now).await,
                    About { task: want.task, ..About::vm(want.vm) },
                );
            }
        }
        Ok(Vec::new())
    }
}

async fn serve(
    world: &World,
    provider: &dyn Provider,
    volumes: &dyn Volumes,
    settings: &CacheSettings,
    want: &Want,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let (db, place) = (&world.db, (provider.name(), provider.place()));
    let without = async |class: &'static str, reason: &str| {
        if let Some(task) = want.task
            && db.go_without(task, reason, now).await?
        {
            tell::cache("without", class);
        }
        Ok(())
    };
    if want.tried {
        return without("unfit_volumes", "two volumes did not come, or were not fit.").await;
    }
    let Some(engine) = want.engine.clone() else {
        // Before first contact it may yet be known.
        return if want.met { without("unknown_engine", "its VM has no Docker engine that could be told.").await } else { Ok(()) };
    };
    let lineage = Lineage { project_id: want.owner.0.clone(), trust: want.owner.1, engine };
    let free = db.list_free_volumes(&lineage, place, now).await?;
    // An untrusted job reads a copy of what trusted jobs left.
    let generations = db.list_good_generations(&lineage, place).await?;
    let parent = match choose(&free, &generations, &want.zone, volumes.copies()) {
        Choice::Reuse(volume) => {
            db.give_volume(volume, want.vm, now + settings.wait(), now).await?;
            return Ok(());
        }
        Choice::Copy(generation) => Some(generation),
        Choice::Empty => None,
    };
    if let Some(space) = volumes.space().await?
        && !space.is_plenty()
        && space.free_part() < LEAST_FREE
        && !db.drop_least_recently_used(place, "the disk of the host is nearly full", now).await?
    {
        return without("disk_full", "the disk of the host is nearly full.").await;
    }
    let new = NewVolume {
        id: VolumeId((world.fresh_id)()),
        lineage: &lineage,
        place,
        zone: &want.zone,
        size_gib: settings.volume_gib,
        parent,
        vm: want.vm,
    };
    match db.insert_volume(&new, now + settings.wait(), now).await {
        // The next look sees what has changed meanwhile.
        Ok(_) | Err(DbError::Conflict(_)) => Ok(()),
        Err(DbError::LimitReached(limit)) => {
            // There is room when the one that goes is gone; the task waits so long.
            if db.is_volume_leaving(place).await?
                || db.drop_least_recently_used(place, "another project needs its place", now).await?
            {
                return Ok(());
            }
            without("limit", &format!("no volume can be made ({limit}), and all are in use.")).await
        }
        Err(error) => Err(error.into()),
    }
}
