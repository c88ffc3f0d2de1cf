//! What people and tokens do is in the audit log: in the transaction of the change, in the guide's form, without a secret; and so is
//! what they were refused.

use crate::api_support::{Api, CI, OPERATOR, OTHER, Reply, SECRETS, VIEWER, machine, task_path};
use crate::console_support::Browser;
use axum::body::Body;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::num::NonZeroU32;
use uuid::Uuid;
use vm_service::admin::{self, tokens};
use vm_service::db::seeds::Seeded;
use vm_service::domain::access::{Caller, Role};
use vm_service::domain::ids::{GenerationId, TaskId};
use vm_service::domain::lineage::{Engine, Lineage, Store, Trust};
use vm_service::domain::task::Executor;
use vm_service::http::state::Limits;

/// Everything in the log, oldest first.
pub(crate) async fn log(api: &Api) -> Vec<Value> {
    let page = api.call(VIEWER, "GET", "/api/v1/audit?limit=200").await;
    assert_eq!(page.status, 200, "{page:?}");
    let mut events = page.json()["items"].as_array().unwrap().clone();
    events.reverse();
    events
}

fn actions(events: &[Value]) -> Vec<String> {
    let mark = |event: &Value| if event["success"] == true { "" } else { "!" };
    events.iter().map(|event| format!("{}{}", mark(event), event["action"].as_str().unwrap())).collect()
}

