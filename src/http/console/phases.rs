//! Where a task's time went, from being asked for until its job could begin: spans one after the other, made of the times of the task and
//! of the VM that it got in the end. What a VM did before the task was asked for is none of its time.
//!
//! Not here: VMs that it had before and lost; those are in its events, and count as waiting.

use crate::db::console_vms::VmLife;
use crate::domain::api::TaskView;
use chrono::{DateTime, TimeDelta, Utc};

/// One span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// For its colour.
    pub(super) key: &'static str,
    /// For a person.
    pub(super) name: &'static str,
    /// From the task's beginning.
    pub(super) after: TimeDelta,
    /// How long.
    pub(super) length: TimeDelta,
    /// Not over yet.
    pub(super) open: bool,
}

/// Width of the picture.
pub(super) const WIDTH: i64 = 1000;

/// The spans of a task until it was ready, has ended, or now.
pub(super) fn phases(task: &TaskView, vm: Option<&VmLife>, now: DateTime<Utc>) -> Vec<Phase> {
    let end = task.ready_at.or(task.ended_at);
    let of = |at: fn(&VmLife) -> Option<DateTime<Utc>>| vm.and_then(at);
    // Each begins at the first of these times that is known, and ends where the next begins.
    let begins = [
        ("queued", "Waits in the queue", Some(task.created_at)),
        ("asked", "A machine is asked for", of(|vm| Some(vm.created_at))),
        ("launching", "The machine starts", of(|vm| vm.launched_at)),
        ("booting", "It boots and is personalised", of(|vm| vm.booted_at)),
        ("waiting", "A VM is free; the queue decides", of(|vm| vm.available_at)),
        ("preparing", "Keys and cache are put in", of(|vm| vm.assigned_at)),
    ];
    let known: Vec<_> = begins.iter().filter_map(|(key, name, at)| Some((*key, *name, (*at)?))).collect();
    let until = end.unwrap_or(now).max(task.created_at);
    let span = |(n, (key, name, from)): (usize, &(&'static str, &'static str, DateTime<Utc>))| {
        let next = known.get(n + 1).map(|(_, _, at)| *at);
        let from = (*from).clamp(task.created_at, until);
        let to = next.unwrap_or(until).clamp(from, until);
        let open = end.is_none() && next.is_none();
        let phase = Phase { key, name, after: from - task.created_at, length: to - from, open };
        (open || phase.length > TimeDelta::zero()).then_some(phase)
    };
    known.iter().enumerate().filter_map(span).collect()
}

/// Begin and width of a span in a picture of [`WIDTH`], where `whole` is all of the time; never too narrow to be seen.
pub(super) fn bar(phase: &Phase, whole: TimeDelta) -> (i64, i64) {
    let whole = whole.num_milliseconds().max(1);
    let at = phase.after.num_milliseconds() * WIDTH / whole;
    let width = (phase.length.num_milliseconds() * WIDTH / whole).max(4);
    (at.min(WIDTH - width), width)
}

#[cfg(test)]
#[path = "phases_tests.rs"]
mod tests;
