//! A long form is not lost when its answer is a problem, or when its session ended meanwhile: the page that tells it holds what was
//! typed, and a way to go on. Nothing of it is saved by that, and a secret is not kept.
//!
//! Runs: around every change (`session::told`). Not here: fields that were wrong, which the form itself shows again (`settings::page`).

use super::frame::html;
use super::session::{Away, Session};
use super::settings::{BODY_MAX, FORMS, Fields};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Of who is not signed in, or not any more, no more is read: bytes.
const STRANGERS_MAX: usize = 256 << 10;

const SIGNED_OUT: &str = "You were signed out meanwhile, and nothing was saved.";

/// What was typed, as HTML; on an answer that tells a problem.
#[derive(Clone)]
pub(super) struct Kept(pub(super) String);

/// On the answer that leads to the sign-in.
#[derive(Clone, Copy)]
pub(super) struct SignedOut;

#[derive(Template)]
#[template(path = "kept.html", config = ".askama.toml")]
struct Form<'a> {
    path: &'a str,
    form_token: &'a str,
    fields: &'a [(String, String)],
    is_signed_in: bool,
}

/// See the module.
pub(super) async fn keep(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if !FORMS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let session = Session::demand(&state, &parts).await;
    // While the database is away nobody is known, and nobody loses what he typed.
    let most = if matches!(session, Err(Away::SignIn(_))) { STRANGERS_MAX } else { BODY_MAX };
    let body = match tokio::time::timeout(state.limits.body, to_bytes(body, most)).await {
        Err(_) => return Problem::TooSlow.into_response(),
        Ok(Err(_)) => return Problem::TooLarge.into_response(),
        Ok(Ok(body)) => body,
    };
    let mut response = next.run(Request::from_parts(parts.clone(), Body::from(body.clone()))).await;
    if response.extensions().get::<SignedOut>().is_some() {
        response = Problem::Unauthorized(SIGNED_OUT).into_response();
    }
    let mut fields: Fields = form_urlencoded::parse(&body).into_owned().collect();
    let is_of_ours = fields.iter().any(|(name, _)| name == "version");
    if response.extensions().get::<Problem>().is_some() && is_of_ours {
        let sent = fields.iter().find(|(name, _)| name == "form_token").map(|(_, token)| token.clone()).unwrap_or_default();
        fields.retain(|(name, _)| name != "form_token" && name != "do" && !name.ends_with(".secret"));
        let form_token = match &session {
            // Another than was sent, when he signed in once more in another tab.
            Ok(session) => &session.form_token,
            Err(_) => &sent,
        };
        let is_signed_in = !matches!(session, Err(Away::SignIn(_)));
        let form = html(&Form { path: parts.uri.path(), form_token, fields: &fields, is_signed_in });
        response.extensions_mut().insert(Kept(form));
    }
    response
}
