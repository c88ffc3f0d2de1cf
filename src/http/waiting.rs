//! Waits for something to settle, holding no database connection while it waits.
//!
//! A waiter looks when something changed anywhere, and once a second anyway, so that a lost wake-up costs at most a second; it stops at
//! the end of its time and at the service's stop.
//!
//! Reads: `db` (wake-ups).

use super::problem::Problem;
use super::state::AppState;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Look again after this long without a wake-up (DESIGN.md §12).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks of one waiter: a burst of changes is looked at once, like the wake-ups themselves.
const APART: Duration = Duration::from_millis(20);

/// What `look` found when it said that it has settled, or after `seconds`.
pub(super) async fn until_settled<T, F: Future<Output = Result<(T, bool), Problem>>>(
    state: &AppState,
    seconds: u64,
    mut look: impl FnMut() -> F,
) -> Result<T, Problem> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut wake = state.db.wake.subscribe();
    loop {
        wake.mark_unchanged();
        let looked = Instant::now();
        let (found, settled) = look().await?;
        if settled || Instant::now() >= end || state.stop.is_cancelled() {
            return Ok(found);
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
