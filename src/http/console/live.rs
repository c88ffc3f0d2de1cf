//! Pages that follow the service: all who look at the same thing share one *look*, and are sent its part again when it shows something
//! else. Ages do not count: the browser lets them run.
//!
//! A look is taken when something changed anywhere (`db::wake`) or somebody joins, at the latest every [`LOOK_AGAIN`], and rests at least
//! a second and a hundred times as long as it took, up to [`REST_MOST`]: as long as it takes less than a tenth of a second it costs at most
//! one percent of a core, however much happens. Nobody looks, and it is over.
//!
//! No page goes back: a follower is sent only what was looked at after he came, and says what his page shows by its mark. The mark is the
//! id of the event that brought it; a page that was sent nothing yet names in its address the mark that it was loaded with.
//!
//! A look that fails ends, and its streams with it: the browser says so and comes back. Who is signed in no more, or looks at what is not
//! there any more, is sent `gone`: his browser loads the page again, which tells him why.
//!
//! Reads: what the pages read; `db` (sessions, wake-ups). Runs: a look while somebody follows it; a stream until its reader leaves, its
//! session or its time is over, or the service stops.

use super::session::{Away, Session};
use super::{asked, events, images, overview, tasks, vms, volumes};
use crate::http::guard::InFlight;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::streams::Open;
use crate::seal::fingerprint;
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Some of what is shown changes by time alone.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two looks at the same, at least.
const APART: Duration = Duration::from_secs(1);
/// A look rests this many times as long as it took.
const REST: u32 = 100;
/// But not longer than a person would wait for a change.
const REST_MOST: Duration = Duration::from_secs(10);
/// A look that takes longer has failed.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether the session is still good.
const STILL_SIGNED_IN: Duration = Duration::from_secs(10);
/// The event after which a page is loaded again.
const GONE: &str = "gone";
/// What a browser sends when it opens a stream again by itself: the id of the last event.
const LAST_EVENT: &str = "last-event-id";
/// Shorter than proxies wait for a silent answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The live part of a page, and its mark: the same mark, the same to see.
#[derive(Clone)]
struct Part {
    /// None: there is no such thing any more.
    html: Option<Arc<str>>,
    mark: String,
    /// When the look began that saw it.
    began: Instant,
}

/// What those who look at the same share.
struct Shared {
    part: watch::Sender<Option<Part>>,
    joined: Notify,
}

/// The looks that somebody follows. Each belongs to the task that takes it: however that ends, the next follower begins anew.
#[derive(Default)]
pub(super) struct Hub(Mutex<HashMap<String, Weak<Shared>>>);

/// Which page, and what of it is known already.
#[derive(Deserialize)]
pub(super) struct Asked {
    of: String,
    /// The mark of what the page shows.
    #[serde(default)]
    seen: String,
}

/// What can be looked at.
enum Look {
    Overview,
    Tasks(tasks::Asked),
    Task(String),
    Vms(vms::Asked),
    Vm(String),
    Volumes(volumes::Asked),
    Volume(String),
    Images(images::Asked),
    Image(String),
    Events(events::Asked),
}

impl Look {
    fn of(address: &str) -> Result<Self, Problem> {
        let nothing = || Problem::Malformed("Correct the query: \"of\" is not a page of the console.".to_owned());
        let uri: Uri = address.parse().map_err(|_| nothing())?;
        let segments: Vec<&str> = uri.path().split('/').skip(1).collect();
        Ok(match segments[..] {
            ["console"] => Self::Overview,
            ["console", "tasks"] => Self::Tasks(asked::of(&uri)?),
            ["console", "tasks", id] => Self::Task(id.to_owned()),
            ["console", "vms"] => Self::Vms(asked::of(&uri)?),
            ["console", "vms", id] => Self::Vm(id.to_owned()),
            ["console", "volumes"] => Self::Volumes(asked::of(&uri)?),
            ["console", "volumes", id] => Self::Volume(id.to_owned()),
            ["console", "images"] => Self::Images(asked::of(&uri)?),
            ["console", "images", id] => Self::Image(id.to_owned()),
            ["console", "events"] => Self::Events(asked::of(&uri)?),
            _ => return Err(nothing()),
        })
    }

