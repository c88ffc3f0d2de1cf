//! How tasks end, and the one place where a VM's end begins: whoever wants a VM gone comes through [`end_vms`], and a held VM
//! survives all of them until its hold ends.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::volume_ends::let_volumes_go;
use super::{Db, DbError, breakers};
use crate::domain::audit::Party;
use crate::domain::failure::Failure;
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::{TaskState, VmState};
use crate::telemetry::tell;
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

/// A task is failed when this many VMs could not be made fit for it: the fault is in what it asks for, or in the image.
const UNFIT_MAX: i32 = 3;

/// Why a VM cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It did not become available, says the holder of this lease.
    NotStarted {
        /// Fencing token.
        lease: i64,
    },
    /// It could not be made fit for its task, says the holder of the lease on that task.
    Unfit {
        /// The task.
        task: TaskId,
        /// Fencing token.
        lease: i64,
    },
    /// Its machine did not run by its deadline.
    NeverRan,
    /// Its machine is dead, says the provider.
    MachineDead,
    /// Its machine is gone: missed since then, and not seen again.
    Lost {
        /// First complete list that missed it.
        missing_at: DateTime<Utc>,
    },
}

/// Begins the end of these VMs, except held ones; returns those whose end began. Their secrets are erased, and whoever holds a
/// lease on one has lost it.
pub(super) async fn end_vms(
    connection: &mut PgConnection,
    vms: &[VmId],
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Vec<VmId>, DbError> {
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    // Its volume is unmounted and taken off first: until then it keeps its keys, and for at most two minutes.
    let ended = sqlx::query_scalar!(
        r#"-- release::end_vms
           update vms.vms v
           set state = 'terminating', reason = $2, terminating_at = $3, deadline_at = null,
               due_at = case when exists (select from vms.volumes u where u.vm_id = v.id and u.mounted)
                             then $3::timestamptz + interval '2 min' else $3 end,
               identity_sealed = case when exists (select from vms.volumes u where u.vm_id = v.id and u.mounted) then identity_sealed end,
               lease_token = lease_token + 1, lease_until = null
           where id = any($1) and state not in ('terminating', 'terminated') and (hold_until is null or hold_until <= $3)
           returning id as "id: VmId""#,
        &ids,
        reason,
        now,
    )
    .fetch_all(&mut *connection)
    .await?;
    let_volumes_go(connection, &ended, now).await?;
    events::insert_about_vms(connection, now, "vm.terminating", &ended, &format!("To be terminated: {reason}.")).await?;
    Ok(ended)
}

impl Db {
    /// The dispatcher says that the job is over. Idempotent: a task that has ended stays as it is. Returns its state, none when
    /// there is no such task in the live table.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn release_task(&self, task: TaskId, now: DateTime<Utc>) -> Result<Option<TaskState>, DbError> {
        let mut tx = self.begin().await?;
        let Some(row) = sqlx::query!(
            r#"-- release::release_task (lock)
               select state as "state: TaskState", vm_id as "vm_id: VmId", project_id, principal from vms.tasks where id = $1 for update"#,
            task.0
        )
        .fetch_optional(&mut *tx)
        .await?
        else {
            return Ok(None);
        };
        if row.state.is_terminal() {
            return Ok(Some(row.state));
        }
        let end = if row.state == TaskState::Ready { TaskState::Released } else { TaskState::Cancelled };
        sqlx::query!(
            "-- release::release_task
             update vms.tasks set state = $2, ended_at = $3, lease_token = lease_token + 1, lease_until = null where id = $1",
            task.0,
            end.as_str(),
            now,
        )
        .execute(&mut *tx)
        .await?;
        tell::task_ended(end.as_str(), "none");
        let message = if end == TaskState::Released { "The job is over." } else { "Taken back before it was ready." };
        events::insert(&mut tx, now, Event { kind: "task.released", task: Some(task), vm: row.vm_id, message: message.to_owned() })
            .await?;
        if let Some(vm) = row.vm_id {
            end_vms(&mut tx, &[vm], "the job is over", now).await?;
        }
        let action = if end == TaskState::Released { "task.release" } else { "task.cancel" };
        let payload = json!({ "principal": row.principal, "vm_id": row.vm_id });
        audit::note(&mut tx, now, Deed { project: Some(&row.project_id), ..Deed::to(action, "task", task.to_string(), payload) })
            .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(Some(end))
    }

    /// Ends an open task with its reason, and its VM. False when it had ended already.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn fail_task(&self, task: TaskId, failure: &Failure, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let ended = fail(&mut tx, task, TaskState::Failed, failure, now).await?;
        tx.commit().await?;
        if ended {
            self.wake.send();
        }
        Ok(ended)
    }

    /// An operator ends VMs; a task that runs on one fails with that reason. Held ones stay, and with `only` those that are in another
    /// state by now. Returns those whose end began.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn terminate_vms(
        &self,
        vms: &[VmId],
        only: Option<VmState>,
        failure: &Failure,
        now: DateTime<Utc>,
    ) -> Result<Vec<VmId>, DbError> {
        let mut tx = self.begin().await?;
        lock_tasks_of(&mut tx, vms).await?;
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let vms = sqlx::query_scalar!(
            r#"-- release::terminate_vms
               select id as "id: VmId" from vms.vms where id = any($1) and ($2::text is null or state = $2) order by id for update"#,
            &ids,
            only.map(VmState::as_str),
        )
        .fetch_all(&mut *tx)
        .await?;
        let ended = end_vms(&mut tx, &vms, &failure.detail, now).await?;
        fail_tasks_of(&mut tx, &ended, failure, now).await?;
        let targets = ended.iter().map(|vm| Party::new("vm", vm.to_string())).collect();
        audit::note(&mut tx, now, Deed { targets, ..Deed::to("vm.terminate", "vm", String::new(), json!({ "unknown": false })) })
            .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(ended)
    }

    /// A VM that cannot be used. A task that had begun fails; one that prepares goes back to the queue.
    ///
    /// # Errors
    /// `LostLease`: the evidence does not hold any more.
    pub async fn give_up_vm(
        &self,
        vm: VmId,
        evidence: Evidence,
        failure: &Failure,
        console: &str,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        lock_tasks_of(&mut tx, &[vm]).await?;
        if let Evidence::Unfit { task, lease } = evidence {
            sqlx::query!(
                "-- release::give_up_vm (fence)
                 select id from vms.tasks where id = $1 and lease_token = $2 and state = 'preparing' and vm_id = $3",
                task.0,
                lease,
                vm.0
            )
            .fetch_optional(&mut *tx)
            .await?
            .ok_or(DbError::LostLease)?;
        }
        let row = sqlx::query!(
            "-- release::give_up_vm (lock)
             select lease_token, available_at is null as \"not_started!\", missing_at,
                    (state = 'launching' and deadline_at <= $2) as \"never_ran!\"
             from vms.vms where id = $1 and state not in ('terminating', 'terminated') for update",
            vm.0,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(DbError::LostLease)?;
        let holds = match evidence {
            Evidence::NotStarted { lease } => lease == row.lease_token,
            Evidence::NeverRan => row.never_ran,
            Evidence::Lost { missing_at } => row.missing_at == Some(missing_at),
            Evidence::Unfit { .. } | Evidence::MachineDead => true,
        };
        if !holds {
            return Err(DbError::LostLease);
        }
        let unfit = matches!(evidence, Evidence::Unfit { .. });
        requeue_preparing(&mut tx, vm, unfit, &failure.detail, now).await?;
        // A hold on a dead machine keeps nothing; a held machine that lives is kept aside until the hold ends.
        sqlx::query!(
            "-- release::give_up_vm (hold, console)
             update vms.vms
             set console = nullif($2, ''), hold_reason = case when $3 then null else hold_reason end,
                 hold_until = case when $3 then null else hold_until end
             where id = $1",
            vm.0,
            console,
            matches!(evidence, Evidence::MachineDead | Evidence::Lost { .. }),
        )
        .execute(&mut *tx)
        .await?;
        let ended = end_vms(&mut tx, &[vm], &failure.detail, now).await?;
        if ended.is_empty() {
            quarantine(&mut tx, vm, &failure.detail).await?;
        }
        if row.not_started || matches!(evidence, Evidence::Unfit { .. }) {
            breakers::note_failed_starts(&mut tx, &[vm], now).await?;
        }
        fail_tasks_of(&mut tx, &ended, failure, now).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }
}

