//! Gives VMs to waiting tasks in the queue's order; for those that find none it takes one out of the reserve, or writes a launch.
//!
//! Reads: `tasks`, `vms`, and what limits launches. Writes: claims, starts, launches with their VMs, why each task waits. Calls:
//! `domain::plan::assign`. Runs: in `serve`, at every wake-up.
//!
//! Not here: the claim inside a PUT (`db::tasks`), VMs ahead of demand (`scale`), sending launches (`launch`).

use super::{Act, Loop, World, wanted};
use crate::db::DbError;
use crate::db::claims::Started;
use crate::domain::plan::assign::{Snapshot, plan_assign};
use crate::domain::plan::queue::STARVES_AFTER;
use crate::domain::tags::Origin;
use crate::telemetry::tell;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Waiting tasks looked at in one tick: of each lane of the queue the first ones.
const QUEUE: i64 = 10_000;

/// See the module.
pub struct Assign(pub World);

#[async_trait]
impl Loop for Assign {
    fn name(&self) -> &'static str {
        "assign"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let world = &self.0;
        let waiting = world.db.list_waiting(QUEUE).await?;
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let settings = world.settings();
        let provider = world.provider(&settings);
        let provider = provider.as_deref();
        // What is on its way before what is free: a VM that becomes free in between then counts twice for one tick, and not too little.
        let snapshot = Snapshot {
            limits: wanted::limits(world, &settings, provider, now).await?,
            waiting,
            served_at: world.db.lanes_served(&settings, STARVES_AFTER, now).await?,
            available: world.db.list_available(now).await?,
            booting: world.db.list_booting(now).await?,
            volumes: world.db.list_volume_zones().await?,
            reserve: world.db.list_reserve(now).await?,
            at_work: world.db.at_work().await?,
            refusals: world.db.list_refusals().await?,
        };
        let decision = plan_assign(snapshot);
        for (task, vm) in decision.claims {
            match world.db.claim_task(task, vm, now).await {
                Ok(started) => started.iter().for_each(tell_claim),
                // Somebody else was faster, or the project is at its limit by now: the next tick decides anew.
                Err(DbError::Conflict(_) | DbError::LimitReached(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (vm, owner) in &decision.marks {
            world.db.mark_vm(*vm, owner, now).await?;
        }
        if !decision.starts.is_empty() {
            world.db.start_vms(&decision.starts, now + settings.timeouts.vm_start(), now).await?;
        }
        if let Some(provider) = provider {
            wanted::write(world, &settings, provider, Origin::OnDemand, &decision.launches, now).await?;
        }
        for (task, failure) in &decision.failures {
            world.db.fail_task(*task, failure, now).await?;
        }
        world.db.note_waits(&decision.waits, now).await?;
        Ok(Vec::new())
    }
}

fn tell_claim(started: &Started) {
    let (executor, origin) = (started.executor.as_str(), started.origin.as_str());
    let waited = (started.claimed_at - started.created_at).to_std().unwrap_or_default();
    tell::claim(executor, origin, "queue");
    tell::phase("queued", executor, origin, waited);
    if !started.prepares {
        tell::task_ready(executor, origin, waited);
    }
}
