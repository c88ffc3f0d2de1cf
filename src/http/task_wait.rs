//! Finds a task for its caller, and waits for it to settle, holding no database connection while it waits.
//!
//! A task has *settled* when it is ready or has ended.
//!
//! Reads: `db` (tasks). Not here: how it is waited (`waiting`).

use super::problem::Problem;
use super::state::AppState;
use super::waiting::until_settled;
use crate::db::rows::TaskRow;
use crate::domain::access::Caller;
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;

/// The task, when this caller may see it.
pub(super) async fn find(state: &AppState, caller: &Caller, id: TaskId) -> Result<TaskRow, Problem> {
    let row = state.db.find_task(id).await?.filter(|row| caller.role.may_see_everything() || row.principal == caller.principal);
    row.ok_or_else(|| Problem::NotFound(format!("There is no task {id} of yours: check the id.")))
}

/// The task as it settled, or as it is after `seconds`.
pub(super) async fn settled(state: &AppState, caller: &Caller, id: TaskId, seconds: u64) -> Result<TaskRow, Problem> {
    until_settled(state, seconds, || async {
        let row = find(state, caller, id).await?;
        let settled = row.view.state == TaskState::Ready || row.view.state.is_terminal();
        Ok((row, settled))
    })
    .await
}
