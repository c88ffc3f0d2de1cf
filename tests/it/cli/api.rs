//! An API that answers as `http` does, typed by `domain::api`, and remembers what it was asked.

use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vm_service::domain::api::*;
use vm_service::domain::failure::Failure;
use vm_service::domain::ids::{ImageId, TaskId, VmId};
use vm_service::domain::image::{ImageView, RegisteredImages};
use vm_service::domain::lifecycle::{TaskState, VmState};
use vm_service::domain::tags::Origin;
use vm_service::domain::task::{Executor, TaskRequest};

pub(super) const TASK: TaskId = TaskId(Uuid::from_u128(1));
/// What the service's clock says in every answer.
pub(super) const DATE: &str = "Sun, 22 Nov 2026 12:00:00 GMT";

/// How it behaves, and what it saw.
#[derive(Default)]
pub(super) struct World {
    pub(super) calls: Vec<String>,
    pub(super) tokens: Vec<String>,
    pub(super) bodies: Vec<Value>,
    pub(super) connection: Option<Connection>,
    pub(super) task: Option<TaskView>,
    /// Polls before the task is ready.
    pub(super) polls: usize,
    /// The first calls whose answer is lost after they were carried out.
    pub(super) lost_puts: usize,
    /// The first poll stops the whole server.
    pub(super) dies: Option<CancellationToken>,
    pub(super) refuse_put: Option<(StatusCode, Value)>,
    pub(super) fails: Option<Failure>,
    pub(super) silent_release: bool,
    pub(super) events: Vec<EventView>,
    pub(super) vms: Vec<VmView>,
    pub(super) tasks: Vec<TaskView>,
    pub(super) images: Vec<ImageView>,
}

#[derive(Clone)]
pub(super) struct Api {
    pub(super) url: String,
    world: Arc<Mutex<World>>,
}

impl Api {
    pub(super) async fn start(world: World) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let api = Self { url: format!("http://{addr}"), world: Arc::new(Mutex::new(world)) };
        api.listen(listener, CancellationToken::new());
        api
    }

    /// Serves until `off`; open connections end with their answers.
    pub(super) fn listen(&self, listener: tokio::net::TcpListener, off: CancellationToken) {
        let router = self.router();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, router) => served.unwrap(),
                () = off.cancelled() => {}
            }
        });
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn count(&self, call: &str) -> usize {
        self.world().calls.iter().filter(|made| made.starts_with(call)).count()
    }

    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/api/v1/tasks/{id}", get(get_task).put(put_task).delete(delete_task))
            .route("/api/v1/tasks/{id}/heartbeat", post(heartbeat))
            .route("/api/v1/tasks/{id}/timeline", get(timeline))
            .route("/api/v1/tasks", get(|s: State<Self>, u: Uri, q: Query<HashMap<String, String>>| async move { page(&s, &u, &q, |w| items(&w.tasks)) }))
            .route("/api/v1/vms", get(|s: State<Self>, u: Uri, q: Query<HashMap<String, String>>| async move { page(&s, &u, &q, |w| items(&w.vms)) }))
            .route("/api/v1/vms/terminate", post(terminate_unknown))
            .route("/api/v1/vms/{id}", get(get_vm).delete(delete_vm))
            .route("/api/v1/vms/{id}/connection", get(|s: State<Self>| async move { Json(s.world().connection.clone().unwrap()) }))
            .route("/api/v1/vms/{id}/hold", axum::routing::put(hold).delete(hold))
            .route("/api/v1/images", get(|s: State<Self>, u: Uri, q: Query<HashMap<String, String>>| async move { page(&s, &u, &q, |w| items(&w.images)) }).post(register))
            .route("/api/v1/images/{id}", get(get_image))
            .route("/api/v1/images/{id}/{verb}", post(move_image).put(move_image))
            .layer(axum::middleware::from_fn_with_state(self.clone(), seen))
            .with_state(self.clone())
    }
}

async fn seen(State(api): State<Api>, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    api.world().tokens.extend(token);
    api.world().calls.push(format!("{} {}", request.method(), request.uri()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::DATE, DATE.parse().unwrap());
    response
}

pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({"type": "about:blank", "status": status.as_u16(), "title": "T", "detail": detail}))).into_response()
}

async fn put_task(State(api): State<Api>, Path(id): Path<TaskId>, Json(request): Json<TaskRequest>) -> Response {
    let mut world = api.world();
    world.bodies.push(serde_json::to_value(&request).unwrap());
    if let Some((status, body)) = world.refuse_put.clone() {
        return (status, Json(body)).into_response();
    }
    let ready = world.polls == 0;
    let mut task = task(id, if ready { TaskState::Ready } else { TaskState::Queued });
    task.request = request;
    task.connection = world.connection.clone().filter(|_| ready);
    world.task = Some(task.clone());
    if world.lost_puts > 0 {
        world.lost_puts -= 1;
        drop(world);
        // Ends the connection without an answer, and without a message of the panic hook.
        std::panic::resume_unwind(Box::new(()));
    }
    (StatusCode::CREATED, Json(task)).into_response()
}

