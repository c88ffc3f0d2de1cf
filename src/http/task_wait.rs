//! Finds a task for its caller, and waits for it to settle, holding no database connection while it waits.
//!
//! A task has *settled* when it is ready or has ended. A waiter looks when something changed anywhere, and once a second anyway, so
//! that a lost wake-up costs at most a second; it stops at the end of its time and at the service's stop.
//!
//! Reads: `db` (tasks, wake-ups).

use super::problem::Problem;
use super::state::AppState;
use crate::db::rows::TaskRow;
use crate::domain::access::Caller;
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Look again after this long without a wake-up (DESIGN.md §12).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks of one waiter: a burst of changes is looked at once, like the wake-ups themselves.
const APART: Duration = Duration::from_millis(20);

/// The task, when this caller may see it.
pub(super) async fn find(state: &AppState, caller: &Caller, id: TaskId) -> Result<TaskRow, Problem> {
    let row = state.db.find_task(id).await?.filter(|row| caller.role.may_see_everything() || row.principal == caller.principal);
    row.ok_or_else(|| Problem::NotFound(format!("There is no task {id} of yours: check the id.")))
}

/// The task as it settled, or as it is after `seconds`.
pub(super) async fn settled(state: &AppState, caller: &Caller, id: TaskId, seconds: u64) -> Result<TaskRow, Problem> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut wake = state.db.wake.subscribe();
    loop {
        wake.mark_unchanged();
        let looked = Instant::now();
        let row = find(state, caller, id).await?;
        let settled = row.view.state == TaskState::Ready || row.view.state.is_terminal();
        if settled || Instant::now() >= end || state.stop.is_cancelled() {
            return Ok(row);
        }
        tokio::select! {
            () = state.stop.cancelled() => {}
            () = sleep_until(end) => {}
            () = sleep_until(looked + LOOK_AGAIN) => {}
            changed = wake.changed() => match changed {
                Ok(()) => sleep_until(end.min(looked + APART)).await,
                Err(_) => sleep_until(end.min(looked + LOOK_AGAIN)).await,
            }
        }
    }
}
