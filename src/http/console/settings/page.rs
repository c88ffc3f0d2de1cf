//! The form of all settings: shown as they are, as they were sent for a check, or as they were typed, with what is wrong at each field.

use super::field::{Form, GroupView, id};
use super::{Fields, GONE, base, seed, text, week};
use crate::db::settings::Versioned;
use crate::domain::catalogue::{Draft, FormError, defaults};
use crate::domain::ids::SettingsCheckId;
use crate::domain::secret::Secret;
use crate::domain::settings::Settings;
use crate::domain::settings_history::SettingsVersion;
use crate::http::console::frame::{self, Frame, Parts, Tab, html};
use crate::http::console::session::{Change, Session};
use crate::http::console::{assets, words};
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::{settings, settings_checks};
use askama::Template;
use axum::extract::{OriginalUri, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "settings.html", config = ".askama.toml")]
struct Page<'a> {
    form_token: &'a str,
    base: &'a Versioned,
    seed: String,
    saved: Option<SettingsVersion>,
    now: DateTime<Utc>,
    groups: Vec<GroupView>,
    week: String,
    errors: Vec<(String, &'a FormError)>,
    may_change: bool,
    style: String,
}

/// What is in the form.
struct Filled {
    base: Versioned,
    draft: Draft,
    errors: Vec<FormError>,
}

/// What the page may be asked for.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// As it was sent for this check.
    from: Option<SettingsCheckId>,
    /// What was just done (`words::done`).
    #[serde(rename = "done")]
    _done: Option<String>,
}

/// `GET /console/settings`.
pub(super) async fn page(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let (version, base, shown) = match asked.from {
        Some(check) => {
            let row = settings_checks::find(&state, check).await?;
            (row.view.version, row.base, row.proposed)
        }
        None => {
            let newest = settings::newest(&state).await?;
            (newest.version, newest.settings.clone(), newest.settings)
        }
    };
    let [base, shown] = [base, shown].map(|settings| settings::seen_by(&session.caller, settings));
    let filled = Filled { base: Versioned { version, settings: base }, draft: Draft::of(&shown), errors: Vec::new() };
    show(&state, &session, &uri, StatusCode::OK, filled).await
}

/// `POST /console/settings`: what the pressed button says.
pub(super) async fn submit(
    State(state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
    Change { caller, mut form }: Change<Fields>,
) -> Result<Response, Problem> {
    seal_typed(&state, &mut form)?;
    let version = text(&form, "version").parse().map_err(|_| Problem::Malformed("Load the page again.".to_owned()))?;
    let base = match base(&state, version, text(&form, "seed")).await {
        Err(Problem::Stale) => {
            let errors = vec![FormError { name: String::new(), message: GONE.to_owned() }];
            let filled = Filled { base: settings::newest(&state).await?, draft: Draft::sent(form), errors };
            return show(&state, &session, &uri, StatusCode::PRECONDITION_FAILED, filled).await;
        }
        found => found?,
    };
    let done = text(&form, "do").to_owned();
    let mut filled = Filled { base, draft: Draft::sent(form), errors: Vec::new() };
    match done.split_once(':') {
        Some(("add", path)) => filled.draft.add_row(path),
        Some(("remove", row)) => {
            if let Some((path, Ok(row))) = row.split_once('[').map(|(path, row)| (path, row.trim_end_matches(']').parse())) {
                filled.draft.remove_row(path, row);
            }
        }
        _ if done == "check" => match proposed(&state, &filled) {
            Ok(proposed) => {
                let row = settings_checks::insert(&state, &caller, &filled.base, &proposed).await?;
                return Ok(Redirect::to(&format!("/console/settings/checks/{}", row.view.id)).into_response());
            }
            Err(errors) => {
                filled.errors = errors;
                return show(&state, &session, &uri, StatusCode::UNPROCESSABLE_ENTITY, filled).await;
            }
        },
        // Seen again with the week that is typed; what is wrong is told too.
        _ => filled.errors = filled.draft.settings().err().unwrap_or_default(),
    }
    show(&state, &session, &uri, StatusCode::OK, filled).await
}

/// A secret that was typed stays with the form, however often it is shown again: as it is kept, and never as it was typed.
fn seal_typed(state: &AppState, form: &mut Fields) -> Result<(), Problem> {
    let typed = form.iter_mut().find(|(name, text)| name == "ec2.authentication.secret" && !text.trim().is_empty());
    let Some((_, text)) = typed else { return Ok(()) };
    let sealed = settings::seal(state, &Secret::new(std::mem::take(text).trim()))?;
    form.retain(|(name, _)| name != "ec2.authentication.sealed");
    form.push(("ec2.authentication.sealed".to_owned(), sealed));
    Ok(())
}

/// What the form says, with its secrets sealed.
fn proposed(state: &AppState, filled: &Filled) -> Result<Settings, Vec<FormError>> {
    let mut proposed = filled.draft.settings()?;
    settings::seal_secrets(state, Some(&filled.base.settings), &mut proposed).map_err(|_| {
        let message = "needs the secret half of the access key".to_owned();
        vec![FormError { name: "ec2.authentication".to_owned(), message }]
    })?;
    Ok(proposed)
}

async fn show(state: &AppState, session: &Session, uri: &Uri, status: StatusCode, filled: Filled) -> Result<Response, Problem> {
    let Filled { base, draft, errors } = filled;
    let now = state.clock.now();
    let saved = state.db.list_settings_versions(None, 1).await?.pop().filter(|saved| saved.version == base.version);
    // What cannot be read has no week: the one of before is not shown in its place.
    let week = draft.settings().map(|settings| week::picture(&settings.preallocated, now)).unwrap_or_default();
    let form = Form { draft: &draft, errors: &errors, defaults: &defaults() };
    let above = html(&Page {
        form_token: &session.form_token,
        seed: seed(&base),
        base: &base,
        saved,
        now,
        groups: form.groups(),
        week,
        errors: errors.iter().map(|error| (id(&error.name), error)).collect(),
        may_change: session.caller.role.may_operate(),
        style: assets::path("settings.css"),
    });
    let frame = Frame::new(session, uri, Tab::Settings, "Settings");
    Ok(frame::answer(status, &frame, Parts { above, ..Parts::default() }))
}
