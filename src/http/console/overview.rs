//! The first page: what is wrong, the pools, the queue, the limits, the starts of the last hours.

use super::frame::{self, Frame, Parts, Tab};
use super::session::Session;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use axum::extract::{OriginalUri, State};
use axum::response::Response;

/// `GET /console`.
pub(super) async fn page(
    State(_state): State<AppState>,
    session: Session,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let frame = Frame::new(&session, &uri, Tab::Overview, "Overview");
    Ok(frame::page(&frame, Parts::default()))
}
