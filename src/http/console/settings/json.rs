//! The settings as one JSON document, as the API has them: to be read, copied, and sent for a check.

use super::{Fields, GONE, base, check, seed, text};
use crate::db::settings::Versioned;
use crate::domain::settings::Settings;
use crate::http::console::frame::{self, Frame, Parts, Tab, html};
use crate::http::console::session::{Change, Session};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{settings, settings_checks};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use garde::Validate as _;

#[derive(Template)]
#[template(path = "settings_json.html", config = ".askama.toml")]
struct Page<'a> {
    form_token: &'a str,
    version: i64,
    seed: String,
    text: &'a str,
    errors: Vec<String>,
    may_change: bool,
}

/// `GET /console/settings/json`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let mut newest = settings::newest(&state).await?;
    newest.settings = settings::seen_by(&session.caller, newest.settings);
    let text = serde_json::to_string_pretty(&newest.settings).unwrap_or_default();
    Ok(show(&session, &uri, &newest, &text, Vec::new()))
}

/// `POST /console/settings/json`.
pub(super) async fn submit(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Change { caller, form }: Change<Fields>,
) -> Result<Response, Problem> {
    let version = text(&form, "version").parse().map_err(|_| Problem::Malformed("Load the page again.".to_owned()))?;
    let typed = text(&form, "json");
    let base = match base(&state, version, text(&form, "seed")).await {
        Err(Problem::Stale) => return Ok(show(&session, &uri, &settings::newest(&state).await?, typed, vec![GONE.to_owned()])),
        found => found?,
    };
    match read(&state, &base.settings, typed) {
        Ok(proposed) => Ok(check::to(settings_checks::insert(&state, &caller, &base, &proposed).await?.view.id)),
        Err(errors) => Ok(show(&session, &uri, &base, typed, errors)),
    }
}

/// The settings, with their secrets sealed, or everything that is wrong.
fn read(state: &AppState, base: &Settings, typed: &str) -> Result<Settings, Vec<String>> {
    let mut settings: Settings = serde_json::from_str(typed).map_err(|error| vec![format!("It cannot be read: {error}.")])?;
    settings
        .validate()
        .map_err(|report| report.iter().map(|(path, error)| format!("{path} {}", error.message())).collect::<Vec<_>>())?;
    settings::seal_secrets(state, Some(base), &mut settings).map_err(|problem| vec![problem.detail().to_owned()])?;
    Ok(settings)
}

fn show(session: &Session, uri: &Uri, base: &Versioned, text: &str, errors: Vec<String>) -> Response {
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let above = html(&Page {
        form_token: &session.form_token,
        version: base.version,
        seed: seed(base),
        text,
        errors,
        may_change: session.caller.role.may_operate(),
    });
    let frame = Frame::new(session, uri, Tab::Settings, "Settings as JSON");
    frame::answer(status, &frame, Parts { above, ..Parts::default() })
}
