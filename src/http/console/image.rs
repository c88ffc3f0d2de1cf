//! One image: what it is, what was measured of its VMs beside those of the promoted one; an operator tries, promotes and retires it.

use super::frame::{self, Frame, Parts, Tab};
use super::session::{Change, Session};
use super::{asked, images as list, words};
use crate::domain::ids::ImageId;
use crate::domain::image::{ImageView, JUDGED_BY, PromoteRequest, RetireRequest, ShareRequest};
use crate::domain::lifecycle::ImageState;
use crate::http::extract::Path;
use crate::http::images;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::{Redirect, Response};
use chrono::{DateTime, Utc};
use garde::Validate;
use serde::Deserialize;

#[derive(Template)]
#[template(path = "image.html", config = ".askama.toml")]
struct Whole {
    image: ImageView,
    now: DateTime<Utc>,
}

#[derive(Template)]
#[template(path = "image_actions.html", config = ".askama.toml")]
struct Actions<'a> {
    image: &'a ImageView,
    form_token: &'a str,
}

/// `GET /console/images/{id}`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let image = images::find(&state, asked::id(&id)?).await?;
    let may = session.caller.role.may_operate() && !matches!(image.state, ImageState::Deleting | ImageState::Deleted);
    let below = if may { frame::html(&Actions { image: &image, form_token: &session.form_token }) } else { String::new() };
    let frame = Frame::new(&session, &uri, Tab::Images, format!("Image {}", image.name));
    let live = frame::html(&Whole { image, now: state.clock.now() });
    Ok(frame::page(&frame, Parts { live, below, ..Parts::default() }))
}

/// The image.
pub(super) async fn live(state: &AppState, id: ImageId) -> Result<String, Problem> {
    Ok(frame::html(&Whole { image: images::find(state, id).await?, now: state.clock.now() }))
}

#[derive(Deserialize)]
pub(super) struct ShareForm {
    share: String,
}

#[derive(Deserialize)]
pub(super) struct PromoteForm {
    #[serde(default)]
    force: String,
}

#[derive(Deserialize)]
pub(super) struct RetireForm {
    reason: String,
}

/// `POST /console/images/{id}/share`.
pub(super) async fn share(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<ShareForm>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    let share = change.form.share.trim().parse().map_err(|_| Problem::field("share", "give a whole number, 0 to 100."))?;
    let request = ShareRequest { share };
    request.validate()?;
    images::set_share(&state, &change.caller, id, request).await?;
    Ok(Redirect::to(&format!("/console/images/{id}?done=share")))
}

/// `POST /console/images/{id}/promote`.
pub(super) async fn promote(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<PromoteForm>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    let request = PromoteRequest { force: !change.form.force.is_empty() };
    images::promote(&state, &change.caller, id, request, "whatever was measured").await?;
    Ok(Redirect::to(&format!("/console/images/{id}?done=promoted")))
}

/// `POST /console/images/{id}/retire`.
pub(super) async fn retire(
    State(state): State<AppState>,
    Path(id): Path<String>,
    change: Change<RetireForm>,
) -> Result<Redirect, Problem> {
    let id = asked::id(&id)?;
    let request = RetireRequest { reason: change.form.reason };
    request.validate()?;
    images::retire(&state, &change.caller, id, &request).await?;
    Ok(Redirect::to(&format!("/console/images/{id}?done=retired")))
}
