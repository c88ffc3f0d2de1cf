//! What there is, counted for metrics: of the hot tables only, and only of what has not ended, however much has.
//!
//! Not here: what the planners count (`census`).

use super::{Db, DbError};
use crate::domain::lifecycle::{TaskState, VmState, VolumeState};
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};

/// VMs that are not terminated, of one sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmCount {
    /// Where they are.
    pub state: VmState,
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// Why they were launched.
    pub origin: Origin,
    /// By whom.
    pub provider: String,
    /// How many.
    pub vms: i64,
    /// Of them, those that run since more than a day.
    pub stale: i64,
    /// Of them, those that any task may take.
    pub free: i64,
    /// Of them, those whose machine a complete list did not show.
    pub missing: i64,
    /// Since when the first of those is missing.
    pub missing_since: Option<DateTime<Utc>>,
    /// Their GPUs.
    pub gpus: i64,
}

/// Open tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCount {
    /// Where they are.
    pub state: TaskState,
    /// How many.
    pub tasks: i64,
    /// When the first of them was asked for.
    pub since: DateTime<Utc>,
}

/// Volumes that are not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCount {
    /// Where they are.
    pub state: VolumeState,
    /// By whom.
    pub provider: String,
    /// How many.
    pub volumes: i64,
}

/// Machines without a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowlessCount {
    /// Its row may have been lost.
    pub unknown: bool,
    /// How many.
    pub machines: i64,
    /// When the first of them was first seen.
    pub since: DateTime<Utc>,
}

/// Starts of a kind that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingStarts {
    /// By whom.
    pub provider: String,
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// Rounds since the last start that succeeded.
    pub rounds: i32,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsInForce {
    /// VMs.
    pub vms: i32,
    /// VMs on their way.
    pub in_flight: i32,
    /// Cache volumes.
    pub volumes: i32,
    /// GPUs, where they have a limit.
    pub gpus: Option<i32>,
}

/// Everything that state gauges are made of.
#[derive(Clone, Debug)]
pub struct State {
    /// VMs.
    pub vms: Vec<VmCount>,
    /// Tasks.
    pub tasks: Vec<TaskCount>,
    /// Volumes.
    pub volumes: Vec<VolumeCount>,
    /// Machines without a row.
    pub rowless: Vec<RowlessCount>,
    /// Starts that fail.
    pub failing: Vec<FailingStarts>,
    /// Limits.
    pub limits: LimitsInForce,
}

impl Db {
    /// Counts what there is. The parts are read one after the other: gauges need no common moment.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn count_state(&self, now: DateTime<Utc>) -> Result<State, DbError> {
        let mut connection = self.pool.acquire().await?;
        let vms = sqlx::query_as!(
            VmCount,
            r#"-- gauges::count_state (VMs)
               select state as "state: VmState", executor as "executor: Executor", resource_class, origin as "origin: Origin", provider,
                      count(*) as "vms!",
                      count(*) filter (where created_at < $1::timestamptz - interval '24 h' and state not in ('stopping', 'stopped')) as "stale!",
                      count(*) filter (where state = 'available' and project_id is null and (hold_until is null or hold_until <= $1)) as "free!",
                      count(missing_at) as "missing!", min(missing_at) as missing_since, sum(gpus) as "gpus!"
               from vms.vms where state <> 'terminated'
               group by state, executor, resource_class, origin, provider"#,
            now
        )
        .fetch_all(&mut *connection)
        .await?;
        let tasks = sqlx::query_as!(
            TaskCount,
            r#"-- gauges::count_state (tasks)
               select state as "state!: TaskState", count(*) as "tasks!", min(created_at) as "since!" from vms.tasks where state = 'queued' group by state
               union all
               select state, count(*), min(created_at) from vms.tasks where state in ('preparing', 'ready') group by state"#
        )
        .fetch_all(&mut *connection)
        .await?;
        let volumes = sqlx::query_as!(
            VolumeCount,
            r#"-- gauges::count_state (volumes)
               select state as "state: VolumeState", provider, count(*) as "volumes!" from vms.volumes where state <> 'deleted'
               group by state, provider"#
        )
        .fetch_all(&mut *connection)
        .await?;
        let rowless = sqlx::query_as!(
            RowlessCount,
            r#"-- gauges::count_state (machines without a row)
               select unknown, count(*) as "machines!", min(first_seen_at) as "since!" from vms.orphans group by unknown"#
        )
        .fetch_all(&mut *connection)
        .await?;
        let failing = sqlx::query_as!(
            FailingStarts,
            r#"-- gauges::count_state (failing starts)
               select provider, executor as "executor: Executor", resource_class, max(cardinality(failed_at)) as "rounds!" from vms.breakers
               group by provider, executor, resource_class"#
        )
        .fetch_all(&mut *connection)
        .await?;
        let limits = sqlx::query_as!(
            LimitsInForce,
            "-- gauges::count_state (limits)
             select max_vms as vms, max_in_flight as in_flight, max_volumes as volumes, max_gpus as gpus from vms.budget"
        )
        .fetch_one(&mut *connection)
        .await?;
        Ok(State { vms, tasks, volumes, rowless, failing, limits })
    }
}
