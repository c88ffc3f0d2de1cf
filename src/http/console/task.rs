//! One task: what was asked for, where its time went as a picture, every decision about it; an operator may end it.

use super::asked;
use super::frame::{self, Frame, Parts, Tab};
use super::phases::{self, Phase};
use super::session::{Change, Session};
use super::words;
use crate::db::rows::TaskRow;
use crate::domain::access::{Caller, Role};
use crate::domain::api::EventView;
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use crate::http::extract::Path;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{task_list, tasks};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::{Redirect, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "task.html", config = ".askama.toml")]
struct Whole {
    row: TaskRow,
    phases: Vec<Phase>,
    events: Vec<EventView>,
    now: DateTime<Utc>,
}

impl Whole {
    /// All of the time that the picture shows.
    fn whole(&self) -> TimeDelta {
        self.phases.last().map_or_else(TimeDelta::zero, |last| last.after + last.length)
    }

    fn bar(&self, phase: &Phase) -> (i64, i64) {
        phases::bar(phase, self.whole())
    }

    fn share(&self, phase: &Phase) -> String {
        let ms = |length: TimeDelta| u64::try_from(length.num_milliseconds()).unwrap_or(0);
        words::percent(&ms(phase.length), &ms(self.whole()))
    }

    /// How long the job ran, or has run.
    fn ran(&self) -> Option<TimeDelta> {
        Some(self.row.view.ended_at? - self.row.view.ready_at?)
    }
}

#[derive(Template)]
#[template(path = "task_actions.html", config = ".askama.toml")]
struct Actions<'a> {
    id: TaskId,
    is_ready: bool,
    form_token: &'a str,
}

/// `GET /console/tasks/{id}`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: TaskId = asked::id(&id)?;
    let live = live(&state, id).await?;
    let now = find(&state, id).await?.view.state;
    let may = session.caller.role.may_operate() && !now.is_terminal();
    let actions = Actions { id, is_ready: now == TaskState::Ready, form_token: &session.form_token };
    let below = if may { frame::html(&actions) } else { String::new() };
    let frame = Frame::new(&session, &uri, Tab::Tasks, format!("Task {id}"));
    Ok(frame::page(&frame, Parts { live, below, ..Parts::default() }))
}

/// The task and all about it.
pub(super) async fn live(state: &AppState, id: TaskId) -> Result<String, Problem> {
    let row = find(state, id).await?;
    let vm = match &row.view.vm {
        Some(vm) => state.db.find_vm_life(vm.id).await?,
        None => None,
    };
    let now = state.clock.now();
    let phases = phases::phases(&row.view, vm.as_ref(), now);
    let events = task_list::told(state, &row).await?;
    Ok(frame::html(&Whole { row, phases, events, now }))
}

/// What the page said of the task whose end is asked for.
#[derive(Deserialize)]
pub(super) struct Seen {
    /// It was ready.
    ready: Option<String>,
}

/// `POST /console/tasks/{id}/release`.
pub(super) async fn release(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<Seen>,
) -> Result<Redirect, Problem> {
    let id: TaskId = asked::id(&id)?;
    if change.form.ready.is_none() && find(&state, id).await?.view.state == TaskState::Ready {
        let sentence =
            "The task has become ready meanwhile, and its job may run: look at it, then release it if you still want to.";
        return Err(Problem::Conflict(sentence.to_owned()));
    }
    tasks::release(&state, &change.caller, id).await?;
    Ok(Redirect::to(&format!("/console/tasks/{id}?done=released")))
}

/// Who is signed in sees every task.
async fn find(state: &AppState, id: TaskId) -> Result<TaskRow, Problem> {
    let anybody = Caller { principal: String::new(), role: Role::Viewer, untrusted_only: false };
    crate::http::task_wait::find(state, &anybody, id).await
}
