//! `vms.tasks`: what dispatchers asked for, kept once and answered the same each time.
//!
//! Not here: how a task gets its VM (`claims`), how tasks end (`release`).

use super::audit::{self, Deed};
use super::rows::{TaskRow, way_in};
use super::{Db, DbError, history};
use crate::domain::api::{TaskCache, TaskView, TaskVm};
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::{TaskId, VmId, VolumeId};
use crate::domain::lifecycle::TaskState;
use crate::domain::lineage::Trust;
use crate::domain::plan::assign::Waiting;
use crate::domain::tags::Origin;
use crate::domain::task::{Executor, TaskRequest};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

/// A task to be made.
#[derive(Clone, Debug)]
pub struct NewTask<'a> {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub principal: &'a str,
    /// What is asked for.
    pub request: &'a TaskRequest,
    /// Of the body; the same id with another body is refused.
    pub request_hash: &'a [u8],
    /// The longest the job may hold its VM, seconds.
    pub max_run_seconds: i32,
}

/// What came of asking for a task.
#[derive(Clone, Debug)]
pub enum Ensured {
    /// It was made now.
    Created(Box<TaskRow>),
    /// It was there already, with the same body.
    Same(Box<TaskRow>),
    /// The id is taken: by another body, or by another principal.
    Taken,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only of this principal.
    pub principal: Option<String>,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this project.
    pub project: Option<String>,
    /// Only older than this task.
    pub before: Option<(DateTime<Utc>, TaskId)>,
    /// At most this many.
    pub limit: i64,
}

struct Raw {
    id: TaskId,
    principal: String,
    request_hash: Vec<u8>,
    request: Json<TaskRequest>,
    state: TaskState,
    failure_code: Option<FailureCode>,
    failure_detail: Option<String>,
    created_at: DateTime<Utc>,
    ready_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    vm_id: Option<VmId>,
    provider: Option<String>,
    provider_id: Option<String>,
    origin: Option<Origin>,
    address: Option<String>,
    ssh_port: Option<i32>,
    docker_port: Option<i32>,
    identity_sealed: Option<Vec<u8>>,
    cache_volume_id: Option<VolumeId>,
    cache_hit: Option<bool>,
    cache_reason: Option<String>,
}

impl From<Raw> for TaskRow {
    fn from(raw: Raw) -> Self {
        let vm = match (raw.vm_id, raw.provider, raw.origin) {
            (Some(id), Some(provider), Some(origin)) => {
                Some(TaskVm { id, provider, provider_id: raw.provider_id, origin, address: raw.address.clone() })
            }
            _ => None,
        };
        let way_in = match raw.state {
            TaskState::Ready => way_in(raw.vm_id, raw.identity_sealed, raw.address, raw.ssh_port, raw.docker_port),
            _ => None,
        };
        let view = TaskView {
            id: raw.id,
            state: raw.state,
            request: raw.request.0,
            created_at: raw.created_at,
            ready_at: raw.ready_at,
            ended_at: raw.ended_at,
            vm,
            cache: raw.cache_reason.map(|reason| TaskCache {
                volume_id: raw.cache_volume_id,
                hit: raw.cache_hit.unwrap_or(false),
                reason,
            }),
            connection: None,
            failure: raw.failure_code.map(|code| Failure::new(code, raw.failure_detail.unwrap_or_default())),
        };
        Self { view, principal: raw.principal, request_hash: raw.request_hash, way_in }
    }
}

async fn find(connection: &mut PgConnection, id: TaskId) -> Result<Option<TaskRow>, DbError> {
    let raw = sqlx::query_as!(
        Raw,
        r#"-- tasks::find
           select id as "id!: TaskId", principal as "principal!", request_hash as "request_hash!",
                  request as "request!: Json<TaskRequest>", state as "state!: TaskState", failure_code as "failure_code: FailureCode",
                  failure_detail, created_at as "created_at!", ready_at, ended_at, vm_id as "vm_id: VmId", provider, provider_id,
                  origin as "origin: Origin", address, ssh_port, docker_port, identity_sealed,
                  cache_volume_id as "cache_volume_id: VolumeId", cache_hit, cache_reason
           from vms.task_answers where id = $1"#,
        id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(raw.map(TaskRow::from))
}

fn created<'a>(new: &NewTask<'a>) -> Deed<'a> {
    let request = new.request;
    let payload = json!({
        "project_id": request.project_id, "executor": request.executor, "resource_class": request.resource_class,
        "docker_layer_caching": request.docker_layer_caching, "cache_trust": request.cache_trust,
    });
    Deed { project: Some(&request.project_id), ..Deed::to("task.create", "task", new.id.to_string(), payload) }
}

