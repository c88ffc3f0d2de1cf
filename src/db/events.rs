//! `vms.events`: what happened, for timelines and operators. Written in the transaction of what it tells; never holds a secret.

use super::{Db, DbError};
use crate::domain::api::EventView;
use crate::domain::ids::{TaskId, VmId};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// A short word for programs, such as `task.claimed`.
    pub kind: &'a str,
    /// The task it is about.
    pub task: Option<TaskId>,
    /// The VM it is about.
    pub vm: Option<VmId>,
    /// One sentence for a person.
    pub message: String,
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this VM.
    pub vm: Option<VmId>,
    /// Only after this id.
    pub after: Option<i64>,
    /// At most this many.
    pub limit: i64,
}

/// Adds an event to the caller's transaction.
pub(super) async fn insert(connection: &mut PgConnection, now: DateTime<Utc>, event: Event<'_>) -> Result<(), DbError> {
    sqlx::query!(
        "-- events::insert
         insert into vms.events (at, kind, task_id, vm_id, message) values ($1, $2, $3, $4, $5)",
        now,
        event.kind,
        event.task.map(|id| id.0),
        event.vm.map(|id| id.0),
        event.message,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds one event each about these VMs, with the same words.
pub(super) async fn insert_about_vms(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    kind: &str,
    vms: &[VmId],
    message: &str,
) -> Result<(), DbError> {
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    sqlx::query!(
        "-- events::insert_about_vms
         insert into vms.events (at, kind, vm_id, message) select $1, $2, id, $4 from unnest($3::uuid[]) as id",
        now,
        kind,
        &ids,
        message,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Db {
    /// Adds an event that stands alone.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_event(&self, now: DateTime<Utc>, event: Event<'_>) -> Result<(), DbError> {
        let mut connection = self.pool.acquire().await?;
        insert(&mut connection, now, event).await
    }

    /// Notes why each task waits, where that is news.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_waits(&self, waits: &[(TaskId, String)], now: DateTime<Utc>) -> Result<(), DbError> {
        if waits.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = waits.iter().map(|(task, _)| task.0).collect();
        let reasons: Vec<_> = waits.iter().map(|(_, reason)| reason.clone()).collect();
        sqlx::query!(
            "-- events::note_waits
             with told as (
                 update vms.tasks t set waiting_reason = w.reason from unnest($2::uuid[], $3::text[]) as w (task, reason)
                 where t.id = w.task and t.state = 'queued' and t.waiting_reason is distinct from w.reason
                 returning t.id, w.reason
             )
             insert into vms.events (at, kind, task_id, message) select $1, 'task.waiting', id, reason from told order by id",
            now,
            &ids,
            &reasons,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The id of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn newest_event(&self) -> Result<i64, DbError> {
        let id = sqlx::query_scalar!(
            r#"-- events::newest_event
               select coalesce(max(id), 0) as "id!" from vms.events"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(id)
    }

    /// Lists events, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_events(&self, filter: &EventFilter) -> Result<Vec<EventView>, DbError> {
        let rows = sqlx::query_as!(
            EventView,
            r#"-- events::list_events
               select id, at, kind, task_id as "task_id: TaskId", vm_id as "vm_id: VmId", message
               from vms.events
               where ($1::uuid is null or task_id = $1) and ($2::uuid is null or vm_id = $2) and id > $3
               order by id
               limit $4"#,
            filter.task.map(|id| id.0),
            filter.vm.map(|id| id.0),
            filter.after.unwrap_or(0),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
