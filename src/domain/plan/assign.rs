//! Who gets which VM, and what is launched for those who find none: the queue's order is kept and no limit is passed.
//!
//! A waiting task is *blocked* when its project has as many VMs as it may: the others go on without it.
//!
//! Not here: VMs ahead of demand, and those that nobody needs (`scale`).

use super::breaker::Breaker;
use super::queue::{LaneKey, Queue};
use super::room::{Kind, Launch, Limits, Planned};
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lineage::Trust;
use crate::domain::settings::Settings;
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

/// A task is failed after this many rounds of starts failed while it waited: one may be bad luck, two may be, three are a defect.
pub const FAILED_ROUNDS_MAX: usize = 3;

/// A task in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The task.
    pub id: TaskId,
    /// What it needs.
    pub executor: Executor,
    /// What it needs.
    pub resource_class: String,
    /// Whose it is.
    pub project_id: String,
    /// Its own priority, without its project's.
    pub priority: i16,
    /// Since when it waits.
    pub created_at: DateTime<Utc>,
    /// How long its job may take, seconds.
    pub max_run_seconds: i32,
    /// It works on a cache volume.
    pub caching: bool,
    /// Of the cache volume.
    pub trust: Trust,
    /// Why it waits, as it was told last.
    pub reason: Option<String>,
}

impl Waiting {
    /// The kind of VM that it needs.
    pub fn kind(&self) -> Kind {
        (self.executor, self.resource_class.clone())
    }

    /// Whose volumes it may work on; none: it works without.
    fn owner(&self) -> Option<Owner> {
        self.caching.then(|| (self.project_id.clone(), self.trust))
    }
}

/// A VM that a task may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// The VM.
    pub id: VmId,
    /// What for.
    pub executor: Executor,
    /// Its class.
    pub resource_class: String,
    /// When it ends itself: a job must be over by then.
    pub absolute_end_at: DateTime<Utc>,
    /// A volume of this owner was brought to it: it is for nobody else.
    pub owner: Option<Owner>,
    /// Where its volumes are.
    pub zone: Option<String>,
}

/// Whose volumes: a project, and what it is trusted with.
pub type Owner = (String, Trust);

/// A VM that runs and does not answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booting {
    /// The VM.
    pub id: VmId,
    /// What for, and its class.
    pub kind: Kind,
    /// A volume of this owner is brought to it: it is for nobody else.
    pub owner: Option<Owner>,
    /// Where its volumes are.
    pub zone: Option<String>,
}

/// What a decision is made of.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// What limits launches; its settings are those in force.
    pub limits: Limits<'a>,
    /// In any order.
    pub waiting: Vec<Waiting>,
    /// When each lane of the queue was last given a VM.
    pub served_at: BTreeMap<LaneKey, DateTime<Utc>>,
    /// Oldest first.
    pub available: Vec<Available>,
    /// Oldest first.
    pub booting: Vec<Booting>,
    /// Where each owner has free volumes, the best first.
    pub volumes: BTreeMap<Owner, Vec<String>>,
    /// Stopped VMs that may be started, by kind, oldest first.
    pub reserve: BTreeMap<Kind, Vec<VmId>>,
    /// VMs that have a task, by project.
    pub at_work: BTreeMap<String, u32>,
    /// What the provider said last to launches that it has not carried out.
    pub refusals: BTreeMap<Kind, String>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Tasks and their VMs, in order.
    pub claims: Vec<(TaskId, VmId)>,
    /// VMs that start, and the owners whose volumes are brought to them meanwhile.
    pub marks: Vec<(VmId, Owner)>,
    /// Stopped VMs to be started, in order.
    pub starts: Vec<VmId>,
    /// In order.
    pub launches: Vec<Launch>,
    /// Why other tasks wait, where that is news.
    pub waits: Vec<(TaskId, String)>,
    /// Tasks that cannot be served.
    pub failures: Vec<(TaskId, Failure)>,
}

/// Decides.
pub fn plan_assign(snapshot: Snapshot<'_>) -> Decision {
    let Snapshot { limits, waiting, served_at, available, booting, volumes, reserve, at_work, refusals } = snapshot;
    let (settings, now) = (limits.settings, limits.now);
    let mut queue = Queue::new(settings, waiting, &served_at, at_work, now);
    let mut planner = Planner::new(limits, available, reserve, refusals);
    planner.booting = booting;
    planner.volumes = volumes;
    while let Some(task) = queue.take_next() {
        if planner.place(&task, queue.at_work(&task.project_id)) {
            queue.granted(&task);
        }
    }
    planner.decision.launches = planner.planned.into_launches();
    planner.decision
}

struct Planner<'a> {
    settings: &'a Settings,
    now: DateTime<Utc>,
    breakers: BTreeMap<Kind, Breaker>,
    free: BTreeMap<Kind, Vec<Available>>,
    /// Newest first.
    reserve: BTreeMap<Kind, Vec<VmId>>,
    /// Those that are for anybody.
    starting: BTreeMap<Kind, u32>,
    booting: Vec<Booting>,
    volumes: BTreeMap<Owner, Vec<String>>,
    planned: Planned<'a>,
    refusals: BTreeMap<Kind, String>,
    decision: Decision,
}

impl<'a> Planner<'a> {
    fn new(
        limits: Limits<'a>,
        available: Vec<Available>,
        mut reserve: BTreeMap<Kind, Vec<VmId>>,
        refusals: BTreeMap<Kind, String>,
    ) -> Self {
        reserve.values_mut().for_each(|vms| vms.reverse());
        let mut free: BTreeMap<Kind, Vec<Available>> = BTreeMap::new();
        // Newest first, so that the oldest is taken from the end.
        for vm in available.into_iter().rev() {
            free.entry((vm.executor, vm.resource_class.clone())).or_default().push(vm);
        }
        Self {
            settings: limits.settings,
            now: limits.now,
            breakers: limits.breakers.clone(),
            free,
            reserve,
            booting: Vec::new(),
            volumes: BTreeMap::new(),
            starting: limits.supply.iter().map(|(kind, supply)| (kind.clone(), supply.in_flight)).collect(),
            planned: Planned::new(limits),
            refusals,
            decision: Decision::default(),
        }
    }

