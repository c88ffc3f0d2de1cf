//! What happened, for operators and viewers: as pages, oldest first, or as a stream of server-sent events at the same path.
//!
//! Reads: `db` (events). Not here: the stream itself (`events_stream`), one task's timeline (`task_list`).

use super::auth::Viewer;
use super::extract::Query;
use super::guard::InFlight;
use super::problem::Problem;
use super::state::AppState;
use super::{events_stream, paging};
use crate::db::events::EventFilter;
use crate::domain::api::{EventView, Page};
use crate::domain::ids::{TaskId, VmId};
use axum::Extension;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_events))
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListEvents {
    /// Only about this task.
    task_id: Option<TaskId>,
    /// Only about this VM.
    vm_id: Option<VmId>,
    /// From the page before; also the id of the last event that was seen.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Events, oldest first; with `Accept: text/event-stream` a stream of those that come.
///
/// A stream begins now, or after the event that `Last-Event-ID` or `cursor` names; it ends after a while, and its reader comes
/// back with `Last-Event-ID`, as browsers do.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    params(ListEvents, ("Last-Event-ID" = Option<String>, Header, description = "For a stream: the last event that was seen")),
    responses((status = 200, description = "A page; the header Link has the next", content(
        (Page<EventView> = "application/json"),
        (String = "text/event-stream"),
    )))
)]
async fn list_events(
    State(state): State<AppState>,
    Viewer(caller): Viewer,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    in_flight: Option<Extension<InFlight>>,
    Query(query): Query<ListEvents>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let seen = headers.get("last-event-id").map(|id| id.to_str().map_err(|_| paging::unknown_cursor())).transpose()?;
    let after = seen.or(query.cursor.as_deref()).map(id).transpose()?;
    let filter = EventFilter { task: query.task_id, vm: query.vm_id, after, limit: limit + 1 };
    let accepts = |kind: &str| headers.get_all(header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|text| text.contains(kind)));
    if accepts("text/event-stream") {
        let open = state.streams.open(&caller.principal)?;
        return events_stream::answer(state, filter, open, in_flight.map(|Extension(token)| token)).await;
    }
    let events = state.db.list_events(&filter).await?;
    Ok(paging::numbered_page(events, limit, &uri, |event| event.id))
}

fn id(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|id| *id >= 0).ok_or_else(paging::unknown_cursor)
}
