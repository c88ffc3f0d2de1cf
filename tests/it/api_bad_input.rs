//! What cannot be read or done is told in one sentence, and nothing of the inside is.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, task_path};
use axum::body::Body;
use axum::routing::get;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::num::NonZeroU32;
use std::time::Duration;
use uuid::Uuid;
use vm_service::http::state::Limits;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_body_that_cannot_be_read_is_malformed(pool: PgPool) {
    let api = Api::new(pool).await;
    let bad = [
        ("", "EOF"),
        ("{", "EOF"),
        ("{\"executor\": \"machine\"}", "project_id"),
        ("{\"executor\": \"machine\", \"project_id\": 7}", "expected a string"),
        ("{\"executor\": \"toaster\", \"project_id\": \"p\"}", "toaster"),
        ("{\"executor\": \"machine\", \"project_id\": \"p\", \"colour\": \"red\"}", "colour"),
        ("{\"executor\": \"machine\", \"project_id\": \"p\", \"priority\": 70000}", "priority"),
        ("[]", "invalid"),
        ("null", "invalid"),
        ("{\"executor\": \"machine\", \"project_id\": \"\\ud800\"}", "hex escape"),
    ];
    for (body, says) in bad {
        let sentence = api.with_body(CI, "PUT", &task_path(1), body).await.problem(400);
        assert!(sentence.contains(says) || says == "priority" && sentence.contains("70000"), "{body}: {sentence}");
    }
    let deep = "[".repeat(10_000);
    api.with_body(CI, "PUT", &task_path(1), &deep).await.problem(400);
    let raw = Api::request(CI, "PUT", &task_path(1)).header("content-type", "application/json");
    api.send(raw.body(Body::from(vec![b'"', 0xff, 0xfe, b'"'])).unwrap()).await.problem(400);
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let request = Api::request(CI, "PUT", &task_path(1)).header("content-type", kind);
        assert!(api.send(request.body(Body::from(machine().to_string())).unwrap()).await.problem(415).contains("application/json"));
    }
    let broken = futures::stream::iter([Ok("{\"executor\""), Err(std::io::Error::other("broke off"))]);
    let request = Api::request(CI, "PUT", &task_path(1)).header("content-type", "application/json");
    api.send(request.body(Body::from_stream(broken)).unwrap()).await.problem(400);
    assert_eq!(api.call(CI, "GET", "/api/v1/tasks").await.json(), json!({ "items": [] }));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_understood_but_impossible_names_every_field(pool: PgPool) {
    let api = Api::new(pool).await;
    let with = |field: &str, value: Value| {
        let mut body = machine();
        body[field] = value;
        body
    };
    let bad = [
        ("project_id", with("project_id", json!("p".repeat(10_000)))),
        ("project_id", with("project_id", json!(""))),
        ("project_id", with("project_id", json!("a\u{0}b"))),
        ("resource_class", with("resource_class", json!("enormous"))),
        ("resource_class", with("resource_class", json!(""))),
        ("max_run_seconds", with("max_run_seconds", json!(0))),
        ("lease_seconds", with("lease_seconds", json!(9))),
        ("priority", with("priority", json!(101))),
        ("labels", with("labels", json!({ "": "x" }))),
        ("ssh_public_keys[0]", with("ssh_public_keys", json!(["ssh-rsa nonsense"]))),
        ("ssh_public_keys", with("ssh_public_keys", json!(vec!["x"; 17]))),
    ];
    for (field, body) in bad {
        let reply = api.put(CI, &task_path(1), &body).await;
        let sentence = reply.problem(422);
        assert!(sentence.contains(field), "{sentence}");
        let errors = reply.json()["errors"].as_array().unwrap().clone();
        assert!(errors.iter().any(|e| e["field"] == field && !e["message"].as_str().unwrap().is_empty()), "{errors:?}");
    }
    let unknown = api.put(CI, &task_path(1), &with("resource_class", json!("enor\u{7}mous"))).await;
    assert!(unknown.problem(422).contains("known are: large, medium"), "{unknown:?}");
    let two = api.put(CI, &task_path(1), &json!({ "executor": "machine", "project_id": "", "priority": -101 })).await;
    assert_eq!(two.json()["errors"].as_array().unwrap().len(), 2, "{two:?}");
    assert_eq!(api.call(CI, "GET", "/api/v1/tasks").await.json(), json!({ "items": [] }));
}

