//! Checks of settings before they are saved: asked for by operators, seen by viewers too. The wish is a row; what it comes to is written
//! by a loop (`loops::checks`).
//!
//! Reads, writes: `db` (settings_checks). Not here: saving (`settings`).

use super::auth::{Operator, Viewer};
use super::extract::{Json, Path, Query};
use super::problem::Problem;
use super::settings::{newest, seal_secrets, version};
use super::state::AppState;
use super::waiting::until_settled;
use crate::db::settings::Versioned;
use crate::db::settings_checks::{CheckRow, NewCheck};
use crate::domain::access::Caller;
use crate::domain::ids::SettingsCheckId;
use crate::domain::settings::Settings;
use crate::domain::settings_check::CheckView;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// As for settings.
const BODY_MAX: usize = 1 << 20;
/// For a provider to be asked about everything, and for another process to take over.
const WITHIN: TimeDelta = TimeDelta::seconds(60);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(check_settings)).routes(routes!(get_settings_check)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// Asks for a check of settings; nothing is saved. It looks whether the provider would work with them, and at what a save would change.
///
/// A field that is left out gets its default, as in a save. With `If-Match` the check is refused when those were not the newest settings.
#[utoipa::path(
    post, path = "/api/v1/settings/checks", tag = "settings", request_body = Settings,
    params(("If-Match" = Option<String>, Header, description = "The ETag of the settings that were changed")),
    responses(
        (status = 201, description = "Asked for; the header Location names it", body = CheckView),
        (status = 412, description = "Those were not the newest settings")
    )
)]
async fn check_settings(
    State(state): State<AppState>,
    Operator(caller): Operator,
    headers: HeaderMap,
    Json(mut settings): Json<Settings>,
) -> Result<Response, Problem> {
    let base = newest(&state).await?;
    seal_secrets(&state, Some(&base.settings), &mut settings)?;
    if let Some(seen) = headers.get(header::IF_MATCH)
        && seen.to_str().ok().and_then(version) != Some(base.version)
    {
        return Err(Problem::Stale);
    }
    let row = insert(&state, &caller, &base, &settings).await?;
    let location = format!("/api/v1/settings/checks/{}", row.view.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(row.view)).into_response())
}

/// How long to wait.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Seconds, 0 to 60.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
}

/// A check; with `wait`, as soon as it is done or expired, or when the time is over. Kept for a day.
#[utoipa::path(
    get, path = "/api/v1/settings/checks/{id}", tag = "settings", params(("id" = SettingsCheckId, Path), Wait),
    responses((status = 200, description = "As it stands", body = CheckView))
)]
async fn get_settings_check(
    State(state): State<AppState>,
    _: Viewer,
    Path(id): Path<SettingsCheckId>,
    Query(query): Query<Wait>,
) -> Result<axum::Json<CheckView>, Problem> {
    match query.wait.unwrap_or(0) {
        seconds @ 0..=60 => Ok(axum::Json(finished(&state, id, seconds).await?.view)),
        other => Err(Problem::Malformed(format!("Correct the query: \"wait\" is {other}, and may be 0 to 60 seconds."))),
    }
}

/// Asks for a check of these settings, whose secrets are sealed.
pub(super) async fn insert(state: &AppState, caller: &Caller, base: &Versioned, proposed: &Settings) -> Result<CheckRow, Problem> {
    let (id, now) = (SettingsCheckId(Uuid::new_v4()), state.clock.now());
    let new = NewCheck { id, principal: &caller.principal, base, proposed, deadline_at: now + WITHIN };
    state.db.insert_settings_check(&new, now).await?;
    find(state, id).await
}

/// The check as it stands.
pub(super) async fn find(state: &AppState, id: SettingsCheckId) -> Result<CheckRow, Problem> {
    let found = state.db.find_settings_check(id, state.clock.now()).await?;
    found.ok_or_else(|| {
        Problem::NotFound(format!("There is no check {id} of settings, or it is older than a day: check them again."))
    })
}

/// The check when nothing more comes, or as it is after so many seconds.
pub(super) async fn finished(state: &AppState, id: SettingsCheckId, seconds: u64) -> Result<CheckRow, Problem> {
    until_settled(state, seconds, || async {
        let row = find(state, id).await?;
        let is_final = row.view.state.is_final();
        Ok((row, is_final))
    })
    .await
}
