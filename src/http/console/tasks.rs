//! Tasks as a list: those that are open and those that have ended, newest first.

use super::asked::{self, ROWS};
use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use super::words;
use crate::db::console_tasks::{TaskLine, TaskLineFilter};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;

/// The filter; empty fields mean any.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    state: String,
    project: String,
    executor: String,
    age: String,
    cursor: String,
}

impl Asked {
    fn filter(&self, now: DateTime<Utc>) -> Result<TaskLineFilter, Problem> {
        Ok(TaskLineFilter {
            state: asked::pick("state", &self.state)?,
            project: asked::text("project", &self.project)?,
            executor: asked::pick("executor", &self.executor)?,
            since: asked::age(&self.age)?.map(|age| now - age),
            before: asked::before(&self.cursor)?.map(|(at, id)| (at, TaskId(id))),
            limit: ROWS + 1,
        })
    }

    fn page(&self, cursor: &str) -> String {
        let fields = [
            ("state", self.state.as_str()),
            ("project", &self.project),
            ("executor", &self.executor),
            ("age", &self.age),
            ("cursor", cursor),
        ];
        words::with_query(Tab::Tasks.path(), &fields)
    }
}

#[derive(Template)]
#[template(path = "tasks_filter.html", config = ".askama.toml")]
struct Filter<'a> {
    asked: &'a Asked,
    states: &'static [TaskState],
}

#[derive(Template)]
#[template(path = "tasks.html", config = ".askama.toml")]
struct List {
    lines: Vec<TaskLine>,
    first: Option<String>,
    next: Option<String>,
    now: DateTime<Utc>,
}

/// `GET /console/tasks`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let live = live(&state, &asked).await?;
    let above = frame::html(&Filter { asked: &asked, states: TaskState::ALL });
    let frame = Frame::new(&session, &uri, Tab::Tasks, "Tasks");
    Ok(frame::page(&frame, Parts { above, live, ..Parts::default() }))
}

/// The list.
pub(super) async fn live(state: &AppState, asked: &Asked) -> Result<String, Problem> {
    let now = state.clock.now();
    let lines = state.db.list_task_lines(&asked.filter(now)?).await?;
    let (lines, cursor) = asked::cut(lines, |line| (line.created_at, line.id.0));
    let first = (!asked.cursor.is_empty()).then(|| asked.page(""));
    Ok(frame::html(&List { lines, first, next: cursor.map(|cursor| asked.page(&cursor)), now }))
}
