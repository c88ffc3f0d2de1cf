//! Sends launches: the row and its token were there before the call, and the same call is repeated until its answer is known.
//!
//! Reads: `launches`. Writes: `launches`, machines bound to `vms`. Calls: `Provider::launch`. Runs: in `serve`.
//!
//! Not here: machines whose answer was lost for good (`collect` adopts them by their tags).

use super::{Act, Loop, World, lease};
use crate::db::launches::LeasedLaunch;
use crate::domain::tags::Tags;
use crate::provider::{LaunchSpec, Machine, Provider, ProviderError};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// After a throttled or unclear answer.
const AGAIN: TimeDelta = TimeDelta::seconds(1);
/// After "no capacity": the provider is asked anew, with a new token.
const NO_CAPACITY_PAUSE: TimeDelta = TimeDelta::seconds(10);

/// See the module.
pub struct Launch(pub World);

#[async_trait]
impl Loop for Launch {
    fn name(&self) -> &'static str {
        "launch"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in &self.0.providers {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for launch in self.0.db.lease_launches((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                acts.push(Act::new(format!("sending launch {}", launch.id), async move { send(&world, &provider, launch).await }));
            }
        }
        Ok(acts)
    }
}

async fn send(world: &World, provider: &Arc<dyn Provider>, launch: LeasedLaunch) -> anyhow::Result<()> {
    let (db, now) = (&world.db, world.clock.now());
    let settings = world.settings();
    let needed = launch.wanted > 0 && db.is_launch_needed(&launch, now).await?;
    if !launch.attempted && (!needed || settings.pause_launches) {
        return Ok(db.fail_launch(launch.id, launch.lease, None, now).await?);
    }
    if now - launch.created_at >= settings.timeouts.vm_start() {
        let reason = "the provider did not make a machine in time";
        return Ok(db.fail_launch(launch.id, launch.lease, Some(reason), now).await?);
    }
    let Some(sealed) = &launch.bootstrap_sealed else {
        return Ok(db.fail_launch(launch.id, launch.lease, Some("its bootstrap identity is void"), now).await?);
    };
    let bootstrap = world.open_bootstrap(launch.id, sealed)?;
    let silent_for = settings.timeouts.before_first_contact().to_std().unwrap_or_default();
    let spec = LaunchSpec {
        client_token: format!("{}-{}", launch.id, launch.attempt),
        tags: Tags {
            installation: world.installation,
            launch: launch.id,
            executor: launch.executor,
            resource_class: launch.resource_class.clone(),
            origin: launch.origin,
            created_at: launch.created_at,
        },
        class: launch.class.clone(),
        count: u32::try_from(launch.machines).unwrap_or(1),
        user_data: world.guest.user_data(&bootstrap, silent_for),
    };
    db.mark_attempt(launch.id, launch.lease, now).await?;
    let renew = || db.renew_launch_lease(launch.id, launch.lease, world.clock.now());
    let answer = lease::hold(renew, provider.launch(&spec)).await?;
    record(world, &launch, answer).await.with_context(|| format!("recording the answer to launch {}", launch.id))
}

async fn record(world: &World, launch: &LeasedLaunch, answer: Result<Vec<Machine>, ProviderError>) -> anyhow::Result<()> {
    let (db, now) = (&world.db, world.clock.now());
    match answer {
        Ok(machines) => {
            for machine in machines {
                if db.bind_machine(launch.id, &machine.provider_id, now).await?.is_none() {
                    tracing::warn!(launch = %launch.id, machine = machine.provider_id, "no row is free for this machine; it will be collected");
                }
            }
            db.finish_launch(launch.id, launch.lease, now).await?;
        }
        Err(ProviderError::Throttled) => db.postpone_launch(launch.id, launch.lease, now + AGAIN, false, "throttled").await?,
        Err(ProviderError::NoCapacity(reason)) => {
            db.postpone_launch(launch.id, launch.lease, now + NO_CAPACITY_PAUSE, true, &reason).await?;
        }
        Err(ProviderError::Invalid(reason)) => {
            tracing::error!(launch = %launch.id, reason, "the provider refuses this launch");
            db.fail_launch(launch.id, launch.lease, Some(&reason), now).await?;
        }
        Err(error @ ProviderError::Transient { .. }) => {
            db.postpone_launch(launch.id, launch.lease, now + AGAIN, false, &error.to_string()).await?;
            return Err(error).with_context(|| format!("sending launch {}", launch.id));
        }
    }
    Ok(())
}