async fn save(api: &Api, body: &Value, on_top_of: i64) -> Reply {
    let request = Api::request(OPERATOR, "PUT", "/api/v1/settings").header("content-type", "application/json");
    api.send(request.header("if-match", format!("\"{on_top_of}\"")).body(Body::from(body.to_string())).unwrap()).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_event_has_the_guides_form(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let path = task_path(1);
    let request = Api::request(CI, "PUT", &path)
        .header("content-type", "application/json")
        .header("x-request-id", "request-1")
        .header("x-forwarded-for", "192.0.2.7");
    assert_eq!(api.send(request.body(Body::from(machine().to_string())).unwrap()).await.status, 201);
    let token: Uuid = sqlx::query_scalar("select id from vms.tokens where principal = 'ci'").fetch_one(&pool).await.unwrap();
    let mut events = log(&api).await;
    let id = events[0]["id"].take();
    assert!(id.as_str().unwrap().parse::<Uuid>().is_ok());
    assert_eq!(
        events,
        [json!({
            "id": null, "version": 1, "action": "task.create", "success": true,
            "actor": { "id": "ci", "type": "principal", "role": "dispatcher", "token_id": token },
            "target": { "id": Uuid::from_u128(1), "type": "task" },
            "payload": { "project_id": "acme/app", "executor": "machine", "resource_class": "medium",
                         "docker_layer_caching": false, "cache_trust": "trusted" },
            "request": { "id": "request-1", "method": "PUT", "path": path, "forwarded_for": "192.0.2.7" },
            "scope": { "id": "acme/app", "type": "project" },
            "occurred_at": "2026-09-21T14:13:20Z", "metadata": {}, "link": null, "hash": null,
        })]
    );
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_change_is_told_once_and_no_secret_is(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    let hold = json!({ "reason": "look", "seconds": 60 });
    api.put(CI, &task_path(1), &machine()).await;
    api.call(CI, "POST", &format!("{}/heartbeat", task_path(1))).await;
    api.call(OPERATOR, "GET", &format!("/api/v1/vms/{vm}/connection")).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    api.put(CI, &task_path(2), &machine()).await;
    api.call(OPERATOR, "DELETE", &task_path(2)).await;
    let [a, b] = [api.available_vm(Executor::Machine).await, api.available_vm(Executor::RemoteDocker).await];
    api.put(OPERATOR, &format!("/api/v1/vms/{a}/hold"), &hold).await;
    api.call(OPERATOR, "DELETE", &format!("/api/v1/vms/{a}/hold")).await;
    assert_eq!(api.with_body(OPERATOR, "POST", "/api/v1/vms/terminate", &json!({ "ids": [a, b] }).to_string()).await.status, 200);
    let key = json!({ "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": "canary-secret" } });
    assert_eq!(save(&api, &json!({ "history_days": 7, "ec2": { "authentication": key } }), 0).await.status, 200);
    let caller = Caller { principal: "new".to_owned(), role: Role::Viewer, untrusted_only: false };
    let (_, token) = tokens::create(api.db(), &api.state.sealer, &caller, api.state.clock.now()).await.unwrap();

    let mut events = log(&api).await;
    let text = serde_json::to_string(&events).unwrap();
    for secret in SECRETS.into_iter().chain(["canary-secret", token.expose(), OPERATOR, CI]) {
        assert!(!text.contains(secret), "{secret}");
    }
    events.sort_by_key(|event| event["id"].as_str().unwrap().to_owned());
    assert_eq!(
        actions(&events),
        [
            "task.create",
            "vm.connection.view",
            "task.release",
            "task.create",
            "task.cancel",
            "vm.hold",
            "vm.unhold",
            "vm.terminate",
            "vm.terminate",
            "settings.update",
            "token.create"
        ]
    );
    let of = |action: &str| events.iter().find(|event| event["action"] == action).unwrap();
    assert_eq!(of("vm.connection.view")["target"], json!({ "id": vm, "type": "vm" }));
    assert_eq!((&of("task.cancel")["actor"]["id"], &of("task.cancel")["payload"]["principal"]), (&json!("operator"), &json!("ci")));
    assert_eq!(of("vm.hold")["payload"]["reason"], "look");
    let saved = &of("settings.update")["payload"];
    assert!(saved["changes"].as_array().unwrap().contains(&json!({ "path": "history_days", "old": 90, "new": 7 })), "{saved}");
    assert_eq!((&of("token.create")["actor"]["type"], &of("token.create")["request"]), (&json!("local_user"), &Value::Null));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_cannot_be_told_is_not_done(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = api.available_vm(Executor::RemoteDocker).await;
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 201);
    sqlx::query("alter table vms.audit add check (false) not valid").execute(&pool).await.unwrap();
    let hold = format!("/api/v1/vms/{vm}/hold");
    let body = json!({ "reason": "look", "seconds": 60 });
    assert_eq!(api.put(CI, &task_path(2), &machine()).await.status, 500);
    assert_eq!(api.call(CI, "DELETE", &task_path(1)).await.status, 500);
    assert_eq!(api.put(OPERATOR, &hold, &body).await.status, 500);
    assert_eq!(api.call(OPERATOR, "DELETE", &format!("/api/v1/vms/{vm}")).await.status, 500);
    assert_eq!(api.call(OPERATOR, "GET", &format!("/api/v1/vms/{vm}/connection")).await.status, 500);
    assert_eq!(save(&api, &json!({}), 0).await.status, 500);
    assert_eq!(api.call(CI, "GET", &task_path(2)).await.status, 404);
    assert_eq!(api.call(CI, "GET", &task_path(1)).await.json()["state"], "queued");
    // What is refused has no transaction: that it is missing in the log must be seen elsewhere.
    api.call(VIEWER, "DELETE", &format!("/api/v1/vms/{vm}")).await.problem(403);
    let missing = |line: &&str| line.contains("could not be written") && line.contains("ERROR") && line.contains("vm.terminate");
    assert!(api.logs.text().lines().any(|line| missing(&line)), "{}", api.logs.text());
    let seen = api.call(VIEWER, "GET", &format!("/api/v1/vms/{vm}")).await.json();
    assert_eq!((&seen["hold"], &seen["state"]), (&Value::Null, &json!("available")));
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/settings").await.header("etag"), "\"0\"");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_refused_is_told_and_nobody_fills_the_disk_with_it(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    let path = format!("/api/v1/vms/{vm}");
    api.call(VIEWER, "DELETE", &path).await.problem(403);
    api.call(CI, "GET", &path).await.problem(403);
    api.call("vms_nobody", "DELETE", &path).await.problem(401);
    api.call("", "DELETE", &path).await.problem(401);
    api.call(OPERATOR, "DELETE", &format!("/api/v1/vms/{}", Uuid::from_u128(9))).await.problem(404);
    api.call(VIEWER, "GET", &format!("/api/v1/vms/{}", Uuid::from_u128(9))).await.problem(404);
    let events = log(&api).await;
    let told: Vec<String> = events
        .iter()
        .map(|event| format!("{} {} {}", event["actor"]["id"], event["action"], event["metadata"]["status"]).replace('"', ""))
        .collect();
    assert_eq!(told, ["viewer vm.terminate 403", "ci api.access 403", "unknown vm.terminate 401", "operator vm.terminate 404"]);
    assert!(events.iter().all(|event| event["success"] == false));
    for _ in 0..100 {
        api.call("vms_nobody", "DELETE", &path).await.problem(401);
    }
    let unknown = log(&api).await.iter().filter(|event| event["actor"]["id"] == "unknown").count();
    assert!((60..70).contains(&unknown), "{unknown}");
    api.call(CI, "DELETE", &path).await.problem(403);
    assert_eq!(log(&api).await.last().unwrap()["actor"]["id"], "ci", "others are heard all the same");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_nobody_is_behind_is_not_told_and_a_call_without_effect_is(pool: PgPool) {
    let api = Api::new(pool).await;
    for n in [1, 2] {
        api.put(CI, &task_path(n), &machine()).await;
    }
    api.db().release_task(TaskId(Uuid::from_u128(1)), api.state.clock.now()).await.unwrap();
    assert_eq!(actions(&log(&api).await), ["task.create", "task.create"], "a loop's work has nobody behind it");
    assert_eq!(api.call(CI, "DELETE", &task_path(1)).await.status, 200);
    assert_eq!(api.put(OTHER, &task_path(2), &machine()).await.status, 409);
    assert_eq!(actions(&log(&api).await)[2..], ["task.release", "!task.create"]);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_asks_too_fast_is_told_by_name(pool: PgPool) {
    let (per_second, burst) = (NonZeroU32::MIN, NonZeroU32::MIN);
    let api = Api::with_limits(pool.clone(), Limits { per_second, burst, ..Limits::default() }).await;
    assert_eq!(api.call(CI, "GET", &task_path(1)).await.status, 404);
    api.call(CI, "DELETE", &task_path(1)).await.problem(429);
    let browser = Browser::new(&api, OPERATOR).await;
    assert_eq!(browser.get("/console").await.status, 200);
    assert_eq!(browser.post(&format!("/console/tasks/{}/release", Uuid::from_u128(1)), &[]).await.status, 429);
    let told: Vec<(Value, Value)> = sqlx::query_as(
        "select actor - 'token_id', to_jsonb(action) from vms.audit where metadata ->> 'status' = '429' order by occurred_at, id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let who = |id: &str, role: &str| json!({ "id": id, "type": "principal", "role": role });
    assert_eq!(told, [(who("ci", "dispatcher"), json!("task.release")), (who("operator", "operator"), json!("task.release"))]);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_an_operator_brings_into_a_cache_is_told(pool: PgPool) {
    let api = Api::new(pool).await;
    let engine = Engine { architecture: "x86_64".to_owned(), store: Store::Containerd, major: 29 };
    let lineage = Lineage { project_id: "acme/app".to_owned(), trust: Trust::Trusted, engine };
    let id = GenerationId(Uuid::from_u128(7));
    let seeded = Seeded {
        id,
        lineage: &lineage,
        place: ("on_host", "here"),
        provider_id: "snapshot-7",
        size_gib: 20,
        layers: &[],
        used_bytes: None,
    };
    admin::local_user().run(api.db().insert_seeded(&seeded, api.state.clock.now())).await.unwrap();
    let events = log(&api).await;
    assert_eq!(actions(&events), ["cache.seed"]);
    let project = json!({ "id": "acme/app", "type": "project" });
    assert_eq!((&events[0]["target"], &events[0]["scope"]), (&project, &project));
    assert_eq!(events[0]["actor"]["type"], "local_user");
    assert_eq!(
        events[0]["payload"],
        json!({ "generation_id": id, "architecture": "x86_64", "store": "containerd", "engine_major": 29, "provider": "on_host",
                "place": "here", "provider_id": "snapshot-7", "size_gib": 20 })
    );
}
