//! What is said about a violation: enough to see what happened, and how to see it again.

use super::history::History;
use std::fmt::Write as _;
use vm_service::db::events::EventFilter;
use vm_service::domain::ids::{TaskId, VmId};

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    rule: &'static str,
    detail: String,
    task: Option<TaskId>,
    vm: Option<VmId>,
    machine: Option<String>,
}

impl Violation {
    pub(super) fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into(), task: None, vm: None, machine: None }
    }

    /// The task that it is about.
    pub(super) fn task(mut self, task: TaskId) -> Self {
        self.task = Some(task);
        self
    }

    /// The machine that it is about.
    pub(super) fn machine(mut self, machine: &str) -> Self {
        self.machine = Some(machine.to_owned());
        self
    }

    /// Everything that is known about it.
    pub(super) async fn tell(&self, history: &History) -> String {
        let mut told = String::new();
        let operation = history.model.operation();
        writeln!(told, "VIOLATION seed {} operation {operation} at {}: {}", history.seed, history.now(), self.rule).unwrap();
        writeln!(told, "  {}", self.detail).unwrap();
        writeln!(told, "  again: make sim SEED={}   (OPERATIONS={} is enough)", history.seed, operation + 1).unwrap();
        let task = self.task.or_else(|| self.machine.as_ref().and_then(|machine| history.model.served.get(machine)).copied());
        let job = task.and_then(|task| history.model.jobs.get(&task));
        if let Some(job) = job {
            writeln!(told, "  job: {job:?}").unwrap();
        }
        let machine = self.machine.clone().or_else(|| job.and_then(|job| job.machine.clone()));
        let vm = self.vm.or_else(|| job.and_then(|job| job.vm));
        if let Some(machine) = &machine {
            let truth = history.cluster.sim.truth().into_iter().find(|truth| truth.provider_id == *machine);
            writeln!(told, "  machine: {truth:?}").unwrap();
            writeln!(told, "  calls about {machine}:").unwrap();
            for call in history.cluster.sim.journal().iter().filter(|call| call.detail.contains(machine)) {
                writeln!(told, "    {call}").unwrap();
            }
        }
        let about_task = EventFilter { task, limit: 200, ..EventFilter::default() };
        let about_vm = EventFilter { vm, limit: 200, ..EventFilter::default() };
        for (what, filter, is_known) in [("task", about_task, task.is_some()), ("VM", about_vm, vm.is_some())] {
            if !is_known {
                continue;
            }
            writeln!(told, "  timeline of the {what}:").unwrap();
            for event in history.db.list_events(&filter).await.unwrap_or_default() {
                writeln!(told, "    {} {} {}", event.at, event.kind, event.message).unwrap();
            }
        }
        writeln!(told, "  VMs:").unwrap();
        for vm in history.vms().await {
            let hold = vm.hold.map(|hold| hold.until);
            writeln!(told, "    {} {} {:?} {} {} hold {hold:?}", vm.id, vm.state, vm.provider_id, vm.executor, vm.resource_class)
                .unwrap();
        }
        writeln!(told, "  the last steps:").unwrap();
        for line in history.cluster.log.iter().rev().take(150).collect::<Vec<_>>().into_iter().rev() {
            writeln!(told, "    {line}").unwrap();
        }
        writeln!(told, "  the last calls:").unwrap();
        for call in history.cluster.sim.journal().iter().rev().take(40).collect::<Vec<_>>().into_iter().rev() {
            writeln!(told, "    {call}").unwrap();
        }
        told
    }
}