/// serde would take the fields in their order, without their names.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_list_is_not_taken_for_an_object(pool: PgPool) {
    let api = Api::new(pool).await;
    let lists = [
        ("{\"limits\": []}", "\"limits\""),
        ("{\"preallocated\": {\"pools\": [[\"machine\", \"large\", 2]]}}", "\"preallocated.pools[0]\""),
    ];
    for (body, place) in lists {
        let sentence = api.with_body(OPERATOR, "PUT", "/api/v1/settings", body).await.problem(400);
        assert_eq!(sentence, format!("Send a body that this call understands: {place} is an object, and not a list."));
    }
    let image = "/api/v1/images/00000000-0000-0000-0000-000000000001/promote";
    assert!(api.with_body(OPERATOR, "POST", image, "[true]").await.problem(400).contains("the body is an object"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn paths_and_queries_that_cannot_be_read_are_malformed(pool: PgPool) {
    let api = Api::new(pool).await;
    let bad = [
        "/api/v1/tasks/7",
        "/api/v1/tasks/%ff",
        "/api/v1/tasks/7/timeline",
        "/api/v1/vms/x",
        "/api/v1/vms/x/connection",
        "/api/v1/tasks?limit=0",
        "/api/v1/tasks?limit=201",
        "/api/v1/tasks?limit=x",
        "/api/v1/tasks?stat=ready",
        "/api/v1/tasks?state=READY",
        "/api/v1/tasks?cursor=abc",
        "/api/v1/tasks?project_id=a%00b",
        "/api/v1/volumes?project_id=a%00b",
        "/api/v1/images?place=a%00b",
        "/api/v1/vms?limit=-1",
        "/api/v1/vms?state=asleep",
        "/api/v1/vms?cursor=",
        "/api/v1/events?cursor=-1",
        "/api/v1/events?cursor=99999999999999999999",
        "/api/v1/events?task_id=7",
    ];
    for path in bad {
        let sentence = api.call(OPERATOR, "GET", path).await.problem(400);
        assert!(sentence.starts_with("Correct the "), "{path}: {sentence}");
    }
    api.put(CI, &task_path(1), &machine()).await;
    for wait in ["61", "-1", "x", "1.5"] {
        api.call(CI, "GET", &format!("{}?wait={wait}", task_path(1))).await.problem(400);
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn unknown_paths_and_methods_are_told(pool: PgPool) {
    let api = Api::new(pool).await;
    for path in ["/api", "/api/v1/task", "/api/v2/tasks", "/metric"] {
        assert!(api.call(OPERATOR, "GET", path).await.problem(404).contains("/docs"), "{path}");
        api.call("", "GET", path).await.problem(404);
    }
    let reply = api.call(OPERATOR, "PATCH", &task_path(1)).await;
    reply.problem(405);
    let mut allowed: Vec<_> = reply.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
    api.call("", "POST", "/status").await.problem(405);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_body_over_the_limit_is_refused(pool: PgPool) {
    let api = Api::new(pool).await;
    let body = json!({ "executor": "machine", "project_id": "p".repeat(70_000) });
    assert!(api.put(CI, &task_path(1), &body).await.problem(413).contains("send less"));
    // Settings hold certificates and may be larger; what they hold is judged then.
    let large = json!({ "guest": { "root_certificates": ["x".repeat(70_000)] } }).to_string();
    let request =
        Api::request(OPERATOR, "PUT", "/api/v1/settings").header("content-type", "application/json").header("if-match", "\"0\"");
    api.send(request.body(Body::from(large)).unwrap()).await.problem(422);
    let larger = format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20));
    api.with_body(OPERATOR, "PUT", "/api/v1/settings", &larger).await.problem(413);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_asks_too_fast_waits_and_others_do_not(pool: PgPool) {
    let few = NonZeroU32::new(3).unwrap();
    let api = Api::with_limits(pool, Limits { per_second: NonZeroU32::MIN, burst: few, ..Limits::default() }).await;
    for _ in 0..3 {
        assert_eq!(api.call(CI, "GET", "/api/v1/tasks").await.status, 200);
    }
    let reply = api.call(CI, "GET", "/api/v1/tasks").await;
    reply.problem(429);
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/tasks").await.status, 200);
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_and_status_is_well() {
    let options =
        sqlx::postgres::PgConnectOptions::new_without_pgpass().host("/var/tmp/no-such-folder-of-vm-service").username("nobody");
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300)).connect_lazy_with(options);
    let api = Api::over(pool, Limits::default());
    for (method, path) in [("GET", "/api/v1/tasks"), ("GET", "/health"), ("GET", "/openapi.json")] {
        let reply = api.call(CI, method, path).await;
        let sentence = reply.problem(503);
        assert_eq!(reply.header("retry-after"), "2");
        assert!(!sentence.contains("no-such-folder") && sentence.contains("database"), "{sentence}");
    }
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 503);
    assert_eq!(api.call("", "GET", "/status").await.status, 200);
    let logs = api.logs.text();
    assert_eq!(logs.matches("a request found the database away").count(), 4, "each is logged once");
    assert_eq!(logs.matches("\"level\":\"ERROR\"").count(), 0, "nothing happened that the audit log misses: {logs}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_defect_shows_a_request_id_and_nothing_of_the_inside(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    sqlx::query("alter table vms.tasks rename column labels_x to y").execute(&pool).await.unwrap_err();
    sqlx::query("alter table vms.tasks rename column project_id to secret_inner_name").execute(&pool).await.unwrap();
    let reply = api.call(CI, "GET", "/api/v1/tasks").await;
    let sentence = reply.problem(500);
    assert!(!reply.text.contains("project_id") && !reply.text.contains("column"), "{sentence}");
    let logs = api.logs.text();
    let line = logs.lines().find(|line| line.contains("a request met a defect")).unwrap();
    assert!(line.contains("project_id") && line.contains(reply.header("x-request-id")), "{line}");
    assert_eq!(logs.matches("a request met a defect").count(), 1);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_sealed_identity_of_another_key_is_a_defect_without_its_bytes(pool: PgPool) {
    let mut api = Api::new(pool).await;
    api.available_vm(vm_service::domain::task::Executor::Machine).await;
    api.put(CI, &task_path(1), &machine()).await;
    let key = vm_service::seal::Sealer::fresh_key().unwrap();
    let stranger = std::sync::Arc::new(vm_service::seal::Sealer::new([key.as_str()]).unwrap());
    let caller = api.db().find_caller(&api.state.sealer.token_hashes(CI)).await.unwrap().unwrap();
    let id = vm_service::domain::ids::TokenId(Uuid::new_v4());
    api.db().insert_token(id, &caller, &stranger.token_hashes(CI)[0], crate::api_support::start()).await.unwrap();
    api.state.sealer = stranger;
    api.router = vm_service::http::router(api.state.clone());
    api.call(CI, "GET", &task_path(1)).await.problem(500);
    assert!(api.logs.text().contains("cannot be opened: sealed under a key that is not configured"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_request_id_is_kept_when_it_can_stand_in_a_log(pool: PgPool) {
    let api = Api::new(pool).await;
    let with = async |id: &[u8]| {
        let request = Api::request(CI, "GET", "/api/v1/tasks").header("x-request-id", id);
        api.send(request.body(Body::empty()).unwrap()).await.header("x-request-id").to_owned()
    };
    assert_eq!(with(b"job-1.a_B").await, "job-1.a_B");
    for bad in [&b"a b"[..], b"", &[b'x'; 65], b"\xff", b"{\"a\":1}"] {
        assert!(Uuid::parse_str(&with(bad).await).is_ok());
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_request_that_takes_too_long_is_ended(pool: PgPool) {
    let api = Api::with_limits(pool, Limits { request: Duration::from_millis(300), ..Limits::default() }).await;
    api.put(CI, &task_path(1), &machine()).await;
    let reply = api.call(CI, "GET", &format!("{}?wait=30", task_path(1))).await;
    assert!(reply.problem(503).contains("in time"));
    assert_eq!(reply.header("retry-after"), "2");
}

/// The layer is the router's own: a route that panics is added inside it by the same function.
#[tokio::test]
async fn a_panic_is_a_500_without_its_words() {
    use tower::ServiceExt;
    async fn falls() -> &'static str {
        panic!("inner words")
    }
    let logs = crate::api_support::Logs::default();
    let to = logs.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || to.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let router = vm_service::http::enveloped(axum::Router::new().route("/", get(falls)), Duration::from_secs(5));
    let request = axum::http::Request::get("/").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    assert!(!String::from_utf8_lossy(&body).contains("inner words"));
    assert!(logs.text().contains("panic: inner words"));
}
