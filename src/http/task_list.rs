//! Tasks as lists and timelines: what was asked for and what happened, never a way in.
//!
//! Reads: `db` (tasks, events). Not here: one task (`tasks`).

use super::auth::Anyone;
use super::extract::{Path, Query, plain};
use super::problem::Problem;
use super::state::AppState;
use super::{paging, task_wait};
use crate::db::events::EventFilter;
use crate::db::rows::TaskRow;
use crate::db::tasks::TaskFilter;
use crate::domain::api::{EventView, Page, TaskView};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A task that has more events than this shows its first ones.
const TIMELINE_MAX: i64 = 1000;
/// What of its VM belongs to a task's timeline: the phases, not what operators do.
const PHASES: [&str; 7] =
    ["vm.requested", "vm.launched", "vm.booting", "vm.available", "vm.terminating", "vm.terminated", "vm.start_failed"];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_tasks)).routes(routes!(timeline))
}

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListTasks {
    /// Only in this state.
    state: Option<TaskState>,
    /// Only of this project.
    project_id: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Tasks, newest first; a dispatcher sees its own.
#[utoipa::path(
    get, path = "/api/v1/tasks", tag = "tasks", params(ListTasks),
    responses((status = 200, description = "A page; the header Link has the next", body = Page<TaskView>))
)]
async fn list_tasks(
    State(state): State<AppState>,
    Anyone(caller): Anyone,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListTasks>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    let before = paging::read(query.cursor.as_deref())?.map(|(at, id)| (at, TaskId(id)));
    if let Some(project) = &query.project_id {
        plain("project_id", project)?;
    }
    let principal = (!caller.role.may_see_everything()).then_some(caller.principal);
    let filter = TaskFilter { principal, state: query.state, project: query.project_id, before, limit: limit + 1 };
    let tasks = state.db.list_tasks(&filter).await?;
    Ok(paging::page(tasks, limit, &uri, |task| (task.created_at, task.id.0)))
}

/// Every decision about the task and every phase of its VM, oldest first: why it waited, why this VM.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/timeline", tag = "tasks", params(("id" = TaskId, Path)),
    responses((status = 200, description = "All of it", body = Page<EventView>))
)]
async fn timeline(
    State(state): State<AppState>,
    Anyone(caller): Anyone,
    Path(id): Path<TaskId>,
) -> Result<Json<Page<EventView>>, Problem> {
    let row = task_wait::find(&state, &caller, id).await?;
    Ok(Json(Page { items: told(&state, &row).await?, next_cursor: None }))
}

/// What belongs to a task's timeline, oldest first.
pub(super) async fn told(state: &AppState, row: &TaskRow) -> Result<Vec<EventView>, Problem> {
    let id = row.view.id;
    let of_task = EventFilter { task: Some(id), limit: TIMELINE_MAX, ..EventFilter::default() };
    let mut items = state.db.list_events(&of_task).await?;
    if let Some(vm) = &row.view.vm {
        let of_vm = EventFilter { vm: Some(vm.id), limit: TIMELINE_MAX, ..EventFilter::default() };
        let phases = state.db.list_events(&of_vm).await?;
        items.extend(phases.into_iter().filter(|event| event.task_id.is_none() && PHASES.contains(&event.kind.as_str())));
        items.sort_by_key(|event| event.id);
    }
    Ok(items)
}
