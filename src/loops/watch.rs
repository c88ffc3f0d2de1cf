//! One shared look at all machines that start, stop or end, for all replicas: those that run are met next, those that died while they started
//! are replaced, and those that are gone, or have stopped, are confirmed to be so.
//!
//! Reads: `vms`, `turns`. Writes: `vms`. Calls: `Provider::find_machines`. Runs: in `serve`.
//!
//! Not here: first contact (`reach`); asking machines to end (`terminate`); machines that work or idle (`collect`).

use super::{About, Act, Loop, World, reach, told};
use crate::db::DbError;
use crate::db::release::Evidence;
use crate::db::vm_ends::Ending;
use crate::db::vms::{Place, Starting};
use crate::domain::ids::VmId;
use crate::provider::{Address, Machine, MachineState, Pace, Provider};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// A machine that goes on as before so long after it was asked to end did not hear it.
const IN_VAIN: TimeDelta = TimeDelta::seconds(10);

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
        for provider in self.0.providers.all() {
            told(look(&self.0, provider.as_ref(), now).await, About::what(provider.name()));
        }
        Ok(Vec::new())
    }
}

async fn look(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let place = (provider.name(), provider.place());
    let pace = provider.pace();
    let first_look = now - TimeDelta::from_std(pace.first_look).unwrap_or_default();
    let starting = world.db.list_starting(place, first_look).await?;
    let ending = world.db.list_ending(place, first_look).await?;
    let stopping = world.db.list_stopping(place).await?;
    let every = if starting.is_empty() { pace.watch_ends } else { pace.watch };
    if (starting.is_empty() && ending.is_empty() && stopping.is_empty()) || !world.db.take_turn("watch", place, every, now).await? {
        return Ok(());
    }
    let (starting_ids, ending_ids) = (starting.iter().map(|vm| &vm.provider_id), ending.iter().map(|vm| &vm.provider_id));
    let ids: Vec<String> = starting_ids.chain(ending_ids).chain(stopping.iter().map(|(_, id)| id)).cloned().collect();
    let machines = provider.find_machines(&ids).await?;
    let seen: BTreeMap<&str, &Machine> = machines.iter().map(|machine| (machine.provider_id.as_str(), machine)).collect();
    see_starting(world, provider, &starting, &seen, now).await?;
    let has_stopped = |id: &str| seen.get(id).is_some_and(|machine| machine.state == MachineState::Stopped);
    let stopped: Vec<VmId> = stopping.iter().filter(|(_, id)| has_stopped(id)).map(|(vm, _)| *vm).collect();
    world.db.confirm_stopped(&stopped, now).await?;
    see_ending(world, pace, &ending, &seen, now).await
}

async fn see_starting(
    world: &World,
    provider: &dyn Provider,
    starting: &[Starting],
    seen: &BTreeMap<&str, &Machine>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let late = |vm: &Starting| vm.deadline_at.is_some_and(|deadline| now >= deadline);
    let (mut running, mut over) = (Vec::new(), Vec::new());
    for vm in starting {
        let machine = seen.get(vm.provider_id.as_str());
        match machine.map(|machine| (machine.state, machine.address)) {
            Some((MachineState::Running, Some(address))) if vm.launching => {
                running.push((vm.id, address, machine.and_then(|it| it.zone.clone())));
            }
            // It is started out of the reserve, and has not heard yet.
            Some((MachineState::Stopped, _)) if vm.launching && vm.met && !late(vm) => {}
            Some((MachineState::Stopped | MachineState::Terminated, _)) => {
                over.push((vm, Evidence::MachineDead, "its machine died while it started"));
            }
            // Just after a launch "not known" means "not yet".
            _ if vm.launching && late(vm) => {
                over.push((vm, Evidence::NeverRan, "its machine did not run in time"));
            }
            _ => {}
        }
    }
    boot(world, &running, now).await?;
    for (vm, evidence, reason) in over {
        told(give_up(world, provider, vm, evidence, reason, now).await, About { what: Some(&vm.provider_id), ..About::vm(vm.id) });
    }
    Ok(())
}

/// These machines run: they are met from now on.
pub(super) async fn boot(world: &World, running: &[(VmId, Address, Option<String>)], now: DateTime<Utc>) -> anyhow::Result<()> {
    if running.is_empty() {
        return Ok(());
    }
    let place = |at: &Address, zone: &Option<String>| Place {
        ip: at.ip,
        ssh_port: at.ssh_port,
        docker_port: at.docker_port,
        zone: zone.clone(),
    };
    let running: Vec<_> = running.iter().map(|(vm, address, zone)| (*vm, place(address, zone))).collect();
    let deadline_at = now + world.settings().timeouts.ssh_connect();
    Ok(world.db.boot_vms(&running, deadline_at, now).await?)
}

async fn see_ending(
    world: &World,
    pace: Pace,
    ending: &[Ending],
    seen: &BTreeMap<&str, &Machine>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let settles = TimeDelta::from_std(pace.settles).unwrap_or_default();
    let (mut gone, mut unheard) = (Vec::new(), Vec::new());
    for vm in ending {
        match seen.get(vm.provider_id.as_str()).map(|machine| machine.state) {
            Some(MachineState::Terminated) => gone.push(vm.id),
            // Just after a launch "not known" means "not yet".
            None if now - vm.launched_at >= settles => gone.push(vm.id),
            Some(MachineState::Stopping) => {}
            Some(_) | None if now - vm.end_asked_at >= IN_VAIN => unheard.push(vm.id),
            Some(_) | None => {}
        }
    }
    world.db.confirm_terminated(&gone, false, now).await?;
    if !unheard.is_empty() {
        world.db.ask_end_again(&unheard, now).await?;
    }
    Ok(())
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
