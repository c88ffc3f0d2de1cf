//! Who looks: found by the cookie on every request, so that a revoked token ends its sessions at once. No API route knows the cookie.
//!
//! The cookie is Lax: a link to a task in a message must open for who is signed in. It changes nothing by that, because every change
//! passes `doors` and carries its session's form token.
//!
//! Reads, writes: `db` (sessions; through `audit` the log of changes).

use super::doors::page_of;
use super::kept::SignedOut;
use crate::db::sessions::SessionRow;
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use crate::http::audit::{self, Door};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Form, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::CookieJar;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Asked for by a page, not by a person: no use of the session.
pub(super) const FOLLOWING: &str = "/console/live";
/// More than any name of a session has.
const NAME_MAX: usize = 128;

/// Somebody who is signed in.
#[derive(Clone)]
pub(super) struct Session {
    /// Who.
    pub(super) caller: Caller,
    /// The token that began it.
    token: TokenId,
    /// What each of its forms carries.
    pub(super) form_token: String,
    /// As the browser keeps it.
    pub(super) theme: Theme,
    /// When it asked.
    pub(super) now: DateTime<Utc>,
    name: String,
}

/// Light or dark, when it was chosen.
pub(super) type Theme = Option<&'static str>;

/// What an operator sent with a form of this session: read in time, and refused to a viewer.
pub(super) struct Change<T> {
    /// Who.
    pub(super) caller: Caller,
    /// The fields.
    pub(super) form: T,
}

/// Why a page is not shown.
pub(super) enum Away {
    /// Nobody is signed in; back to this path afterwards.
    SignIn(String),
    /// Anything else.
    Problem(Problem),
}

impl IntoResponse for Away {
    fn into_response(self) -> Response {
        match self {
            Self::SignIn(next) => {
                let query = [("next", next)];
                let uri = axum::http::Uri::from_static("/console/sign-in");
                (Extension(SignedOut), Redirect::to(&super::words::with_query(uri.path(), &query))).into_response()
            }
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

/// The name of the cookie: with TLS one that no other host can set.
pub(super) fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-vm-service" } else { "vm-service" }
}

/// The theme that was chosen.
pub(super) fn theme(headers: &HeaderMap) -> Theme {
    match CookieJar::from_headers(headers).get("theme")?.value() {
        "light" => Some("light"),
        "dark" => Some("dark"),
        _ => None,
    }
}

/// The name of the session that the cookie says, whether or not there is one.
pub(super) fn name(state: &AppState, headers: &HeaderMap) -> Option<String> {
    let jar = CookieJar::from_headers(headers);
    let name = jar.get(cookie_name(state.console.secure))?.value();
    (!name.is_empty() && name.len() <= NAME_MAX).then(|| name.to_owned())
}

impl Session {
    /// Whether it still is one.
    pub(super) async fn is_good(&self, state: &AppState) -> Result<bool, Problem> {
        Ok(state.db.find_session(&state.sealer.session_hashes(&self.name), state.clock.now()).await?.is_some())
    }

    /// Whoever is signed in; he may ask too fast.
    pub(super) async fn demand(state: &AppState, parts: &Parts) -> Result<Self, Away> {
        let away = || match parts.method {
            Method::GET => Away::SignIn(parts.uri.path_and_query().map_or_else(String::new, ToString::to_string)),
            _ => Away::SignIn(page_of(parts.uri.path()).to_owned()),
        };
        let name = name(state, &parts.headers).ok_or_else(away)?;
        let (hashes, now) = (state.sealer.session_hashes(&name), state.clock.now());
        let found = match parts.uri.path() {
            FOLLOWING => state.db.find_session(&hashes, now).await,
            _ => state.db.use_session(&hashes, now).await,
        };
        let SessionRow { token, caller, .. } = found.map_err(|error| Away::Problem(error.into()))?.ok_or_else(away)?;
        tracing::Span::current().record("principal", &caller.principal);
        Ok(Self { caller, token, form_token: state.sealer.form_token(&name), theme: theme(&parts.headers), now, name })
    }

    /// The token that began it, and who has it.
    pub(super) fn who(&self) -> (TokenId, Caller) {
        (self.token, self.caller.clone())
    }
}

impl FromRequestParts<AppState> for Session {
    type Rejection = Away;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Away> {
        if let Some(found) = parts.extensions.get::<Self>() {
            return Ok(found.clone());
        }
        let session = Self::demand(state, parts).await?;
        state.admit(&session.caller.principal).map_err(Away::Problem)?;
        Ok(session)
    }
}

/// Carries out what an operator does: his event goes into the audit log with it.
pub(super) async fn told(State(state): State<AppState>, request: Request, next: Next) -> Result<Response, Away> {
    let (mut parts, body) = request.into_parts();
    let session = Session::demand(&state, &parts).await?;
    let who = session.who();
    if let Err(problem) = state.admit(&session.caller.principal) {
        audit::turned_away(&state, Some(&who), &parts, problem.status()).await;
        return Err(Away::Problem(problem));
    }
    parts.extensions.insert(session);
    Ok(audit::act(&state, &who, Door::Console, Request::from_parts(parts, body), next).await)
}

#[derive(Deserialize)]
struct Token {
    form_token: String,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Change<T> {
    type Rejection = Away;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Away> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, state).await?;
        if session.caller.role != Role::Operator {
            let sentence = "A viewer may look and not change anything: sign in with an operator's token.";
            return Err(Away::Problem(Problem::Forbidden(sentence.to_owned())));
        }
        let form = read(&parts, body, state).await.map_err(Away::Problem)?;
        let Token { form_token } = fields(&parts, &form, state).await.map_err(Away::Problem)?;
        if !state.sealer.is_form_token(&session.name, &form_token) {
            let sentence = "The form is of another session: load its page again and repeat what still makes sense.";
            return Err(Away::Problem(Problem::Forbidden(sentence.to_owned())));
        }
        let form = fields(&parts, &form, state).await.map_err(Away::Problem)?;
        Ok(Self { caller: session.caller, form })
    }
}

/// The body, when it arrives in time.
pub(super) async fn read(parts: &Parts, body: Body, state: &AppState) -> Result<Bytes, Problem> {
    let request = Request::from_parts(parts.clone(), body);
    Ok(tokio::time::timeout(state.limits.body, Bytes::from_request(request, state)).await.map_err(|_| Problem::TooSlow)??)
}

/// The fields of a form.
pub(super) async fn fields<T: DeserializeOwned>(parts: &Parts, body: &Bytes, state: &AppState) -> Result<T, Problem> {
    let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
    let read = Form::<T>::from_request(request, state).await;
    read.map(|Form(form)| form)
        .map_err(|rejection| Problem::Malformed(format!("The form cannot be read: {}.", rejection.body_text())))
}
