//! Tasks as the console lists them: those that are hot and those of the history as one list, newest first. Reads only.

use super::{Db, DbError};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::TaskState;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `TaskView`")]
pub struct TaskLine {
    pub id: TaskId,
    pub state: TaskState,
    pub principal: String,
    pub project_id: String,
    pub executor: Executor,
    pub resource_class: String,
    pub created_at: DateTime<Utc>,
    pub ready_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub vm_id: Option<VmId>,
    /// Why it waits.
    pub waiting_reason: Option<String>,
    /// Why it failed, a word.
    pub failure: Option<String>,
    /// Layers were on its cache; none: it has no cache, or it is not decided.
    pub cache_hit: Option<bool>,
}

/// Which tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskLineFilter {
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this project.
    pub project: Option<String>,
    /// Only for this executor.
    pub executor: Option<Executor>,
    /// Only asked for since then.
    pub since: Option<DateTime<Utc>>,
    /// Only older than this task.
    pub before: Option<(DateTime<Utc>, TaskId)>,
    /// At most this many.
    pub limit: i64,
}

impl Db {
    /// Lists tasks.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_task_lines(&self, filter: &TaskLineFilter) -> Result<Vec<TaskLine>, DbError> {
        let rows = sqlx::query_as!(
            TaskLine,
            r#"-- console_tasks::list_task_lines
               select id as "id!: TaskId", state as "state!: TaskState", principal as "principal!", project_id as "project_id!",
                      executor as "executor!: Executor", resource_class as "resource_class!", created_at as "created_at!", ready_at,
                      ended_at, vm_id as "vm_id: VmId", waiting_reason, failure, cache_hit
               from ((select id, state, principal, project_id, executor, resource_class, created_at, ready_at, ended_at, vm_id,
                             waiting_reason, failure_code as failure, cache_hit
                      from vms.tasks
                      where ($1::text is null or state = $1) and ($2::text is null or project_id = $2)
                        and ($3::text is null or executor = $3) and ($4::timestamptz is null or created_at >= $4)
                        and ($5::timestamptz is null or (created_at, id) < ($5, $6))
                      order by created_at desc, id desc limit $7)
                     union all
                     (select id, state, principal, project_id, executor, coalesce(body ->> 'resource_class', ''), created_at,
                             (body ->> 'ready_at')::timestamptz, ended_at, (body -> 'vm' ->> 'id')::uuid, null,
                             body -> 'failure' ->> 'code', (body -> 'cache' ->> 'hit')::boolean
                      from vms.history
                      where kind = 'task' and ($1::text is null or state = $1) and ($2::text is null or project_id = $2)
                        and ($3::text is null or executor = $3) and ($4::timestamptz is null or created_at >= $4)
                        and ($5::timestamptz is null or (created_at, id) < ($5, $6))
                      order by created_at desc, id desc limit $7)) lines
               order by created_at desc, id desc
               limit $7"#,
            filter.state.map(TaskState::as_str),
            filter.project,
            filter.executor.map(Executor::as_str),
            filter.since,
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
