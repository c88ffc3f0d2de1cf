//! One cache volume: whose, how full, how often it served; an operator holds it, lets go of it, deletes it.

use super::frame::{self, Frame, Parts, Tab};
use super::session::{Change, Session};
use super::vm::{Actions, HoldForm, LET_GO, wrong};
use super::volumes::of_project;
use super::{asked, words};
use crate::domain::api::VolumeView;
use crate::domain::ids::VolumeId;
use crate::domain::lifecycle::VolumeState;
use crate::http::extract::Path;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::volumes;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;

#[derive(Template)]
#[template(path = "volume.html", config = ".askama.toml")]
struct Whole {
    volume: VolumeView,
    now: DateTime<Utc>,
}

impl Whole {
    fn of_project(&self) -> String {
        of_project(&self.volume.lineage.project_id)
    }
}

/// `GET /console/volumes/{id}`.
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
    id: VolumeId,
    typed: &HoldForm,
    refused: Option<&Problem>,
) -> Result<Response, Problem> {
    let volume = volumes::find(state, id).await?;
    let may = session.caller.role.may_operate() && !matches!(volume.state, VolumeState::Deleting | VolumeState::Deleted);
    let actions = Actions {
        path: format!("/console/volumes/{id}"),
        what: "volume",
        end: ("delete", "Delete"),
        ask: "Delete this volume? Its layers are gone.",
        is_held: volume.hold.is_some(),
        form_token: &session.form_token,
        typed,
        wrong: refused.map(wrong).unwrap_or_default(),
    };
    let below = if may { frame::html(&actions) } else { String::new() };
    let live = frame::html(&Whole { volume, now: state.clock.now() });
    let frame = Frame::new(session, uri, Tab::Volumes, format!("Volume {id}")).of(format!("/console/volumes/{id}"));
    let status = refused.map_or(StatusCode::OK, Problem::status);
    Ok(frame::answer(status, &frame, Parts { live, below, ..Parts::default() }))
}

/// The volume.
pub(super) async fn live(state: &AppState, id: VolumeId) -> Result<String, Problem> {
    Ok(frame::html(&Whole { volume: volumes::find(state, id).await?, now: state.clock.now() }))
}

/// `POST /console/volumes/{id}/delete`.
pub(super) async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<IgnoredAny>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    volumes::delete(&state, &change.caller, id, LET_GO).await?;
    Ok(Redirect::to(&format!("/console/volumes/{id}?done=deleted")))
}

/// `POST /console/volumes/{id}/hold`.
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
    volumes::hold(&state, &caller, id, request).await?;
    Ok(Redirect::to(&format!("/console/volumes/{id}?done=held")).into_response())
}

/// `POST /console/volumes/{id}/let-go`.
pub(super) async fn let_go(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<IgnoredAny>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    volumes::let_go(&state, &change.caller, id).await?;
    Ok(Redirect::to(&format!("/console/volumes/{id}?done=let-go")))
}
