//! What both planners of launches share: gathering what limits them, and writing what they decided, intent first.
//!
//! Reads: `vms`, `budget`, `breakers`, `call_rates`. Writes: launches with their VMs. Runs: in `assign` and `scale`.

use super::World;
use crate::db::DbError;
use crate::db::launches::NewLaunch;
use crate::domain::identity::Bootstrap;
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::plan::images::Offer;
use crate::domain::plan::room::{Launch, Limits, Room};
use crate::domain::rate::Allowance;
use crate::domain::resource_class::ResourceClass;
use crate::domain::settings::Settings;
use crate::domain::tags::Origin;
use crate::provider::Provider;
use crate::provider::images::offer;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// What limits launches now; nothing may be launched without a provider.
pub(super) async fn limits<'a>(
    world: &World,
    settings: &'a Settings,
    provider: Option<&dyn Provider>,
    now: DateTime<Utc>,
) -> anyhow::Result<Limits<'a>> {
    let db = &world.db;
    let supply = db.supply(now).await?;
    let Some(provider) = provider else {
        let (room, allowance) = (Some(Room { vms: 0, in_flight: 0, gpus: None }), Allowance { calls: 0, machines: 0 });
        return Ok(Limits { settings, supply, breakers: BTreeMap::new(), room, allowance, max_batch: 1, now });
    };
    let place = (provider.name(), provider.place());
    let room = if db.is_blind(now).await? { None } else { Some(db.room().await?) };
    Ok(Limits {
        settings,
        supply,
        breakers: db.list_breakers(place).await?,
        room,
        allowance: db.launch_allowance(place, provider.launch_rate(), now).await?,
        max_batch: provider.max_batch(),
        now,
    })
}

/// A launch takes one image: where launches differ in theirs, a large one is asked for in so many parts.
const PARTS: u32 = 10;

/// Writes the launches; one that is out of date by now is left to the next tick.
pub(super) async fn write(
    world: &World,
    settings: &Settings,
    provider: &dyn Provider,
    origin: Origin,
    launches: &[Launch],
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    if launches.is_empty() {
        return Ok(());
    }
    let registered = world.db.list_registered((provider.name(), provider.place())).await?;
    for launch in launches {
        let Ok(class) = settings.class(launch.executor, &launch.resource_class) else { continue };
        let offer = offer(provider, class, &registered);
        let part = if offer.is_shared() { launch.count.div_ceil(PARTS) } else { launch.count };
        let mut written = 0;
        while written < launch.count {
            let count = part.min(launch.count - written);
            let part = Launch { count, seen: launch.seen + written, ..launch.clone() };
            if !write_one(world, settings, provider, origin, &part, (class, &offer), now).await? {
                break;
            }
            written += count;
        }
    }
    Ok(())
}

/// False: it is out of date.
async fn write_one(
    world: &World,
    settings: &Settings,
    provider: &dyn Provider,
    origin: Origin,
    launch: &Launch,
    (class, offer): (&ResourceClass, &Offer<'_>),
    now: DateTime<Utc>,
) -> anyhow::Result<bool> {
    let id = LaunchId((world.fresh_id)());
    let bootstrap = Bootstrap::generate().context("making a bootstrap identity")?;
    let new = NewLaunch {
        id,
        vms: (0..launch.count).map(|_| VmId((world.fresh_id)())).collect(),
        executor: launch.executor,
        resource_class: launch.resource_class.clone(),
        class: class.clone(),
        origin,
        provider: provider.name().to_owned(),
        place: provider.place().to_owned(),
        bootstrap_sealed: world.seal(id.0, &bootstrap)?,
        deadline_at: now + settings.timeouts.vm_start(),
        absolute_end_at: now + settings.timeouts.before_first_contact(),
        seen: launch.seen,
        // Where none may be taken the launch says so when it is sent.
        image: offer.choose(id).ok().flatten(),
        rate: provider.launch_rate(),
        near: launch.near.clone(),
    };
    match world.db.insert_launch(&new, now).await {
        Ok(()) => Ok(true),
        Err(error @ (DbError::LimitReached(_) | DbError::Conflict(_))) => {
            tracing::debug!(%error, class = launch.resource_class, "a launch was not written");
            Ok(false)
        }
        Err(error) => Err(error).context("writing a launch"),
    }
}
