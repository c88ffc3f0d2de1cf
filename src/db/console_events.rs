//! Events as the console lists them: newest first. Reads only.

use super::{Db, DbError};
use crate::domain::api::EventView;
use crate::domain::ids::{TaskId, VmId};

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLineFilter {
    /// Only kinds that begin with this word and a dot, such as `task`; empty: all.
    pub about: String,
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this VM.
    pub vm: Option<VmId>,
    /// Only before this id.
    pub before: Option<i64>,
    /// At most this many.
    pub limit: i64,
}

impl Db {
    /// Lists events.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_event_lines(&self, filter: &EventLineFilter) -> Result<Vec<EventView>, DbError> {
        let rows = sqlx::query_as!(
            EventView,
            r#"-- console_events::list_event_lines
               select id, at, kind, task_id as "task_id: TaskId", vm_id as "vm_id: VmId", message
               from vms.events
               where ($1::uuid is null or task_id = $1) and ($2::uuid is null or vm_id = $2) and ($3::bigint is null or id < $3)
                 and ($4 = '' or split_part(kind, '.', 1) = $4)
               order by id desc
               limit $5"#,
            filter.task.map(|id| id.0),
            filter.vm.map(|id| id.0),
            filter.before,
            filter.about,
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
