//! The console: what an operator sees of the service in a browser, and does; a viewer sees the same and is refused every change.
//!
//! Every page is whole without a script; a script adds live updates, ages that count, the theme and the key `/`. Pages, style and script
//! come from this binary alone, and the content policy forbids anything else. A *live part* is the piece of a page that is sent again
//! when what it shows has changed; it never holds a form, so that all who look at it share one.
//!
//! Neither htmx nor a chart library is used: forms and links need no script, replacing a part on a server-sent event takes a few lines,
//! and the pictures are SVG made here.
//!
//!     request → doors (host, origin, headers) → session → page → frame            live: hub → the same part → server-sent events
//!
//! Reads: `db`, live settings. Writes: `db` (sessions), and what the API's own functions write. Calls: the functions of the API's
//! handlers for every change. Not here: what may be done (`http::{tasks, vms, vm_hold, volumes, images, settings}`), SQL (`db`).

mod asked;
mod assets;
mod chart;
mod config;
mod doors;
mod events;
mod frame;
mod hosts;
mod image;
mod images;
mod kept;
mod live;
mod overview;
mod phases;
mod session;
mod settings;
mod sign_in;
mod task;
mod tasks;
mod terminal;
mod troubles;
mod vm;
mod vms;
mod volume;
mod volumes;
mod words;

pub(super) use config::Console;
pub use hosts::Hosts;

use super::problem::Problem;
use super::state::AppState;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Redirect;
use axum::routing::{any, get, post};
use tower_http::compression::CompressionLayer;

/// Every page, under `/console`; `/` leads there.
pub(super) fn routes(state: &AppState) -> Router<AppState> {
    let pages = Router::new()
        .route("/console", get(overview::page))
        .route("/console/", get(|| async { Redirect::permanent("/console") }))
        .route("/console/tasks", get(tasks::page))
        .route("/console/tasks/{id}", get(task::page))
        .route("/console/vms", get(vms::page))
        .route("/console/vms/{id}", get(vm::page))
        .route("/console/volumes", get(volumes::page))
        .route("/console/volumes/{id}", get(volume::page))
        .route("/console/images", get(images::page))
        .route("/console/images/{id}", get(image::page))
        .route("/console/events", get(events::page))
        .route(session::FOLLOWING, get(live::stream))
        .route("/console/sign-in", get(sign_in::form).post(sign_in::sign_in))
        .route("/console/sign-out", post(sign_in::sign_out))
        .route("/console/assets/{hash}/{file}", get(assets::file))
        .merge(settings::pages())
        .merge(
            changes().layer(from_fn_with_state(state.clone(), session::told)).layer(from_fn_with_state(state.clone(), kept::keep)),
        )
        .route("/console/{*rest}", get(nothing))
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(state.clone(), doors::pass));
    Router::new().route("/", get(|| async { Redirect::to("/console") })).merge(pages)
}

/// What a browser gets from a service that has still to start: what is in its way, as a page.
pub(super) fn waiting_routes(problem: impl Fn() -> Problem + Clone + Send + Sync + 'static) -> Router {
    let page = any(move || std::future::ready(problem()));
    ["/", "/console", "/console/", "/console/{*rest}"]
        .into_iter()
        .fold(Router::new(), |pages, path| pages.route(path, page.clone()))
        .route("/console/assets/{hash}/{file}", get(assets::file))
        .layer(from_fn(doors::dress))
}

/// Everything that an operator can do.
fn changes() -> Router<AppState> {
    Router::new()
        .route("/console/tasks/{id}/release", post(task::release))
        .route("/console/vms/{id}/hold", post(vm::hold))
        .route("/console/vms/{id}/let-go", post(vm::let_go))
        .route("/console/vms/{id}/terminate", post(vm::terminate))
        .route("/console/volumes/{id}/hold", post(volume::hold))
        .route("/console/volumes/{id}/let-go", post(volume::let_go))
        .route("/console/volumes/{id}/delete", post(volume::delete))
        .route("/console/images/{id}/share", post(image::share))
        .route("/console/images/{id}/promote", post(image::promote))
        .route("/console/images/{id}/retire", post(image::retire))
        .merge(settings::changes())
}

async fn nothing() -> Problem {
    Problem::NotFound("There is no such page: the console's own links lead to all there are.".to_owned())
}