/// Locks the open tasks of these VMs. Everyone who ends both locks tasks before VMs; in the other order two could wait for each
/// other.
async fn lock_tasks_of(connection: &mut PgConnection, vms: &[VmId]) -> Result<(), DbError> {
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    sqlx::query!(
        "-- release::lock_tasks_of
         select id from vms.tasks where vm_id = any($1) and state in ('preparing', 'ready') order by id for update",
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

async fn quarantine(connection: &mut PgConnection, vm: VmId, reason: &str) -> Result<(), DbError> {
    sqlx::query!(
        "-- release::quarantine
         update vms.vms
         set state = 'quarantined', reason = $2, deadline_at = hold_until, lease_token = lease_token + 1, lease_until = null
         where id = $1",
        vm.0,
        reason,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The task waits again; with `unfit` it counts, and one that no VM can be made fit for is left to its caller to fail.
async fn requeue_preparing(
    connection: &mut PgConnection,
    vm: VmId,
    unfit: bool,
    detail: &str,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let tasks = sqlx::query_scalar!(
        r#"-- release::requeue_preparing
           update vms.tasks
           set state = 'queued', vm_id = null, due_at = $2, waiting_reason = null, cache_volume_id = null, cache_hit = null,
               cache_reason = null, lease_token = lease_token + 1, lease_until = null,
               unfit_vms = unfit_vms + $3
           where vm_id = $1 and state = 'preparing' and unfit_vms + $3 < $4 returning id as "id: TaskId""#,
        vm.0,
        now,
        i32::from(unfit),
        UNFIT_MAX,
    )
    .fetch_all(&mut *connection)
    .await?;
    for task in tasks {
        let message = format!("Waits again: {detail}");
        events::insert(connection, now, Event { kind: "task.requeued", task: Some(task), vm: Some(vm), message }).await?;
    }
    Ok(())
}

async fn fail_tasks_of(connection: &mut PgConnection, vms: &[VmId], failure: &Failure, now: DateTime<Utc>) -> Result<(), DbError> {
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    let tasks = sqlx::query_scalar!(
        r#"-- release::fail_tasks_of
           select id as "id: TaskId" from vms.tasks where vm_id = any($1) and state in ('preparing', 'ready')"#,
        &ids
    )
    .fetch_all(&mut *connection)
    .await?;
    for task in tasks {
        fail(connection, task, TaskState::Failed, failure, now).await?;
    }
    Ok(())
}

pub(super) async fn fail(
    connection: &mut PgConnection,
    task: TaskId,
    end: TaskState,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let Some(vm) = sqlx::query_scalar!(
        r#"-- release::fail
           update vms.tasks
           set state = $2, failure_code = $3, failure_detail = $4, ended_at = $5, lease_token = lease_token + 1, lease_until = null
           where id = $1 and state in ('queued', 'preparing', 'ready')
           returning vm_id as "vm_id: VmId""#,
        task.0,
        end.as_str(),
        failure.code.as_str(),
        failure.detail,
        now,
    )
    .fetch_optional(&mut *connection)
    .await?
    else {
        return Ok(false);
    };
    tell::task_ended(end.as_str(), failure.code.as_str());
    let message = failure.detail.clone();
    events::insert(connection, now, Event { kind: "task.failed", task: Some(task), vm, message }).await?;
    if let Some(vm) = vm {
        end_vms(connection, &[vm], &failure.detail, now).await?;
    }
    Ok(true)
}
