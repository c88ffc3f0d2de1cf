//! Cache volumes: seen by operators and viewers, held and deleted by operators. One in use, or held, is never deleted.
//!
//! Reads, writes: `db` (volumes). Not here: how a volume is deleted (`loops`).

use super::auth::{Operator, Viewer};
use super::extract::{Json, Path, Query, plain};
use super::paging;
use super::problem::Problem;
use super::state::AppState;
use super::vm_hold::end;
use crate::db::volume_list::VolumeFilter;
use crate::domain::access::Caller;
use crate::domain::api::{Hold, HoldRequest, Page, VolumeView};
use crate::domain::ids::VolumeId;
use crate::domain::lifecycle::VolumeState;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_volumes))
        .routes(routes!(get_volume, delete_volume))
        .routes(routes!(put_volume_hold, delete_volume_hold))
}

/// Which volumes.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListVolumes {
    /// Only in this state; any but `deleted` when absent.
    state: Option<VolumeState>,
    /// Only of this project.
    project_id: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Cache volumes, newest first.
#[utoipa::path(
    get, path = "/api/v1/volumes", tag = "volumes", params(ListVolumes),
    responses((status = 200, description = "A page; the header Link has the next", body = Page<VolumeView>))
)]
async fn list_volumes(
    State(state): State<AppState>,
    _: Viewer,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListVolumes>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let before = paging::read(query.cursor.as_deref())?.map(|(at, id)| (at, VolumeId(id)));
    if let Some(project) = &query.project_id {
        plain("project_id", project)?;
    }
    let filter =
        VolumeFilter { state: query.state, project: query.project_id, before, limit: limit + 1, ..VolumeFilter::default() };
    let volumes = list(&state, &filter).await?;
    Ok(paging::page(volumes, limit, &uri, |volume| (volume.created_at, volume.id.0)))
}

/// One volume; those that were deleted some time ago are not shown any more.
#[utoipa::path(
    get, path = "/api/v1/volumes/{id}", tag = "volumes", params(("id" = VolumeId, Path)),
    responses((status = 200, description = "As it is now", body = VolumeView))
)]
async fn get_volume(State(state): State<AppState>, _: Viewer, Path(id): Path<VolumeId>) -> Result<axum::Json<VolumeView>, Problem> {
    find(&state, id).await.map(axum::Json)
}

/// Deletes a volume that no VM has. One that is being deleted stays as it is.
#[utoipa::path(
    delete, path = "/api/v1/volumes/{id}", tag = "volumes", params(("id" = VolumeId, Path)),
    responses(
        (status = 200, description = "Its end has begun", body = VolumeView),
        (status = 409, description = "It is held, or in use")
    )
)]
async fn delete_volume(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VolumeId>,
) -> Result<axum::Json<VolumeView>, Problem> {
    delete(&state, &caller, id, &format!("DELETE /api/v1/volumes/{id}/hold")).await.map(axum::Json)
}

/// Begins the deletion of a volume; `let_go`: by which the caller lets go of one that is held.
pub(super) async fn delete(state: &AppState, caller: &Caller, id: VolumeId, let_go: &str) -> Result<VolumeView, Problem> {
    find(state, id).await?;
    state.db.delete_volume(id, &caller.principal, state.clock.now()).await?;
    let volume = find(state, id).await?;
    if matches!(volume.state, VolumeState::Deleting | VolumeState::Deleted) {
        return Ok(volume);
    }
    Err(Problem::Conflict(match (&volume.hold, volume.vm_id) {
        (Some(hold), _) => {
            format!("The volume is held until {}: {:?}. Let go of it first, with {let_go}.", hold.until, hold.reason)
        }
        (None, Some(vm)) => format!("The volume is in use by VM {vm}: delete it when its job is over."),
        (None, None) => format!("The volume is {}: try again when it is available.", volume.state),
    }))
}

/// Holds a volume: it is neither deleted nor given to a job until the hold is over.
///
/// `{"reason": "looking at a damaged cache", "seconds": 3600}` is answered with the volume.
#[utoipa::path(
    put, path = "/api/v1/volumes/{id}/hold", tag = "volumes", params(("id" = VolumeId, Path)), request_body = HoldRequest,
    responses((status = 200, description = "Held", body = VolumeView), (status = 409, description = "It is being deleted"))
)]
async fn put_volume_hold(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VolumeId>,
    Json(request): Json<HoldRequest>,
) -> Result<axum::Json<VolumeView>, Problem> {
    hold(&state, &caller, id, request).await.map(axum::Json)
}

/// Holds a volume.
pub(super) async fn hold(state: &AppState, caller: &Caller, id: VolumeId, request: HoldRequest) -> Result<VolumeView, Problem> {
    let until = end(&request, state.clock.now())?;
    set(state, caller, id, Some(&Hold { reason: request.reason, until })).await
}

/// Lets go of a volume: the usual rules apply again.
#[utoipa::path(
    delete, path = "/api/v1/volumes/{id}/hold", tag = "volumes", params(("id" = VolumeId, Path)),
    responses((status = 200, description = "Not held any more", body = VolumeView))
)]
async fn delete_volume_hold(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VolumeId>,
) -> Result<axum::Json<VolumeView>, Problem> {
    let_go(&state, &caller, id).await.map(axum::Json)
}

/// Lets go of a volume.
pub(super) async fn let_go(state: &AppState, caller: &Caller, id: VolumeId) -> Result<VolumeView, Problem> {
    let volume = find(state, id).await?;
    if volume.hold.is_none() {
        return Ok(volume);
    }
    set(state, caller, id, None).await
}

async fn set(state: &AppState, caller: &Caller, id: VolumeId, hold: Option<&Hold>) -> Result<VolumeView, Problem> {
    let done = state.db.set_volume_hold(id, hold, &caller.principal, state.clock.now()).await?;
    let volume = find(state, id).await?;
    if done || hold.is_none() {
        return Ok(volume);
    }
    Err(Problem::Conflict(format!("The volume is {}: hold one that is not being deleted.", volume.state)))
}

/// Volumes; a hold that is over is none.
pub(super) async fn list(state: &AppState, filter: &VolumeFilter) -> Result<Vec<VolumeView>, Problem> {
    let (mut volumes, now) = (state.db.list_volume_views(filter).await?, state.clock.now());
    for volume in &mut volumes {
        volume.hold = volume.hold.take().filter(|hold| hold.until > now);
    }
    Ok(volumes)
}

/// The volume.
pub(super) async fn find(state: &AppState, id: VolumeId) -> Result<VolumeView, Problem> {
    let filter = VolumeFilter { id: Some(id), limit: 1, ..VolumeFilter::default() };
    let volume = list(state, &filter).await?.into_iter().next();
    volume.ok_or_else(|| Problem::NotFound(format!("There is no volume {id}, or it was deleted some time ago: check the id.")))
}
