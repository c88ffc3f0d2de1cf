//! What every request passes: it has an id, one log line, a time limit, and a panic in it becomes a problem document.
//!
//! The log line has method, path template, status, milliseconds, id and principal; never headers, queries or bodies.
//!
//! Writes: the log. Not here: how a problem looks (`problem`).

use super::problem::{self, Problem};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::time::{Duration, Instant};
use tower_http::request_id::RequestId;
use tracing::Instrument;

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
    let span = tracing::info_span!("request", request_id = id, principal = tracing::field::Empty);
    let started = Instant::now();
    let answer = tokio::time::timeout(longest, next.run(request)).instrument(span.clone()).await;
    let response = answer.unwrap_or_else(|_| Problem::TookTooLong.into_response());
    let _entered = span.enter();
    let mut response = problem::render(response, &id);
    // Answers are about one moment, and some hold keys: no cache keeps any, unless a handler knows better.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%method, route, status = response.status().as_u16(), ms, "answered");
    response
}

/// For the layer that catches panics.
#[allow(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    Problem::Defect(format!("panic: {}", text.unwrap_or_default())).into_response()
}
