//! VMs as a list: those that live and those that ended a moment ago, newest first.

use super::asked::{self, ROWS};
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::words;
use crate::db::console_vms::{RowlessLine, VmLine, VmLineFilter};
use crate::domain::ids::VmId;
use crate::domain::lifecycle::VmState;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

/// The filter; empty fields mean any.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    state: String,
    executor: String,
    class: String,
    project: String,
    only: String,
    cursor: String,
}

impl Asked {
    fn filter(&self, life: TimeDelta, now: DateTime<Utc>) -> Result<VmLineFilter, Problem> {
        let (held_at, made_before) = match self.only.as_str() {
            "" => (None, None),
            "held" => (Some(now), None),
            "old" => (None, Some(now - life)),
            _ => return Err(Problem::Malformed("Correct the filter \"only\": it is held or old.".to_owned())),
        };
        Ok(VmLineFilter {
            held_at,
            made_before,
            state: asked::pick("state", &self.state)?,
            executor: asked::pick("executor", &self.executor)?,
            class: asked::text("class", &self.class)?,
            project: asked::text("project", &self.project)?,
            before: asked::before(&self.cursor)?.map(|(at, id)| (at, VmId(id))),
            limit: ROWS + 1,
        })
    }

    fn page(&self, cursor: &str) -> String {
        let fields = [
            ("state", self.state.as_str()),
            ("executor", &self.executor),
            ("class", &self.class),
            ("project", &self.project),
            ("only", &self.only),
            ("cursor", cursor),
        ];
        words::with_query(Tab::Vms.path(), &fields)
    }
}

#[derive(Template)]
#[template(path = "vms_filter.html", config = ".askama.toml")]
struct Filter<'a> {
    asked: &'a Asked,
    states: &'static [VmState],
    classes: Vec<String>,
}

#[derive(Template)]
#[template(path = "vms.html", config = ".askama.toml")]
struct List {
    rowless: Vec<RowlessLine>,
    lines: Vec<VmLine>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

/// `GET /console/vms`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let live = live(&state, &asked).await?;
    let classes = state.settings.borrow().settings.resource_classes.keys().cloned().collect();
    let above = frame::html(&Filter { asked: &asked, states: VmState::ALL, classes });
    let frame = Frame::new(&session, &uri, Tab::Vms, "VMs");
    Ok(frame::page(&frame, Parts { above, live, ..Parts::default() }))
}

/// The list.
pub(super) async fn live(state: &AppState, asked: &Asked) -> Result<String, Problem> {
    let (now, life) = (state.clock.now(), state.settings.borrow().settings.timeouts.life());
    let is_plain = asked.page(&asked.cursor) == Tab::Vms.path();
    let rowless = if is_plain { state.db.list_rowless(ROWS).await? } else { Vec::new() };
    let lines = state.db.list_vm_lines(&asked.filter(life, now)?).await?;
    let (lines, cursor) = asked::cut(lines, |line| (line.created_at, line.id.0));
    let first = (!asked.cursor.is_empty()).then(|| asked.page(""));
    Ok(frame::html(&List { rowless, lines, first, next: cursor.map(|cursor| asked.page(&cursor)), now }))
}