    async fn html(&self, state: &AppState) -> Result<String, Problem> {
        match self {
            Self::Overview => overview::live(state).await,
            Self::Tasks(asked) => tasks::live(state, asked).await,
            Self::Task(id) => super::task::live(state, asked::id(id)?).await,
            Self::Vms(asked) => vms::live(state, asked).await,
            Self::Vm(id) => super::vm::live(state, asked::id(id)?).await,
            Self::Volumes(asked) => volumes::live(state, asked).await,
            Self::Volume(id) => super::volume::live(state, asked::id(id)?).await,
            Self::Images(asked) => images::live(state, asked).await,
            Self::Image(id) => super::image::live(state, asked::id(id)?).await,
            Self::Events(asked) => events::live(state, asked).await,
        }
    }

    /// Looks; none when that failed.
    async fn part(&self, state: &AppState, key: &str) -> Option<Part> {
        let began = Instant::now();
        match timeout(LOOK_WITHIN, self.html(state)).await {
            Ok(Ok(html)) => Some(Part { mark: mark(&html), html: Some(html.into()), began }),
            Ok(Err(Problem::NotFound(_))) => Some(Part { mark: GONE.to_owned(), html: None, began }),
            failed => {
                tracing::warn!(page = key, ?failed, "a page cannot be followed: its look failed");
                None
            }
        }
    }
}

/// What tells two parts apart.
pub(super) fn mark(html: &str) -> String {
    fingerprint(without_ages(html).as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Without what stands in `time` elements.
fn without_ages(html: &str) -> String {
    let mut parts = html.split("</time>");
    let kept = |part: &str| match part.find("<time ").and_then(|at| Some(at + part.get(at..)?.find('>')?)) {
        Some(end) => part.get(..end).unwrap_or_default().to_owned(),
        None => part.to_owned(),
    };
    parts.by_ref().map(kept).collect()
}

/// `GET /console/live`: an event `part` with the part as it is now, whenever it changed; `gone` when the session is over, or was before, and
/// when there is no such thing any more.
pub(super) async fn stream(
    State(state): State<AppState>,
    session: Result<Session, Away>,
    headers: HeaderMap,
    in_flight: Option<Extension<InFlight>>,
    crate::http::extract::Query(asked): crate::http::extract::Query<Asked>,
) -> Result<Response, Problem> {
    let session = match session {
        Ok(session) => session,
        Err(Away::SignIn(_)) => return Ok(answer(futures::stream::once(std::future::ready(Ok(gone()))))),
        Err(Away::Problem(problem)) => return Err(problem),
    };
    let look = Look::of(&asked.of)?;
    let open = state.streams.open(&session.caller.principal)?;
    let since = Instant::now();
    let (end, ask_at) = (since + state.limits.stream, since + STILL_SIGNED_IN);
    let follow = follow(&state, asked.of, look);
    // The newer of the two: an address stays as it was when its stream is opened again.
    let last = headers.get(LAST_EVENT).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let seen = last.map_or(asked.seen, str::to_owned);
    let follower = Follower { state, session, follow, seen, since, ask_at, end, in_flight, _open: open };
    let events = futures::stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        let (event, goes_on) = follower.next().await?;
        Some((Ok(event), goes_on.then_some(follower)))
    });
    Ok(answer(events))
}

