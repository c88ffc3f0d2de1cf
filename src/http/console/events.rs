//! What happened, newest first.

use super::asked::{self, ROWS};
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::words;
use crate::db::console_events::EventLineFilter;
use crate::domain::api::EventView;
use crate::http::extract::Query;
use crate::http::paging;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;

/// What an event can be about: the first word of its kind.
const ABOUT: [&str; 6] = ["task", "vm", "volume", "generation", "image", "machine"];

/// The filter; empty fields mean any.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    about: String,
    task: String,
    vm: String,
    cursor: String,
}

impl Asked {
    fn filter(&self) -> Result<EventLineFilter, Problem> {
        if !self.about.is_empty() && !ABOUT.contains(&self.about.as_str()) {
            return Err(Problem::Malformed(format!("Correct the filter \"about\": it is one of {}.", ABOUT.join(", "))));
        }
        let before = (!self.cursor.is_empty()).then(|| self.cursor.parse().map_err(|_| paging::unknown_cursor())).transpose()?;
        Ok(EventLineFilter {
            about: self.about.clone(),
            task: (!self.task.is_empty()).then(|| asked::id(self.task.trim())).transpose()?,
            vm: (!self.vm.is_empty()).then(|| asked::id(self.vm.trim())).transpose()?,
            before,
            limit: ROWS + 1,
        })
    }

    fn page(&self, cursor: &str) -> String {
        let fields = [("about", self.about.as_str()), ("task", &self.task), ("vm", &self.vm), ("cursor", cursor)];
        words::with_query(Tab::Events.path(), &fields)
    }
}

#[derive(Template)]
#[template(path = "events_filter.html", config = ".askama.toml")]
struct Filter<'a> {
    asked: &'a Asked,
    about: &'static [&'static str],
}

#[derive(Template)]
#[template(path = "events.html", config = ".askama.toml")]
struct List {
    events: Vec<EventView>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

/// `GET /console/events`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let live = live(&state, &asked).await?;
    let above = frame::html(&Filter { asked: &asked, about: &ABOUT });
    let frame = Frame::new(&session, &uri, Tab::Events, "Events");
    Ok(frame::page(&frame, Parts { above, live, ..Parts::default() }))
}

/// The list.
pub(super) async fn live(state: &AppState, asked: &Asked) -> Result<String, Problem> {
    let mut events = state.db.list_event_lines(&asked.filter()?).await?;
    let rows = usize::try_from(ROWS).unwrap_or(usize::MAX);
    let more = events.len() > rows;
    events.truncate(rows);
    let next = events.last().filter(|_| more).map(|last| asked.page(&last.id.to_string()));
    let first = (!asked.cursor.is_empty()).then(|| asked.page(""));
    Ok(frame::html(&List { events, first, next, now: state.clock.now() }))
}
