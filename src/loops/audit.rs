//! Gives events of the audit log their links in its chain, within about a second, and writes an hour of them to a file when it is over.
//!
//! A file holds the events of one hour by UTC, a line of JSON each, oldest first, and is there whole or not at all: a crash before it was
//! noted writes it once more, with the same content. Hours without events have no file. Up to which hour files were written is noted for
//! each place, so that a file that was moved away is not written again.
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
use std::time::Duration;

/// Links given in one transaction.
const BATCH: i32 = 500;
/// Events read at a time.
const PART: i64 = 1000;
/// Longer than a request or a transaction lasts that began within the hour.
const SETTLES: TimeDelta = TimeDelta::minutes(2);

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

/// Writes files.
pub struct Files {
    /// Events.
    pub world: World,
    /// Where.
    pub store: Store,
    /// This machine's name: a folder is another one on each.
    pub host: String,
}

#[async_trait]
impl Loop for Files {
    fn name(&self) -> &'static str {
        "audit files"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        while self.write_next(now).await? {}
        Ok(Vec::new())
    }
}

impl Files {
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
        self.store
            .put(&name(start), self.lines(start, end))
            .await
            .with_context(|| format!("writing the audit log of {start} to {place}"))?;
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
    start.format("%Y-%m-%dT%H-%M-%SZ.jsonl").to_string()
}
