//! `vms.audit`: every verb that changes something for a person or a token writes the event in the transaction of the change.
//!
//! Who is *behind* a change is known to the task that carries it out ([`Behind::run`]), so that no verb takes an argument for it: what
//! loops do has nobody behind it and is not audited. A row is written unsealed, without a lock: nobody waits for the chain.
//!
//! Writes: `audit`. Not here: lists, the chain (`audit_log`), what was refused and so has no transaction (`http::audit`).

use super::{Db, DbError};
use crate::domain::api::Hold;
use crate::domain::audit::{AuditEvent, AuditRequest, Party, VERSION};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

tokio::task_local! {
    static BEHIND: Arc<Behind>;
}

/// Who is behind what is done now, and by which request.
#[derive(Debug)]
pub struct Behind {
    actor: Party,
    request: Option<AuditRequest>,
    noted: AtomicBool,
}

impl Behind {
    /// Somebody; `request`: none for a command on the server.
    pub fn new(actor: Party, request: Option<AuditRequest>) -> Arc<Self> {
        Arc::new(Self { actor, request, noted: AtomicBool::new(false) })
    }

    /// Does it with him behind it.
    pub async fn run<F: Future>(self: Arc<Self>, deed: F) -> F::Output {
        BEHIND.scope(self, deed).await
    }

    /// A verb has written an event for him. (Whether its transaction was committed, its answer says.)
    pub fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Acquire)
    }

    /// An event of his.
    pub fn event(&self, action: &str, now: DateTime<Utc>) -> AuditEvent {
        AuditEvent {
            id: Uuid::now_v7(),
            version: VERSION,
            action: action.to_owned(),
            success: true,
            actor: self.actor.clone(),
            target: None,
            payload: Value::Object(serde_json::Map::new()),
            request: self.request.clone(),
            scope: None,
            occurred_at: now,
            metadata: BTreeMap::new(),
        }
    }
}

/// What was done, to each of these.
pub(super) struct Deed<'a> {
    /// Such as `vm.terminate`.
    pub(super) action: &'a str,
    /// One event each.
    pub(super) targets: Vec<Party>,
    /// What belongs to it; an object.
    pub(super) payload: Value,
    /// Whose the targets are.
    pub(super) project: Option<&'a str>,
}

impl<'a> Deed<'a> {
    /// Done to one thing.
    pub(super) fn to(action: &'a str, kind: &str, id: String, payload: Value) -> Self {
        Self { action, targets: vec![Party::new(kind, id)], payload, project: None }
    }

    /// A hold, or the end of one.
    pub(super) fn hold(kind: &str, id: String, hold: Option<&Hold>) -> Self {
        let action = match (kind, hold.is_some()) {
            ("volume", true) => "volume.hold",
            ("volume", false) => "volume.unhold",
            (_, true) => "vm.hold",
            (_, false) => "vm.unhold",
        };
        Self::to(action, kind, id, json!({ "reason": hold.map(|hold| &hold.reason), "until": hold.map(|hold| hold.until) }))
    }
}

/// The events of a deed, for a statement that writes them beside something else; none when nobody is behind it.
pub(super) fn events<'a>(now: DateTime<Utc>, deed: impl FnOnce() -> Deed<'a>) -> Option<Value> {
    BEHIND.try_with(|behind| written(behind, now, &deed())).ok().flatten()
}

fn written(behind: &Behind, now: DateTime<Utc>, deed: &Deed<'_>) -> Option<Value> {
    let events: Vec<AuditEvent> = deed
        .targets
        .iter()
        .map(|target| AuditEvent {
            target: Some(target.clone()),
            payload: deed.payload.clone(),
            scope: deed.project.map(|id| Party::new("project", id.to_owned())),
            ..behind.event(deed.action, now)
        })
        .collect();
    behind.noted.store(!events.is_empty(), Ordering::Release);
    serde_json::to_value(events).ok()
}

/// Writes the events of a deed in the caller's transaction, when somebody is behind it.
pub(super) async fn note(connection: &mut PgConnection, now: DateTime<Utc>, deed: Deed<'_>) -> Result<(), DbError> {
    match BEHIND.try_with(|behind| written(behind, now, &deed)).ok().flatten() {
        Some(events) => insert(connection, events).await,
        None => Ok(()),
    }
}

async fn insert(connection: &mut PgConnection, events: Value) -> Result<(), DbError> {
    sqlx::query!("-- audit::insert\n insert into vms.audit select * from jsonb_populate_recordset(null::vms.audit, $1)", events)
        .execute(connection)
        .await?;
    Ok(())
}

impl Db {
    /// Adds an event that stands alone: something refused, or something without a row of its own.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_audit(&self, event: &AuditEvent) -> Result<(), DbError> {
        let events = serde_json::to_value([event]).map_err(|e| DbError::Refused(sqlx::Error::Encode(Box::new(e))))?;
        let mut connection = self.pool.acquire().await?;
        insert(&mut connection, events).await
    }
}
