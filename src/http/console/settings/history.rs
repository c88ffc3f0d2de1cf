//! Versions of the settings: who saved which, and when; what each changed; and the way back to one, which is a check on top of the newest.

use super::check::changes;
use super::{Fields, check};
use crate::db::settings::Versioned;
use crate::domain::settings::Settings;
use crate::domain::settings_diff::diff;
use crate::domain::settings_history::SettingsVersion;
use crate::http::console::frame::{self, Frame, Parts, Tab, html};
use crate::http::console::session::{Change, Session};
use crate::http::console::words;
use crate::http::extract::{Path, Query};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{settings, settings_checks};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use garde::Validate as _;
use serde::Deserialize;
use serde_json::Value;

/// Versions on one page.
const PAGE: usize = 50;
/// In place of what differs from the newest.
const UNKNOWN: &str = "<p class=\"quiet\">The newest was saved by another version of the service, and cannot be compared.</p>";

/// Which part of the list.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// Older than this.
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "settings_history.html", config = ".askama.toml")]
struct Versions {
    versions: Vec<SettingsVersion>,
    newest: i64,
    now: DateTime<Utc>,
    /// Where the next page begins.
    next: Option<i64>,
}

#[derive(Template)]
#[template(path = "settings_version.html", config = ".askama.toml")]
struct OneVersion<'a> {
    form_token: &'a str,
    saved: &'a SettingsVersion,
    now: DateTime<Utc>,
    /// From the version before; none: this one, or that one, cannot be read by this version of the service.
    changed: Option<String>,
    before: Option<i64>,
    /// From what is in force; none: it is this one.
    back: Option<String>,
    may_change: bool,
}

/// `GET /console/settings/history`.
pub(super) async fn list(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let limit = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let mut versions = state.db.list_settings_versions(asked.before, limit).await?;
    let next = (versions.len() > PAGE).then(|| versions.get(PAGE - 1).map(|last| last.version)).flatten();
    versions.truncate(PAGE);
    let (newest, _) = settings::top(&state).await?;
    let above = html(&Versions { versions, newest, now: state.clock.now(), next });
    Ok(frame::page(&Frame::new(&session, &uri, Tab::Settings, "Versions of the settings"), Parts { above, ..Parts::default() }))
}

/// `GET /console/settings/history/{version}`.
pub(super) async fn version(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(version): Path<i64>,
) -> Result<Response, Problem> {
    let (saved, body) = find(&state, version).await?;
    let settings = read(body).ok();
    let before = match state.db.list_settings_versions(Some(version), 1).await?.pop() {
        Some(before) => Some((before.version, read(find(&state, before.version).await?.1).ok())),
        None => None,
    };
    // The first version is shown as what it makes of the defaults.
    let compared = before.as_ref().map_or_else(|| Some(Settings::default()), |(_, settings)| settings.clone());
    let (newest, in_force) = settings::top(&state).await?;
    let differs = |settings| match &in_force {
        Some(in_force) => changes(&diff(in_force, &settings), "back"),
        None => UNKNOWN.to_owned(),
    };
    let above = html(&OneVersion {
        form_token: &session.form_token,
        now: state.clock.now(),
        changed: settings.as_ref().zip(compared).map(|(new, old)| changes(&diff(&old, new), "changes")),
        before: before.map(|(version, _)| version),
        back: settings.filter(|_| newest != version).map(differs),
        saved: &saved,
        may_change: session.caller.role.may_operate(),
    });
    let title = format!("Version {version} of the settings");
    Ok(frame::page(&Frame::new(&session, &uri, Tab::Settings, title), Parts { above, ..Parts::default() }))
}

/// `POST /console/settings/history/{version}/return`: checks it on top of the newest.
pub(super) async fn go_back(
    State(state): State<AppState>,
    Path(version): Path<i64>,
    Change { caller, .. }: Change<Fields>,
) -> Result<Response, Problem> {
    let (_, body) = find(&state, version).await?;
    let settings = read(body).map_err(|error| {
        Problem::Conflict(format!("Version {version} was saved by another version of the service, and cannot be read: {error}."))
    })?;
    settings.validate()?;
    let (version, newest) = settings::top(&state).await?;
    let base = Versioned { version, settings: newest.unwrap_or_default() };
    let row = settings_checks::insert(&state, &caller, &base, &settings).await?;
    Ok(check::to(row.view.id))
}

async fn find(state: &AppState, version: i64) -> Result<(SettingsVersion, Value), Problem> {
    let found = state.db.find_settings_version(version).await?;
    found.ok_or_else(|| Problem::NotFound(format!("There is no version {version} of the settings.")))
}

fn read(body: Value) -> Result<Settings, serde_json::Error> {
    serde_json::from_value(body)
}
