//! A check, and what follows from it: what the provider says, what differs, what a save would change; then the save. Somebody who saved
//! in between is named, with what he changed, and the change goes on top of his when it is checked again.

use super::Fields;
use crate::db::settings_checks::CheckRow;
use crate::domain::ids::SettingsCheckId;
use crate::domain::settings_check::{CheckResult, CheckState, Severity};
use crate::domain::settings_diff::{Change as Changed, diff, rebase};
use crate::domain::settings_history::SettingsVersion;
use crate::domain::task::Executor;
use crate::http::console::frame::{self, Frame, Parts, Tab, html};
use crate::http::console::session::{Change, Session};
use crate::http::console::{assets, words};
use crate::http::extract::Path;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{audit, settings, settings_checks};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use garde::Validate as _;

/// How soon the page of a check that runs is looked at again, seconds.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

#[derive(Template)]
#[template(path = "settings_check.html", config = ".askama.toml")]
struct Page<'a> {
    form_token: &'a str,
    row: &'a CheckRow,
    now: DateTime<Utc>,
    standing: Standing,
    may_change: bool,
    style: String,
}

/// What the proposed settings are to those in force.
enum Standing {
    /// They can be saved.
    Open,
    /// They are saved already.
    Saved(i64),
    /// Somebody saved in between.
    Overtaken(Overtaken),
}

struct Overtaken {
    version: i64,
    by: Option<SettingsVersion>,
    theirs: Vec<Changed>,
    /// What both have changed, or why the two do not go together.
    together: Result<Vec<String>, String>,
}

/// Old and new, one a line.
#[derive(Template)]
#[template(path = "settings_changes.html", config = ".askama.toml")]
struct Changes<'a> {
    changes: &'a [Changed],
    id: &'a str,
}

/// A table of changes.
pub(super) fn changes(changes: &[Changed], id: &str) -> String {
    html(&Changes { changes, id })
}

impl Page<'_> {
    fn mine(&self) -> String {
        changes(&self.row.view.changes, "changes")
    }

    fn theirs(&self, overtaken: &Overtaken) -> String {
        changes(&overtaken.theirs, "theirs")
    }

    fn state(&self) -> &'static str {
        match self.row.view.state {
            CheckState::Queued => "queued",
            CheckState::Running => "running",
            CheckState::Done => "done",
            CheckState::Expired => "expired",
        }
    }

    fn is_final(&self) -> bool {
        self.row.view.state.is_final()
    }

    fn can_be_saved(&self) -> bool {
        self.is_final() && matches!(self.standing, Standing::Open)
    }

    fn is_expired(&self) -> bool {
        self.row.view.state == CheckState::Expired
    }

    fn is_good(&self) -> bool {
        self.row.view.result.as_ref().is_some_and(CheckResult::is_good)
    }

    fn executor(&self, executor: &Executor) -> &'static str {
        match executor {
            Executor::Machine => "Machine Executor",
            Executor::RemoteDocker => "Remote Docker",
        }
    }

    fn word(&self, severity: &Severity) -> (&'static str, &'static str) {
        match severity {
            Severity::Fine => ("good", "fine"),
            Severity::Warning => ("coming", "warning"),
            Severity::Problem => ("bad", "problem"),
        }
    }
}

impl Changes<'_> {
    fn shown(&self, value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Null => "–".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// `GET /console/settings/checks/{id}`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<SettingsCheckId>,
) -> Result<Response, Problem> {
    let row = settings_checks::find(&state, id).await?;
    let above = html(&Page {
        form_token: &session.form_token,
        standing: compare(&state, &row).await?,
        now: state.clock.now(),
        row: &row,
        may_change: session.caller.role.may_operate(),
        style: assets::path("settings.css"),
    });
    let frame = Frame::new(&session, &uri, Tab::Settings, "Check of settings");
    let mut response = frame::page(&frame, Parts { above, ..Parts::default() });
    if !row.view.state.is_final() {
        response.headers_mut().insert(HeaderName::from_static("refresh"), AGAIN);
    }
    Ok(response)
}

async fn compare(state: &AppState, row: &CheckRow) -> Result<Standing, Problem> {
    let newest = settings::newest(state).await?;
    if newest.settings == row.proposed {
        return Ok(Standing::Saved(newest.version));
    }
    if newest.version == row.view.version {
        return Ok(Standing::Open);
    }
    Ok(Standing::Overtaken(Overtaken {
        version: newest.version,
        by: state.db.list_settings_versions(None, 1).await?.pop(),
        theirs: diff(&row.base, &newest.settings),
        together: rebase(&row.base, &row.proposed, &newest.settings).map(|rebased| rebased.both),
    }))
}

/// `POST /console/settings/checks/{id}/save`.
pub(super) async fn save(
    State(state): State<AppState>,
    Path(id): Path<SettingsCheckId>,
    Change { caller, .. }: Change<Fields>,
) -> Result<Response, Problem> {
    let row = settings_checks::find(&state, id).await?;
    if !row.view.state.is_final() {
        return Err(Problem::Conflict("The check is not over yet: wait for what it says.".to_owned()));
    }
    match settings::save(&state, &caller, row.view.version, &row.proposed).await {
        Ok(_) => Ok(Redirect::to("/console/settings?done=saved").into_response()),
        // The page of the check says who was first.
        Err(stale @ Problem::Stale) => Ok(audit::refused(to(id), stale.status())),
        Err(other) => Err(other),
    }
}

/// `POST /console/settings/checks/{id}/rebase`: checked again, on top of what somebody else has saved.
pub(super) async fn rebase_on_newest(
    State(state): State<AppState>,
    Path(id): Path<SettingsCheckId>,
    Change { caller, .. }: Change<Fields>,
) -> Result<Response, Problem> {
    let row = settings_checks::find(&state, id).await?;
    let newest = settings::newest(&state).await?;
    let rebased = rebase(&row.base, &row.proposed, &newest.settings).map_err(Problem::Conflict)?;
    rebased.settings.validate()?;
    let row = settings_checks::insert(&state, &caller, &newest, &rebased.settings).await?;
    Ok(to(row.view.id))
}

/// The page of a check.
pub(super) fn to(id: SettingsCheckId) -> Response {
    Redirect::to(&format!("/console/settings/checks/{id}")).into_response()
}
