//! Keeps the base of free VMs and the reserve of stopped ones: launches what is missing, replaces what is stale, stops or drains what is
//! spare.
//!
//! Reads: `vms`, `tasks`, and what limits launches. Writes: launches with their VMs; VMs that leave the pool or the reserve. Calls:
//! `domain::plan::scale`. Runs: in `scaler`, at every wake-up.
//!
//! Not here: VMs for waiting tasks (`assign`).

use super::{Act, Loop, World, wanted};
use crate::domain::plan::room::Kind;
use crate::domain::plan::scale::{Snapshot, plan_scale};
use crate::domain::settings::Settings;
use crate::domain::tags::Origin;
use crate::provider::Provider;
use crate::provider::images::offer;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
pub struct Scale(pub World);

#[async_trait]
impl Loop for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let world = &self.0;
        let settings = world.settings();
        let provider = world.provider(&settings);
        let provider = provider.as_deref();
        let decision = plan_scale(&gather(world, &settings, provider, now).await?);
        if let Some(provider) = provider {
            wanted::write(world, &settings, provider, Origin::Preallocated, &decision.launches, now).await?;
        }
        if !decision.drains.is_empty() {
            world.db.drain_vms(&decision.drains, now).await?;
        }
        if !decision.stops.is_empty() {
            world.db.stop_vms(&decision.stops, now).await?;
        }
        if !decision.drops.is_empty() {
            world.db.drop_reserved(&decision.drops, now).await?;
        }
        Ok(Vec::new())
    }
}

/// What the scaler would decide on under these settings.
///
/// # Errors
/// The database's.
pub(super) async fn gather<'a>(
    world: &World,
    settings: &'a Settings,
    provider: Option<&dyn Provider>,
    now: DateTime<Utc>,
) -> anyhow::Result<Snapshot<'a>> {
    let registered = match provider {
        Some(provider) => world.db.list_registered((provider.name(), provider.place())).await?,
        None => Vec::new(),
    };
    let classes = settings.resource_classes.iter().map(|(name, class)| {
        let fit = provider.map(|provider| offer(provider, class, &registered).fit());
        (name.clone(), (class.clone(), fit.unwrap_or_default()))
    });
    let (idle, reserve) = world.db.list_idle(&classes.collect(), now).await?;
    let limits = wanted::limits(world, settings, provider, now).await?;
    let keeps_reserve = provider.is_some_and(|provider| provider.reserve().is_some());
    Ok(Snapshot { limits, idle, reserve, keeps_reserve, waiting: waiting(world, settings).await? })
}

/// Tasks that wait and may have a VM, by kind.
async fn waiting(world: &World, settings: &Settings) -> anyhow::Result<BTreeMap<Kind, u32>> {
    let at_work = world.db.at_work().await?;
    let mut waiting: BTreeMap<Kind, u32> = BTreeMap::new();
    for (kind, project, count) in world.db.count_waiting().await? {
        let has = at_work.get(&project).copied().unwrap_or_default();
        let may = settings.limits.vms_per_project.map_or(u32::MAX, |limit| limit.saturating_sub(has));
        *waiting.entry(kind).or_default() += count.min(may);
    }
    Ok(waiting)
}
