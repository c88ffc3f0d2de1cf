//! Claims: a task takes a VM in one transaction, with one winner and no call to the VM; then the VM is made fit for it.
//!
//! Not here: the claim itself, `vms.claim` in `migrations/0003_engine.sql`, which a PUT uses too (`tasks::ensure_task`).

use super::events::{self, Event};
use super::rows::{WayIn, way_in};
use super::{Db, DbError, LEASE_SECONDS};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::tags::Origin;
use crate::domain::task::{Executor, TaskRequest};
use chrono::{DateTime, Utc};
use sqlx::types::Json;

/// A task whose VM is being made fit for it.
#[derive(Clone, Debug)]
pub struct Preparing {
    /// The task.
    pub id: TaskId,
    /// Fencing token of the lease.
    pub lease: i64,
    /// Its VM's way in.
    pub way_in: WayIn,
    /// What was asked for.
    pub request: TaskRequest,
    /// When it was given its VM.
    pub claimed_at: DateTime<Utc>,
    /// Nothing is decided about its cache yet.
    pub wants_cache: bool,
    /// Another VM could not be made fit for it.
    pub unfit_before: bool,
}

/// A claim, or a preparation, that succeeded.
#[derive(Clone, Debug)]
pub struct Started {
    /// What for.
    pub executor: Executor,
    /// Why its VM was launched.
    pub origin: Origin,
    /// When the task was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was given its VM.
    pub claimed_at: DateTime<Utc>,
    /// It wants a cache.
    pub caching: bool,
    /// Something must be, or was, put into the VM before the job.
    pub prepares: bool,
}

impl Db {
    /// Gives the VM to the task: one winner. None: the two are gone since.
    ///
    /// # Errors
    /// `Conflict`: one of the two is not free any more. `LimitReached`: the project has as many as it may.
    pub async fn claim_task(&self, task: TaskId, vm: VmId, now: DateTime<Utc>) -> Result<Option<Started>, DbError> {
        // Both rows are read as they were before the claim; what is read of them does not change by it.
        let rows = sqlx::query!(
            r#"-- claims::claim_task
               select vms.claim($1, $2, $3) as "done: ()", t.executor as "executor?: Executor", v.origin as "origin?: Origin",
                      t.created_at as "created_at?", t.caching as "caching?",
                      jsonb_array_length(coalesce(t.request -> 'ssh_public_keys', '[]')) > 0 as "keys?"
               from (select) one left join vms.tasks t on t.id = $1 left join vms.vms v on v.id = $2"#,
            task.0,
            vm.0,
            now
        )
        // To the end, which is the commit: the first row comes before it.
        .fetch_all(&self.pool)
        .await?;
        self.wake.send();
        Ok(rows.into_iter().next().and_then(|row| {
            let caching = row.caching?;
            let prepares = caching || row.keys?;
            let (executor, origin, created_at) = (row.executor?, row.origin?, row.created_at?);
            Some(Started { executor, origin, created_at, claimed_at: now, caching, prepares })
        }))
    }

    /// Leases tasks whose VM must be made fit for them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_preparing(&self, place: (&str, &str), now: DateTime<Utc>, limit: i64) -> Result<Vec<Preparing>, DbError> {
        let rows = sqlx::query!(
            r#"-- claims::lease_preparing
               with due as (
                   select q.id from vms.tasks q join vms.vms m on m.id = q.vm_id
                   where q.state = 'preparing' and q.due_at <= $1 and (q.lease_until is null or q.lease_until <= $1)
                     and m.provider = $4 and m.place = $5
                   order by q.due_at limit $2 for update of q skip locked
               )
               update vms.tasks t set lease_token = t.lease_token + 1, lease_until = $1::timestamptz + make_interval(secs => $3)
               from due, vms.vms v
               where t.id = due.id and v.id = t.vm_id
               returning t.id as "id: TaskId", t.lease_token, t.request as "request: Json<TaskRequest>", v.id as "vm_id: VmId",
                         coalesce(t.claimed_at, $1) as "claimed_at!", (t.caching and t.cache_reason is null) as "wants_cache!",
                         t.unfit_vms > 0 as "unfit_before!",
                         v.identity_sealed, v.address, v.ssh_port, v.docker_port"#,
            now,
            limit,
            LEASE_SECONDS,
            place.0,
            place.1,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let way_in = way_in(Some(row.vm_id), row.identity_sealed, row.address, row.ssh_port, row.docker_port)?;
                Some(Preparing {
                    id: row.id,
                    lease: row.lease_token,
                    way_in,
                    request: row.request.0,
                    claimed_at: row.claimed_at,
                    wants_cache: row.wants_cache,
                    unfit_before: row.unfit_before,
                })
            })
            .collect())
    }

    /// The VM is fit: the job may begin.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn finish_preparing(&self, task: TaskId, lease: i64, now: DateTime<Utc>) -> Result<Started, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            r#"-- claims::finish_preparing
               update vms.tasks t set state = 'ready', ready_at = $3,
                      expires_at = $3::timestamptz + make_interval(secs => t.max_run_seconds), due_at = $3, lease_until = null
               from vms.vms v
               where t.id = $1 and t.lease_token = $2 and t.state = 'preparing' and v.id = t.vm_id
               returning t.executor as "executor: Executor", v.origin as "origin: Origin", t.created_at,
                         coalesce(t.claimed_at, $3) as "claimed_at!", t.caching as "caching!""#,
            task.0,
            lease,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let row = done.ok_or(DbError::LostLease)?;
        events::insert(
            &mut tx,
            now,
            Event { kind: "task.ready", task: Some(task), vm: None, message: "The job may begin.".to_owned() },
        )
        .await?;
        tx.commit().await?;
        self.wake.send();
        let (executor, origin, created_at, claimed_at) = (row.executor, row.origin, row.created_at, row.claimed_at);
        Ok(Started { executor, origin, created_at, claimed_at, caching: row.caching, prepares: true })
    }
}
