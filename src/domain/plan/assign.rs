//! Who gets which VM, what is launched, what is not needed: the queue's order is kept and no limit is passed.
//!
//! A start *failed* when a VM was given up before it was available. A VM is *spare* when it is available and no task waits for it.

use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::settings::{ProviderChoice, Settings};
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, VecDeque};

/// A task is failed after this many starts failed while it waited: one may be bad luck, two may be, three are a defect.
pub const FAILED_STARTS_MAX: i64 = 3;

/// How long a spare VM stays for a job that follows at once.
pub const LINGER: TimeDelta = TimeDelta::seconds(60);

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
    /// Starts of its kind that failed while it waited, since the last that succeeded.
    pub failed_starts: i64,
    /// What the last of them said.
    pub last_failure: Option<String>,
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
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What there is of one kind of VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Asked for and not ready yet.
    pub in_flight: u32,
    /// Not terminated, in any state.
    pub live: u32,
    /// Starts that failed since the last that succeeded.
    pub failures: u32,
    /// When the last of them failed.
    pub last_failure_at: Option<DateTime<Utc>>,
}

/// What a decision is made of.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// The settings in force.
    pub settings: &'a Settings,
    /// In the queue's order.
    pub waiting: Vec<Waiting>,
    /// Oldest first.
    pub available: Vec<Available>,
    /// By executor and class.
    pub supply: BTreeMap<(Executor, String), Supply>,
    /// VMs that have a task, by project; while planning also those that are on their way for one.
    pub at_work: BTreeMap<String, u32>,
    /// How many more VMs the limits allow: in all, and in flight.
    pub room: Room,
    /// How many machines one launch may ask for.
    pub max_batch: u32,
}

/// How many more VMs the limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub vms: u32,
    /// In flight.
    pub in_flight: u32,
}

/// A launch to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What for.
    pub executor: Executor,
    /// Which class.
    pub resource_class: String,
    /// How many machines.
    pub count: u32,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Tasks and their VMs, in order.
    pub claims: Vec<(TaskId, VmId)>,
    /// In order.
    pub launches: Vec<Launch>,
    /// VMs that are not needed.
    pub drains: Vec<VmId>,
    /// Why each other task waits.
    pub waits: Vec<(TaskId, String)>,
    /// Tasks that cannot be served.
    pub failures: Vec<(TaskId, Failure)>,
}

/// How long no launch of a kind is made after `failures` in a row: 5 s, doubled each time, at most 5 min.
pub fn pause_after(failures: u32) -> TimeDelta {
    if failures == 0 {
        return TimeDelta::zero();
    }
    let doubled = 5_i32.saturating_mul(2_i32.saturating_pow((failures - 1).min(10)));
    TimeDelta::seconds(i64::from(doubled.min(300)))
}

/// Decides.
pub fn plan_assign(snapshot: Snapshot<'_>, now: DateTime<Utc>) -> Decision {
    let mut planner = Planner::new(snapshot, now);
    let waiting = std::mem::take(&mut planner.snapshot.waiting);
    for task in waiting {
        planner.place(&task);
    }
    planner.finish()
}

struct Planner<'a> {
    snapshot: Snapshot<'a>,
    now: DateTime<Utc>,
    free: BTreeMap<(Executor, String), VecDeque<Available>>,
    wanted: Vec<(Executor, String)>,
    decision: Decision,
}

impl<'a> Planner<'a> {
    fn new(mut snapshot: Snapshot<'a>, now: DateTime<Utc>) -> Self {
        let mut free: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
        for vm in std::mem::take(&mut snapshot.available) {
            free.entry((vm.executor, vm.resource_class.clone())).or_default().push_back(vm);
        }
        Self { snapshot, now, free, wanted: Vec::new(), decision: Decision::default() }
    }

