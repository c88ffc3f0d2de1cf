//! What must never be, found in what the clients saw and in the cloud's truth; our own tables are asked only how many machines were meant.

use std::collections::BTreeMap;
use std::time::Instant;
use uuid::Uuid;
use vm_service::sim::{EndCause, MachineTruth};

/// What one client saw of one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) task: Uuid,
    /// Its PUT was answered with 200 or 201.
    pub(super) accepted: bool,
    /// It was released before it was ready, on purpose.
    pub(super) cancelled: bool,
    /// The provider's name for its machine.
    pub(super) machine: Option<String>,
    pub(super) ready_at: Option<Instant>,
    /// When its end was first asked for.
    pub(super) let_go_at: Option<Instant>,
    /// The state that it ended in.
    pub(super) ended: Option<String>,
    /// What the client itself found to be wrong.
    pub(super) wrong: Vec<String>,
}

/// Everything that is known after a run.
#[derive(Default)]
pub(super) struct Story {
    pub(super) tasks: Vec<Seen>,
    /// Every machine that there ever was, after everything has settled.
    pub(super) machines: Vec<MachineTruth>,
    /// When each machine was first asked to end.
    pub(super) asked_to_end: BTreeMap<String, Instant>,
    /// How many machines each launch was to make.
    pub(super) launches: BTreeMap<Uuid, usize>,
    /// The final state of each task, by the service.
    pub(super) ends: BTreeMap<Uuid, String>,
    /// Machines that are free, by the service.
    pub(super) free: Vec<String>,
    /// How many are to be free.
    pub(super) base: usize,
}

/// Each thing that is wrong, in one sentence.
pub(super) fn wrongs(story: &Story) -> Vec<String> {
    let mut wrong: Vec<String> =
        story.tasks.iter().flat_map(|seen| seen.wrong.iter().map(|what| format!("task {}: {what}", seen.task))).collect();
    wrong.extend(story.tasks.iter().filter_map(|seen| lost(story, seen)));
    wrong.extend(story.tasks.iter().filter_map(|seen| ended_while_busy(story, seen)));
    wrong.extend(given_twice(story));
    wrong.extend(doubled(story));
    wrong.extend(story.machines.iter().filter_map(odd_life));
    wrong.extend(left(story));
    wrong
}

fn lost(story: &Story, seen: &Seen) -> Option<String> {
    let id = seen.task;
    let says = story.ends.get(&id);
    match (&seen.ended, says) {
        _ if !seen.accepted => None,
        (_, None) => Some(format!("task {id} was accepted and is forgotten")),
        (None, Some(state)) => Some(format!("task {id} never had a final answer; it is {state}")),
        (Some(ended), Some(state)) if ended != state => Some(format!("task {id} ended as {ended} and is {state} now")),
        (Some(ended), _) if !seen.cancelled && ended != "released" => Some(format!("task {id} ended as {ended}")),
        _ if !seen.cancelled && seen.ready_at.is_none() => Some(format!("task {id} was never ready")),
        _ => None,
    }
}

fn ended_while_busy(story: &Story, seen: &Seen) -> Option<String> {
    let machine = seen.machine.as_ref()?;
    let asked_at = story.asked_to_end.get(machine)?;
    let early = seen.let_go_at.is_none_or(|let_go_at| *asked_at < let_go_at);
    early.then(|| format!("machine {machine} was asked to end while task {} had it", seen.task))
}

fn given_twice(story: &Story) -> Vec<String> {
    let mut tasks: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
    for seen in &story.tasks {
        if let Some(machine) = &seen.machine {
            tasks.entry(machine).or_default().push(seen.task);
        }
    }
    let twice = tasks.into_iter().filter(|(_, tasks)| tasks.len() > 1);
    twice.map(|(machine, tasks)| format!("machine {machine} was given to {tasks:?}")).collect()
}

fn doubled(story: &Story) -> Vec<String> {
    let mut made: BTreeMap<Uuid, usize> = BTreeMap::new();
    for machine in &story.machines {
        *made.entry(machine.tags.launch.0).or_default() += 1;
    }
    let more = made.into_iter().filter(|(launch, made)| story.launches.get(launch).is_none_or(|meant| made > meant));
    more.map(|(launch, made)| format!("launch {launch} made {made} machines, meant were {:?}", story.launches.get(&launch)))
        .collect()
}

fn odd_life(machine: &MachineTruth) -> Option<String> {
    let id = &machine.provider_id;
    match machine.end {
        Some(EndCause::OwnEnd | EndCause::Died | EndCause::Killed) => Some(format!("machine {id} ended by {:?}", machine.end)),
        // The login of its identity, and the key of one task.
        _ if machine.keys.logins.len() > 2 => Some(format!("machine {id} lets in the keys of two tasks")),
        _ => None,
    }
}

fn left(story: &Story) -> Vec<String> {
    let alive: Vec<&str> = story.machines.iter().filter(|m| m.ended_at.is_none()).map(|m| m.provider_id.as_str()).collect();
    let mut wrong: Vec<String> = alive
        .iter()
        .filter(|id| !story.free.iter().any(|free| free == *id))
        .map(|id| format!("machine {id} is left and not free"))
        .collect();
    wrong.extend(story.free.iter().filter(|id| !alive.contains(&id.as_str())).map(|id| format!("machine {id} is free and gone")));
    if story.free.len() != story.base {
        wrong.push(format!("{} machines are free and not {}", story.free.len(), story.base));
    }
    wrong
}
