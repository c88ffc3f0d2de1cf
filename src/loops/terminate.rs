//! Ends machines whose VM is `terminating`, many in one call, and says `terminated` only when the provider confirmed that they are gone.
//!
//! Reads: `vms`. Writes: `vms`. Calls: `Provider::terminate`, `Provider::find_machines`. Runs: in `serve`.
//!
//! Not here: who is to end (`db::release`).

use super::{Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::vms::LeasedVm;
use crate::domain::lifecycle::VmState;
use crate::provider::{MachineState, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// The least time between looks at a machine that is not gone yet.
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
        for provider in &world.providers {
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
                acts.push(Act::new(format!("terminating {} VMs, {} among them", vms.len(), vms[0].id), async move {
                    let lease = Lease::Vms(vms.iter().map(|vm| (vm.id, vm.lease)).collect());
                    lease::hold(&world, lease, end(&world, provider.as_ref(), &vms)).await
                }));
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
    let machines = if ids.is_empty() { Vec::new() } else { provider.find_machines(&ids).await? };
    let states: BTreeMap<&str, MachineState> = machines.iter().map(|m| (m.provider_id.as_str(), m.state)).collect();
    let unbound: Vec<_> = vms.iter().filter(|vm| vm.provider_id.is_none()).map(|vm| vm.launch).collect();
    let open = world.db.list_open_launches(&unbound).await?;
    let now = world.clock.now();
    let settles = TimeDelta::from_std(provider.pace().settles).unwrap_or_default();
    let is_gone = |vm: &LeasedVm| match &vm.provider_id {
        Some(id) => match states.get(id.as_str()) {
            Some(state) => *state == MachineState::Terminated,
            // Just after a launch "not known" means "not yet".
            None => vm.launched_at.is_none_or(|launched| now - launched >= settles),
        },
        // Its launch may still bring a machine; that one is bound to this row, and ended then.
        None => !open.contains(&vm.launch),
    };
    let (gone, left): (Vec<_>, Vec<_>) = vms.iter().partition(|vm| is_gone(vm));
    let leases = |vms: Vec<&LeasedVm>| vms.into_iter().map(|vm| (vm.id, vm.lease)).collect::<Vec<_>>();
    world.db.confirm_terminated(&leases(gone), now).await?;
    world.db.postpone_vms(&leases(left), now + LOOK_AGAIN).await?;
    Ok(())
}
