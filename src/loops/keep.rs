//! Tells VMs a later end than the one they know: a hold moves it.
//!
//! Reads: `vms`. Writes: `vms`. Calls: `Guest::set_end`. Runs: in `serve`.

use super::{About, Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::vm_ends::Outlived;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A VM that does not answer within this is told again later.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between tries.
const AGAIN: TimeDelta = TimeDelta::seconds(30);

/// See the module.
pub struct Keep(pub World);

#[async_trait]
impl Loop for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for vm in self.0.db.lease_outlived((provider.name(), provider.place()), now, limit).await? {
                let world = self.0.clone();
                acts.push(Act::new(format!("moving the end of VM {}", vm.way_in.vm), About::vm(vm.way_in.vm), async move {
                    let lease = Lease::Vms(vec![(vm.way_in.vm, vm.lease)]);
                    lease::hold(&world, lease, tell(&world, &vm)).await
                }));
            }
        }
        Ok(acts)
    }
}

async fn tell(world: &World, vm: &Outlived) -> anyhow::Result<()> {
    let id = vm.way_in.vm;
    // Who stood still meanwhile may know an end that has been moved since: only the lease's holder tells the guest.
    world.db.renew_lease(&Lease::Vms(vec![(id, vm.lease)]), world.clock.now()).await?;
    let identity = world.open_identity(id, &vm.way_in.identity_sealed)?;
    let ip: IpAddr = vm.way_in.address.parse().context("reading a VM's address")?;
    let ssh = SocketAddr::new(ip, vm.way_in.ssh_port);
    if let Err(error) = world.guest.set_end(ssh, &identity, vm.end_at, DEADLINE).await {
        world.db.postpone_vms(&[(id, vm.lease)], world.clock.now() + AGAIN).await?;
        return Err(error).with_context(|| format!("moving the end of VM {id}"));
    }
    Ok(world.db.note_guest_end(id, vm.lease, vm.end_at).await?)
}
