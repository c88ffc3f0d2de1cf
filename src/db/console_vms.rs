//! VMs as the console shows them: as a list, and one with its whole life, also after it moved to the history. Reads only; no secret.

use super::{Db, DbError};
use crate::domain::ids::{LaunchId, TaskId, VmId};
use crate::domain::lifecycle::VmState;
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};

/// A VM in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `VmView`")]
pub struct VmLine {
    pub id: VmId,
    pub state: VmState,
    pub reason: Option<String>,
    pub executor: Executor,
    pub resource_class: String,
    pub origin: Origin,
    pub provider: String,
    pub provider_id: Option<String>,
    pub address: Option<String>,
    pub project_id: Option<String>,
    pub task_id: Option<TaskId>,
    pub created_at: DateTime<Utc>,
    pub hold_until: Option<DateTime<Utc>>,
}

/// Which VMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmLineFilter {
    /// Only in this state.
    pub state: Option<VmState>,
    /// Only for this executor.
    pub executor: Option<Executor>,
    /// Only of this class.
    pub class: Option<String>,
    /// Only at work for this project.
    pub project: Option<String>,
    /// Only those that are held at this time.
    pub held_at: Option<DateTime<Utc>>,
    /// Only those that were made before, and have neither ended nor stand in the reserve.
    pub made_before: Option<DateTime<Utc>>,
    /// Only older than this VM.
    pub before: Option<(DateTime<Utc>, VmId)>,
    /// At most this many.
    pub limit: i64,
}

/// A machine without a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the columns in the migrations")]
pub struct RowlessLine {
    pub provider: String,
    pub place: String,
    pub provider_id: String,
    /// Its row was lost, and a job may run on it; else it is on its way out.
    pub unknown: bool,
    pub executor: Option<Executor>,
    pub resource_class: Option<String>,
    pub first_seen_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
}

/// A VM's whole life. A row of the history has what the service of its day wrote: what came later is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the columns in the migrations")]
pub struct VmLife {
    pub id: VmId,
    pub launch_id: Option<LaunchId>,
    pub state: VmState,
    pub reason: Option<String>,
    pub executor: Executor,
    pub resource_class: String,
    pub origin: Origin,
    pub provider: String,
    pub place: String,
    pub zone: Option<String>,
    pub provider_id: Option<String>,
    pub address: Option<String>,
    pub project_id: Option<String>,
    pub host_key: Option<String>,
    pub image: Option<String>,
    pub notice: Option<String>,
    pub console: Option<String>,
    pub hold_reason: Option<String>,
    pub hold_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub launched_at: Option<DateTime<Utc>>,
    pub booted_at: Option<DateTime<Utc>>,
    pub available_at: Option<DateTime<Utc>>,
    pub assigned_at: Option<DateTime<Utc>>,
    pub terminating_at: Option<DateTime<Utc>>,
    pub terminated_at: Option<DateTime<Utc>>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub absolute_end_at: Option<DateTime<Utc>>,
    pub task_id: Option<TaskId>,
}

impl Db {
    /// Lists VMs of the live table, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_vm_lines(&self, filter: &VmLineFilter) -> Result<Vec<VmLine>, DbError> {
        let rows = sqlx::query_as!(
            VmLine,
            r#"-- console_vms::list_vm_lines
               select v.id as "id: VmId", v.state as "state: VmState", v.reason, v.executor as "executor: Executor", v.resource_class,
                      v.origin as "origin: Origin", v.provider, v.provider_id, v.address, v.project_id, t.id as "task_id?: TaskId",
                      v.created_at, v.hold_until
               from vms.vms v left join vms.tasks t on t.vm_id = v.id
               where ($1::text is null or v.state = $1) and ($2::text is null or v.executor = $2)
                 and ($3::text is null or v.resource_class = $3) and ($4::text is null or v.project_id = $4)
                 and ($5::timestamptz is null or (v.created_at, v.id) < ($5, $6))
                 and ($8::timestamptz is null or v.state <> 'terminated' and v.hold_until > $8)
                 and ($9::timestamptz is null or v.created_at < $9 and v.state not in ('terminated', 'stopped'))
               order by v.created_at desc, v.id desc
               limit $7"#,
            filter.state.map(VmState::as_str),
            filter.executor.map(Executor::as_str),
            filter.class,
            filter.project,
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
            filter.held_at,
            filter.made_before,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Machines that the provider names and no row knows, oldest first, at most `limit`: they count against the limits.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_rowless(&self, limit: i64) -> Result<Vec<RowlessLine>, DbError> {
        let rows = sqlx::query_as!(
            RowlessLine,
            r#"-- console_vms::list_rowless
               select provider, place, provider_id, unknown, executor as "executor: Executor", resource_class, first_seen_at, ends_at
               from vms.orphans order by first_seen_at, provider_id limit $1"#,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// One VM, from the live table or from the history.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_vm_life(&self, vm: VmId) -> Result<Option<VmLife>, DbError> {
        let row = sqlx::query_as!(
            VmLife,
            r#"-- console_vms::find_vm_life
               select v.id as "id!: VmId", v.launch_id as "launch_id: LaunchId", v.state as "state!: VmState", v.reason,
                      v.executor as "executor!: Executor", v.resource_class as "resource_class!", v.origin as "origin!: Origin",
                      v.provider as "provider!", v.place as "place!", v.zone, v.provider_id, v.address, v.project_id, v.host_key,
                      l.image as "image?", v.notice, v.console, v.hold_reason, v.hold_until, v.created_at as "created_at!",
                      v.launched_at, v.booted_at, v.available_at, v.assigned_at, v.terminating_at, v.terminated_at, v.deadline_at,
                      v.absolute_end_at,
                      (select e.task_id from vms.events e
                       where e.vm_id = v.id and e.task_id is not null and e.kind = 'task.claimed'
                       order by e.id desc limit 1) as "task_id: TaskId"
               from (select * from vms.vms where id = $1
                     union all
                     select past.* from vms.history h, jsonb_populate_record(null::vms.vms, h.body) past
                     where h.kind = 'vm' and h.id = $1 and not exists (select from vms.vms where id = $1)) v
                    left join vms.launches l on l.id = v.launch_id"#,
            vm.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }
}