    fn place(&mut self, task: &Waiting) {
        let settings = self.snapshot.settings;
        let kind = (task.executor, task.resource_class.clone());
        let at_work = self.snapshot.at_work.entry(task.project_id.clone()).or_default();
        if settings.limits.vms_per_project.is_some_and(|limit| *at_work >= limit) {
            self.wait(task, format!("Project {} has as many VMs as it may.", task.project_id));
            return;
        }
        if let Some(vm) = self.free.get_mut(&kind).and_then(VecDeque::pop_front) {
            *at_work += 1;
            self.decision.claims.push((task.id, vm.id));
            return;
        }
        let supply = self.snapshot.supply.entry(kind.clone()).or_default();
        if supply.in_flight > 0 {
            supply.in_flight -= 1;
            *at_work += 1;
            self.wait(task, "A VM is starting.".to_owned());
            return;
        }
        if let Some(failure) = unservable(task, settings) {
            self.decision.failures.push((task.id, failure));
            return;
        }
        match self.may_launch(&kind) {
            Ok(()) => {
                *self.snapshot.at_work.entry(task.project_id.clone()).or_default() += 1;
                self.wait(task, "A VM is launched for it.".to_owned());
                self.wanted.push(kind);
            }
            Err(reason) => self.wait(task, reason),
        }
    }

    fn may_launch(&mut self, kind: &(Executor, String)) -> Result<(), String> {
        let settings = self.snapshot.settings;
        if settings.provider == ProviderChoice::None {
            return Err("No VM provider is set: choose one in the settings.".to_owned());
        }
        if settings.pause_launches {
            return Err("Launches are paused in the settings.".to_owned());
        }
        let of_class: u32 =
            self.snapshot.supply.iter().filter(|((_, class), _)| *class == kind.1).map(|(_, supply)| supply.live).sum();
        let supply = self.snapshot.supply.entry(kind.clone()).or_default();
        if let Some(last) = supply.last_failure_at {
            let resume_at = last + pause_after(supply.failures);
            if self.now < resume_at {
                return Err(format!(
                    "{} starts failed in a row; the next is tried at {}.",
                    supply.failures,
                    resume_at.format("%H:%M:%S UTC")
                ));
            }
        }
        let class_limit = settings.resource_classes.get(&kind.1).and_then(|class| class.limit);
        if class_limit.is_some_and(|limit| of_class >= limit) {
            return Err(format!("There are as many VMs of class {} as there may be.", kind.1));
        }
        if self.snapshot.room.vms == 0 {
            return Err("There are as many VMs as there may be; it is next when one ends.".to_owned());
        }
        if self.snapshot.room.in_flight == 0 {
            return Err("As many VMs are starting as may at a time; it is next.".to_owned());
        }
        supply.live += 1;
        self.snapshot.room.vms -= 1;
        self.snapshot.room.in_flight -= 1;
        Ok(())
    }

    fn wait(&mut self, task: &Waiting, reason: String) {
        self.decision.waits.push((task.id, reason));
    }

    fn finish(mut self) -> Decision {
        for kind in self.wanted {
            let batch = self.snapshot.max_batch.max(1);
            match self
                .decision
                .launches
                .iter_mut()
                .find(|l| (l.executor, &l.resource_class) == (kind.0, &kind.1) && l.count < batch)
            {
                Some(launch) => launch.count += 1,
                None => self.decision.launches.push(Launch { executor: kind.0, resource_class: kind.1, count: 1 }),
            }
        }
        let now = self.now;
        let spare = self.free.into_values().flatten().filter(|vm| now - vm.since >= LINGER);
        self.decision.drains = spare.map(|vm| vm.id).collect();
        self.decision
    }
}

