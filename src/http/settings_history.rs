//! Earlier versions of the settings: who saved each, when, and the whole of it.
//!
//! Going back to one is a save like any other: its `settings`, sent with `PUT /api/v1/settings` on top of the newest.
//!
//! Reads: `db` (settings). Not here: the settings in force (`settings`).

use super::auth::Viewer;
use super::extract::{Path, Query};
use super::paging;
use super::problem::Problem;
use super::settings::seen_by;
use super::state::AppState;
use crate::domain::api::Page;
use crate::domain::settings_history::{SavedSettings, SettingsVersion};
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_versions)).routes(routes!(get_version))
}

/// Which part of the list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListVersions {
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Versions of the settings, newest first. None: nobody has saved any, and those of the configuration are in force.
#[utoipa::path(
    get, path = "/api/v1/settings/history", tag = "settings", params(ListVersions),
    responses((status = 200, description = "A page; the header Link has the next", body = Page<SettingsVersion>))
)]
async fn list_versions(
    State(state): State<AppState>,
    _: Viewer,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListVersions>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let before = query.cursor.as_deref().map(number).transpose()?;
    let versions = state.db.list_settings_versions(before, limit + 1).await?;
    Ok(paging::numbered_page(versions, limit, &uri, |version| version.version))
}

/// One version, the whole of it.
#[utoipa::path(
    get, path = "/api/v1/settings/history/{version}", tag = "settings", params(("version" = i64, Path)),
    responses((status = 200, description = "As it was saved", body = SavedSettings))
)]
async fn get_version(
    State(state): State<AppState>,
    Viewer(caller): Viewer,
    Path(version): Path<i64>,
) -> Result<axum::Json<SavedSettings>, Problem> {
    let (saved, body) = state.db.find_settings_version(version).await?.ok_or_else(|| {
        Problem::NotFound(format!("There is no version {version} of the settings: /api/v1/settings/history lists them."))
    })?;
    let settings = serde_json::from_value(body).map_err(|_| {
        Problem::Conflict(format!(
            "Version {version} was saved by another vm-service, which knew other settings: choose a newer one."
        ))
    })?;
    Ok(axum::Json(SavedSettings { saved, settings: seen_by(&caller, settings) }))
}

fn number(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|version| *version > 0).ok_or_else(paging::unknown_cursor)
}
