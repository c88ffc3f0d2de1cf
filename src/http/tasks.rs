//! One task: made once under its id, shown to its owner with the way in while it is ready, ended when the job is over.
//!
//! A dispatcher's task is *its own* if and only if the principals are equal; of others it learns nothing (404). A task id that
//! somebody has is refused to everybody else (409). The same id and the same request are answered the same for ever, also when
//! the settings would refuse the request today.
//!
//! Reads, writes: `db` (tasks). Not here: lists and timelines (`task_list`), waiting (`task_wait`).

use super::auth::{Anyone, Dispatcher};
use super::extract::{Json, Path, Query};
use super::problem::Problem;
use super::state::AppState;
use super::{connection, task_wait};
use crate::db::rows::TaskRow;
use crate::db::tasks::{Ensured, NewTask};
use crate::domain::access::Caller;
use crate::domain::api::TaskView;
use crate::domain::ids::TaskId;
use crate::domain::lineage::Trust;
use crate::domain::task::TaskRequest;
use crate::seal;
use crate::telemetry::tell;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(put_task, get_task, delete_task)).routes(routes!(post_task)).routes(routes!(heartbeat))
}

/// Asks for a VM under an id that the caller chose.
///
/// `PUT /api/v1/tasks/0198c0de-0000-7000-8000-000000000001` with `{"executor": "machine", "project_id": "acme/app"}` is answered
/// `201 {"id": "0198c0de-…", "state": "queued", "executor": "machine", …}`; the same again `200`, another body `409`.
#[utoipa::path(
    put, path = "/api/v1/tasks/{id}", tag = "tasks", params(("id" = TaskId, Path, description = "Chosen by the caller")),
    request_body = TaskRequest,
    responses(
        (status = 201, description = "Made now", body = TaskView),
        (status = 200, description = "There already, same body", body = TaskView),
        (status = 409, description = "Another request has this id")
    )
)]
async fn put_task(
    State(state): State<AppState>,
    Dispatcher(caller): Dispatcher,
    Path(id): Path<TaskId>,
    Json(request): Json<TaskRequest>,
) -> Result<Response, Problem> {
    ensure(&state, &caller, id, &request).await
}

/// Asks for a VM under a fresh id.
///
/// With the header `Idempotency-Key`, the same key of the same principal names the same task, so that a request whose answer was
/// lost can be sent again.
#[utoipa::path(
    post, path = "/api/v1/tasks", tag = "tasks",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters")), request_body = TaskRequest,
    responses(
        (status = 201, description = "Made now", body = TaskView),
        (status = 200, description = "Made before under this key", body = TaskView),
        (status = 409, description = "Another request has this Idempotency-Key")
    )
)]
async fn post_task(
    State(state): State<AppState>,
    Dispatcher(caller): Dispatcher,
    headers: HeaderMap,
    Json(request): Json<TaskRequest>,
) -> Result<Response, Problem> {
    let id = match headers.get("idempotency-key") {
        None => TaskId(Uuid::now_v7()),
        Some(key) => id_of_key(&caller, key.as_bytes())?,
    };
    ensure(&state, &caller, id, &request).await
}

/// The task; with `wait`, as soon as it is ready or has ended, or when the time is over.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}", tag = "tasks", params(("id" = TaskId, Path), Wait),
    responses((status = 200, description = "As it is now", body = TaskView))
)]
async fn get_task(
    State(state): State<AppState>,
    Anyone(caller): Anyone,
    Path(id): Path<TaskId>,
    Query(query): Query<Wait>,
) -> Result<Response, Problem> {
    let row = match query.wait.unwrap_or(0) {
        0 => task_wait::find(&state, &caller, id).await?,
        seconds @ 1..=60 => task_wait::settled(&state, &caller, id, seconds).await?,
        other => return Err(Problem::Malformed(format!("Correct the query: \"wait\" is {other}, and may be 0 to 60 seconds."))),
    };
    answer(&state, &caller, StatusCode::OK, row)
}

/// How long to wait.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Seconds, 0 to 60.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
}

/// Renews the lease of a task that was made with `lease_seconds`.
#[utoipa::path(
    post, path = "/api/v1/tasks/{id}/heartbeat", tag = "tasks", params(("id" = TaskId, Path)),
    responses((status = 204, description = "The dispatcher is known to live"), (status = 409, description = "The task has ended"))
)]
async fn heartbeat(
    State(state): State<AppState>,
    Dispatcher(caller): Dispatcher,
    Path(id): Path<TaskId>,
) -> Result<StatusCode, Problem> {
    let row = task_wait::find(&state, &caller, id).await?;
    if row.principal != caller.principal {
        return Err(Problem::Forbidden("Only the task's own principal sends its heartbeats: use its token.".to_owned()));
    }
    if state.db.heartbeat(id, state.clock.now()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::Conflict("The task has ended: stop the job, and send no more heartbeats.".to_owned()))
}

