//! Ends machines whose VM is `terminating`, and says `terminated` only when the provider confirmed that they are gone.
//!
//! Reads: `vms`. Writes: `vms`. Calls: `Provider::terminate`, `Provider::find_machine`. Runs: in `serve`.
//!
//! Not here: who is to end (`db::release`).

use super::{Act, Loop, World, lease};
use crate::db::vms::LeasedVm;
use crate::domain::lifecycle::VmState;
use crate::provider::{MachineState, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Between looks at a machine that is not gone yet.
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
        let mut acts = Vec::new();
        for provider in &self.0.providers {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            let place = (provider.name(), provider.place());
            for vm in self.0.db.lease_vms(&[VmState::Terminating], place, now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                acts.push(Act::new(format!("terminating VM {}", vm.id), async move {
                    let renew = || world.db.renew_vm_lease(vm.id, vm.lease, world.clock.now());
                    lease::hold(renew, end(&world, provider.as_ref(), &vm)).await?
                }));
            }
        }
        Ok(acts)
    }
}

async fn end(world: &World, provider: &dyn Provider, vm: &LeasedVm) -> anyhow::Result<()> {
    let gone = match &vm.provider_id {
        Some(id) => is_gone(provider, id).await.with_context(|| format!("terminating machine {id}"))?,
        // Its launch may still bring a machine; that one is bound to this row, and ended then.
        None => world.db.is_launch_over(vm.launch).await?,
    };
    let now = world.clock.now();
    if gone {
        world.db.confirm_terminated(vm, now).await?;
    } else {
        world.db.postpone_vm(vm.id, vm.lease, now + LOOK_AGAIN).await?;
    }
    Ok(())
}

async fn is_gone(provider: &dyn Provider, provider_id: &str) -> anyhow::Result<bool> {
    provider.terminate(&[provider_id.to_owned()]).await?;
    let machine = provider.find_machine(provider_id).await?;
    Ok(machine.is_none_or(|machine| machine.state == MachineState::Terminated))
}
