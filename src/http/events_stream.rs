//! Events as they come, as server-sent events: every event once, in the order of their ids as far as these are known.
//!
//! An event's id is given before its transaction commits, so a lower id can appear after a higher one: each look reads the last
//! [`OVERLAP`] ids again and leaves out what was sent. No database connection is held between looks.
//!
//! Reads: `db` (events, wake-ups). Runs: until its reader leaves, its time is over (`Limits::stream`) or the service stops.

use super::guard::InFlight;
use super::problem::Problem;
use super::state::AppState;
use super::streams::Open;
use crate::db::events::EventFilter;
use crate::domain::api::EventView;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// More events than any transaction that is still open may be behind.
const OVERLAP: i64 = 200;
const BATCH: i64 = 500;
/// Look again after this long without a wake-up (DESIGN.md §12).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks, however much happens.
const APART: Duration = Duration::from_millis(100);
/// Shorter than proxies and this service's own guard wait for a silent answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Stream {
    state: AppState,
    filter: EventFilter,
    /// No id up to here is sent.
    start: i64,
    newest: i64,
    sent: BTreeSet<i64>,
    ready: VecDeque<EventView>,
    wake: watch::Receiver<u64>,
    end: Instant,
    /// Tells the guard that the connection is at work.
    _in_flight: Option<InFlight>,
    _open: Open,
}

/// The stream, from the event that `filter` names or from now on.
pub(super) async fn answer(
    state: AppState,
    filter: EventFilter,
    open: Open,
    in_flight: Option<InFlight>,
) -> Result<Response, Problem> {
    let start = match filter.after {
        Some(id) => id,
        None => state.db.newest_event().await?,
    };
    let (wake, end) = (state.db.wake.subscribe(), Instant::now() + state.limits.stream);
    let (sent, ready) = (BTreeSet::new(), VecDeque::new());
    let stream = Stream { state, filter, start, newest: start, sent, ready, wake, end, _in_flight: in_flight, _open: open };
    // Without data it is no event, but a reader that comes back before the first one knows where it was.
    let here = futures::stream::once(async move { Ok::<_, Infallible>(Event::default().id(start.to_string())) });
    let events = futures::stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Ok(Sse::new(here.chain(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

impl Stream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(view) = self.ready.pop_front() {
                let event = Event::default().id(view.id.to_string()).event(&view.kind);
                return event.json_data(&view).ok();
            }
            if self.state.stop.is_cancelled() || Instant::now() >= self.end {
                return None;
            }
            self.wake.mark_unchanged();
            let looked = Instant::now();
            self.look().await?;
            if self.ready.is_empty() {
                self.wait(looked).await;
            }
        }
    }

    /// Reads what is new; none when the database is away: the reader comes back.
    async fn look(&mut self) -> Option<()> {
        let from = (self.newest - OVERLAP).max(self.start);
        let filter = EventFilter { after: Some(from), limit: BATCH, ..self.filter.clone() };
        let events = self.state.db.list_events(&filter).await.ok()?;
        self.ready.extend(events.into_iter().filter(|event| self.sent.insert(event.id)));
        self.newest = self.sent.last().copied().unwrap_or(self.start);
        let kept = self.sent.split_off(&(self.newest - OVERLAP));
        self.sent = kept;
        Some(())
    }

    async fn wait(&mut self, looked: Instant) {
        let stop = self.state.stop.clone();
        let changed = async {
            if timeout_at(looked + LOOK_AGAIN, self.wake.changed()).await.is_ok_and(|heard| heard.is_ok()) {
                sleep_until(looked + APART).await;
            } else {
                sleep_until(looked + LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep_until(self.end) => {}
            () = changed => {}
        }
    }
}
