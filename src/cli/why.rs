//! `vm-service why TASK`: one screen that says what a task waits for, or where its seconds went.
//!
//! A *phase* is the time between two of the task's own steps: it waited for a VM, its VM was made ready for it, its job ran. What its VM
//! did meanwhile stands below, with the service's reasons.
//!
//! Reads: the API (the task, its timeline). Writes: nothing but its answer. Calls: the API. Runs: once.

use super::table::{age, fields, json, or_dash, table, time};
use super::{Client, ClientError, Connect};
use crate::domain::api::{EventView, TaskView};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json as object};

/// `vm-service why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print JSON: the task, its timeline, and the seconds of each phase.
    #[arg(long)]
    json: bool,
    /// The task's id.
    task: TaskId,
}

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client) -> Result<String, String> {
    look(args, client).await.map_err(|e| e.to_string())
}

async fn look(args: &Args, client: &Client) -> Result<String, ClientError> {
    let answer = client.get(&format!("tasks/{}", args.task)).await?;
    let events = client.list(&format!("tasks/{}/timeline", args.task), &[]).await?.body;
    let (task, timeline): (TaskView, Vec<EventView>) = (client.typed(answer.body.clone())?, client.typed(events.clone())?);
    let phases = phases(&task, &timeline, answer.at);
    if args.json {
        let seconds: Vec<Value> =
            phases.iter().map(|phase| object!({ "phase": phase.name, "seconds": phase.length.as_seconds_f64() })).collect();
        return Ok(json(&object!({ "task": answer.body, "timeline": events, "phases": seconds, "now": now(&task, &timeline) })));
    }
    let request = &task.request;
    let heading = fields(&[
        ("task", format!("{} of {}", task.id, request.project_id)),
        ("wants", format!("a {} VM of class {}", request.executor, request.resource_class)),
        ("state", format!("{}, {} old", task.state, age(task.created_at, answer.at))),
        ("now", now(&task, &timeline)),
        ("VM", or_dash(task.vm.as_ref().map(|vm| format!("{} {} {}", vm.id, vm.provider, vm.origin.as_str())))),
        ("cache", or_dash(task.cache.as_ref().map(|cache| cache.reason.clone()))),
    ]);
    let whole: f64 = phases.iter().map(|phase| phase.length.as_seconds_f64()).sum();
    let shares = phases.iter().map(|phase| {
        let seconds = phase.length.as_seconds_f64();
        let share = if whole > 0.0 { format!("{:.0} %", seconds / whole * 100.0) } else { "-".to_owned() };
        vec![phase.name.to_owned(), format!("{seconds:.3} s"), share, time(phase.from)]
    });
    let steps = timeline.iter().enumerate().map(|(at, event)| {
        let until = timeline.get(at + 1).map(|next| next.at).or(answer.at.filter(|_| !task.state.is_terminal()));
        let took = until.map(|until| format!("{:.3} s", (until - event.at).as_seconds_f64().max(0.0))).unwrap_or_default();
        vec![event.at.format("%H:%M:%S%.3fZ").to_string(), took, event.message.clone()]
    });
    let (shares, steps) = (shares.collect(), steps.collect());
    Ok(format!(
        "{heading}\n{}\n{}",
        table(&["PHASE", "TOOK", "OF ALL", "FROM"], shares),
        table(&["AT", "UNTIL THE NEXT", "WHAT"], steps)
    ))
}

struct Phase {
    name: &'static str,
    from: DateTime<Utc>,
    length: TimeDelta,
}

/// The phases so far; the last one goes on when the task does.
fn phases(task: &TaskView, timeline: &[EventView], now: Option<DateTime<Utc>>) -> Vec<Phase> {
    // After a lost VM a task is claimed again: what counts is the last.
    let claimed = timeline.iter().rev().find(|event| event.kind == "task.claimed").map(|event| event.at);
    let end = task.ended_at.or(now);
    let steps = [
        ("waited for a VM", Some(task.created_at), claimed.or(task.ready_at)),
        ("VM made ready", claimed, task.ready_at),
        ("job", task.ready_at, task.ended_at),
    ];
    let begun = steps.into_iter().filter_map(|(name, from, to)| Some((name, from?, to.or(end)?)));
    begun.map(|(name, from, to)| Phase { name, from, length: (to - from).max(TimeDelta::zero()) }).collect()
}

/// One sentence about where it stands.
fn now(task: &TaskView, timeline: &[EventView]) -> String {
    let last = |kinds: &[&str]| timeline.iter().rev().find(|event| kinds.contains(&event.kind.as_str())).map(|e| e.message.clone());
    let reason = match task.state {
        TaskState::Queued => last(&["task.waiting", "task.requeued", "task.queued"]),
        TaskState::Preparing => Some("Its VM is being made ready for it.".to_owned()),
        TaskState::Ready => Some("Its job may run.".to_owned()),
        _ => task.failure.as_ref().map(|failure| failure.detail.clone()).or_else(|| last(&["task.released"])),
    };
    reason.unwrap_or_else(|| format!("It is {}.", task.state))
}