impl Db {
    /// Makes the task, or finds that it is there. When no waiting task ranks before it and a fitting VM is available, it has
    /// that VM in the same commit, and is `ready` unless something must be put into the VM first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn ensure_task(&self, new: &NewTask<'_>, now: DateTime<Utc>) -> Result<Ensured, DbError> {
        let request = serde_json::to_value(new.request).map_err(|e| DbError::Refused(sqlx::Error::Encode(Box::new(e))))?;
        let created = audit::events(now, || created(new));
        let mut connection = self.pool.acquire().await?;
        let made = sqlx::query_as!(
            Raw,
            r#"-- tasks::ensure_task
               with made as (select * from vms.put_task($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)),
               audited as (insert into vms.audit select e.* from made, jsonb_populate_recordset(null::vms.audit, $12) e)
               select id as "id!: TaskId", principal as "principal!", request_hash as "request_hash!",
                      request as "request!: Json<TaskRequest>", state as "state!: TaskState", failure_code as "failure_code: FailureCode",
                      failure_detail, created_at as "created_at!", ready_at, ended_at, vm_id as "vm_id: VmId", provider, provider_id,
                      origin as "origin: Origin", address, ssh_port, docker_port, identity_sealed,
                      cache_volume_id as "cache_volume_id: VolumeId", cache_hit, cache_reason
               from made"#,
            new.id.0,
            new.principal,
            new.request_hash,
            request,
            new.request.executor.as_str(),
            new.request.resource_class,
            new.request.project_id,
            new.request.priority,
            new.max_run_seconds,
            new.request.lease_seconds.and_then(|s| i32::try_from(s).ok()),
            now,
            created,
        )
        // To the end, which is the commit: the first row comes before it.
        .fetch_all(&mut *connection)
        .await?;
        if let Some(made) = made.into_iter().next() {
            self.wake.send();
            return Ok(Ensured::Created(Box::new(made.into())));
        }
        let found = match find(&mut connection, new.id).await? {
            Some(row) => Some(row),
            None => history::find_task(&mut connection, new.id).await?,
        };
        Ok(match found {
            Some(row) if row.principal == new.principal && row.request_hash == new.request_hash => Ensured::Same(Box::new(row)),
            _ => Ensured::Taken,
        })
    }

    /// The task, from the live table or from the history.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_task(&self, id: TaskId) -> Result<Option<TaskRow>, DbError> {
        let mut connection = self.pool.acquire().await?;
        match find(&mut connection, id).await? {
            Some(row) => Ok(Some(row)),
            None => history::find_task(&mut connection, id).await,
        }
    }

    /// Lists tasks, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskView>, DbError> {
        let rows = sqlx::query_as!(
            Raw,
            r#"-- tasks::list_tasks
               select t.id as "id: TaskId", t.principal, t.request_hash, t.request as "request: Json<TaskRequest>",
                      t.state as "state: TaskState", t.failure_code as "failure_code: FailureCode", t.failure_detail,
                      t.created_at, t.ready_at, t.ended_at, t.vm_id as "vm_id: VmId",
                      v.provider as "provider?", v.provider_id, v.origin as "origin?: Origin", v.address, v.ssh_port, v.docker_port,
                      null::bytea as identity_sealed, t.cache_volume_id as "cache_volume_id: VolumeId", t.cache_hit, t.cache_reason
               from vms.tasks t left join vms.vms v on v.id = t.vm_id
               where ($1::text is null or t.principal = $1) and ($2::text is null or t.state = $2)
                 and ($3::text is null or t.project_id = $3)
                 and ($4::timestamptz is null or (t.created_at, t.id) < ($4, $5))
               order by t.created_at desc, t.id desc
               limit $6"#,
            filter.principal,
            filter.state.map(TaskState::as_str),
            filter.project,
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|raw| TaskRow::from(raw).view).collect())
    }

    /// The tasks that wait: of each lane the first ones, at most `limit` in all.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_waiting(&self, limit: i64) -> Result<Vec<Waiting>, DbError> {
        let rows = sqlx::query_as!(
            Waiting,
            r#"-- tasks::list_waiting
               select id as "id!: TaskId", executor as "executor!: Executor", resource_class as "resource_class!",
                      project_id as "project_id!", priority as "priority!", created_at as "created_at!",
                      max_run_seconds as "max_run_seconds!", caching as "caching!", cache_trust as "trust!: Trust", waiting_reason as reason
               from (select *, row_number() over (partition by executor, resource_class, project_id, priority order by created_at, id) as nth
                     from vms.tasks where state = 'queued') t
               order by nth, created_at, id
               limit $1"#,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Renews the dispatcher's lease; false when the task is not open any more.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn heartbeat(&self, task: TaskId, now: DateTime<Utc>) -> Result<bool, DbError> {
        let done = sqlx::query!(
            "-- tasks::heartbeat
             update vms.tasks set heartbeat_until = $2::timestamptz + make_interval(secs => lease_seconds)
             where id = $1 and state in ('queued', 'preparing', 'ready')",
            task.0,
            now,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
