//! Asks the provider to end the machines whose VM is `terminating`, many in one call, and again as long as they are there.
//!
//! Reads: `vms`. Writes: `vms`. Calls: `Provider::terminate`. Runs: in `serve`.
//!
//! Not here: who is to end (`db::release`); whether a machine is gone (`watch`).

use super::{About, Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::vms::LeasedVm;
use crate::domain::lifecycle::VmState;
use crate::provider::Provider;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// A machine that is still there after this long is asked for again, whatever the provider said.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(60);
/// Between looks at a launch that may still bring a machine.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// See the module.
pub struct Terminate(pub World);

#[async_trait]
impl Loop for Terminate {
    fn name(&self) -> &'static str {
        "terminate"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let world = &self.0;
        let mut acts = Vec::new();
        for provider in world.providers.all() {
            let place = (provider.name(), provider.place());
            let batch = usize::try_from(provider.max_batch()).unwrap_or(usize::MAX).max(1);
            let room = room.saturating_sub(acts.len()).saturating_mul(batch);
            let pause = provider.pace().terminate;
            let due = world.db.is_any_terminating(place, now).await?;
            if !due || (!pause.is_zero() && !world.db.take_turn("terminate", place, pause, now).await?) {
                continue;
            }
            let limit = i64::try_from(room.min(10_000)).unwrap_or(i64::MAX);
            let leased = world.db.lease_vms(&[VmState::Terminating], place, now, limit).await?;
            for vms in leased.chunks(batch) {
                let (world, provider, vms) = (world.clone(), provider.clone(), vms.to_vec());
                acts.push(Act::new(
                    format!("terminating {} VMs, {} among them", vms.len(), vms[0].id),
                    About::vm(vms[0].id),
                    async move {
                        let lease = Lease::Vms(vms.iter().map(|vm| (vm.id, vm.lease)).collect());
                        lease::hold(&world, lease, end(&world, provider.as_ref(), &vms)).await
                    },
                ));
            }
        }
        Ok(acts)
    }
}

async fn end(world: &World, provider: &dyn Provider, vms: &[LeasedVm]) -> anyhow::Result<()> {
    let ids: Vec<String> = vms.iter().filter_map(|vm| vm.provider_id.clone()).collect();
    if !ids.is_empty() {
        provider.terminate(&ids).await.with_context(|| format!("terminating {} machines", ids.len()))?;
    }
    let (bound, unbound): (Vec<_>, Vec<_>) = vms.iter().partition(|vm| vm.provider_id.is_some());
    let leases = |vms: Vec<&LeasedVm>| vms.into_iter().map(|vm| (vm.id, vm.lease)).collect::<Vec<_>>();
    let now = world.clock.now();
    world.db.mark_end_asked(&leases(bound), now + ASK_AGAIN, now).await?;
    if unbound.is_empty() {
        return Ok(());
    }
    // Its launch may still bring a machine; that one is bound to this row, and ended then.
    let open = world.db.list_open_launches(&unbound.iter().map(|vm| vm.launch).collect::<Vec<_>>()).await?;
    let (waiting, gone): (Vec<_>, Vec<_>) = unbound.into_iter().partition(|vm| open.contains(&vm.launch));
    world.db.confirm_terminated(&gone.into_iter().map(|vm| vm.id).collect::<Vec<_>>(), true, now).await?;
    world.db.postpone_vms(&leases(waiting), now + LOOK_AGAIN).await?;
    Ok(())
}
