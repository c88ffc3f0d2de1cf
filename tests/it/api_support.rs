//! What the tests of the API stand on: the whole router over a real database, a token of each role, and VMs made by the verbs of `db`.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;
use vm_service::clock::{Clock, HandClock};
use vm_service::db::Db;
use vm_service::db::launches::NewLaunch;
use vm_service::db::settings::Versioned;
use vm_service::db::vms::Place;
use vm_service::db::wake::Wake;
use vm_service::domain::access::{Caller, Role};
use vm_service::domain::identity::{DockerIdentity, Identity};
use vm_service::domain::ids::{LaunchId, TokenId, VmId};
use vm_service::domain::lifecycle::VmState;
use vm_service::domain::secret::Secret;
use vm_service::domain::settings::{Budget, Settings};
use vm_service::domain::tags::Origin;
use vm_service::domain::task::Executor;
use vm_service::http;
use vm_service::http::state::{AppState, Limits};
use vm_service::seal::Sealer;

/// Tokens; each is of the principal with the same name.
pub(crate) const CI: &str = "vms_ci";
pub(crate) const OTHER: &str = "vms_other";
pub(crate) const OPERATOR: &str = "vms_operator";
pub(crate) const VIEWER: &str = "vms_viewer";

/// Parts of an identity that its owner gets, and nobody else.
pub(crate) const SECRETS: [&str; 2] = ["canary-login-private", "canary-client-key"];
/// Parts of an identity that nobody gets.
pub(crate) const INNER_SECRETS: [&str; 2] = ["canary-host-private", "canary-server-key"];

/// The API in a test.
pub(crate) struct Api {
    pub(crate) state: AppState,
    pub(crate) router: Router,
    pub(crate) clock: HandClock,
    pub(crate) settings: watch::Sender<Versioned>,
    pub(crate) problem: watch::Sender<Option<String>>,
    pub(crate) logs: Logs,
    _logging: tracing::subscriber::DefaultGuard,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    /// The sentence of a problem document with this status; all of its form is checked.
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let view: vm_service::domain::api::ProblemView =
            serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!((view.status, view.kind.as_str()), (status, "about:blank"), "{self:?}");
        assert_eq!(view.title, StatusCode::from_u16(status).unwrap().canonical_reason().unwrap());
        assert_eq!(view.request_id, self.header("x-request-id"), "{self:?}");
        assert!(!view.request_id.is_empty() && view.detail.ends_with(['.', '"']), "{self:?}");
        view.detail
    }
}

/// What was logged, as JSON lines.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Logs {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

/// The body of a task.
pub(crate) fn machine() -> Value {
    json!({ "executor": "machine", "project_id": "acme/app" })
}

pub(crate) fn task_path(n: u128) -> String {
    format!("/api/v1/tasks/{}", Uuid::from_u128(n))
}

impl Api {
    pub(crate) async fn new(pool: PgPool) -> Self {
        Self::with_limits(pool, Limits::default()).await
    }

    pub(crate) async fn with_limits(pool: PgPool, limits: Limits) -> Self {
        let api = Self::over(pool, limits);
        let sealer = &api.state.sealer;
        let tokens = [(CI, Role::Dispatcher), (OTHER, Role::Dispatcher), (OPERATOR, Role::Operator), (VIEWER, Role::Viewer)];
        for (token, role) in tokens {
            let caller = Caller { principal: token.trim_start_matches("vms_").to_owned(), role, untrusted_only: false };
            api.state.db.insert_token(TokenId(Uuid::new_v4()), &caller, &sealer.token_hashes(token)[0], start()).await.unwrap();
        }
        let seed = Versioned { version: 0, settings: Settings::default() };
        api.state.db.apply_limits(&seed, Budget { vms: 100, in_flight: 100, volumes: 0 }, true).await.unwrap();
        api
    }