async fn get_task(State(api): State<Api>, uri: Uri) -> Response {
    if uri.query().is_some() {
        // As a long poll does, it takes a while.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    let mut world = api.world();
    if let Some(off) = world.dies.take() {
        drop(world);
        off.cancel();
        std::panic::resume_unwind(Box::new(()));
    }
    world.polls = world.polls.saturating_sub(1);
    let (ready, connection, fails) = (world.polls == 0, world.connection.clone(), world.fails.clone());
    let Some(task) = world.task.as_mut() else { return problem(StatusCode::NOT_FOUND, "No such task.") };
    if let Some(failure) = fails {
        (task.state, task.failure) = (TaskState::Failed, Some(failure));
    } else if ready && task.state == TaskState::Queued {
        (task.state, task.connection) = (TaskState::Ready, connection);
    }
    Json(task.clone()).into_response()
}

async fn delete_task(State(api): State<Api>) -> Response {
    if api.world().silent_release {
        std::future::pending::<()>().await;
    }
    let mut world = api.world();
    match world.task.as_mut() {
        Some(task) => {
            (task.state, task.connection) = (TaskState::Released, None);
            Json(task.clone()).into_response()
        }
        None => problem(StatusCode::NOT_FOUND, "No such task."),
    }
}

async fn heartbeat(State(api): State<Api>) -> Response {
    match api.world().fails {
        Some(_) => problem(StatusCode::CONFLICT, "The task has ended."),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn timeline(State(api): State<Api>) -> Response {
    Json(Page { items: api.world().events.clone(), next_cursor: None }).into_response()
}

fn items<T: serde::Serialize>(all: &[T]) -> Vec<Value> {
    all.iter().map(|one| serde_json::to_value(one).unwrap()).collect()
}

/// Pages of two.
fn page(api: &Api, _: &Uri, query: &HashMap<String, String>, all: impl Fn(&World) -> Vec<Value>) -> Response {
    let from: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let all = all(&api.world());
    let next_cursor = (from + 2 < all.len()).then(|| (from + 2).to_string());
    Json(Page { items: all.into_iter().skip(from).take(2).collect(), next_cursor }).into_response()
}

async fn get_vm(State(api): State<Api>, Path(id): Path<VmId>) -> Response {
    match api.world().vms.iter().find(|vm| vm.id == id) {
        Some(vm) => Json(vm.clone()).into_response(),
        None => problem(StatusCode::NOT_FOUND, &format!("There is no VM {id}.")),
    }
}

async fn register(State(api): State<Api>, Json(body): Json<Value>) -> Response {
    let mut world = api.world();
    world.bodies.push(body);
    (StatusCode::CREATED, Json(RegisteredImages { images: world.images.clone() })).into_response()
}

async fn get_image(State(api): State<Api>, Path(_): Path<ImageId>) -> Response {
    Json(api.world().images[0].clone()).into_response()
}

async fn move_image(State(api): State<Api>, Path((_, verb)): Path<(ImageId, String)>, Json(body): Json<Value>) -> Response {
    let mut world = api.world();
    world.bodies.push(body.clone());
    if verb == "promote" && body["force"] == false {
        return problem(StatusCode::CONFLICT, "No VM of it has become ready yet.");
    }
    Json(world.images[0].clone()).into_response()
}

async fn delete_vm(api: State<Api>, id: Path<VmId>) -> Response {
    get_vm(api, id).await
}

async fn hold(State(api): State<Api>, id: Path<VmId>, method: Method, body: axum::body::Bytes) -> Response {
    if method == Method::PUT {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let until = now() + TimeDelta::seconds(body["seconds"].as_i64().unwrap());
        let hold = Hold { reason: body["reason"].as_str().unwrap().to_owned(), until };
        let mut world = api.world();
        world.bodies.push(body);
        if let Some(vm) = world.vms.iter_mut().find(|vm| vm.id == *id) {
            vm.hold = Some(hold);
        }
    }
    get_vm(State(api), id).await
}

async fn terminate_unknown(State(api): State<Api>, axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
    api.world().bodies.push(body);
    axum::Json(serde_json::json!({ "terminating": [], "kept": [], "machines": ["m-1"] }))
}

pub(super) fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc2822(DATE).unwrap().to_utc()
}

pub(super) fn task(id: TaskId, state: TaskState) -> TaskView {
    TaskView {
        id,
        state,
        request: TaskRequest {
            executor: Executor::RemoteDocker,
            project_id: "p".to_owned(),
            resource_class: "medium".to_owned(),
            ssh_public_keys: Vec::new(),
            max_run_seconds: None,
            lease_seconds: Some(60),
            docker_layer_caching: false,
            cache_trust: vm_service::domain::lineage::Trust::Trusted,
            priority: 0,
            labels: [("branch".to_owned(), "main".to_owned())].into(),
        },
        created_at: now() - TimeDelta::minutes(3),
        ready_at: None,
        ended_at: None,
        vm: None,
        cache: None,
        connection: None,
        failure: None,
    }
}

pub(super) fn vm(number: u128) -> VmView {
    VmView {
        id: VmId(Uuid::from_u128(number)),
        state: VmState::Available,
        reason: None,
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        origin: Origin::Preallocated,
        provider: "onhost".to_owned(),
        provider_id: Some(format!("vm-{number}")),
        address: None,
        task_id: None,
        created_at: now() - TimeDelta::hours(5),
        available_at: None,
        absolute_end_at: now() + TimeDelta::hours(5),
        hold: None,
    }
}

pub(super) fn event(id: i64, kind: &str, message: &str) -> EventView {
    let at = now() + TimeDelta::milliseconds(id * 1500);
    EventView { id, at, kind: kind.to_owned(), task_id: Some(TASK), vm_id: None, message: message.to_owned() }
}

/// A VM with a Docker engine that nobody asks.
pub(super) fn docker() -> Connection {
    let text = str::to_owned;
    Connection {
        ssh: SshConnection { host: text("127.0.0.1"), port: 1, user: text("u"), private_key: text("-"), host_key: text("-") },
        docker: Some(DockerConnection { host: text("tcp://127.9.9.9:2376"), ca: text("CA"), cert: text("CERT"), key: text("KEY") }),
    }
}
