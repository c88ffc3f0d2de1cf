//! Holds the provider's list against our rows, cloud first: machines whose launch's answer was lost are adopted, orphans are
//! collected, VMs without a machine are given up. Nothing is ended on one signal.
//!
//! Reads: `Provider::list_machines`, `vms`, `launches`, `orphans`. Writes: the same rows. Calls: `domain::plan::gc`,
//! `Provider::find_machine` (the direct look), `Provider::terminate` (orphans only). Runs: in `gc`.

use super::{Act, Loop, World};
use crate::db::DbError;
use crate::db::events::Event;
use crate::db::release::Evidence;
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::VmId;
use crate::domain::plan::gc::{SeenMachine, Snapshot, plan_gc};
use crate::provider::{Listing, MachineState, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// See the module.
pub struct Collect(pub World);

#[async_trait]
impl Loop for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in &self.0.providers {
            collect(&self.0, provider.as_ref(), now).await.with_context(|| format!("collecting at {}", provider.name()))?;
        }
        Ok(Vec::new())
    }
}

async fn collect(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let db = &world.db;
    let place = (provider.name(), provider.place());
    // The provider first: a machine bound after this list is only missed once, a row read before it could look lost.
    let listing = provider.list_machines().await?;
    let (free_rows, open_launches) = db.launch_census(place).await?;
    let snapshot = Snapshot {
        machines: seen(&listing),
        complete: listing.complete,
        bound: db.list_bound(place).await?,
        bound_anywhere: db.list_bound_machines().await?,
        free_rows,
        open_launches,
        orphans: db.list_orphans(place).await?,
    };
    let decision = plan_gc(&snapshot, now);
    for (launch, machine) in &decision.adopt {
        told(db.bind_machine(*launch, machine, now).await.map_err(anyhow::Error::from), machine);
    }
    for vm in decision.dead {
        told(give_up(world, provider, vm, &snapshot, now).await, &vm.to_string());
    }
    db.note_missing(&decision.missing, &decision.seen_again, now).await?;
    for (vm, machine) in decision.lost {
        told(give_up_lost(world, provider, vm, &machine, &snapshot, now).await, &machine);
    }
    db.note_orphans(place, &decision.orphans, now).await?;
    for machine in decision.collect {
        told(end_orphan(world, provider, &machine, now).await, &machine);
    }
    Ok(())
}

/// One that resists does not hide those behind it: it is told, and tried again at the next tick.
fn told<T>(done: anyhow::Result<T>, about: &str) {
    if let Err(error) = done {
        tracing::warn!(about, error = format!("{error:#}"), "could not be collected this time");
    }
}

async fn give_up_lost(
    world: &World,
    provider: &dyn Provider,
    vm: VmId,
    machine: &str,
    snapshot: &Snapshot,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let found = provider.find_machine(machine).await?;
    if found.is_none_or(|m| m.state == MachineState::Terminated) {
        give_up(world, provider, vm, snapshot, now).await?;
    }
    Ok(())
}

async fn end_orphan(world: &World, provider: &dyn Provider, machine: &str, now: DateTime<Utc>) -> anyhow::Result<()> {
    if provider.find_machine(machine).await?.is_none() {
        return Ok(());
    }
    tracing::warn!(machine, "no row knows this machine; it is terminated");
    provider.terminate(&[machine.to_owned()]).await?;
    let message = format!("Machine {machine} had no row and was terminated.");
    Ok(world.db.insert_event(now, Event { kind: "machine.orphan", task: None, vm: None, message }).await?)
}

fn seen(listing: &Listing) -> Vec<SeenMachine> {
    listing
        .machines
        .iter()
        .map(|m| SeenMachine {
            provider_id: m.provider_id.clone(),
            launch: m.tags.launch,
            dead: m.state == MachineState::Terminated,
        })
        .collect()
}

async fn give_up(world: &World, provider: &dyn Provider, vm: VmId, snapshot: &Snapshot, now: DateTime<Utc>) -> anyhow::Result<()> {
    let machine = snapshot.bound.iter().find(|bound| bound.id == vm).map(|bound| bound.provider_id.as_str()).unwrap_or_default();
    let console = provider.console(machine).await.unwrap_or_default();
    let failure = Failure::new(FailureCode::VmLost, "the VM's machine is gone");
    match world.db.give_up_vm(vm, Evidence::MachineDead, &failure, &console, now).await {
        // It ended by itself meanwhile.
        Ok(()) | Err(DbError::LostLease) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
