//! Asks the provider to stop the machines of VMs that go to the reserve, and to start those that leave it for a task.
//!
//! Reads: `vms`. Writes: `vms`. Calls: `Provider::reserve`. Runs: in `serve`.
//!
//! Harmless when it comes late (DESIGN.md §12): a start, because what runs without a reason is found and ended (`collect`); a stop, because
//! a VM whose stop was interrupted is ended and never used.
//!
//! Not here: which VMs (`scale`, `assign`); whether a machine has stopped, or runs (`watch`).

use super::{About, Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::reserve::PowerWish;
use crate::provider::{Provider, ProviderError};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// A machine that has not heard is asked again after this.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(60);
/// After a throttled call.
const THROTTLED_PAUSE: TimeDelta = TimeDelta::seconds(1);
/// After an answer that did not come.
const UNCLEAR_PAUSE: TimeDelta = TimeDelta::seconds(2);
/// Capacity comes back within minutes; meanwhile tasks get fresh VMs.
const NO_CAPACITY_PAUSE: TimeDelta = TimeDelta::minutes(3);
/// What AWS refuses is an operator's to mend.
const REFUSED_PAUSE: TimeDelta = TimeDelta::minutes(10);

/// See the module.
pub struct Power(pub World);

#[async_trait]
impl Loop for Power {
    fn name(&self) -> &'static str {
        "power"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all().into_iter().filter(|provider| provider.reserve().is_some()) {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for vm in self.0.db.lease_power((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                let what = if vm.start { "starting" } else { "stopping" };
                acts.push(Act::new(format!("{what} the machine of VM {}", vm.id), About::vm(vm.id), async move {
                    let lease = Lease::Vms(vec![(vm.id, vm.lease)]);
                    lease::hold(&world, lease, ask(&world, provider.as_ref(), &vm)).await
                }));
            }
        }
        Ok(acts)
    }
}

async fn ask(world: &World, provider: &dyn Provider, vm: &PowerWish) -> anyhow::Result<()> {
    let reserve = provider.reserve().context("the provider stops machines")?;
    if vm.interrupted && !vm.start {
        // A stop that comes late must not hit a machine that a task has by then: this VM goes to nobody.
        let reason = "whoever stopped its machine was interrupted";
        return Ok(world.db.drop_reserved(&[(vm.id, reason)], world.clock.now()).await?);
    }
    let answer = match vm.start {
        true => reserve.start(&vm.provider_id).await,
        false => reserve.stop(&vm.provider_id, vm.class.as_ref().is_some_and(|class| class.reserve.hibernate)).await,
    };
    let (db, now) = (&world.db, world.clock.now());
    match answer {
        Ok(()) => db.mark_power_asked(vm.id, vm.lease, now + ASK_AGAIN, now).await?,
        Err(ProviderError::Throttled) => db.postpone_power(vm.id, vm.lease, now + THROTTLED_PAUSE).await?,
        Err(ProviderError::NoCapacity(reason)) if vm.start => {
            let reason = format!("there is no capacity to start it: {reason}");
            db.put_back(vm.id, vm.lease, &reason, now + NO_CAPACITY_PAUSE, now).await?;
        }
        Err(ProviderError::Invalid(reason) | ProviderError::NoCapacity(reason)) => {
            tracing::error!(vm = %vm.id, machine = vm.provider_id, reason, "the provider refuses to stop or start a machine of the reserve");
            // One that cannot be stopped waits, and is counted, until its time is up: replacing it would only cost another.
            match vm.start {
                true => db.put_back(vm.id, vm.lease, &reason, now + REFUSED_PAUSE, now).await?,
                false => db.postpone_power(vm.id, vm.lease, now + REFUSED_PAUSE).await?,
            }
        }
        // It may have happened, and will not any more: asked again.
        Err(error @ ProviderError::Transient { .. }) => {
            db.postpone_power(vm.id, vm.lease, now + UNCLEAR_PAUSE).await?;
            return Err(error.into());
        }
    }
    Ok(())
}
