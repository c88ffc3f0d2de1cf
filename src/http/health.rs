//! `/status` says whether the service is configured and needs no token; `/health` says how what it depends on is.
//!
//! Provider `none` is healthy: tasks wait. When the database is away, `/health` cannot know its caller and is a 503 like every call.
//!
//! Reads: the configuration's problem, `db` (time, schema), the clock's skew.

use super::auth::Anyone;
use super::problem::Problem;
use super::state::AppState;
use crate::clock::SKEW_MAX;
use crate::domain::api::{DatabaseHealth, HealthView, StatusView};
use axum::Json;
use axum::extract::State;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health))
}

pub(super) fn open_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(status))
}

/// Whether the service is configured; 500 with one sentence when it is not.
#[utoipa::path(
    get, path = "/status", tag = "health", security(()),
    responses((status = 200, description = "It is", body = StatusView))
)]
async fn status(State(state): State<AppState>) -> Result<Json<StatusView>, Problem> {
    basic(&state.problem)
}

/// The answer of `/status`.
pub(super) fn basic(problem: &watch::Receiver<Option<String>>) -> Result<Json<StatusView>, Problem> {
    match problem.borrow().clone() {
        Some(sentence) => Err(Problem::Configuration(sentence)),
        None => Ok(Json(StatusView { status: "ok".to_owned() })),
    }
}

/// How the service and what it depends on are.
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, description = "`degraded` when something is not as it should be", body = HealthView))
)]
async fn health(State(state): State<AppState>, _caller: Anyone) -> Json<HealthView> {
    let (latency_ms, problem) = match state.db.server_time().await {
        Ok((_, latency)) => {
            let problem = state.db.check_schema().await.err().map(|error| error.to_string());
            (Some(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)), problem)
        }
        Err(error) => (None, Some(error.to_string())),
    };
    let skew = (state.skew)();
    let configuration_problem = state.problem.borrow().clone();
    let good = problem.is_none() && configuration_problem.is_none() && skew.abs() <= SKEW_MAX;
    Json(HealthView {
        status: if good { "ok" } else { "degraded" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: DatabaseHealth { latency_ms, problem },
        clock_skew_ms: skew.num_milliseconds(),
        configuration_problem,
    })
}
