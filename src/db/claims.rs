//! Claims: a task takes a VM in one transaction, with one winner and no call to the VM; then the VM is made fit for it.

use super::events::{self, Event};
use super::rows::{WayIn, way_in};
use super::tasks::NewTask;
use super::{Db, DbError, LEASE_SECONDS, leased};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::TaskState;
use crate::domain::task::TaskRequest;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
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
}

impl Db {
    /// Gives the VM to the task: one winner.
    ///
    /// # Errors
    /// `Conflict`: one of the two is not free any more. `LimitReached`: the project has as many as it may.
    pub async fn claim_task(&self, task: TaskId, vm: VmId, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        claim(&mut tx, task, vm, now).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
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
                Some(Preparing { id: row.id, lease: row.lease_token, way_in, request: row.request.0 })
            })
            .collect())
    }

    /// The VM is fit: the job may begin.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn finish_preparing(&self, task: TaskId, lease: i64, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "-- claims::finish_preparing
             update vms.tasks set state = 'ready', ready_at = $3, expires_at = $3::timestamptz + make_interval(secs => max_run_seconds),
                    due_at = $3, lease_until = null
             where id = $1 and lease_token = $2 and state = 'preparing'",
            task.0,
            lease,
            now,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        events::insert(
            &mut tx,
            now,
            Event { kind: "task.ready", task: Some(task), vm: None, message: "The job may begin.".to_owned() },
        )
        .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }
}

/// A fitting free VM, unless another task waits for one of its kind: then the queue decides.
pub(super) async fn pick_vm(connection: &mut PgConnection, new: &NewTask<'_>, now: DateTime<Utc>) -> Result<Option<VmId>, DbError> {
    let id = sqlx::query_scalar!(
        r#"-- claims::pick_vm
           select v.id as "id: VmId" from vms.vms v
           where v.state = 'available' and v.executor = $1 and v.resource_class = $2 and (v.hold_until is null or v.hold_until <= $4)
             and v.absolute_end_at >= $4::timestamptz + make_interval(secs => $5)
             and not exists (select from vms.tasks t
                             where t.state = 'queued' and t.executor = $1 and t.resource_class = $2 and t.id <> $3)
           order by v.available_at, v.id
           limit 1
           for update skip locked"#,
        new.request.executor.as_str(),
        new.request.resource_class,
        new.id.0,
        now,
        f64::from(new.max_run_seconds),
    )
    .fetch_optional(connection)
    .await?;
    Ok(id)
}

pub(super) async fn claim_in_savepoint(
    connection: &mut PgConnection,
    task: TaskId,
    vm: VmId,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let mut savepoint = sqlx::Connection::begin(connection).await?;
    claim(&mut savepoint, task, vm, now).await?;
    savepoint.commit().await?;
    Ok(())
}

async fn claim(connection: &mut PgConnection, task: TaskId, vm: VmId, now: DateTime<Utc>) -> Result<(), DbError> {
    let taken = sqlx::query!(
        "-- claims::claim (VM)
         update vms.vms v
         set state = 'assigned', assigned_at = $3, project_id = t.project_id, cache_trust = 'trusted', reason = null,
             deadline_at = null, due_at = $3, lease_token = v.lease_token + 1, lease_until = null
         from vms.tasks t
         where v.id = $2 and v.state = 'available' and (v.hold_until is null or v.hold_until <= $3) and t.id = $1 and t.state = 'queued'",
        task.0,
        vm.0,
        now,
    )
    .execute(&mut *connection)
    .await?;
    if taken.rows_affected() != 1 {
        return Err(DbError::Conflict(format!("VM {vm} is not free for task {task} any more")));
    }
    let state = sqlx::query_scalar!(
        r#"-- claims::claim (task)
           update vms.tasks
           set vm_id = $2, due_at = $3, claimed_at = $3, waiting_reason = null,
               state = case when jsonb_array_length(coalesce(request -> 'ssh_public_keys', '[]')) = 0 then 'ready' else 'preparing' end,
               ready_at = case when jsonb_array_length(coalesce(request -> 'ssh_public_keys', '[]')) = 0 then $3::timestamptz end,
               expires_at = case when jsonb_array_length(coalesce(request -> 'ssh_public_keys', '[]')) = 0
                                 then $3::timestamptz + make_interval(secs => max_run_seconds) end
           where id = $1 and state = 'queued'
           returning state as "state: TaskState""#,
        task.0,
        vm.0,
        now,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or_else(|| DbError::Conflict(format!("task {task} does not wait any more")))?;
    let message = format!("Given VM {vm}.");
    events::insert(connection, now, Event { kind: "task.claimed", task: Some(task), vm: Some(vm), message }).await?;
    if state == TaskState::Ready {
        let message = "The job may begin.".to_owned();
        events::insert(connection, now, Event { kind: "task.ready", task: Some(task), vm: Some(vm), message }).await?;
    }
    Ok(())
}
