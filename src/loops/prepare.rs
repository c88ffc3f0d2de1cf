//! Makes a claimed VM fit for its task: the task's own keys may log in, then the task is `ready`.
//!
//! Reads: `tasks`. Writes: `tasks`; `vms` when one is unfit. Calls: `Guest::authorise`. Runs: in `serve`.

use super::{Act, Loop, World, lease};
use crate::db::claims::Preparing;
use crate::db::leases::Lease;
use crate::db::release::Evidence;
use crate::domain::failure::{Failure, FailureCode};
use crate::guest::GuestError;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A VM that does not take a key within this is unfit.
const DEADLINE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Prepare(pub World);

#[async_trait]
impl Loop for Prepare {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for task in self.0.db.lease_preparing((provider.name(), provider.place()), now, limit).await? {
                let world = self.0.clone();
                acts.push(Act::new(format!("preparing task {}", task.id), async move {
                    let lease = Lease::Task(task.id, task.lease);
                    lease::hold(&world, lease, prepare(&world, &task)).await
                }));
            }
        }
        Ok(acts)
    }
}

async fn prepare(world: &World, task: &Preparing) -> anyhow::Result<()> {
    let refused = match authorise(world, task).await {
        Ok(()) => return Ok(world.db.finish_preparing(task.id, task.lease, world.clock.now()).await?),
        // The VM's fault costs the VM; ours, such as a sealing key that is missing here, does not.
        Err(error) if error.is::<GuestError>() => error,
        Err(error) => return Err(error),
    };
    let failure = Failure::new(FailureCode::PreparationFailed, format!("the VM could not be prepared: {refused:#}"));
    let evidence = Evidence::Unfit { task: task.id, lease: task.lease };
    Ok(world.db.give_up_vm(task.way_in.vm, evidence, &failure, "", world.clock.now()).await?)
}

async fn authorise(world: &World, task: &Preparing) -> anyhow::Result<()> {
    let identity = world.open_identity(task.way_in.vm, &task.way_in.identity_sealed)?;
    let ip: IpAddr = task.way_in.address.parse().context("reading a VM's address")?;
    let ssh = SocketAddr::new(ip, task.way_in.ssh_port);
    Ok(world.guest.authorise(ssh, &identity, &task.request.ssh_public_keys, DEADLINE).await?)
}
