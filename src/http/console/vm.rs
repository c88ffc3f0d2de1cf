//! One VM: its life, its task, what it wrote while it did not start; an operator holds it, lets go of it, ends it.
//!
//! Of consoles only what the database keeps is shown, the end of one whose VM was given up: nothing here calls a provider.

use super::frame::{self, Frame, Parts, Tab};
use super::session::{Change, Session};
use super::{asked, terminal, words};
use crate::db::console_events::EventLineFilter;
use crate::db::console_vms::VmLife;
use crate::domain::api::{EventView, HoldRequest};
use crate::domain::ids::VmId;
use crate::domain::lifecycle::VmState;
use crate::http::extract::Path;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{vm_hold, vms};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use garde::Validate;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A hold lasts a year at most.
const HOURS_MAX: u32 = 366 * 24;
/// A VM has a dozen; one with more shows its last ones.
const EVENTS: i64 = 100;

#[derive(Template)]
#[template(path = "vm.html", config = ".askama.toml")]
struct Whole {
    vm: VmLife,
    console: Option<String>,
    events: Vec<EventView>,
    now: DateTime<Utc>,
}

impl Whole {
    /// The steps of its life that are behind it, each with the time since the one before.
    fn steps(&self) -> Vec<(&'static str, DateTime<Utc>, String)> {
        let vm = &self.vm;
        let steps = [
            ("asked for", Some(vm.created_at)),
            ("made by the provider", vm.launched_at),
            ("ran", vm.booted_at),
            ("available", vm.available_at),
            ("given to its task", vm.assigned_at),
            ("asked to end", vm.terminating_at),
            ("gone", vm.terminated_at),
        ];
        let mut before = None;
        let behind = steps.into_iter().filter_map(|(name, at)| {
            let at = at?;
            let after = before.replace(at).map(|before| words::between(&before, &at));
            Some((name, at, after.unwrap_or_default()))
        });
        behind.collect()
    }

    /// Unless it is over.
    fn ends_itself_at(&self) -> Option<DateTime<Utc>> {
        self.vm.absolute_end_at.filter(|_| self.vm.state != VmState::Terminated)
    }
}

/// Where a person lets go of what is held: on the page itself.
pub(super) const LET_GO: &str = "the button \"Let go of it\"";

#[derive(Template)]
#[template(path = "hold_actions.html", config = ".askama.toml")]
pub(super) struct Actions<'a> {
    /// Under which the forms' paths are.
    pub(super) path: String,
    /// For a person, such as `VM`.
    pub(super) what: &'static str,
    /// The last word of the path that ends it, and of its button.
    pub(super) end: (&'static str, &'static str),
    /// Asked before that.
    pub(super) ask: &'static str,
    pub(super) is_held: bool,
    pub(super) form_token: &'a str,
    /// What was typed to hold it.
    pub(super) typed: &'a HoldForm,
    /// Why that cannot be; empty: nothing was tried.
    pub(super) wrong: String,
}

/// The fields of a form that holds something.
#[derive(Deserialize)]
pub(super) struct HoldForm {
    reason: String,
    hours: String,
}

impl Default for HoldForm {
    fn default() -> Self {
        Self { reason: String::new(), hours: "1".to_owned() }
    }
}

impl HoldForm {
    /// As the API takes it.
    ///
    /// # Errors
    /// `Impossible`: the form is shown again, with [`wrong`].
    pub(super) fn request(&self) -> Result<HoldRequest, Problem> {
        let hours = self.hours.trim().parse().ok().filter(|hours| (1..=HOURS_MAX).contains(hours));
        let hours = hours.ok_or_else(|| Problem::field("hours", format!("give a whole number of hours, 1 to {HOURS_MAX}.")))?;
        let request = HoldRequest { reason: self.reason.clone(), until: None, seconds: Some(hours * 3600) };
        request.validate()?;
        Ok(request)
    }
}

/// What is wrong with a form, as a sentence beside it.
pub(super) fn wrong(problem: &Problem) -> String {
    problem.errors().iter().map(|error| format!("{}: {}", error.field, error.message)).collect::<Vec<_>>().join("; ")
}

/// `GET /console/vms/{id}`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    show(&state, &session, &uri, asked::id(&id)?, &HoldForm::default(), None).await
}

/// The page; with what was wrong with what was typed.
async fn show(
    state: &AppState,
    session: &Session,
    uri: &Uri,
    id: VmId,
    typed: &HoldForm,
    refused: Option<&Problem>,
) -> Result<Response, Problem> {
    let vm = find(state, id).await?;
    let may = session.caller.role.may_operate() && !matches!(vm.state, VmState::Terminating | VmState::Terminated);
    let actions = Actions {
        path: format!("/console/vms/{id}"),
        what: "VM",
        end: ("terminate", "Terminate"),
        ask: "Terminate this VM? A job on it fails.",
        is_held: vm.hold_until.is_some(),
        form_token: &session.form_token,
        typed,
        wrong: refused.map(wrong).unwrap_or_default(),
    };
    let below = if may { frame::html(&actions) } else { String::new() };
    let live = whole(state, vm).await?;
    let frame = Frame::new(session, uri, Tab::Vms, format!("VM {id}")).of(format!("/console/vms/{id}"));
    let status = refused.map_or(StatusCode::OK, Problem::status);
    Ok(frame::answer(status, &frame, Parts { live, below, ..Parts::default() }))
}

/// The VM and all about it.
pub(super) async fn live(state: &AppState, id: VmId) -> Result<String, Problem> {
    whole(state, find(state, id).await?).await
}

async fn whole(state: &AppState, mut vm: VmLife) -> Result<String, Problem> {
    let filter = EventLineFilter { vm: Some(vm.id), limit: EVENTS, ..EventLineFilter::default() };
    let mut events = state.db.list_event_lines(&filter).await?;
    events.reverse();
    let console = vm.console.take().map(|written| terminal::plain(&written));
    Ok(frame::html(&Whole { vm, console, events, now: state.clock.now() }))
}

/// The VM; a hold that is over is none.
async fn find(state: &AppState, id: VmId) -> Result<VmLife, Problem> {
    let mut vm = state.db.find_vm_life(id).await?;
    if let Some(vm) = &mut vm {
        vm.hold_until = vm.hold_until.filter(|until| *until > state.clock.now());
    }
    vm.ok_or_else(|| Problem::NotFound(format!("There is no VM {id}, or its history was trimmed: check the id.")))
}

/// `POST /console/vms/{id}/terminate`.
pub(super) async fn terminate(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<IgnoredAny>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    vms::terminate(&state, &change.caller, id, LET_GO).await?;
    Ok(Redirect::to(&format!("/console/vms/{id}?done=terminated")))
}

/// `POST /console/vms/{id}/hold`.
pub(super) async fn hold(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<String>,
    Change { caller, form }: Change<HoldForm>,
) -> Result<Response, Problem> {
    let id = asked::id(&id)?;
    let request = match form.request() {
        Ok(request) => request,
        Err(refused) => return show(&state, &session, &uri, id, &form, Some(&refused)).await,
    };
    vm_hold::hold(&state, &caller, id, request).await?;
    Ok(Redirect::to(&format!("/console/vms/{id}?done=held")).into_response())
}

/// `POST /console/vms/{id}/let-go`.
pub(super) async fn let_go(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<IgnoredAny>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    vm_hold::let_go(&state, &change.caller, id).await?;
    Ok(Redirect::to(&format!("/console/vms/{id}?done=let-go")))
}
