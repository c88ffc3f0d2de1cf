//! A day of the whole service over the simulated cloud, short and full of everything that is counted: jobs from the pool and from the
//! queue, with and without cache, on both executors; leaks, a start that fails, a throttled call, requests good and bad.

use crate::api_support::Reply;
use crate::support::Bench;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;
use vm_service::db::wake::Wake;
use vm_service::domain::access::{Caller, Role};
use vm_service::domain::ids::{TaskId, TokenId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::http;
use vm_service::http::state::AppState;
use vm_service::loops::timers::{self, Crons};
use vm_service::loops::{self, gauges::Gauges};
use vm_service::seal::Sealer;
use vm_service::sim::Fault;

/// The token of the principal `ops`, who may do everything.
pub(super) const TOKEN: &str = "vms_canary-token-of-ops";

/// The service in one process, over the simulated cloud.
pub(super) struct Day {
    pub(super) bench: Bench,
    pub(super) router: Router,
    /// Base64.
    pub(super) sealing_key: String,
    tasks: u128,
}

impl Day {
    pub(super) async fn new(pool: PgPool) -> Self {
        let mut bench = Bench::new(pool).await;
        let sealing_key = Sealer::fresh_key().unwrap().to_string();
        bench.world.sealer = Arc::new(Sealer::new([sealing_key.as_str()]).unwrap());
        let world = &bench.world;
        let caller = Caller { principal: "ops".to_owned(), role: Role::Operator, untrusted_only: false };
        let hashes = world.sealer.token_hashes(TOKEN);
        world.db.insert_token(TokenId(Uuid::new_v4()), &caller, &hashes[0], bench.now()).await.unwrap();
        let (_told, problem) = watch::channel(None);
        let (db, sealer, settings) = (world.db.clone(), world.sealer.clone(), world.settings.clone());
        let state = AppState::new(db, sealer, world.clock.clone(), settings, problem, CancellationToken::new());
        Self { router: http::router(state), bench, sealing_key, tasks: 0 }
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.send(method, path, body, "").await
    }

    /// Saves settings on top of those with this tag.
    pub(super) async fn put_settings(&self, settings: &Value, etag: &str) -> Reply {
        self.send("PUT", "/api/v1/settings", Some(settings), etag).await
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>, etag: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
        let request = request.header("content-type", "application/json").header("if-match", etag);
        let request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(to_bytes(body, 10 << 20).await.unwrap().to_vec()).unwrap();
        Reply { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// Everything that is recorded, with gauges as they are now.
    pub(super) async fn metrics(&self) -> String {
        self.bench.tick(&Gauges::new(self.bench.world.clone())).await;
        let reply = self.call("GET", "/metrics", None).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"), "{reply:?}");
        reply.text
    }

    /// Asks for a VM by PUT.
    pub(super) async fn ask(&mut self, body: &Value) -> (TaskId, Reply) {
        self.tasks += 1;
        let id = TaskId(Uuid::from_u128(self.tasks << 100 | 7));
        let reply = self.call("PUT", &format!("/api/v1/tasks/{id}"), Some(body)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        (id, reply)
    }

    /// A job from its PUT to its DELETE; the answer that it began with.
    pub(super) async fn job(&mut self, body: &Value) -> Value {
        let (id, _) = self.ask(body).await;
        self.bench.turn_until(id, TaskState::Ready, 120).await;
        let path = format!("/api/v1/tasks/{id}");
        let ready = self.call("GET", &path, None).await.json();
        if ready["cache"]["volume_id"].is_string() {
            self.bench.sim.use_layers(ready["vm"]["provider_id"].as_str().unwrap(), &[("base", 100)]);
        }
        assert_eq!(self.call("DELETE", &path, None).await.status, 200);
        self.bench.turn(10).await;
        ready
    }

    /// The day.
    pub(super) async fn live(&mut self) -> Vec<Value> {
        self.bench.set(|settings| settings.preallocated.machine = 1).await;
        self.bench.turn_until_states("available 1", 60).await;
        let mut answers = Vec::new();
        answers.push(self.job(&json!({"executor": "machine", "project_id": "warm"})).await);
        self.bench.set(|settings| settings.preallocated.machine = 0).await;
        let keys = json!({"executor": "machine", "project_id": "keys", "ssh_public_keys": [PUBLIC_KEY]});
        answers.push(self.job(&keys).await);
        answers.push(self.job(&json!({"executor": "remote_docker", "project_id": "docker"})).await);
        let cached = json!({"executor": "machine", "project_id": "cached", "docker_layer_caching": true});
        answers.push(self.job(&cached).await);
        answers.push(self.job(&cached).await);
        self.bench.sim.inject(Fault::DamagedDisk);
        answers.push(self.job(&cached).await);
        // Two that nobody asks the provider for: there is no such machine and no such way.
        assert_eq!(self.call("GET", "/api/v1/vms/no-id", None).await.status, 400);
        assert_eq!(self.call("GET", "/nothing", None).await.status, 404);

        self.bench.sim.inject(Fault::Throttle);
        self.bench.sim.inject(Fault::WrongHostKey);
        answers.push(self.job(&json!({"executor": "machine", "project_id": "unlucky"})).await);
        self.bench.sim.plant("orphan", self.bench.tags());
        let (lost, _) = self.ask(&json!({"executor": "machine", "project_id": "lost"})).await;
        self.bench.turn_until(lost, TaskState::Ready, 120).await;
        let machine = self.bench.task(lost).await.view.vm.unwrap().provider_id.unwrap();
        self.bench.sim.kill(&machine);
        self.bench.sim.forget(&machine);
        self.bench.turn_by(20, TimeDelta::seconds(10)).await;
        self.bench.set(|settings| settings.refuse_new_tasks = true).await;
        let refused = json!({"executor": "machine", "project_id": "late"});
        assert_eq!(self.call("POST", "/api/v1/tasks", Some(&refused)).await.status, 503);
        self.bench.set(|settings| settings.refuse_new_tasks = false).await;
        self.run_loops().await;
        answers
    }

    /// Every loop by its timer, for a moment.
    async fn run_loops(&mut self) {
        let (id, _) = self.ask(&json!({"executor": "machine", "project_id": "timers"})).await;
        let (world, stop) = (&self.bench.world, CancellationToken::new());
        let all = [loops::serve_loops(world), loops::scaler_loops(world), loops::gc_loops(world)].concat();
        let crons = Crons::start().await.unwrap();
        let wake = Wake::default();
        let ready = async {
            while self.bench.state(id).await != TaskState::Ready {
                self.bench.clock.advance(TimeDelta::milliseconds(500));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stop.cancel();
        };
        tokio::join!(timers::run(all, world.clock.clone(), &wake, &crons, stop.clone()), ready);
        crons.stop().await;
        assert_eq!(self.call("DELETE", &format!("/api/v1/tasks/{id}"), None).await.status, 200);
    }
}

/// Somebody's own.
pub(super) const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHZtLXNlcnZpY2UgdGVzdCBrZXkgZm9yIG5vYm9keSEh somebody";
