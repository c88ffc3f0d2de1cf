//! Gives events of the audit log their links in its chain, within about a second, and writes an hour of them to a file when it is over.
//!
//! A file holds the events of one hour by UTC, a line of JSON each, oldest first, and is there whole or not at all: a crash before it was
//! noted writes it once more, with the same content. Where the hour has a file with other content, the log says so and both are kept: rows
//! were changed, or another installation writes there. Hours without events have no file. Up to which hour files were written is noted
//! for each place, so that a file that was moved away is not written again.
//!
//! Reads: `audit`. Writes: `audit` (links), `schedules`. Calls: `audit_store`. Runs: in `gc`. Not here: what the chain shows
//! (`migrations/0010_audit.sql`).

use super::audit_store::Store;
use super::{Act, Loop, World};
use crate::domain::audit_place::AuditPlace;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use futures::{Stream, stream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Links given in one transaction.
const BATCH: i32 = 500;
/// Events read at a time.
const PART: i64 = 1000;
/// Longer than a request or a transaction lasts that began within the hour.
const SETTLES: TimeDelta = TimeDelta::minutes(2);
/// Between two hours of many that wait, such as those before a place was named: a year's are written in two or three.
const CATCHES_UP: Duration = Duration::from_secs(1);

/// Seals.
pub struct Seal(pub World);

#[async_trait]
impl Loop for Seal {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, _now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        while self.0.db.seal_audit(BATCH).await? == BATCH {}
        Ok(Vec::new())
    }
}

/// Writes files, one a tick.
pub struct Files {
    world: World,
    store: Store,
    /// This machine's name: a folder is another one on each.
    host: String,
    /// The last tick wrote one: the next may follow.
    wrote: AtomicBool,
}

#[async_trait]
impl Loop for Files {
    fn name(&self) -> &'static str {
        "audit files"
    }

    fn interval(&self) -> Duration {
        if self.wrote.load(Ordering::Relaxed) { CATCHES_UP } else { Duration::from_secs(60) }
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let wrote = self.write_next(now).await;
        self.wrote.store(matches!(wrote, Ok(true)), Ordering::Relaxed);
        wrote.map(|_| Vec::new())
    }
}

impl Files {
    /// Of these events, there, by the machine of this name.
    pub fn new(world: World, store: Store, host: String) -> Self {
        Self { world, store, host, wrote: AtomicBool::new(false) }
    }

    /// Writes the first hour that is over and not written yet; false when there is none.
    async fn write_next(&self, now: DateTime<Utc>) -> anyhow::Result<bool> {
        let db = &self.world.db;
        let place = self.store.place();
        let done = match place {
            AuditPlace::Folder(_) => format!("audit files {} {place}", self.host),
            AuditPlace::Bucket(_) => format!("audit files {place}"),
        };
        let from = db.find_schedule(&done).await?.unwrap_or_default();
        let hour = TimeDelta::hours(1);
        let over = (now - SETTLES).duration_trunc(hour)?;
        let (first, _) = db.next_audit(from, from).await?;
        let Some(start) = first.map(|at| at.duration_trunc(hour)).transpose()?.filter(|start| *start < over) else {
            return Ok(false);
        };
        let end = start + hour;
        let (_, waits) = db.next_audit(start, end).await?;
        if waits {
            return Ok(false);
        }
        let beside = self
            .store
            .put(&name(start), || self.lines(start, end))
            .await
            .with_context(|| format!("writing the audit log of {start} to {place}"))?;
        if let Some(file) = beside {
            tracing::error!(
                place = %place,
                file,
                "the audit log of an hour has another file with other content: compare them. Rows were changed since, or another \
                 installation writes there"
            );
        }
        db.note_schedule(&done, end).await?;
        Ok(true)
    }

    /// The events of a span, many lines at a time.
    fn lines(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> impl Stream<Item = anyhow::Result<Vec<u8>>> + Send {
        stream::try_unfold(None, move |after| async move {
            let events = self.world.db.list_audit_of(start, end, after, PART).await?;
            let Some(last) = events.last() else { return Ok(None) };
            let after = Some((last.event.occurred_at, last.event.id));
            let mut lines = Vec::new();
            for event in &events {
                serde_json::to_writer(&mut lines, event)?;
                lines.push(b'\n');
            }
            Ok(Some((lines, after)))
        })
    }
}

/// Begins with a timestamp, as the guide's, and sorts by it.
fn name(start: DateTime<Utc>) -> String {
    start.format("%Y-%m-%dT%H-%M-%SZ").to_string()
}
