//! One shared look at all machines that are starting, for all replicas: those that run are met next, those that died are replaced.
//!
//! Reads: `vms`, `turns`. Writes: `vms`. Calls: `Provider::find_machines`. Runs: in `serve`.
//!
//! Not here: first contact (`reach`); machines that work or idle (`collect`).

use super::{Act, Loop, World, reach};
use crate::db::DbError;
use crate::db::release::Evidence;
use crate::db::vms::{Place, Starting};
use crate::domain::ids::VmId;
use crate::provider::{Address, Machine, MachineState, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
pub struct Watch(pub World);

#[async_trait]
impl Loop for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in &self.0.providers {
            look(&self.0, provider.as_ref(), now).await.with_context(|| format!("watching machines at {}", provider.name()))?;
        }
        Ok(Vec::new())
    }
}

async fn look(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let place = (provider.name(), provider.place());
    let starting = world.db.list_starting(place).await?;
    if starting.is_empty() || !world.db.take_turn("watch", place, provider.pace().watch, now).await? {
        return Ok(());
    }
    let ids: Vec<String> = starting.iter().map(|vm| vm.provider_id.clone()).collect();
    let machines = provider.find_machines(&ids).await?;
    let seen: BTreeMap<&str, &Machine> = machines.iter().map(|machine| (machine.provider_id.as_str(), machine)).collect();
    let mut running = Vec::new();
    for vm in &starting {
        match seen.get(vm.provider_id.as_str()).map(|machine| (machine.state, machine.address)) {
            Some((MachineState::Running, Some(address))) if vm.launching => running.push((vm.id, address)),
            Some((MachineState::Stopped | MachineState::Terminated, _)) => {
                give_up(world, provider, vm, Evidence::MachineDead, "its machine died while it started", now).await?;
            }
            // Just after a launch "not known" means "not yet".
            _ if vm.launching && vm.deadline_at.is_some_and(|deadline| now >= deadline) => {
                give_up(world, provider, vm, Evidence::NeverRan, "its machine did not run in time", now).await?;
            }
            _ => {}
        }
    }
    boot(world, &running, now).await
}

/// These machines run: they are met from now on.
pub(super) async fn boot(world: &World, running: &[(VmId, Address)], now: DateTime<Utc>) -> anyhow::Result<()> {
    if running.is_empty() {
        return Ok(());
    }
    let place = |at: &Address| Place { ip: at.ip, ssh_port: at.ssh_port, docker_port: at.docker_port };
    let running: Vec<_> = running.iter().map(|(vm, address)| (*vm, place(address))).collect();
    let deadline_at = now + world.settings().timeouts.ssh_connect();
    Ok(world.db.boot_vms(&running, deadline_at, now).await?)
}

async fn give_up(
    world: &World,
    provider: &dyn Provider,
    vm: &Starting,
    evidence: Evidence,
    reason: &str,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    match reach::give_up(world, provider, vm.id, &vm.provider_id, evidence, reason, now).await {
        // It came up, or ended, meanwhile.
        Err(error) if matches!(error.downcast_ref(), Some(DbError::LostLease)) => Ok(()),
        other => other,
    }
}
