//! Live settings: read with their version, saved only on top of the version that the caller has seen.
//!
//! Reads, writes: `db` (settings). Not here: earlier versions (`settings_history`), checking them before (`settings_checks`), putting them
//! in force (`loops`).

use super::auth::{Operator, Viewer};
use super::extract::Json;
use super::problem::Problem;
use super::state::AppState;
use crate::db::DbError;
use crate::db::settings::Versioned;
use crate::domain::access::Caller;
use crate::domain::ec2::{AccessKey, Authentication};
use crate::domain::secret::Secret;
use crate::domain::settings::Settings;
use crate::domain::settings_diff::without_secrets;
use crate::seal::settings_row;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Root certificates are in the settings: more than other bodies need.
const BODY_MAX: usize = 1 << 20;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_settings, put_settings)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// The settings in force; the header `ETag` has their version. Who may not change them sees `[secret]` in place of each secret.
#[utoipa::path(
    get, path = "/api/v1/settings", tag = "settings",
    responses((status = 200, description = "In force", body = Settings, headers(("ETag" = String, description = "Their version"))))
)]
async fn get_settings(State(state): State<AppState>, Viewer(caller): Viewer) -> Result<Response, Problem> {
    let newest = newest(&state).await?;
    Ok(answer(newest.version, seen_by(&caller, newest.settings)))
}

/// Saves the settings, all of them; a field that is left out gets its default.
#[utoipa::path(
    put, path = "/api/v1/settings", tag = "settings", request_body = Settings,
    params(("If-Match" = String, Header, description = "The ETag of the settings that were changed")),
    responses(
        (status = 200, description = "Saved", body = Settings, headers(("ETag" = String, description = "The new version"))),
        (status = 412, description = "Changed since they were read"),
        (status = 428, description = "The header If-Match is missing")
    )
)]
async fn put_settings(
    State(state): State<AppState>,
    Operator(caller): Operator,
    headers: HeaderMap,
    Json(mut settings): Json<Settings>,
) -> Result<Response, Problem> {
    let (_, base) = top(&state).await?;
    seal_secrets(&state, base.as_ref(), &mut settings)?;
    let seen = headers.get(header::IF_MATCH).ok_or(Problem::NoIfMatch)?;
    let seen = seen.to_str().ok().and_then(version).ok_or(Problem::Stale)?;
    let version = save(&state, &caller, seen, &settings).await?;
    Ok(answer(version, settings))
}

/// Saves settings, whose secrets are sealed, on top of the version that was seen; says which version they are.
pub(super) async fn save(state: &AppState, caller: &Caller, seen: i64, settings: &Settings) -> Result<i64, Problem> {
    match state.db.insert_settings(seen, settings, state.clock.now(), &caller.principal).await {
        Err(DbError::Conflict(_)) => Err(Problem::Stale),
        other => Ok(other?),
    }
}

/// As this caller may see them.
pub(super) fn seen_by(caller: &Caller, settings: Settings) -> Settings {
    if caller.role.may_operate() { settings } else { without_secrets(settings) }
}

/// What is kept and shown has the secret half of an access key sealed. What we have sealed before, in whichever version, stays good, but not
/// for another key than it has in `base`: the settings that these were made of, when they can be read.
pub(super) fn seal_secrets(state: &AppState, base: Option<&Settings>, settings: &mut Settings) -> Result<(), Problem> {
    let Authentication::AccessKey(key) = &mut settings.ec2.authentication else { return Ok(()) };
    let Some(secret) = key.secret.take().map(Secret::new) else {
        let is_good = match base.map(|base| &base.ec2.authentication) {
            Some(Authentication::AccessKey(kept)) if kept.sealed == key.sealed => kept.id == key.id,
            _ => is_ours(state, key),
        };
        let missing = || Problem::field("ec2.authentication.access_key.secret", "give the secret half of the key.");
        return if is_good { Ok(()) } else { Err(missing()) };
    };
    key.sealed = Some(seal(state, &secret)?);
    Ok(())
}

/// The secret half of an access key as it is kept.
pub(super) fn seal(state: &AppState, secret: &Secret) -> Result<String, Problem> {
    let sealed = state.sealer.seal(settings_row(), secret.expose().as_bytes());
    Ok(BASE64.encode(sealed.map_err(|error| Problem::Defect(error.to_string()))?))
}

/// Only who has a sealing key of ours could have made it.
fn is_ours(state: &AppState, key: &AccessKey) -> bool {
    let sealed = key.sealed.as_deref().and_then(|text| BASE64.decode(text).ok());
    sealed.is_some_and(|sealed| state.sealer.open(settings_row(), &sealed).is_ok())
}

/// The settings in force, as they are saved.
pub(super) async fn newest(state: &AppState) -> Result<Versioned, Problem> {
    let saved = state.db.find_settings().await?;
    Ok(saved.unwrap_or_else(|| Versioned { version: 0, settings: state.settings.borrow().settings.clone() }))
}

/// The newest version, which a save goes on top of, and its settings when this binary can read them.
pub(super) async fn top(state: &AppState) -> Result<(i64, Option<Settings>), Problem> {
    match state.db.find_settings().await {
        Err(DbError::UnreadableSettings { version, .. }) => Ok((version, None)),
        Err(error) => Err(error.into()),
        Ok(Some(saved)) => Ok((saved.version, Some(saved.settings))),
        Ok(None) => Ok((0, Some(state.settings.borrow().settings.clone()))),
    }
}

fn answer(version: i64, settings: Settings) -> Response {
    ([(header::ETAG, format!("\"{version}\""))], axum::Json(settings)).into_response()
}

/// One strong tag, as we give them; no other can name a version.
pub(super) fn version(tag: &str) -> Option<i64> {
    tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}
