//! Tasks over the API: made once, seen by their owner, ended, and their keys nowhere else.

use crate::api_support::{Api, CI, INNER_SECRETS, OPERATOR, OTHER, SECRETS, VIEWER, machine, task_path};
use axum::body::Body;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::lifecycle::VmState;
use vm_service::domain::task::Executor;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_same_put_is_answered_the_same_and_another_body_is_refused(pool: PgPool) {
    let api = Api::new(pool).await;
    let path = task_path(1);
    let made = api.put(CI, &path, &machine()).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("location"), path);
    let expected = json!({
        "id": Uuid::from_u128(1), "state": "queued", "executor": "machine", "project_id": "acme/app", "resource_class": "medium",
        "priority": 0, "created_at": "2026-09-21T14:13:20Z", "ready_at": null, "ended_at": null, "vm": null, "failure": null,
    });
    assert_eq!(made.json(), expected);
    let spelled_out = json!({ "executor": "machine", "project_id": "acme/app", "resource_class": "medium", "priority": 0 });
    for same in [machine(), spelled_out] {
        let again = api.put(CI, &path, &same).await;
        assert_eq!((again.status, again.json()), (200, expected.clone()));
    }
    let other = api.put(CI, &path, &json!({ "executor": "machine", "project_id": "acme/other" })).await;
    assert!(other.problem(409).contains("choose a fresh one"));
    assert_eq!(api.call(CI, "GET", &path).await.json(), expected);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_was_made_is_answered_also_when_the_settings_would_refuse_it_today(pool: PgPool) {
    let api = Api::new(pool).await;
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 201);
    api.settings.send_modify(|newest| newest.settings.refuse_new_tasks = true);
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 200);
    let refused = api.put(CI, &task_path(2), &machine()).await;
    assert!(refused.problem(503).contains("refused for now"));
    assert_eq!(refused.header("retry-after"), "30");
    assert_eq!(api.put(OTHER, &task_path(1), &machine()).await.status, 503);
    api.settings.send_modify(|newest| newest.settings.resource_classes.retain(|name, _| name != "medium"));
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 200);
    assert!(api.put(CI, &task_path(2), &machine()).await.problem(422).contains("known are: large"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_posted_task_has_an_id_of_its_own_or_of_its_key(pool: PgPool) {
    let api = Api::new(pool).await;
    let post = async |token: &str, key: Option<&str>, body: &Value| {
        let mut request = Api::request(token, "POST", "/api/v1/tasks").header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        api.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let (first, second) = (post(CI, None, &machine()).await, post(CI, None, &machine()).await);
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.json()["id"], second.json()["id"]);
    let (made, again) = (post(CI, Some("job-1"), &machine()).await, post(CI, Some("job-1"), &machine()).await);
    assert_eq!((made.status, again.status), (201, 200));
    assert_eq!(made.json(), again.json());
    assert_eq!(api.call(CI, "GET", made.header("location")).await.json(), made.json());
    assert_eq!(post(OTHER, Some("job-1"), &machine()).await.status, 201, "keys are the principal's own");
    post(CI, Some("job-1"), &json!({ "executor": "remote_docker", "project_id": "acme/app" })).await.problem(409);
    for bad in ["", "with space", &"k".repeat(256)] {
        assert!(post(CI, Some(bad), &machine()).await.problem(400).contains("Idempotency-Key"));
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_takes_an_available_vm_at_once_and_its_owner_gets_the_way_in(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::RemoteDocker).await;
    let body = json!({ "executor": "remote_docker", "project_id": "acme/app" });
    let made = api.put(CI, &task_path(1), &body).await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"));
    let view = made.json();
    assert_eq!(view["state"], "ready");
    assert_eq!(view["vm"]["id"], json!(vm));
    assert_eq!(
        view["connection"],
        json!({
            "ssh": { "host": "fd00::1", "port": 2222, "user": "circleci", "private_key": SECRETS[0], "host_key": "ssh-ed25519 AAAAhost" },
            "docker": { "host": "tcp://[fd00::1]:2376", "ca": "the ca", "cert": "the client's", "key": SECRETS[1] },
        })
    );
    for token in [CI, OPERATOR, VIEWER] {
        let seen = api.call(token, "GET", &task_path(1)).await;
        assert_eq!((seen.status, seen.header("cache-control")), (200, "no-store"));
        assert_eq!(seen.json().get("connection").is_some(), token == CI, "{token}");
    }
    let ended = api.call(CI, "DELETE", &task_path(1)).await;
    assert_eq!((ended.status, &ended.json()["state"], ended.json().get("connection")), (200, &json!("released"), None));
    assert_eq!(api.call(CI, "DELETE", &task_path(1)).await.json(), ended.json(), "a second time changes nothing");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_task_has_no_docker_and_a_viewer_of_the_same_principal_no_way_in(pool: PgPool) {
    use vm_service::domain::access::{Caller, Role};
    let api = Api::new(pool).await;
    api.available_vm(Executor::Machine).await;
    let view = api.put(CI, &task_path(1), &machine()).await.json();
    assert_eq!(view["connection"]["ssh"]["private_key"], SECRETS[0]);
    assert_eq!(view["connection"].get("docker"), None);
    let caller = Caller { principal: "ci".to_owned(), role: Role::Viewer, untrusted_only: false };
    let id = vm_service::domain::ids::TokenId(Uuid::new_v4());
    api.db().insert_token(id, &caller, &api.state.sealer.token_hashes("vms_looks")[0], api.state.clock.now()).await.unwrap();
    let seen = api.call("vms_looks", "GET", &task_path(1)).await;
    assert_eq!((seen.status, seen.json().get("connection")), (200, None));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_dispatcher_learns_nothing_of_the_tasks_of_others(pool: PgPool) {
    let api = Api::new(pool).await;
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.status, 201);
    let path = task_path(1);
    let nobodys = task_path(2);
    for (method, rest) in [("GET", ""), ("GET", "?wait=1"), ("DELETE", ""), ("POST", "/heartbeat"), ("GET", "/timeline")] {
        let of_other = api.call(OTHER, method, &format!("{path}{rest}")).await.problem(404);
        let of_nobody = api.call(OTHER, method, &format!("{nobodys}{rest}")).await.problem(404);
        let id = |n: u128| Uuid::from_u128(n).to_string();
        assert_eq!(of_other.replace(&id(1), ""), of_nobody.replace(&id(2), ""), "{method} {rest}");
    }
    api.put(OTHER, &path, &machine()).await.problem(409);
    assert_eq!(api.call(OTHER, "GET", "/api/v1/tasks").await.json(), json!({ "items": [] }));
    assert_eq!(api.call(CI, "GET", &path).await.json()["state"], "queued", "nothing of it did anything");
    for token in [OPERATOR, VIEWER] {
        assert_eq!(api.call(token, "GET", &path).await.status, 200);
        assert_eq!(api.call(token, "GET", "/api/v1/tasks").await.json()["items"].as_array().unwrap().len(), 1);
    }
    api.call(OPERATOR, "POST", &format!("{path}/heartbeat")).await.problem(403);
    assert_eq!(api.call(OPERATOR, "DELETE", &path).await.json()["state"], "cancelled");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn heartbeats_are_taken_while_the_task_is_open(pool: PgPool) {
    let api = Api::new(pool).await;
    let body = json!({ "executor": "machine", "project_id": "p", "lease_seconds": 10 });
    api.put(CI, &task_path(1), &body).await;
    assert_eq!(api.expire_tasks().await, 0);
    api.clock.advance(TimeDelta::seconds(9));
    assert_eq!(api.call(CI, "POST", &format!("{}/heartbeat", task_path(1))).await.status, 204);
    assert_eq!(api.expire_tasks().await, 0, "it was sent in time");
    api.clock.advance(TimeDelta::seconds(9));
    assert_eq!(api.expire_tasks().await, 0, "it was renewed");
    api.clock.advance(TimeDelta::seconds(2));
    assert_eq!(api.expire_tasks().await, 1);
    assert!(api.call(CI, "POST", &format!("{}/heartbeat", task_path(1))).await.problem(409).contains("stop the job"));
    assert_eq!(api.call(CI, "GET", &task_path(1)).await.json()["failure"]["code"], "lease_expired");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_longest_run_is_the_lower_of_the_request_and_the_settings(pool: PgPool) {
    let api = Api::new(pool).await;
    api.settings.send_modify(|newest| newest.settings.timeouts.task_hours = 1);
    for (n, asked, allowed) in [(1, json!(60), 60), (2, json!(7200), 3600), (3, Value::Null, 3600)] {
        api.available_vm(Executor::Machine).await;
        let made = api.put(CI, &task_path(n), &json!({ "executor": "machine", "project_id": "p", "max_run_seconds": asked })).await;
        assert_eq!(made.json()["state"], "ready", "{made:?}");
        api.clock.advance(TimeDelta::seconds(allowed - 1));
        assert_eq!(api.expire_tasks().await, 0, "{asked}");
        api.clock.advance(TimeDelta::seconds(1));
        assert_eq!(api.expire_tasks().await, 1, "{asked}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn lists_come_in_pages_that_show_each_task_once(pool: PgPool) {
    let api = Api::new(pool).await;
    for n in 1..=5 {
        let project = if n == 3 { "rare" } else { "p" };
        api.put(CI, &task_path(n), &json!({ "executor": "machine", "project_id": project })).await;
        // Two and two at the same time: the id decides.
        api.clock.advance(TimeDelta::seconds(i64::from(n % 2 == 0)));
    }
    let mut path = "/api/v1/tasks?limit=2&state=queued".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = api.call(CI, "GET", &path).await;
        let body = page.json();
        assert!(body["items"].as_array().unwrap().len() <= 2);
        seen.extend(body["items"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = body["next_cursor"].as_str() else {
            assert_eq!(page.header("link"), "");
            break;
        };
        path = format!("/api/v1/tasks?limit=2&state=queued&cursor={cursor}");
        assert_eq!(page.header("link"), format!("<{path}>; rel=\"next\""));
    }
    let ids: Vec<_> = [5, 4, 3, 2, 1].map(|n| Uuid::from_u128(n).to_string()).to_vec();
    assert_eq!(seen, ids);
    let filtered =
        async |query: &str| api.call(CI, "GET", &format!("/api/v1/tasks?{query}")).await.json()["items"].as_array().unwrap().len();
    assert_eq!(filtered("project_id=rare").await, 1);
    assert_eq!(filtered("state=ready").await, 0);
    assert_eq!(filtered("limit=5").await, 5);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_ended_task_is_answered_from_the_history(pool: PgPool) {
    let api = Api::new(pool).await;
    api.available_vm(Executor::Machine).await;
    api.put(CI, &task_path(1), &machine()).await;
    let ended = api.call(CI, "DELETE", &task_path(1)).await.json();
    api.clock.advance(TimeDelta::hours(1));
    assert!(api.db().move_to_history(api.state.clock.now()).await.unwrap() > 0);
    for (method, token) in [("GET", CI), ("DELETE", CI), ("GET", VIEWER)] {
        assert_eq!(api.call(token, method, &task_path(1)).await.json(), ended, "{method} {token}");
    }
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.json(), ended);
    api.call(OTHER, "GET", &task_path(1)).await.problem(404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn keys_are_in_the_answers_about_one_task_and_nowhere_else(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::RemoteDocker).await;
    let body = json!({ "executor": "remote_docker", "project_id": "acme/app", "labels": { "a": "b" } });
    assert!(api.put(CI, &task_path(1), &body).await.text.contains(SECRETS[0]));
    let lists = ["/api/v1/tasks", "/api/v1/vms", "/api/v1/events?limit=200", "/api/v1/settings", "/health", "/openapi.json"];
    let timeline = format!("{}/timeline", task_path(1));
    let one_vm = format!("/api/v1/vms/{vm}");
    let look = async |after: &str| {
        for token in [CI, OTHER, OPERATOR, VIEWER] {
            for path in lists.iter().copied().chain([timeline.as_str(), one_vm.as_str()]) {
                let text = api.call(token, "GET", path).await.text;
                for canary in SECRETS.iter().chain(&INNER_SECRETS) {
                    assert!(!text.contains(canary), "{canary} is in {path} for {token}, {after}");
                }
            }
        }
    };
    look("while ready").await;
    let way_in = api.call(OPERATOR, "GET", &format!("{one_vm}/connection")).await;
    assert_eq!((way_in.status, way_in.header("cache-control")), (200, "no-store"));
    assert!(way_in.text.contains(SECRETS[0]) && way_in.text.contains(SECRETS[1]));
    assert!(!INNER_SECRETS.iter().any(|canary| way_in.text.contains(canary)));
    assert!(api.call(VIEWER, "GET", "/api/v1/events?limit=200").await.text.contains("Way in given to operator."));
    let path = task_path(1);
    for ended in [api.call(CI, "DELETE", &path).await, api.call(CI, "GET", &path).await, api.put(CI, &path, &body).await] {
        assert_eq!(ended.status, 200);
        assert!(!SECRETS.iter().any(|canary| ended.text.contains(canary)), "{ended:?}");
    }
    look("after release").await;
    api.call(OPERATOR, "GET", &format!("{one_vm}/connection")).await.problem(409);
    let logs = api.logs.text();
    assert!(logs.contains("\"message\":\"answered\"") && logs.contains("\"principal\":\"ci\""), "the log is looked at: {logs}");
    for hidden in SECRETS.iter().chain(&INNER_SECRETS).chain(&[CI, OPERATOR, VIEWER]) {
        assert!(!logs.contains(hidden), "{hidden} is in the log");
    }
    assert_eq!(
        api.db().list_vms(&vm_service::db::vm_list::VmFilter { limit: 9, ..Default::default() }).await.unwrap()[0].state,
        VmState::Terminating
    );
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_timeline_tells_the_phases_of_task_and_vm_in_order(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    api.call(OPERATOR, "GET", &format!("/api/v1/vms/{vm}/connection")).await;
    api.put(CI, &task_path(1), &machine()).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    let timeline = api.call(CI, "GET", &format!("{}/timeline", task_path(1))).await.json();
    let kinds: Vec<_> =
        timeline["items"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "vm.requested",
        "vm.launched",
        "vm.booting",
        "vm.available",
        "task.created",
        "task.claimed",
        "task.ready",
        "task.released",
        "vm.terminating",
    ];
    assert_eq!(kinds, expected, "what operators do is not in it");
}