fn answer(events: impl futures::Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Sent last.
fn gone() -> Event {
    Event::default().event(GONE).data("load the page again")
}

struct Follower {
    state: AppState,
    session: Session,
    follow: watch::Receiver<Option<Part>>,
    seen: String,
    /// His page shows what was there before.
    since: Instant,
    /// When to ask again whether the session is still good.
    ask_at: Instant,
    end: Instant,
    /// Tells the guard that the connection is at work.
    #[allow(dead_code, reason = "held, not read")]
    in_flight: Option<Extension<InFlight>>,
    _open: Open,
}

impl Follower {
    /// The next event, and whether others follow; none also when the look failed or the database is away: the reader comes back.
    async fn next(&mut self) -> Option<(Event, bool)> {
        loop {
            let part = self.follow.borrow_and_update().clone();
            let fresh = part.filter(|part| part.began >= self.since && part.mark != self.seen);
            if fresh.is_some() || Instant::now() >= self.ask_at {
                if !self.session.is_good(&self.state).await.ok()? {
                    return Some((gone(), false));
                }
                self.ask_at = Instant::now() + STILL_SIGNED_IN;
            }
            if let Some(Part { html, mark, .. }) = fresh {
                let Some(html) = html else { return Some((gone(), false)) };
                self.seen.clone_from(&mark);
                return Some((Event::default().event("part").id(mark).data(&*html), true));
            }
            let stop = self.state.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep_until(self.end) => return None,
                changed = self.follow.changed() => changed.ok()?,
                () = sleep_until(self.ask_at) => {}
            }
        }
    }
}

/// Joins those who look at the same, or begins to look.
fn follow(state: &AppState, key: String, look: Look) -> watch::Receiver<Option<Part>> {
    let mut looks = state.console.hub.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = looks.get(&key).and_then(Weak::upgrade) {
        shared.joined.notify_one();
        return shared.part.subscribe();
    }
    let (part, receiver) = watch::channel(None);
    let shared = Arc::new(Shared { part, joined: Notify::new() });
    looks.insert(key.clone(), Arc::downgrade(&shared));
    tokio::spawn(keep_looking(state.clone(), key, look, shared));
    receiver
}

async fn keep_looking(state: AppState, key: String, look: Look, shared: Arc<Shared>) {
    let mut wake = state.db.wake.subscribe();
    let mut is_over = false;
    while !is_over {
        wake.mark_unchanged();
        let began = Instant::now();
        let part = look.part(&state, &key).await;
        let is_there = part.as_ref().is_some_and(|part| part.html.is_some());
        if part.is_some() {
            shared.part.send_replace(part);
        }
        if is_there {
            let wanted = async {
                sleep(rest(began.elapsed())).await;
                tokio::select! {
                    _ = wake.changed() => {}
                    () = shared.joined.notified() => {}
                    () = sleep(LOOK_AGAIN) => {}
                }
            };
            tokio::select! {
                () = state.stop.cancelled() => {}
                () = shared.part.closed() => {}
                () = wanted => {}
            }
        }
        // Under the lock nobody joins any more.
        let mut looks = state.console.hub.0.lock().unwrap_or_else(PoisonError::into_inner);
        is_over = !is_there || state.stop.is_cancelled() || shared.part.receiver_count() == 0;
        if is_over {
            looks.remove(&key);
        }
    }
}

/// How long a look rests that took so long.
fn rest(took: Duration) -> Duration {
    APART.max(took * REST).min(REST_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_rests_longer_than_it_took_and_no_page_stands_still_for_it() {
        let rests = [1, 50, 100, 5_000].map(|took| rest(Duration::from_millis(took)).as_secs());
        assert_eq!(rests, [1, 5, 10, 10]);
    }

    #[test]
    fn an_age_that_runs_changes_nothing_and_its_moment_does() {
        let at = |moment: &str, age: &str| format!("<td><time datetime=\"{moment}\" data-age>{age}</time></td><td>x</td>");
        assert_eq!(mark(&at("a", "1 s")), mark(&at("a", "2 s")));
        assert_ne!(mark(&at("a", "1 s")), mark(&at("b", "1 s")));
        assert_ne!(mark("<p>1</p>"), mark("<p>2</p>"));
    }
}
