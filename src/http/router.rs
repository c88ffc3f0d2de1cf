//! Every route of the API and the layers around them; what is not under [`auth::demand_token`] is listed in [`router`].
//!
//! Calls: the endpoint files, each of which gives its routes together with their part of the OpenAPI document.

use super::envelope::{self, REQUEST_ID};
use super::problem::Problem;
use super::state::{AppState, Limits};
use super::{
    audit_log, auth, console, docs, events, health, images, metrics, openapi, settings, settings_checks, settings_history,
    task_list, tasks, vm_hold, vms, volumes,
};
use axum::extract::DefaultBodyLimit;
use axum::http::header::AUTHORIZATION;
use axum::routing::get;
use axum::{Json, Router, middleware};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// What a body may have, except settings: the largest task has 16 keys of 4 KiB and a bit.
const BODY_MAX: usize = 64 * 1024;

fn guarded() -> OpenApiRouter<AppState> {
    tasks::routes()
        .merge(task_list::routes())
        .merge(vms::routes())
        .merge(vm_hold::routes())
        .merge(volumes::routes())
        .merge(images::routes())
        .merge(events::routes())
        .merge(settings::routes())
        .merge(settings_checks::routes())
        .merge(settings_history::routes())
        .merge(audit_log::routes())
        .merge(health::routes())
        .merge(metrics::routes())
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    openapi::finish(guarded().merge(health::open_routes()).into_openapi())
}

/// The whole API, and the console, which has sessions of its own. Without a token: `/status`, and the static page at `/docs`, which holds
/// no data and asks for a token itself.
pub fn router(state: AppState) -> Router {
    let document = Arc::new(document());
    let openapi = get(move |auth::Anyone(_): auth::Anyone| async move { Json((*document).clone()) });
    let (guarded, _) = guarded().split_for_parts();
    let guarded = guarded.route("/openapi.json", openapi).layer(middleware::from_fn_with_state(state.clone(), auth::demand_token));
    let (open, _) = health::open_routes().split_for_parts();
    let router = guarded
        .merge(open)
        .merge(docs::routes())
        .merge(console::routes(&state))
        .fallback(|| async { Problem::NotFound("There is nothing at this path: /docs shows what there is.".to_owned()) })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(BODY_MAX));
    enveloped(router, state.limits.request).with_state(state)
}

/// A service whose configuration must be mended first: `/status` says what is wrong, the rest of the API waits with the same sentence, and
/// a browser gets it as a page.
pub fn broken_router(problem: watch::Receiver<Option<String>>) -> Router {
    let told = problem.clone();
    let waits = move || {
        let sentence = told.borrow().clone();
        Problem::Configuration(sentence.unwrap_or_else(|| "The service is starting again: ask again soon.".to_owned()))
    };
    let router = Router::new()
        .route("/status", get(move || async move { health::basic(&problem) }))
        .merge(console::waiting_routes(waits.clone()))
        .fallback(move || std::future::ready(waits()));
    enveloped(router, Limits::default().request)
}

/// Any routes in the envelope: request id, log line, time limit, caught panics, problem documents.
pub fn enveloped<S: Clone + Send + Sync + 'static>(router: Router<S>, longest: Duration) -> Router<S> {
    router.layer(
        ServiceBuilder::new()
            .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION]))
            .map_request(envelope::keep_plain_id)
            .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
            .layer(middleware::from_fn_with_state(longest, envelope::wrap))
            .layer(CatchPanicLayer::custom(envelope::panicked)),
    )
}
