//! `/metrics`: everything that this process recorded, as text for Prometheus. Asks nobody: what there is was counted before.
//!
//! Reads: `telemetry`. Not here: what is counted (`loops::gauges`), what each metric means (`telemetry::names`).

use super::auth::Viewer;
use super::problem::Problem;
use super::state::AppState;
use crate::telemetry::recorder;
use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The text format, <https://prometheus.io/docs/instrumenting/exposition_formats/>.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// What this process recorded, for Prometheus: scrape it with a viewer's token.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"))
)]
async fn metrics(_: Viewer) -> Response {
    text()
}

/// `/metrics` alone, without a token: for a role without an API, on an address of its own.
pub fn metrics_router() -> Router {
    let nothing = || async { Problem::NotFound("There is only /metrics here.".to_owned()) };
    let router = Router::new().route("/metrics", get(|| async { text() })).fallback(nothing);
    super::enveloped(router, super::state::Limits::default().request)
}

fn text() -> Response {
    ([(header::CONTENT_TYPE, TEXT)], recorder::render()).into_response()
}
