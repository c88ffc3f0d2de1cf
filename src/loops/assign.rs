//! Gives VMs to waiting tasks in the queue's order, and writes launches for those that find none.
//!
//! Reads: `tasks`, `vms`, `budget`. Writes: claims, launches with their VMs, why each task waits. Calls: `domain::plan::assign`.
//! Runs: in `serve`, at every wake-up.
//!
//! Not here: the claim inside a PUT (`db::tasks`), sending launches (`launch`).

use super::{Act, Loop, World};
use crate::db::DbError;
use crate::db::launches::NewLaunch;
use crate::domain::identity::Bootstrap;
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::plan::assign::{Launch, Room, Snapshot, plan_assign};
use crate::domain::settings::Settings;
use crate::domain::tags::Origin;
use crate::provider::Provider;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Waiting tasks looked at in one tick; the others are behind them in the queue.
const QUEUE: i64 = 500;

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
        let settings = world.settings();
        let provider = world.provider(&settings);
        let waiting = world.db.list_waiting(QUEUE).await?;
        let available = world.db.list_available(now).await?;
        if waiting.is_empty() && available.is_empty() {
            return Ok(Vec::new());
        }
        let room = if provider.is_some() { world.db.room().await? } else { Room { vms: 0, in_flight: 0 } };
        let snapshot = Snapshot {
            settings: &settings,
            waiting,
            available,
            supply: world.db.supply(now).await?,
            at_work: world.db.at_work().await?,
            room,
            max_batch: provider.map_or(1, |p| p.max_batch()),
        };
        let decision = plan_assign(snapshot, now);
        for (task, vm) in decision.claims {
            match world.db.claim_task(task, vm, now).await {
                // Somebody else was faster, or the project is at its limit by now: the next tick decides anew.
                Ok(()) | Err(DbError::Conflict(_) | DbError::LimitReached(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(provider) = provider {
            for launch in &decision.launches {
                insert(world, provider.as_ref(), &settings, launch, now).await?;
            }
        }
        for (task, failure) in &decision.failures {
            world.db.fail_task(*task, failure, now).await?;
        }
        world.db.note_waits(&decision.waits, now).await?;
        if !decision.drains.is_empty() {
            world.db.drain_vms(&decision.drains, now).await?;
        }
        Ok(Vec::new())
    }
}

async fn insert(
    world: &World,
    provider: &dyn Provider,
    settings: &Settings,
    launch: &Launch,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let Ok(class) = settings.class(launch.executor, &launch.resource_class) else { return Ok(()) };
    let id = LaunchId((world.fresh_id)());
    let bootstrap = Bootstrap::generate().context("making a bootstrap identity")?;
    let new = NewLaunch {
        id,
        vms: (0..launch.count).map(|_| VmId((world.fresh_id)())).collect(),
        executor: launch.executor,
        resource_class: launch.resource_class.clone(),
        class: class.clone(),
        origin: Origin::OnDemand,
        provider: provider.name().to_owned(),
        place: provider.place().to_owned(),
        bootstrap_sealed: world.seal(id.0, &bootstrap)?,
        deadline_at: now + settings.timeouts.vm_start(),
        absolute_end_at: now + settings.timeouts.before_first_contact(),
    };
    match world.db.insert_launch(&new, now).await {
        Ok(()) | Err(DbError::LimitReached(_) | DbError::Conflict(_)) => Ok(()),
        Err(error) => Err(error).context("writing a launch"),
    }
}