/// The job is over: gives the VM back. A task that has ended stays as it is.
#[utoipa::path(
    delete, path = "/api/v1/tasks/{id}", tag = "tasks", params(("id" = TaskId, Path)),
    responses((status = 200, description = "As it ended", body = TaskView))
)]
async fn delete_task(
    State(state): State<AppState>,
    Dispatcher(caller): Dispatcher,
    Path(id): Path<TaskId>,
) -> Result<Response, Problem> {
    let row = release(&state, &caller, id).await?;
    answer(&state, &caller, StatusCode::OK, row)
}

/// Ends a task that this caller may see.
pub(super) async fn release(state: &AppState, caller: &Caller, id: TaskId) -> Result<TaskRow, Problem> {
    task_wait::find(state, caller, id).await?;
    state.db.release_task(id, state.clock.now()).await?;
    task_wait::find(state, caller, id).await
}

async fn ensure(state: &AppState, caller: &Caller, id: TaskId, request: &TaskRequest) -> Result<Response, Problem> {
    tracing::Span::current().record("task", tracing::field::display(id));
    // Fields in the order of the type, labels sorted, defaults filled in: equal requests have equal bytes.
    let bytes = serde_json::to_vec(request).map_err(|error| Problem::Defect(format!("a request cannot be written: {error}")))?;
    let request_hash = seal::fingerprint(&bytes);
    let settings = state.settings.borrow().settings.clone();
    if caller.untrusted_only && request.cache_trust == Trust::Trusted {
        let sentence = "This token is for code from outside: send \"cache_trust\": \"untrusted\", or use another token.";
        return Err(Problem::Forbidden(sentence.to_owned()));
    }
    let refusal = match settings.class(request.executor, &request.resource_class) {
        Err(sentence) => Some(Problem::field("resource_class", sentence)),
        Ok(_) if settings.refuse_new_tasks => Some(Problem::Refusing),
        Ok(_) => None,
    };
    if let Some(refusal) = refusal {
        let before = state.db.find_task(id).await?;
        let same = before.filter(|row| row.principal == caller.principal && row.request_hash == request_hash).ok_or(refusal)?;
        return answer(state, caller, StatusCode::OK, same);
    }
    let longest = i32::try_from(settings.timeouts.task().num_seconds()).unwrap_or(i32::MAX);
    let max_run_seconds = request.max_run_seconds.and_then(|s| i32::try_from(s).ok()).map_or(longest, |asked| asked.min(longest));
    let new = NewTask { id, principal: &caller.principal, request, request_hash: &request_hash, max_run_seconds };
    match state.db.ensure_task(&new, state.clock.now()).await? {
        Ensured::Created(row) => {
            tell_start(&row.view);
            let mut response = answer(state, caller, StatusCode::CREATED, *row)?;
            if let Ok(location) = format!("/api/v1/tasks/{id}").parse() {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        Ensured::Same(row) => answer(state, caller, StatusCode::OK, *row),
        Ensured::Taken => {
            Err(Problem::Conflict("This id (or Idempotency-Key) belongs to another request: choose a fresh one.".to_owned()))
        }
    }
}

/// What its PUT found already: a VM, and perhaps all that the job needs.
fn tell_start(task: &TaskView) {
    let Some(vm) = &task.vm else { return };
    let (executor, origin) = (task.request.executor.as_str(), vm.origin.as_str());
    tell::claim(executor, origin, "put");
    tell::phase("queued", executor, origin, Duration::ZERO);
    if task.ready_at.is_some() {
        tell::task_ready(executor, origin, Duration::ZERO);
    }
}

/// The task, with the way in for its owner while it is ready.
fn answer(state: &AppState, caller: &Caller, status: StatusCode, row: TaskRow) -> Result<Response, Problem> {
    let mut view = row.view;
    if let Some(way_in) = row.way_in.filter(|_| row.principal == caller.principal && caller.role.may_run_tasks()) {
        view.connection = Some(connection::open(state, &way_in)?);
    }
    Ok((status, [(header::CACHE_CONTROL, "no-store")], axum::Json(view)).into_response())
}

/// A UUID of version 8 made of SHA-256 over principal and key: the same for both, other for others.
fn id_of_key(caller: &Caller, key: &[u8]) -> Result<TaskId, Problem> {
    if !(1..=255).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        return Err(Problem::Malformed("Send an Idempotency-Key of 1 to 255 printable ASCII characters.".to_owned()));
    }
    let text = [caller.principal.as_bytes(), key].join(&0);
    let hash = seal::fingerprint(&text);
    let bytes = hash.first_chunk::<16>().ok_or_else(|| Problem::Defect("a fingerprint is too short".to_owned()))?;
    Ok(TaskId(uuid::Builder::from_custom_bytes(*bytes).into_uuid()))
}