    /// True when the task gets a VM, or one is on its way for it.
    fn place(&mut self, task: &Waiting, at_work: u32) -> bool {
        let kind = task.kind();
        if self.settings.limits.vms_per_project.is_some_and(|limit| at_work >= limit) {
            self.wait(task, format!("Project {} has as many VMs as it may.", task.project_id));
            return false;
        }
        if let Some(vm) = self.take_free(task, &kind) {
            self.decision.claims.push((task.id, vm));
            return true;
        }
        if self.take_own_booting(task, &kind) {
            self.wait(task, "A VM is starting, and its cache is brought to it meanwhile.".to_owned());
            return true;
        }
        if let Some(starting) = self.starting.get_mut(&kind).filter(|starting| **starting > 0) {
            *starting -= 1;
            self.mark(task, &kind);
            let refused = self.refusals.get(&kind).map(|said| format!("A VM was asked for, and the provider said: {said}"));
            self.wait(task, refused.unwrap_or_else(|| "A VM is starting.".to_owned()));
            return true;
        }
        if let Some(failure) = self.unservable(task, &kind) {
            self.decision.failures.push((task.id, failure));
            return false;
        }
        if let Some(vm) = self.take_reserved(&kind) {
            self.decision.starts.push(vm);
            self.wait(task, "No VM is free: one of the reserve is started for it.".to_owned());
            return true;
        }
        let near = task.owner().and_then(|owner| self.volumes.get(&owner)?.first().cloned());
        match self.planned.one_more(&kind, near.as_deref()) {
            Ok(()) => {
                self.wait(task, "No VM is free: one is launched for it.".to_owned());
                true
            }
            Err(reason) => {
                self.wait(task, reason);
                false
            }
        }
    }

    fn take_free(&mut self, task: &Waiting, kind: &Kind) -> Option<VmId> {
        let free = self.free.get_mut(kind)?;
        let over_at = self.now + TimeDelta::seconds(task.max_run_seconds.into());
        let owner = task.owner();
        let fits = |vm: &Available| vm.absolute_end_at >= over_at && (vm.owner.is_none() || vm.owner == owner);
        let zones = owner.as_ref().and_then(|owner| self.volumes.get(owner));
        let has_volume = |vm: &Available| zones.is_some_and(|zones| vm.zone.as_ref().is_some_and(|zone| zones.contains(zone)));
        // One that its volume was brought to, then one where a volume is, then the oldest, which is the last.
        let best = |(at, vm): &(usize, &Available)| (vm.owner.is_some(), has_volume(vm), *at);
        let (at, _) = free.iter().enumerate().filter(|(_, vm)| fits(vm)).max_by_key(best)?;
        Some(free.remove(at).id)
    }

    /// A VM that starts with a volume of the task's project.
    fn take_own_booting(&mut self, task: &Waiting, kind: &Kind) -> bool {
        let owner = task.owner();
        let own = self.booting.iter().position(|vm| vm.kind == *kind && vm.owner.is_some() && vm.owner == owner);
        own.map(|at| self.booting.remove(at)).is_some()
    }

    /// The VM that starts for this task is its own from now on, so that its volume comes while it boots.
    fn mark(&mut self, task: &Waiting, kind: &Kind) {
        let Some(owner) = task.owner() else { return };
        let zones = self.volumes.get(&owner);
        let fits = |vm: &&Booting| vm.kind == *kind && vm.owner.is_none() && vm.zone.is_some();
        let has_volume = |vm: &&Booting| zones.is_some_and(|zones| vm.zone.as_ref().is_some_and(|zone| zones.contains(zone)));
        let (first, with_volume) =
            (self.booting.iter().position(|vm| fits(&vm)), self.booting.iter().position(|vm| fits(&vm) && has_volume(&vm)));
        if let Some(at) = with_volume.or(first) {
            self.decision.marks.push((self.booting.remove(at).id, owner));
        }
    }

    fn take_reserved(&mut self, kind: &Kind) -> Option<VmId> {
        let vm = self.reserve.get_mut(kind)?.pop()?;
        self.planned.one_start(kind).is_ok().then_some(vm)
    }

    fn unservable(&self, task: &Waiting, kind: &Kind) -> Option<Failure> {
        if let Err(sentence) = self.settings.class(task.executor, &task.resource_class) {
            return Some(Failure::new(FailureCode::VmStartFailed, sentence));
        }
        if TimeDelta::seconds(task.max_run_seconds.into()) > self.settings.timeouts.life() {
            let sentence = "The job may take longer than any VM lives under the deadlines in force.";
            return Some(Failure::new(FailureCode::VmStartFailed, sentence));
        }
        let breaker = self.breakers.get(kind)?;
        let rounds = breaker.failed_since(task.created_at);
        let last = breaker.reason.as_deref().unwrap_or("no reason is known");
        (rounds >= FAILED_ROUNDS_MAX)
            .then(|| Failure::new(FailureCode::VmStartFailed, format!("{rounds} starts failed in a row; the last said: {last}")))
    }

    fn wait(&mut self, task: &Waiting, reason: String) {
        if task.reason.as_ref() != Some(&reason) {
            self.decision.waits.push((task.id, reason));
        }
    }
}

#[cfg(test)]
#[path = "assign_tests.rs"]
mod tests;
