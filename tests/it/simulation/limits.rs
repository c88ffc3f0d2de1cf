//! The limits, by the cloud's truth: machines of each launch, machines that we made and did not ask to end, tasks that have a VM.
//!
//! A limit that is lowered ends nothing. So what counts is the moment of the newest decision: there may be as many as the limit allowed
//! that was in force then, or a moment before, for settings take a moment to be taken over.
//!
//! Not counted, because nobody could know them when the decision was made: machines that the driver planted; those whose rows were
//! deleted, until the service has had time to list them; and what a thawed replica sent late, when another had gone on with its launch.

use super::history::History;
use super::report::Violation;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use vm_service::domain::ids::LaunchId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::sim::{Call, MachineTruth};

/// From a loss of rows to the moment when the service has counted the machines that it lost: a list each half minute, some of which fail.
const COUNTED_AFTER: TimeDelta = TimeDelta::minutes(10);
/// The same in operations: clocks jump.
const COUNTED_AFTER_OPERATIONS: usize = 25;

/// All limits.
pub(super) async fn hold(history: &mut History, machines: &[MachineTruth]) -> Result<(), Violation> {
    of_machines(history, machines).await?;
    of_projects(history)
}

async fn of_machines(history: &mut History, machines: &[MachineTruth]) -> Result<(), Violation> {
    if machines.len() == history.model.machines_seen {
        return Ok(());
    }
    of_launches(history, machines)?;
    history.model.machines_seen = machines.len();
    let model = &history.model;
    let counts = |truth: &&MachineTruth| {
        let is_lost = model.losses.iter().any(|(at, operation)| {
            truth.tags.created_at <= *at
                && (history.now() < *at + COUNTED_AFTER || model.operation() < operation + COUNTED_AFTER_OPERATIONS)
        });
        truth.end.is_none() && !is_lost && !model.planted.contains_key(&truth.provider_id)
    };
    let in_time = machines.iter().enumerate().filter(|(nth, _)| !history.cluster.made_late.contains(nth));
    let live: Vec<&MachineTruth> = in_time.map(|(_, truth)| truth).filter(counts).collect();
    check(history, "VMs in all", &live, |settings| settings.limits.vms)?;
    // What the API calls ended is in flight no more, although the cloud is told of it seconds later, with others.
    let starts = ["launching", "booting"];
    let vms = history.vms().await.into_iter().filter(|vm| starts.contains(&vm.state.as_str()));
    let starts: BTreeSet<String> = vms.filter_map(|vm| vm.provider_id).collect();
    let starting: Vec<&MachineTruth> = live
        .iter()
        .filter(|truth| truth.personalised_as.is_none() && !history.model.holds.contains_key(&truth.provider_id))
        .filter(|truth| starts.contains(&truth.provider_id))
        .copied()
        .collect();
    check(history, "VMs in flight", &starting, |settings| settings.limits.in_flight)?;
    for class in ["medium", "large"] {
        let of_class: Vec<&MachineTruth> = live.iter().filter(|truth| truth.tags.resource_class == class).copied().collect();
        check(history, class, &of_class, |settings| settings.resource_classes[class].limit)?;
    }
    Ok(())
}

/// One launch never makes more machines than it asks for, however often it is sent. Looked at when there are new machines.
fn of_launches(history: &History, machines: &[MachineTruth]) -> Result<(), Violation> {
    let fresh: BTreeSet<LaunchId> = machines[history.model.machines_seen..].iter().map(|truth| truth.tags.launch).collect();
    let asked = asked(&history.cluster.sim.journal());
    for launch in fresh {
        let made = machines.iter().enumerate().filter(|(nth, truth)| {
            truth.tags.launch == launch
                && !history.cluster.made_late.contains(nth)
                && !history.model.planted.contains_key(&truth.provider_id)
        });
        let (made, asked) = (made.count(), asked.get(&launch).copied().unwrap_or_default());
        if made > asked {
            let detail = format!("launch {launch} asked for {asked} and made {made}");
            return Err(Violation::new("a launch makes no more machines than it asks for", detail));
        }
    }
    Ok(())
}

/// The most that each launch asked for in one call: `<launch>-<attempt> x<count>`.
fn asked(journal: &[Call]) -> BTreeMap<LaunchId, usize> {
    let mut most = BTreeMap::new();
    for call in journal.iter().filter(|call| call.op == "launch") {
        let mut words = call.detail.split(' ');
        let launch = words.next().and_then(|token| token.get(..36)?.parse().ok());
        let count: Option<usize> = words.next().and_then(|count| count.strip_prefix('x')?.parse().ok());
        if let (Some(launch), Some(count)) = (launch, count) {
            let entry = most.entry(LaunchId(launch)).or_insert(0);
            *entry = count.max(*entry);
        }
    }
    most
}

fn check(
    history: &History,
    what: &str,
    live: &[&MachineTruth],
    limit: impl Fn(&vm_service::domain::settings::Settings) -> Option<u32>,
) -> Result<(), Violation> {
    let Some(newest) = live.iter().max_by_key(|truth| truth.tags.created_at) else { return Ok(()) };
    // By now those of a loss are known; they were not when it was decided.
    let decided_at = newest.tags.created_at;
    let was_known = |truth: &&&MachineTruth| {
        let unknown = |at| truth.tags.created_at <= at && at <= decided_at && decided_at < at + COUNTED_AFTER;
        !history.model.losses.iter().any(|(at, _)| unknown(*at))
    };
    let live: Vec<&&MachineTruth> = live.iter().filter(was_known).collect();
    match history.model.highest(newest.tags.created_at, limit) {
        Some(limit) if live.len() > limit as usize => {
            let ids: Vec<String> = live.iter().map(|truth| format!("{} of {}", truth.provider_id, truth.tags.created_at)).collect();
            let detail = format!("{what}: {} and not at most {limit}: {}", live.len(), ids.join(", "));
            Err(Violation::new("machines stay within the limits", detail).machine(&newest.provider_id))
        }
        _ => Ok(()),
    }
}

/// Tasks that have a VM, of each project: counted when there are more than at the last look.
fn of_projects(history: &mut History) -> Result<(), Violation> {
    let now = history.now();
    let mut at_work: BTreeMap<String, usize> = BTreeMap::new();
    let has_vm = |state| matches!(state, TaskState::Preparing | TaskState::Ready);
    for job in history.model.jobs.values().filter(|job| job.is_open() && has_vm(job.state)) {
        *at_work.entry(job.request.project_id.clone()).or_default() += 1;
    }
    // What was claimed in this operation was decided in it.
    let limit = history.model.highest(now, |settings| settings.limits.vms_per_project);
    for (project, count) in &at_work {
        let before = history.model.at_work.get(project).copied().unwrap_or_default();
        if let Some(limit) = limit.filter(|limit| *count > before && *count > *limit as usize) {
            let detail = format!("project {project} has {count} VMs at work and not at most {limit}; it had {before}");
            return Err(Violation::new("projects stay within their limit", detail));
        }
    }
    history.model.at_work = at_work;
    Ok(())
}
