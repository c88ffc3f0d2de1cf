//! `vms.history`: what has ended moves here, so that the hot tables stay small; a task is answered from here as before.

use super::rows::TaskRow;
use super::{Db, DbError};
use crate::domain::api::TaskView;
use crate::domain::ids::TaskId;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

/// How long an ended row stays hot: long enough for every reader of a list that is just being paged.
const STAYS: TimeDelta = TimeDelta::minutes(15);
/// Rows moved in one go; more wait for the next.
const BATCH: i64 = 500;

pub(super) async fn find_task(connection: &mut PgConnection, id: TaskId) -> Result<Option<TaskRow>, DbError> {
    let row = sqlx::query!(
        r#"-- history::find_task
           select principal, request_hash, body as "body: Json<TaskView>" from vms.history where kind = 'task' and id = $1"#,
        id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| TaskRow {
        view: row.body.0,
        principal: row.principal,
        request_hash: row.request_hash.unwrap_or_default(),
        way_in: None,
    }))
}

impl Db {
    /// Moves ended tasks, and VMs that no task names any more, out of the hot tables. Returns how many rows moved.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn move_to_history(&self, now: DateTime<Utc>) -> Result<u64, DbError> {
        let before = now - STAYS;
        let tasks = sqlx::query!(
            "-- history::move_to_history (tasks)
             with gone as (
                 delete from vms.tasks where id in
                     (select id from vms.tasks where ended_at <= $1 order by ended_at limit $2 for update skip locked)
                 returning *
             )
             insert into vms.history (kind, id, principal, request_hash, body, ended_at)
             select 'task', t.id, t.principal, t.request_hash,
                    t.request || jsonb_build_object(
                        'id', t.id, 'state', t.state, 'created_at', t.created_at, 'ready_at', t.ready_at, 'ended_at', t.ended_at,
                        'vm', case when v.id is not null then jsonb_build_object(
                            'id', v.id, 'provider', v.provider, 'provider_id', v.provider_id, 'origin', v.origin, 'address', v.address) end,
                        'cache', case when t.cache_reason is not null then jsonb_build_object(
                            'volume_id', t.cache_volume_id, 'hit', coalesce(t.cache_hit, false), 'reason', t.cache_reason) end,
                        'failure', case when t.failure_code is not null then jsonb_build_object(
                            'code', t.failure_code, 'detail', t.failure_detail) end),
                    t.ended_at
             from gone t left join vms.vms v on v.id = t.vm_id
             on conflict (kind, id) do nothing",
            before,
            BATCH,
        )
        .execute(&self.pool)
        .await?;
        let vms = sqlx::query!(
            "-- history::move_to_history (VMs)
             with gone as (
                 delete from vms.vms where id in
                     (select v.id from vms.vms v
                      where v.state = 'terminated' and v.terminated_at <= $1
                        and not exists (select from vms.tasks t where t.vm_id = v.id)
                        and not exists (select from vms.volumes u where u.vm_id = v.id)
                      order by v.terminated_at limit $2 for update skip locked)
                 returning *
             )
             insert into vms.history (kind, id, body, ended_at)
             select 'vm', g.id, to_jsonb(g) - 'identity_sealed', g.terminated_at from gone g
             on conflict (kind, id) do nothing",
            before,
            BATCH,
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!(
            "-- history::move_to_history (launches)
             delete from vms.launches l
             where l.state <> 'requested' and l.created_at <= $1 and not exists (select from vms.vms v where v.launch_id = l.id)",
            before
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!("-- history::move_to_history (volumes)\n delete from vms.volumes where deleted_at <= $1", before)
            .execute(&self.pool)
            .await?;
        sqlx::query!("-- history::move_to_history (generations)\n delete from vms.generations where deleted_at <= $1", before)
            .execute(&self.pool)
            .await?;
        Ok(tasks.rows_affected() + vms.rows_affected())
    }

    /// Deletes history and events older than `before`. Returns how many rows went.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn trim_history(&self, before: DateTime<Utc>) -> Result<u64, DbError> {
        let rows = sqlx::query!("-- history::trim_history\n delete from vms.history where ended_at <= $1", before)
            .execute(&self.pool)
            .await?
            .rows_affected();
        let events = sqlx::query!("-- history::trim_history (events)\n delete from vms.events where at <= $1", before)
            .execute(&self.pool)
            .await?
            .rows_affected();
        sqlx::query!("-- history::trim_history (cache uses)\n delete from vms.cache_uses where at <= $1", before)
            .execute(&self.pool)
            .await?;
        Ok(rows + events)
    }

    /// Notes that a scheduled work ran.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_schedule(&self, name: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- history::note_schedule
             insert into vms.schedules (name, last_run_at) values ($1, $2) on conflict (name) do update set last_run_at = $2",
            name,
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Up to when a scheduled work is done.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_schedule(&self, name: &str) -> Result<Option<DateTime<Utc>>, DbError> {
        let at = sqlx::query_scalar!("-- history::find_schedule\n select last_run_at from vms.schedules where name = $1", name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(at)
    }
}
