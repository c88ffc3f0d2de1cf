//! VMs: seen by operators and viewers, ended and entered by operators. A held VM is never ended here.
//!
//! Reads, writes: `db` (VMs, the tasks on them). Not here: holds (`vm_hold`), how a VM ends (`loops`).

use super::auth::{Operator, Viewer};
use super::extract::{Json, Path, Query};
use super::problem::Problem;
use super::state::AppState;
use super::{connection, paging};
use crate::db::vm_list::VmFilter;
use crate::domain::access::Caller;
use crate::domain::api::{Connection, Page, TerminateRequest, Terminated, VmView};
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::ids::VmId;
use crate::domain::lifecycle::VmState;
use axum::extract::{OriginalUri, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// VMs that one call ends; more stay for the next.
const TERMINATE_MAX: i64 = 1000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_vms))
        .routes(routes!(get_vm, delete_vm))
        .routes(routes!(terminate_vms))
        .routes(routes!(vm_connection))
}

/// Which VMs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListVms {
    /// Only in this state.
    state: Option<VmState>,
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// VMs, newest first.
#[utoipa::path(
    get, path = "/api/v1/vms", tag = "vms", params(ListVms),
    responses((status = 200, description = "A page; the header Link has the next", body = Page<VmView>))
)]
async fn list_vms(
    State(state): State<AppState>,
    _: Viewer,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListVms>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let before = paging::read(query.cursor.as_deref())?.map(|(at, id)| (at, VmId(id)));
    let filter = VmFilter { state: query.state, id: None, before, limit: limit + 1 };
    let vms = list(&state, &filter).await?;
    Ok(paging::page(vms, limit, &uri, |vm| (vm.created_at, vm.id.0)))
}

/// One VM; those that ended some time ago are not shown any more.
#[utoipa::path(
    get, path = "/api/v1/vms/{id}", tag = "vms", params(("id" = VmId, Path)),
    responses((status = 200, description = "As it is now", body = VmView))
)]
async fn get_vm(State(state): State<AppState>, _: Viewer, Path(id): Path<VmId>) -> Result<axum::Json<VmView>, Problem> {
    find(&state, id).await.map(axum::Json)
}

/// Ends a VM; a task that has it fails with `terminated_by_operator`. A VM that is ending stays as it is.
#[utoipa::path(
    delete, path = "/api/v1/vms/{id}", tag = "vms", params(("id" = VmId, Path)),
    responses((status = 200, description = "Its end has begun", body = VmView), (status = 409, description = "It is held"))
)]
async fn delete_vm(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VmId>,
) -> Result<axum::Json<VmView>, Problem> {
    terminate(&state, &caller, id, &format!("DELETE /api/v1/vms/{id}/hold")).await.map(axum::Json)
}

/// Begins the end of a VM; `let_go`: by which the caller lets go of one that is held.
pub(super) async fn terminate(state: &AppState, caller: &Caller, id: VmId, let_go: &str) -> Result<VmView, Problem> {
    find(state, id).await?;
    state.db.terminate_vms(&[id], None, &by_operator(caller), state.clock.now()).await?;
    let vm = find(state, id).await?;
    if matches!(vm.state, VmState::Terminating | VmState::Terminated) {
        return Ok(vm);
    }
    let until = vm.hold.map(|hold| format!(" until {}: {:?}", hold.until, hold.reason)).unwrap_or_default();
    Err(Problem::Conflict(format!("The VM is held{until}. Let go of it first, with {let_go}.")))
}

/// Ends many VMs: these, or all in one state; or all unknown machines, whose rows were lost. Held ones stay.
///
/// `{"state": "available"}` is answered `{"terminating": ["0198c0de-…"], "kept": []}`, `{"unknown": true}` with the machines' names in
/// `machines`.
#[utoipa::path(
    post, path = "/api/v1/vms/terminate", tag = "vms", request_body = TerminateRequest,
    responses((status = 200, description = "What came of it", body = Terminated))
)]
async fn terminate_vms(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Json(request): Json<TerminateRequest>,
) -> Result<axum::Json<Terminated>, Problem> {
    let only = request.state;
    let vms = match (request.ids, request.state, request.unknown) {
        (None, None, true) => {
            let machines = state.db.end_unknown(&caller.principal, state.clock.now()).await?;
            return Ok(axum::Json(Terminated { terminating: Vec::new(), kept: Vec::new(), machines }));
        }
        (Some(ids), None, false) => ids,
        (None, Some(wanted), false) => {
            let filter = VmFilter { state: Some(wanted), limit: TERMINATE_MAX, ..VmFilter::default() };
            state.db.list_vms(&filter).await?.into_iter().map(|vm| vm.id).collect()
        }
        _ => return Err(Problem::field("ids", "say which VMs by one of \"ids\", \"state\" and \"unknown\".")),
    };
    let terminating = state.db.terminate_vms(&vms, only, &by_operator(&caller), state.clock.now()).await?;
    let kept = vms.into_iter().filter(|vm| !terminating.contains(vm)).collect();
    Ok(axum::Json(Terminated { terminating, kept, machines: Vec::new() }))
}

/// An operator's way into a VM. Who asked is noted in the events.
#[utoipa::path(
    get, path = "/api/v1/vms/{id}/connection", tag = "vms", params(("id" = VmId, Path)),
    responses(
        (status = 200, description = "The way in", body = Connection),
        (status = 409, description = "It cannot be entered now")
    )
)]
async fn vm_connection(
    State(state): State<AppState>,
    Operator(caller): Operator,
    Path(id): Path<VmId>,
) -> Result<Response, Problem> {
    let vm = find(&state, id).await?;
    let way_in = state.db.find_way_in(id, &caller.principal, state.clock.now()).await?.ok_or_else(|| {
        Problem::Conflict(format!(
            "The VM is {} and cannot be entered: choose one between its personalisation and its end.",
            vm.state
        ))
    })?;
    let connection = connection::open(&state, &way_in)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(connection)).into_response())
}

/// VMs; a hold that is over is none.
async fn list(state: &AppState, filter: &VmFilter) -> Result<Vec<VmView>, Problem> {
    let (mut vms, now) = (state.db.list_vms(filter).await?, state.clock.now());
    for vm in &mut vms {
        vm.hold = vm.hold.take().filter(|hold| hold.until > now);
    }
    Ok(vms)
}

/// The VM, from the live table.
pub(super) async fn find(state: &AppState, id: VmId) -> Result<VmView, Problem> {
    let filter = VmFilter { id: Some(id), limit: 1, ..VmFilter::default() };
    let vm = list(state, &filter).await?.into_iter().next();
    vm.ok_or_else(|| Problem::NotFound(format!("There is no VM {id}, or it ended some time ago: check the id.")))
}

fn by_operator(caller: &Caller) -> Failure {
    Failure::new(FailureCode::TerminatedByOperator, format!("ended by the operator {}", caller.principal))
}
