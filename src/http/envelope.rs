//! What every request passes: it has an id, one log line, a time limit, and a panic in it becomes a problem document.
//!
//! The log line has method, path template, status, milliseconds, id, principal, and the task, VM or volume that the path names; never
//! headers, queries or bodies.
//!
//! Writes: the log, the metrics of requests. Not here: how a problem looks (`problem`).

use super::problem::{self, Problem};
use crate::telemetry::{names, statsd};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use std::any::Any;
use std::time::{Duration, Instant};
use tower_http::request_id::RequestId;
use tracing::Instrument;
use tracing::field::{self, DisplayValue};
use uuid::Uuid;

/// Names a request, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Drops a request id that could not stand in a log line; a fresh one takes its place.
pub(super) fn keep_plain_id(mut request: Request) -> Request {
    let plain = |value: &HeaderValue| {
        (1..=64).contains(&value.len()) && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    if !request.headers().get(REQUEST_ID).is_none_or(plain) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// The envelope itself.
pub(super) async fn wrap(State(longest): State<Duration>, request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let Named { task, vm, volume } = named(&route, request.uri().path());
    let span = tracing::info_span!("request", request_id = id, principal = field::Empty, task, vm, volume);
    let started = Instant::now();
    let answer = tokio::time::timeout(longest, next.run(request)).instrument(span.clone()).await;
    let response = answer.unwrap_or_else(|_| Problem::TookTooLong.into_response());
    let _entered = span.enter();
    let refused = problem::is_refusing(&response);
    let mut response = problem::render(response, &id);
    // Answers are about one moment, and some hold keys: no cache keeps any, unless a handler knows better.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (status, took) = (response.status().as_u16(), started.elapsed());
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%method, route, status, ms, "answered");
    count(&method, route, status, refused, took);
    response
}

/// What a path is about, where its segments are ids.
#[derive(Debug, Default)]
struct Named {
    task: Option<DisplayValue<Uuid>>,
    vm: Option<DisplayValue<Uuid>>,
    volume: Option<DisplayValue<Uuid>>,
}

fn named(route: &str, path: &str) -> Named {
    let mut named = Named::default();
    let mut before = "";
    for (template, segment) in route.split('/').zip(path.split('/')) {
        let id = (template == "{id}").then(|| segment.parse().ok().map(field::display)).flatten();
        match before {
            "tasks" => named.task = id,
            "vms" => named.vm = id,
            "volumes" => named.volume = id,
            _ => {}
        }
        before = template;
    }
    named
}

/// `refused`: by the settings, which is no error of the server.
fn count(method: &Method, route: String, status: u16, refused: bool, took: Duration) {
    // What callers make up is no label.
    let known = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"];
    let method = known.into_iter().find(|known| method == known).unwrap_or("other");
    let class = match status {
        _ if refused => "refused",
        500.. => "5xx",
        400.. => "4xx",
        300.. => "3xx",
        _ => "2xx",
    };
    statsd::answered(method, &route, status);
    // Server errors of a route begin at 0: the first of them is growth.
    drop(counter!(names::HTTP_REQUESTS, "route" => route.clone(), "method" => method, "status" => "5xx"));
    counter!(names::HTTP_REQUESTS, "route" => route.clone(), "method" => method, "status" => class).increment(1);
    histogram!(names::HTTP_REQUEST, "route" => route, "method" => method).record(took.as_secs_f64());
}

/// For the layer that catches panics.
#[allow(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    Problem::Defect(format!("panic: {}", text.unwrap_or_default())).into_response()
}
