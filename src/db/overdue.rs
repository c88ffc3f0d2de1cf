//! What is past its time: jobs that run too long, tasks whose dispatcher fell silent, VMs that wait, idle or live too long. Each is judged
//! again under its row's lock before it is ended.
//!
//! Not here: how each of them ends (`release`); why a VM is overdue (`vms.why_overdue` in `migrations/0003_engine.sql`).

use super::release::{end_vms, fail};
use super::{Db, DbError, breakers};
use crate::domain::failure::Failure;
use crate::domain::failure::FailureCode::{LeaseExpired, MaxRunExceeded};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::{TaskState, VmState};
use chrono::{DateTime, Utc};

/// Ended in one tick; more wait for the next.
const AT_ONCE: i64 = 500;

impl Db {
    /// Tasks whose own deadline has passed, or whose dispatcher fell silent, each with its failure.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_expired_tasks(&self, now: DateTime<Utc>) -> Result<Vec<(TaskId, Failure)>, DbError> {
        let rows = sqlx::query!(
            r#"-- overdue::list_expired_tasks
               select id as "id: TaskId", coalesce(expires_at <= $1, false) as "too_long!" from vms.tasks t
               where state in ('queued', 'preparing', 'ready') and (expires_at <= $1 or heartbeat_until <= $1 and vms.is_silent(t, $1))
               order by id limit $2"#,
            now,
            AT_ONCE,
        )
        .fetch_all(&self.pool)
        .await?;
        let failure = |too_long| match too_long {
            true => Failure::new(MaxRunExceeded, "The job held its VM longer than it may."),
            false => Failure::new(LeaseExpired, "The dispatcher sent no heartbeat in time."),
        };
        Ok(rows.into_iter().map(|row| (row.id, failure(row.too_long))).collect())
    }

    /// Ends an expired task; false when a heartbeat came meanwhile, or its end.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn expire_task(&self, task: TaskId, failure: &Failure, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let still = sqlx::query_scalar!(
            r#"-- overdue::expire_task
               select coalesce(expires_at <= $2, false) or vms.is_silent(t, $2) from vms.tasks t where id = $1 for update"#,
            task.0,
            now
        )
        .fetch_optional(&mut *tx)
        .await?
        .flatten();
        let expired = still == Some(true) && fail(&mut tx, task, TaskState::Expired, failure, now).await?;
        tx.commit().await?;
        if expired {
            self.wake.send();
        }
        Ok(expired)
    }

    /// VMs whose time is up, each with its reason: past their absolute end, stuck past their state's deadline, drained, or left by a
    /// task that has ended (after a hold).
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_overdue_vms(&self, now: DateTime<Utc>) -> Result<Vec<(VmId, String)>, DbError> {
        let rows = sqlx::query!(
            r#"-- overdue::list_overdue_vms
               select v.id as "id: VmId", vms.why_overdue(v, $1) as "reason!" from vms.vms v
               where v.state not in ('requested', 'terminating', 'terminated')
                 and (v.absolute_end_at <= $1 or v.deadline_at <= $1 or v.state in ('assigned', 'draining', 'quarantined'))
                 and vms.why_overdue(v, $1) is not null
               order by v.id limit $2"#,
            now,
            AT_ONCE,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.reason)).collect())
    }

    /// Begins the end of an overdue VM; false when it is not overdue any more: a task may have taken it meanwhile.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_overdue_vm(&self, vm: VmId, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        // The lock first, by itself: only a statement after it sees the claim that it waited for.
        sqlx::query!("-- overdue::end_overdue_vm (lock)\n select id from vms.vms where id = $1 for update", vm.0)
            .fetch_optional(&mut *tx)
            .await?;
        let row = sqlx::query!(
            r#"-- overdue::end_overdue_vm
               select v.state as "state: VmState", vms.why_overdue(v, $2) as reason from vms.vms v where v.id = $1"#,
            vm.0,
            now
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some((state, reason)) = row.and_then(|row| Some((row.state, row.reason?))) else { return Ok(false) };
        end_vms(&mut tx, &[vm], &reason, now).await?;
        if state.is_in_flight() {
            breakers::note_failed_starts(&mut tx, &[vm], now).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(true)
    }
}
