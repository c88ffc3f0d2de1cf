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
    /// Why it waits, as it was told last.
    pub reason: Option<String>,
}

impl Waiting {
    /// The kind of VM that it needs.
    pub fn kind(&self) -> Kind {
        (self.executor, self.resource_class.clone())
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
    let Snapshot { limits, waiting, served_at, available, reserve, at_work, refusals } = snapshot;
    let (settings, now) = (limits.settings, limits.now);
    let mut queue = Queue::new(settings, waiting, &served_at, at_work, now);
    let mut planner = Planner::new(limits, available, reserve, refusals);
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
    starting: BTreeMap<Kind, u32>,
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
        if let Some(starting) = self.starting.get_mut(&kind).filter(|starting| **starting > 0) {
            *starting -= 1;
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
        match self.planned.one_more(&kind) {
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
        let at = free.iter().rposition(|vm| vm.absolute_end_at >= over_at)?;
        Some(free.remove(at).id)
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
mod tests {
    use super::super::room::{Room, Supply};
    use super::*;
    use crate::domain::rate::Allowance;
    use crate::domain::settings::ProviderChoice;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    fn settings() -> Settings {
        Settings { provider: ProviderChoice::OnHost, ..Settings::default() }
    }

    fn kind() -> Kind {
        (Executor::Machine, "medium".to_owned())
    }

    fn waiting(id: u128, project: &str) -> Waiting {
        Waiting {
            id: TaskId(Uuid::from_u128(id)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            project_id: project.to_owned(),
            priority: 0,
            created_at: at(0),
            max_run_seconds: 3600,
            reason: None,
        }
    }

    fn available(id: u128) -> Available {
        Available {
            id: VmId(Uuid::from_u128(id)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            absolute_end_at: at(7200),
        }
    }

    fn snapshot(settings: &Settings) -> Snapshot<'_> {
        let limits = Limits {
            settings,
            supply: BTreeMap::new(),
            breakers: BTreeMap::new(),
            room: Some(Room { vms: 10, in_flight: 10 }),
            allowance: Allowance::UNLIMITED,
            max_batch: 10,
            now: at(5),
        };
        Snapshot {
            limits,
            waiting: Vec::new(),
            served_at: BTreeMap::new(),
            available: Vec::new(),
            reserve: BTreeMap::new(),
            at_work: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }

    fn counts(decision: &Decision) -> Vec<u32> {
        decision.launches.iter().map(|launch| launch.count).collect()
    }

    #[test]
    fn first_in_the_queue_takes_the_oldest_vm_and_the_rest_is_launched_in_one_batch() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a"), waiting(2, "a"), waiting(3, "b")];
        s.available = vec![available(10)];
        let decision = plan_assign(s);
        assert_eq!(decision.claims, [(TaskId(Uuid::from_u128(1)), VmId(Uuid::from_u128(10)))]);
        let launch = Launch { executor: Executor::Machine, resource_class: "medium".to_owned(), count: 2, seen: 0 };
        assert_eq!(decision.launches, [launch]);
    }

    #[test]
    fn a_vm_that_ends_before_the_job_may_is_not_given() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![Waiting { max_run_seconds: 7200, ..waiting(1, "a") }, waiting(2, "b")];
        s.available = vec![available(10)];
        let decision = plan_assign(s);
        assert_eq!(decision.claims, [(TaskId(Uuid::from_u128(2)), VmId(Uuid::from_u128(10)))]);
        assert_eq!(counts(&decision), [1]);
    }

    #[test]
    fn what_is_in_flight_is_not_launched_again() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
        s.limits.supply.insert(kind(), Supply { in_flight: 1, live: 1, available: 0 });
        assert_eq!(counts(&plan_assign(s)), [1]);
    }

    #[test]
    fn no_limit_is_passed() {
        let mut settings = settings();
        settings.limits.vms_per_project = Some(1);
        settings.resource_classes.get_mut("medium").unwrap().limit = Some(3);
        let mut s = snapshot(&settings);
        s.waiting = (1..=9).map(|n| waiting(n, &format!("p{n}"))).collect();
        s.limits.room = Some(Room { vms: 5, in_flight: 2 });
        assert_eq!(counts(&plan_assign(s.clone())), [2], "in flight");
        s.limits.room = Some(Room { vms: 5, in_flight: 9 });
        assert_eq!(counts(&plan_assign(s.clone())), [3], "class");
        s.limits.allowance = Allowance { calls: 1, machines: 2 };
        assert_eq!(counts(&plan_assign(s.clone())), [2], "the call budget's machines");
        s.limits.allowance = Allowance { calls: 0, machines: 2 };
        assert_eq!(counts(&plan_assign(s.clone())), [0; 0], "the call budget's calls");
        s.limits.allowance = Allowance::UNLIMITED;
        s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
        assert_eq!(counts(&plan_assign(s.clone())), [1], "project");
        s.available = vec![available(10), available(11)];
        let decision = plan_assign(s);
        assert_eq!((decision.claims.len(), decision.waits.len()), (1, 1), "project");
    }

    #[test]
    fn batches_are_no_larger_than_the_provider_takes() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = (1..=3).map(|n| waiting(n, "a")).collect();
        s.limits.max_batch = 1;
        let launches = plan_assign(s).launches;
        assert_eq!(launches.iter().map(|l| (l.count, l.seen)).collect::<Vec<_>>(), [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_start_that_keeps_failing_pauses_launches_and_then_fails_the_task_with_its_reason() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a")];
        let breaker = Breaker { failed_at: vec![at(0), at(4)], reason: Some("there is no image".to_owned()), allowance: None };
        s.limits.breakers.insert(kind(), breaker.clone());
        s.limits.now = at(13);
        assert_eq!(counts(&plan_assign(s.clone())), [0; 0]);
        s.limits.now = at(14);
        assert_eq!(counts(&plan_assign(s.clone())), [1]);
        s.limits.breakers.insert(kind(), Breaker { failed_at: vec![at(0), at(4), at(20)], ..breaker });
        s.limits.now = at(1000);
        let decision = plan_assign(s.clone());
        assert_eq!(decision.launches, []);
        assert_eq!(decision.failures[0].1.detail, "3 starts failed in a row; the last said: there is no image");
        s.waiting[0].created_at = at(1);
        assert_eq!(counts(&plan_assign(s)), [1], "one of the rounds was before it came");
    }

    #[test]
    fn a_reason_is_told_once() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a")];
        s.limits.room = Some(Room { vms: 0, in_flight: 9 });
        let waits = plan_assign(s.clone()).waits;
        assert_eq!(waits.len(), 1);
        s.waiting[0].reason = Some(waits[0].1.clone());
        assert_eq!(plan_assign(s).waits, []);
    }
}
