//! Holds: an operator's "do not touch" on a VM, always with a reason and an end at most a year away.
//!
//! Reads, writes: `db` (VMs). Not here: what a hold keeps others from (`db::release`).

use super::auth::Operator;
use super::extract::{Json, Path};
use super::problem::Problem;
use super::state::AppState;
use super::vms;
use crate::domain::access::Caller;
use crate::domain::api::{Hold, HoldRequest, VmView};
use crate::domain::ids::VmId;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A hold keeps a machine running that may cost money: who wants more says so again.
const LONGEST: TimeDelta = TimeDelta::days(366);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(put_hold, delete_hold))
}

/// Holds a VM: nothing ends it and no task takes it until the hold is over.
///
/// `{"reason": "looking at a failed build", "seconds": 3600}` is answered with the VM.
#[utoipa::path(
    put, path = "/api/v1/vms/{id}/hold", tag = "vms", params(("id" = VmId, Path)), request_body = HoldRequest,
    responses((status = 200, description = "Held", body = VmView), (status = 409, description = "Its end has begun"))
)]
async fn put_hold(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VmId>,
    Json(request): Json<HoldRequest>,
) -> Result<axum::Json<VmView>, Problem> {
    hold(&state, &caller, id, request).await.map(axum::Json)
}

/// Holds a VM.
pub(super) async fn hold(state: &AppState, caller: &Caller, id: VmId, request: HoldRequest) -> Result<VmView, Problem> {
    let until = end(&request, state.clock.now())?;
    set(state, caller, id, Some(&Hold { reason: request.reason, until })).await
}

/// Lets go of a VM: the usual rules apply again.
#[utoipa::path(
    delete, path = "/api/v1/vms/{id}/hold", tag = "vms", params(("id" = VmId, Path)),
    responses((status = 200, description = "Not held any more", body = VmView))
)]
async fn delete_hold(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VmId>,
) -> Result<axum::Json<VmView>, Problem> {
    let_go(&state, &caller, id).await.map(axum::Json)
}

/// Lets go of a VM.
pub(super) async fn let_go(state: &AppState, caller: &Caller, id: VmId) -> Result<VmView, Problem> {
    let vm = vms::find(state, id).await?;
    if vm.hold.is_none() {
        return Ok(vm);
    }
    set(state, caller, id, None).await
}

async fn set(state: &AppState, caller: &Caller, id: VmId, hold: Option<&Hold>) -> Result<VmView, Problem> {
    let done = state.db.set_vm_hold(id, hold, &caller.principal, state.clock.now()).await?;
    let vm = vms::find(state, id).await?;
    if done || hold.is_none() {
        return Ok(vm);
    }
    Err(Problem::Conflict(format!("The VM is {}: hold one whose end has not begun.", vm.state)))
}

/// When the hold ends.
pub(super) fn end(request: &HoldRequest, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    match (request.until, request.seconds) {
        (None, Some(seconds)) => Ok(now + TimeDelta::seconds(seconds.into())),
        (Some(until), None) if until > now && until <= now + LONGEST => Ok(until),
        (Some(_), None) => Err(Problem::field("until", "say a time in the future, at most 366 days away.")),
        _ => Err(Problem::field("until", "say when the hold ends, by either \"until\" or \"seconds\".")),
    }
}
