//! Signing in with an API token, and out again. The token is looked at once and not kept; what the browser keeps is the name of a session.
//!
//! Reads: `db` (tokens). Writes: `db` (sessions; through `audit` who came and went).

use super::config::By;
use super::frame::{self, Frame, Parts};
use super::session::{self, Session};
use crate::domain::access::Caller;
use crate::domain::ids::TokenId;
use crate::http::audit;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::seal::Sealer;
use askama::Template;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use serde::Deserialize;
use std::net::SocketAddr;

/// More than any token has; longer ones are not hashed.
const TOKEN_MAX: usize = 512;

/// Where to go afterwards.
#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Shown {
    token: String,
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = ".askama.toml")]
struct Form<'a> {
    next: &'a str,
    wrong: Option<&'a str>,
}

/// `GET /console/sign-in`.
pub(super) async fn form(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(next): Query<Next>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    match Session::from_request_parts(&mut parts, &state).await {
        Ok(_) => Redirect::to(inside(&next.next)).into_response(),
        Err(_) => page(&headers, &next.next, StatusCode::OK, None),
    }
}

/// `POST /console/sign-in`.
pub(super) async fn sign_in(State(state): State<AppState>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let shown: Shown = session::fields(&parts, &session::read(&parts, body, &state).await?, &state).await?;
    let token = shown.token.trim();
    let is_token = !token.is_empty() && token.len() <= TOKEN_MAX;
    let who = if is_token { state.db.find_token(&state.sealer.token_hashes(token)).await? } else { None };
    match admitted(&state, who.as_ref(), &parts) {
        Ok(who) => enter(&state, &parts, who, &shown.next).await,
        Err((status, sentence)) => {
            audit::turned_away(&state, who.as_ref(), &parts, status).await;
            Ok(page(&parts.headers, &shown.next, status, Some(&sentence)))
        }
    }
}

/// Who comes in, or why he does not: the status and a sentence.
fn admitted<'a>(
    state: &AppState,
    who: Option<&'a (TokenId, Caller)>,
    parts: &Head,
) -> Result<&'a (TokenId, Caller), (StatusCode, String)> {
    let from = || parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let by = who.map_or_else(|| By::Address(from()), |(_, caller)| By::Principal(caller.principal.clone()));
    if let Err(wait) = state.console.attempt(by) {
        let sentence = format!("Too many attempts: wait {} seconds, then try again.", wait.as_secs() + 1);
        return Err((StatusCode::TOO_MANY_REQUESTS, sentence));
    }
    let refused = |status, sentence: &str| Err((status, sentence.to_owned()));
    match who {
        None => refused(StatusCode::UNAUTHORIZED, "This token is not known, or was revoked: check it, or use another."),
        Some((_, caller)) if !caller.role.may_see_everything() => refused(
            StatusCode::FORBIDDEN,
            "This is a dispatcher's token, for programs that ask for VMs: sign in with an operator's or a viewer's.",
        ),
        Some(who) => Ok(who),
    }
}

/// Begins a session, which takes the place of the one before.
async fn enter(state: &AppState, parts: &Head, who: &(TokenId, Caller), next: &str) -> Result<Response, Problem> {
    let (token, Caller { principal, role, .. }) = who;
    let name = Sealer::fresh_session().map_err(|error| Problem::Defect(error.to_string()))?;
    let hashes = state.sealer.session_hashes(&name);
    let deed = async {
        state.db.begin_session(*token, principal, &hashes, state.clock.now()).await?;
        end(state, &parts.headers).await
    };
    audit::behind(who, parts).run(deed).await?;
    tracing::info!(principal, role = role.as_str(), "signed in to the console");
    Ok((CookieJar::new().add(cookie(state, name.to_string())), Redirect::to(inside(next))).into_response())
}

/// `POST /console/sign-out`.
pub(super) async fn sign_out(State(state): State<AppState>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    match Session::demand(&state, &parts).await {
        Ok(session) => audit::behind(&session.who(), &parts).run(end(&state, &parts.headers)).await?,
        Err(_) => end(&state, &parts.headers).await?,
    }
    let mut gone = cookie(&state, String::new());
    gone.make_removal();
    Ok((CookieJar::new().add(gone), Redirect::to("/console/sign-in")).into_response())
}

async fn end(state: &AppState, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(before) = session::name(state, headers) {
        state.db.end_session(&state.sealer.session_hashes(&before), state.clock.now()).await?;
    }
    Ok(())
}

fn cookie(state: &AppState, name: String) -> Cookie<'static> {
    let secure = state.console.secure;
    Cookie::build((session::cookie_name(secure), name)).path("/").http_only(true).secure(secure).same_site(SameSite::Lax).build()
}

/// A path of the console's own, or its first page.
fn inside(next: &str) -> &str {
    let plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let ours = next.strip_prefix("/console").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    if plain && ours && !next.starts_with("/console/sign") { next } else { "/console" }
}

fn page(headers: &HeaderMap, next: &str, status: StatusCode, wrong: Option<&str>) -> Response {
    let frame = Frame::outside("Sign in", session::theme(headers));
    let above = frame::html(&Form { next: inside(next), wrong });
    frame::answer(status, &frame, Parts { above, ..Parts::default() })
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn only_a_path_of_the_console_is_gone_to() {
        for good in ["/console", "/console/tasks?state=queued", "/console?x=1"] {
            assert_eq!(inside(good), good);
        }
        for bad in [
            "",
            "/",
            "//evil.example",
            "/consoles",
            "https://evil.example/console",
            "/console\\x",
            "/console/sign-in",
            "/console\n",
        ] {
            assert_eq!(inside(bad), "/console", "{bad}");
        }
    }
}
