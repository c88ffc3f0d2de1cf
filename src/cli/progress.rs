//! What `run` tells while it waits and when it is over; never more than a change, never on standard output.
//!
//! Reads: the task's timeline. Writes: standard error. Calls: the API. Runs: beside the wait of `run`, and at its end.

use super::problem::printable;
use super::table::table;
use super::{Client, Io};
use crate::domain::api::EventView;
use crate::domain::ids::TaskId;
use chrono::{DateTime, Utc};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// When things happened here.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) command_began: Option<Instant>,
    pub(super) command_ended: Option<Instant>,
    pub(super) release_began: Option<Instant>,
    pub(super) released: Option<Instant>,
}

/// Tells why the task waits, each time that changes. Never ends.
pub(super) async fn tell_reasons(client: &Client, id: TaskId, io: &mut Io, quiet: bool, every: Duration) -> Infallible {
    if quiet {
        return std::future::pending().await;
    }
    let mut told = 0;
    let mut last = String::new();
    loop {
        sleep(every).await;
        // A service that restarts is the wait's business.
        let Ok(events) = client.timeline(id).await else { continue };
        for event in events.iter().skip_while(|event| event.id <= told) {
            if let Some(line) = line(event).filter(|line| *line != last) {
                io.say(&line).await;
                last = line;
            }
        }
        told = events.last().map_or(told, |event| event.id);
    }
}

fn line(event: &EventView) -> Option<String> {
    let message = printable(&event.message);
    match event.kind.as_str() {
        "task.waiting" => Some(format!("waiting: {message}")),
        "task.claimed" | "task.requeued" => Some(message),
        _ => None,
    }
}

/// Prints a row for each phase: when it was reached, by the service's clock, and how long it took to get there.
pub(super) async fn show_times(client: &Client, id: TaskId, io: &mut Io, times: &Times, deadline: Duration) {
    let events = match timeout(deadline, client.timeline(id)).await {
        Ok(Ok(events)) => events,
        Ok(Err(e)) => return io.say(&format!("The timeline of task {id} cannot be read: {e}")).await,
        Err(_) => return io.say(&format!("The timeline of task {id} cannot be read in time.")).await,
    };
    // After a lost VM a task is claimed again: what counts is the last.
    let at = |kind: &str| events.iter().rev().find(|event| event.kind == kind).map(|event| event.at);
    let (queued, claimed, ready, released) = (at("task.created"), at("task.claimed"), at("task.ready"), at("task.released"));
    let here = |from: Option<Instant>, to: Option<Instant>| from.zip(to).map(|(from, to)| to - from);
    let row = |phase: &str, at: Option<DateTime<Utc>>, took: Option<Duration>| {
        let at = at.map_or_else(String::new, |at| at.format("%H:%M:%S%.3fZ").to_string());
        vec![phase.to_owned(), at, took.map_or_else(|| "-".to_owned(), |took| format!("{:.3} s", took.as_secs_f64()))]
    };
    let rows = vec![
        row("queued", queued, Some(Duration::ZERO)),
        row("claimed", claimed, between(queued, claimed)),
        row("ready", ready, between(claimed, ready)),
        row("command", None, here(times.command_began, times.command_ended)),
        row("released", released, here(times.release_began, times.released)),
    ];
    let text = table(&["PHASE", "AT", "TOOK"], rows);
    for line in text.lines() {
        io.say(line).await;
    }
}

fn between(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<Duration> {
    from.zip(to).and_then(|(from, to)| (to - from).to_std().ok())
}
