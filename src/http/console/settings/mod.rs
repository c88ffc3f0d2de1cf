//! The settings page: every live setting, made of `domain::catalogue`. A change is checked first and saved after, on top of the version
//! that the person saw; who was overtaken is told by whom, and keeps what he typed.
//!
//!     page (form) → check (row; a loop does it) → save → history → return, which is a check again
//!
//! What is typed lives in the row of its check: a page can be left and come back to. Every page is whole without a script.
//!
//! Reads, writes: `db` (settings, settings_checks). Calls: what the API's handlers call (`http::{settings, settings_checks}`).

mod check;
mod field;
mod history;
mod json;
mod page;
mod week;

use crate::db::settings::Versioned;
use crate::domain::settings::Settings;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use serde_json::Value;

/// Root certificates are in the settings, and a form writes each byte of them as up to three.
pub(super) const BODY_MAX: usize = 3 << 20;

/// Where the long forms are sent.
pub(super) const FORMS: [&str; 2] = ["/console/settings", "/console/settings/json"];

/// Told over a form whose version cannot be read.
const GONE: &str = "The version that this form began with is gone. What was typed stands here, on top of the newest version: look at \
                    the history, and at what was typed, before it is checked.";

/// The fields of a form, in order.
pub(super) type Fields = Vec<(String, String)>;

/// What is looked at.
pub(super) fn pages() -> Router<AppState> {
    Router::new()
        .route("/console/settings", get(page::page))
        .route("/console/settings/json", get(json::page))
        .route("/console/settings/checks/{id}", get(check::page))
        .route("/console/settings/history", get(history::list))
        .route("/console/settings/history/{version}", get(history::version))
}

/// What an operator can do.
pub(super) fn changes() -> Router<AppState> {
    Router::new()
        .route("/console/settings", post(page::submit))
        .route("/console/settings/json", post(json::submit))
        .route("/console/settings/checks/{id}/save", post(check::save))
        .route("/console/settings/checks/{id}/rebase", post(check::rebase_on_newest))
        .route("/console/settings/history/{version}/return", post(history::go_back))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

fn text<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(field, _)| field == name).map_or("", |(_, text)| text.as_str())
}

/// What a form was filled in on top of. Nobody keeps the seed of the configuration once something was saved: the form brings it along.
///
/// # Errors
/// `Stale` when that cannot be read any more: then the form is shown again, and [`GONE`].
async fn base(state: &AppState, version: i64, seed: &str) -> Result<Versioned, Problem> {
    let body = match version {
        0 => serde_json::from_str::<Value>(seed).ok(),
        version => state.db.find_settings_version(version).await?.map(|(_, body)| body),
    };
    let read = body.and_then(|body| serde_json::from_value::<Settings>(body).ok());
    read.map(|settings| Versioned { version, settings }).ok_or(Problem::Stale)
}

/// The seed, while it is in force; for [`base`].
fn seed(base: &Versioned) -> String {
    if base.version == 0 { serde_json::to_string(&base.settings).unwrap_or_default() } else { String::new() }
}
