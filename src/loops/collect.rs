//! Holds the provider's lists against our rows, cloud first: machines whose launch's answer was lost are adopted, orphans are
//! collected, VMs without a machine are given up. Nothing is ended on one signal, and a machine with a row never as an orphan.
//!
//! Reads: `Provider::list_machines`, `vms`, `launches`, `orphans`, `losses`. Writes: the same rows. Calls: `domain::plan::gc`,
//! `Provider::find_machine` (the direct look), `Provider::terminate` (orphans and remains only). Runs: in `gc`.
//!
//! Not here: volumes (`collect_volumes`).

use super::{About, Act, Loop, World, told};
use crate::db::DbError;
use crate::db::orphans::DueOrphan;
use crate::db::release::Evidence;
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::plan::gc::{Decision, Seen, SeenMachine, Snapshot, plan_gc};
use crate::provider::{Listing, MachineState, Provider};
use crate::telemetry::tell;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::time::Duration;

/// From the belief that a machine is an orphan to its end, with a last look.
const QUARANTINE: TimeDelta = TimeDelta::seconds(10);
/// A machine without a row that was asked to end and is still there is asked again.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(60);

/// See the module.
pub struct Collect(pub World);

#[async_trait]
impl Loop for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in self.0.providers.all() {
            let place = (provider.name(), provider.place());
            if self.0.db.take_turn("collect", place, provider.pace().list, now).await? {
                told(collect(&self.0, provider.as_ref(), now).await, About::what(provider.name()));
            }
            told(end_orphans(&self.0, provider.as_ref(), now).await, About::what(provider.name()));
        }
        Ok(Vec::new())
    }
}