fn unservable(task: &Waiting, settings: &Settings) -> Option<Failure> {
    if let Err(sentence) = settings.class(task.executor, &task.resource_class) {
        return Some(Failure::new(FailureCode::VmStartFailed, sentence));
    }
    if task.failed_starts < FAILED_STARTS_MAX {
        return None;
    }
    let last = task.last_failure.as_deref().unwrap_or("no reason is known");
    Some(Failure::new(
        FailureCode::VmStartFailed,
        format!("{} VMs could not be started; the last said: {last}", task.failed_starts),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn settings() -> Settings {
        Settings { provider: ProviderChoice::OnHost, ..Settings::default() }
    }

    fn waiting(id: u128, project: &str) -> Waiting {
        Waiting {
            id: TaskId(Uuid::from_u128(id)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            project_id: project.to_owned(),
            failed_starts: 0,
            last_failure: None,
        }
    }

    fn available(id: u128, since: i64) -> Available {
        Available {
            id: VmId(Uuid::from_u128(id)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            since: at(since),
        }
    }

    fn snapshot(settings: &Settings) -> Snapshot<'_> {
        Snapshot {
            settings,
            waiting: Vec::new(),
            available: Vec::new(),
            supply: BTreeMap::new(),
            at_work: BTreeMap::new(),
            room: Room { vms: 10, in_flight: 10 },
            max_batch: 10,
        }
    }

    #[test]
    fn first_in_the_queue_takes_the_oldest_vm_and_the_rest_is_launched_in_one_batch() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a"), waiting(2, "a"), waiting(3, "b")];
        s.available = vec![available(10, 0)];
        let decision = plan_assign(s, at(5));
        assert_eq!(decision.claims, [(TaskId(Uuid::from_u128(1)), VmId(Uuid::from_u128(10)))]);
        assert_eq!(decision.launches, [Launch { executor: Executor::Machine, resource_class: "medium".to_owned(), count: 2 }]);
        assert_eq!(decision.drains, []);
    }

    #[test]
    fn what_is_in_flight_is_not_launched_again() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
        s.supply.insert((Executor::Machine, "medium".to_owned()), Supply { in_flight: 1, live: 1, ..Supply::default() });
        let decision = plan_assign(s, at(0));
        assert_eq!(decision.launches.iter().map(|l| l.count).sum::<u32>(), 1);
    }

    #[test]
    fn no_limit_is_passed() {
        let mut settings = settings();
        settings.limits.vms_per_project = Some(1);
        settings.resource_classes.get_mut("medium").unwrap().limit = Some(3);
        let mut s = snapshot(&settings);
        s.waiting = (1..=9).map(|n| waiting(n, &format!("p{n}"))).collect();
        s.room = Room { vms: 5, in_flight: 2 };
        let decision = plan_assign(s.clone(), at(0));
        assert_eq!(decision.launches.iter().map(|l| l.count).sum::<u32>(), 2, "in flight");
        s.room = Room { vms: 5, in_flight: 9 };
        assert_eq!(plan_assign(s.clone(), at(0)).launches.iter().map(|l| l.count).sum::<u32>(), 3, "class");
        s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
        assert_eq!(plan_assign(s.clone(), at(0)).launches.iter().map(|l| l.count).sum::<u32>(), 1, "project");
        s.available = vec![available(10, 0), available(11, 0)];
        let decision = plan_assign(s, at(0));
        assert_eq!(decision.claims.len(), 1, "project");
        assert_eq!(decision.waits.len(), 1);
    }

    #[test]
    fn batches_are_no_larger_than_the_provider_takes() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = (1..=3).map(|n| waiting(n, "a")).collect();
        s.max_batch = 1;
        assert_eq!(plan_assign(s, at(0)).launches.iter().map(|l| l.count).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn a_start_that_keeps_failing_pauses_launches_and_then_fails_the_task_with_its_reason() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.waiting = vec![waiting(1, "a")];
        let supply = Supply { failures: 2, last_failure_at: Some(at(0)), ..Supply::default() };
        s.supply.insert((Executor::Machine, "medium".to_owned()), supply);
        assert_eq!(plan_assign(s.clone(), at(9)).launches, []);
        assert_eq!(plan_assign(s.clone(), at(10)).launches.len(), 1);
        s.waiting[0].failed_starts = 3;
        s.waiting[0].last_failure = Some("there is no image".to_owned());
        let decision = plan_assign(s, at(1000));
        assert_eq!(decision.launches, []);
        assert_eq!(decision.failures[0].1.detail, "3 VMs could not be started; the last said: there is no image");
    }

    #[test]
    fn a_spare_vm_lingers_and_is_then_drained() {
        let settings = settings();
        let mut s = snapshot(&settings);
        s.available = vec![available(10, 0)];
        assert_eq!(plan_assign(s.clone(), at(59)).drains, []);
        assert_eq!(plan_assign(s, at(60)).drains, [VmId(Uuid::from_u128(10))]);
    }
}
