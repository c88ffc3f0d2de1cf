//! What the first page of the console shows, counted. Reads only.

use super::{Db, DbError};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::{TaskState, VmState};
use crate::domain::plan::breaker::Breaker;
use crate::domain::plan::room::Kind;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Tasks that wait for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// What they wait for.
    pub kind: Kind,
    /// As their timelines say; none: not looked at yet.
    pub reason: Option<String>,
    /// How many.
    pub tasks: i64,
    /// When the first of them was asked for.
    pub since: DateTime<Utc>,
}

/// The task that waits longest of its kind and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longest {
    /// The task.
    pub id: TaskId,
    /// Whose.
    pub project_id: String,
}

/// The limits, and what is used of them; and what an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub max_vms: i32,
    pub max_in_flight: i32,
    pub max_volumes: i32,
    /// None: no limit of their own.
    pub max_gpus: Option<i32>,
    pub gpus: i64,
    pub volumes: i64,
    pub quarantined_volumes: i64,
    /// Machines whose rows were lost.
    pub unknown: i64,
    /// Machines without a row, on their way out.
    pub orphans: i64,
    /// Images that the provider does not have any more.
    pub missing_images: i64,
    /// Tasks that failed, of those asked for since `since`.
    pub failed_tasks: i64,
    /// The same of those that expired.
    pub expired_tasks: i64,
    /// VMs of the project that has most.
    pub busiest_project: i64,
    /// VMs that are held.
    pub held: i64,
    /// VMs that were made before `old`, and have not ended.
    pub old_vms: i64,
}

/// How the starts of one span went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starts {
    /// Its beginning.
    pub at: DateTime<Utc>,
    /// VMs that became available.
    pub good: i64,
    /// VMs that were given up before.
    pub failed: i64,
}

impl Db {
    /// VMs that are not terminated, by kind and state.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn count_vms(&self) -> Result<BTreeMap<Kind, BTreeMap<VmState, i64>>, DbError> {
        let rows = sqlx::query!(
            r#"-- console_overview::count_vms
               select executor as "executor: Executor", resource_class, state as "state: VmState", count(*) as "count!"
               from vms.vms where state <> 'terminated' group by executor, resource_class, state"#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut counted = BTreeMap::<Kind, BTreeMap<VmState, i64>>::new();
        for row in rows {
            counted.entry((row.executor, row.resource_class)).or_default().insert(row.state, row.count);
        }
        Ok(counted)
    }

    /// Open tasks by state.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn count_open_tasks(&self) -> Result<BTreeMap<TaskState, i64>, DbError> {
        let rows = sqlx::query!(
            r#"-- console_overview::count_open_tasks
               select state as "state: TaskState", count(*) as "count!"
               from vms.tasks where state in ('queued', 'preparing', 'ready') group by state"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
    }

    /// Why tasks wait: the groups that wait longest first, each with the task that does; at most `limit`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_waits(&self, limit: i64) -> Result<Vec<(Waits, Longest)>, DbError> {
        let rows = sqlx::query!(
            r#"-- console_overview::list_waits
               select executor as "executor: Executor", resource_class, waiting_reason, count(*) as "tasks!", min(created_at) as "since!",
                      (array_agg(id order by created_at, id))[1] as "first!: TaskId",
                      (array_agg(project_id order by created_at, id))[1] as "project_id!"
               from vms.tasks where state = 'queued'
               group by executor, resource_class, waiting_reason
               order by min(created_at)
               limit $1"#,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| {
            let kind = (row.executor, row.resource_class);
            let waits = Waits { kind, reason: row.waiting_reason, tasks: row.tasks, since: row.since };
            (waits, Longest { id: row.first, project_id: row.project_id })
        });
        Ok(read.collect())
    }

    /// The limits and what stands out.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn totals(&self, since: DateTime<Utc>, old: DateTime<Utc>, now: DateTime<Utc>) -> Result<Totals, DbError> {
        let totals = sqlx::query_as!(
            Totals,
            r#"-- console_overview::totals
               select b.max_vms, b.max_in_flight, b.max_volumes, b.max_gpus, vms.gpus_taken() as "gpus!",
                      (select count(*) from vms.volumes where state <> 'deleted') as "volumes!",
                      (select count(*) from vms.volumes where state = 'quarantined') as "quarantined_volumes!",
                      (select count(*) from vms.orphans where unknown) as "unknown!",
                      (select count(*) from vms.orphans where not unknown) as "orphans!",
                      (select count(*) from vms.images where missing_at is not null and state in ('candidate', 'promoted'))
                          as "missing_images!",
                      (select count(*) from vms.tasks where state = 'failed' and created_at > $1)
                          + (select count(*) from vms.history
                             where kind = 'task' and state = 'failed' and created_at > $1) as "failed_tasks!",
                      (select count(*) from vms.tasks where state = 'expired' and created_at > $1)
                          + (select count(*) from vms.history
                             where kind = 'task' and state = 'expired' and created_at > $1) as "expired_tasks!",
                      (select coalesce(max(n), 0) from (select count(*) as n from vms.tasks where state in ('preparing', 'ready')
                                                        group by project_id) p) as "busiest_project!",
                      (select count(*) from vms.vms where state <> 'terminated' and hold_until > $3) as "held!",
                      (select count(*) from vms.vms where created_at < $2 and state not in ('terminated', 'stopped')) as "old_vms!"
               from vms.budget b"#,
            since,
            old,
            now,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(totals)
    }

    /// How the starts went since `since`, in spans of a quarter of an hour; spans without any are left out.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn count_starts(&self, since: DateTime<Utc>) -> Result<Vec<Starts>, DbError> {
        let starts = sqlx::query_as!(
            Starts,
            r#"-- console_overview::count_starts
               select date_bin('15 min', at, timestamptz 'epoch') as "at!", count(*) filter (where kind = 'vm.available') as "good!",
                      count(*) filter (where kind = 'vm.start_failed') as "failed!"
               from vms.events where kind in ('vm.available', 'vm.start_failed') and at >= $1
               group by 1 order by 1"#,
            since,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(starts)
    }

    /// Every breaker that says something, of all providers and places.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_all_breakers(&self) -> Result<Vec<(Kind, String, Breaker)>, DbError> {
        let rows = sqlx::query!(
            r#"-- console_overview::list_all_breakers
               select executor as "executor: Executor", resource_class, place, failed_at, reason, allowance from vms.breakers
               where cardinality(failed_at) > 0 or allowance is not null
               order by place, executor, resource_class"#
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| {
            let allowance = row.allowance.and_then(|most| u32::try_from(most).ok());
            let breaker = Breaker { failed_at: row.failed_at, reason: row.reason, allowance };
            ((row.executor, row.resource_class), row.place, breaker)
        });
        Ok(read.collect())
    }
}