/// What a decision is made of.
///
/// # Errors
/// The provider's or the database's: nothing can be concluded.
pub async fn gather(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<Snapshot> {
    let db = &world.db;
    let place = (provider.name(), provider.place());
    // The provider first: a machine bound after this list is only missed once, a row read before it could look lost.
    let listing = provider.list_machines().await?;
    let (free_rows, open_launches) = db.launch_census(place).await?;
    let timeouts = world.settings().timeouts;
    let settles = TimeDelta::from_std(provider.pace().settles).unwrap_or_default();
    Ok(Snapshot {
        machines: seen(&listing),
        complete: listing.complete,
        bound: db.list_bound(place, settles, now).await?,
        bound_anywhere: db.list_bound_machines().await?,
        free_rows,
        open_launches,
        orphans: db.list_orphans(place).await?,
        losses: db.list_losses(now).await?,
        longest_life: timeouts.before_first_contact() + timeouts.life(),
        settles,
        leaves_remains: provider.leaves_remains(),
    })
}

async fn collect(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let db = &world.db;
    let place = (provider.name(), provider.place());
    db.close_losses(now).await?;
    let snapshot = gather(world, provider, now).await?;
    let decision = plan_gc(&snapshot, now);
    adopt(world, &decision, now).await;
    for (vm, machine) in &decision.dead {
        let why = snapshot.machines.iter().find(|seen| seen.provider_id == *machine).and_then(|seen| seen.why_ended.as_deref());
        told(
            give_up(world, provider, *vm, machine, Evidence::MachineDead, why, now).await,
            About { what: Some(machine), ..About::vm(*vm) },
        );
    }
    for (vm, machine) in &decision.awake {
        told(end_awake(world, provider, *vm, machine, now).await, About { what: Some(machine), ..About::vm(*vm) });
    }
    db.note_missing(&decision.missing, &decision.seen_again, now).await?;
    for (vm, machine, missing_at) in &decision.lost {
        told(give_up_lost(world, provider, *vm, machine, *missing_at, now).await, About { what: Some(machine), ..About::vm(*vm) });
    }
    for (made_at, unknown) in db.note_rowless(place, &decision.rowless, snapshot.complete, now).await? {
        tell::leak(if unknown { "unknown" } else { "orphan" }, (now - made_at).to_std().unwrap_or_default());
    }
    if snapshot.complete {
        db.note_machines_seen(now).await?;
    }
    for machine in &decision.quarantine {
        told(quarantine(world, provider, machine, now).await, About::what(machine));
    }
    for remains in decision.clear.chunks(1000) {
        told(provider.terminate(remains).await.map_err(anyhow::Error::from), About::what("remains of dead machines"));
    }
    Ok(())
}

async fn adopt(world: &World, decision: &Decision, now: DateTime<Utc>) {
    let mut of_launch: BTreeMap<LaunchId, Vec<String>> = BTreeMap::new();
    for (launch, machine) in &decision.adopt {
        of_launch.entry(*launch).or_default().push(machine.clone());
    }
    for (launch, machines) in of_launch {
        told(
            world.db.bind_machines(launch, &machines, now).await.map_err(anyhow::Error::from),
            About { what: Some(&machines[0]), ..About::launch(launch) },
        );
    }
}

async fn give_up_lost(
    world: &World,
    provider: &dyn Provider,
    vm: VmId,
    machine: &str,
    missing_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let found = provider.find_machine(machine).await?;
    let why = found.as_ref().and_then(|machine| machine.why_ended.as_deref());
    match found.as_ref().map(|m| m.state) {
        None => {
            tell::leak("lost", (now - missing_at).to_std().unwrap_or_default());
            give_up(world, provider, vm, machine, Evidence::Lost { missing_at }, why, now).await
        }
        Some(MachineState::Terminated) => give_up(world, provider, vm, machine, Evidence::MachineDead, why, now).await,
        // It lives, and the list does not show it: its tags may be lost. Its row keeps it.
        Some(_) => Ok(world.db.note_missing(&[], &[vm], now).await?),
    }
}

/// Somebody else has started it, or a call that came late: nobody waits for it, and it is paid for.
async fn end_awake(world: &World, provider: &dyn Provider, vm: VmId, machine: &str, now: DateTime<Utc>) -> anyhow::Result<()> {
    let runs = provider.find_machine(machine).await?.is_some_and(|machine| machine.state == MachineState::Running);
    if runs {
        world.db.drop_reserved(&[(vm, "its machine runs though it is in the reserve")], now).await?;
    }
    Ok(())
}

async fn quarantine(world: &World, provider: &dyn Provider, machine: &str, now: DateTime<Utc>) -> anyhow::Result<()> {
    let place = (provider.name(), provider.place());
    match provider.find_machine(machine).await?.map(|m| m.state) {
        Some(MachineState::Terminated) | None => world.db.forget_orphan(place, machine).await?,
        Some(_) => {
            tracing::warn!(machine, "no row knows this machine; it is ended after a last look");
            world.db.quarantine_orphan(place, machine, now).await?;
        }
    }
    Ok(())
}

/// Machines without a row whose end is due.
///
/// # Errors
/// The database's.
pub async fn list_due(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<Vec<DueOrphan>> {
    let place = (provider.name(), provider.place());
    Ok(world.db.list_due_orphans(place, now - QUARANTINE, now - ASK_AGAIN, now).await?)
}

/// Ends machines without a row whose time has come; each is looked for among the rows once more.
async fn end_orphans(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let place = (provider.name(), provider.place());
    let mut ending: Vec<DueOrphan> = Vec::new();
    for orphan in list_due(world, provider, now).await? {
        if world.db.is_without_row(&orphan.provider_id).await? {
            ending.push(orphan);
        } else {
            world.db.forget_orphan(place, &orphan.provider_id).await?;
        }
    }
    if ending.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = ending.iter().map(|orphan| orphan.provider_id.clone()).collect();
    provider.terminate(&ids).await.with_context(|| format!("terminating {} machines without a row", ids.len()))?;
    Ok(world.db.mark_orphans_terminating(place, &ending, now).await?)
}

fn seen(listing: &Listing) -> Vec<SeenMachine> {
    let seen = |state| match state {
        MachineState::Pending | MachineState::Running | MachineState::Stopping => Seen::Alive,
        MachineState::Stopped => Seen::Stopped,
        MachineState::Terminated => Seen::Dead,
    };
    listing
        .machines
        .iter()
        .map(|m| SeenMachine {
            provider_id: m.provider_id.clone(),
            launch: m.tags.launch,
            executor: m.tags.executor,
            resource_class: m.tags.resource_class.clone(),
            made_at: m.tags.created_at,
            seen: seen(m.state),
            why_ended: m.why_ended.clone(),
        })
        .collect()
}

async fn give_up(
    world: &World,
    provider: &dyn Provider,
    vm: VmId,
    machine: &str,
    evidence: Evidence,
    why: Option<&str>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let console = provider.console(machine).await.unwrap_or_default();
    let gone = "the VM's machine is gone";
    let failure = Failure::new(FailureCode::VmLost, why.map_or_else(|| gone.to_owned(), |why| format!("{gone}: {why}")));
    match world.db.give_up_vm(vm, evidence, &failure, &console, now).await {
        // It ended by itself, or was seen again, meanwhile.
        Ok(()) | Err(DbError::LostLease) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