    /// Without touching the database.
    pub(crate) fn over(pool: PgPool, limits: Limits) -> Self {
        let clock = HandClock::at(start());
        let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
        let (problem, trouble) = watch::channel(None);
        let sealer = Arc::new(Sealer::new([Sealer::fresh_key().unwrap().as_str()]).unwrap());
        let db = Db { pool, wake: Wake::default() };
        let state =
            AppState::new(db, sealer, Arc::new(clock.clone()), follow, trouble, CancellationToken::new()).with_limits(limits);
        let logs = Logs::default();
        let to = logs.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE).with_writer(move || to.clone()).finish();
        let logging = tracing::subscriber::set_default(subscriber);
        Self { router: http::router(state.clone()), state, clock, settings, problem, logs, _logging: logging }
    }

    pub(crate) fn db(&self) -> &Db {
        &self.state.db
    }

    pub(crate) fn request(token: &str, method: &str, path: &str) -> axum::http::request::Builder {
        let request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10 << 20).await.unwrap();
        Reply { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub(crate) async fn call(&self, token: &str, method: &str, path: &str) -> Reply {
        self.send(Self::request(token, method, path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn put(&self, token: &str, path: &str, body: &Value) -> Reply {
        self.with_body(token, "PUT", path, &body.to_string()).await
    }

    pub(crate) async fn with_body(&self, token: &str, method: &str, path: &str, body: &str) -> Reply {
        let request = Self::request(token, method, path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// A VM that waits for a task, with canaries for keys.
    pub(crate) async fn available_vm(&self, executor: Executor) -> VmId {
        let (db, now) = (self.db(), self.clock.now());
        let (vm, launch) = (VmId(Uuid::now_v7()), LaunchId(Uuid::now_v7()));
        let later = now + TimeDelta::hours(24);
        let new = NewLaunch {
            id: launch,
            vms: vec![vm],
            executor,
            resource_class: "medium".to_owned(),
            class: Settings::default().resource_classes["medium"].clone(),
            origin: Origin::Preallocated,
            provider: "sim".to_owned(),
            place: "here".to_owned(),
            bootstrap_sealed: b"sealed".to_vec(),
            deadline_at: later,
            absolute_end_at: later,
            seen: 100,
            image: None,
            near: None,
            rate: None,
        };
        db.insert_launch(&new, now).await.unwrap();
        let bound = db.bind_machines(launch, &[format!("machine-{vm}")], now).await.unwrap();
        assert_eq!(bound.into_values().collect::<Vec<_>>(), [vm]);
        let identity = self.state.sealer.seal(vm.0, &serde_json::to_vec(&identity(executor)).unwrap()).unwrap();
        let at = Place { ip: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), ssh_port: 2222, docker_port: 2376, zone: None };
        db.boot_vms(&[(vm, at)], later, now).await.unwrap();
        let leased = db.lease_vms(&[VmState::Booting], ("sim", "here"), now, 10).await.unwrap();
        let [leased] = &leased[..] else { panic!("{leased:?}") };
        db.keep_identity(vm, leased.lease, &identity).await.unwrap();
        let met =
            vm_service::db::vms::Met { host_key: "ssh-ed25519 AAAAhost", absolute_end_at: later, idle_end_at: later, engine: None };
        db.make_available(leased, &met, now).await.unwrap();
        vm
    }
}

impl Api {
    /// Ends what is past its time by now; says how many tasks. It has listened all the time.
    pub(crate) async fn expire_tasks(&self) -> usize {
        let now = self.state.clock.now();
        self.db().note_listening(now).await.unwrap();
        let expired = self.db().list_expired_tasks(now).await.unwrap();
        for (task, failure) in &expired {
            assert!(self.db().expire_task(*task, failure, now).await.unwrap());
        }
        expired.len()
    }
}

fn identity(executor: Executor) -> Identity {
    Identity {
        host_private: Secret::new(INNER_SECRETS[0]),
        host_public: "ssh-ed25519 AAAAhost".to_owned(),
        login_private: Secret::new(SECRETS[0]),
        login_public: "ssh-ed25519 AAAAlogin".to_owned(),
        docker: (executor == Executor::RemoteDocker).then(|| DockerIdentity {
            ca: "the ca".to_owned(),
            server_cert: "the server's".to_owned(),
            server_key: Secret::new(INNER_SECRETS[1]),
            client_cert: "the client's".to_owned(),
            client_key: Secret::new(SECRETS[1]),
        }),
    }
}

/// Waits for a level, not for an edge; fails after a generous while.
pub(crate) async fn eventually(mut there: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if there().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come");
}
