//! What operators do over the API: VMs, holds, events, settings.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, task_path};
use axum::body::Body;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::clock::Clock;
use vm_service::domain::task::Executor;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_operator_ends_a_vm_and_the_task_on_it_fails_with_that_reason(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    api.put(CI, &task_path(1), &machine()).await;
    let path = format!("/api/v1/vms/{vm}");
    assert_eq!(api.call(VIEWER, "GET", &path).await.json()["task_id"], json!(Uuid::from_u128(1)));
    let ended = api.call(OPERATOR, "DELETE", &path).await;
    assert_eq!((ended.status, &ended.json()["state"]), (200, &json!("terminating")));
    assert_eq!(api.call(OPERATOR, "DELETE", &path).await.status, 200, "again changes nothing");
    let task = api.call(CI, "GET", &task_path(1)).await.json();
    assert_eq!(task["failure"], json!({ "code": "terminated_by_operator", "detail": "ended by the operator operator" }));
    api.call(OPERATOR, "DELETE", &format!("/api/v1/vms/{}", Uuid::from_u128(9))).await.problem(404);
    api.call(VIEWER, "GET", &format!("/api/v1/vms/{}", Uuid::from_u128(9))).await.problem(404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_held_vm_is_ended_by_nobody_until_it_is_let_go(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    let (path, hold) = (format!("/api/v1/vms/{vm}"), format!("/api/v1/vms/{vm}/hold"));
    let held = api.put(OPERATOR, &hold, &json!({ "reason": "a look", "seconds": 60 })).await;
    let until = "2026-09-21T14:14:20Z";
    assert_eq!((held.status, &held.json()["hold"]), (200, &json!({ "reason": "a look", "until": until })));
    let refused = api.call(OPERATOR, "DELETE", &path).await.problem(409);
    assert!(refused.contains("a look") && refused.contains("/hold"), "{refused}");
    let many = json!({ "ids": [vm, Uuid::from_u128(9)] }).to_string();
    let kept = api.with_body(OPERATOR, "POST", "/api/v1/vms/terminate", &many).await.json();
    assert_eq!(kept, json!({ "terminating": [], "kept": [vm, Uuid::from_u128(9)] }));
    assert_eq!(api.put(CI, &task_path(1), &machine()).await.json()["state"], "queued", "no task takes it");
    assert_eq!(api.call(OPERATOR, "DELETE", &hold).await.json()["hold"], Value::Null);
    assert_eq!(api.call(OPERATOR, "DELETE", &hold).await.status, 200, "again changes nothing");
    assert_eq!(api.call(OPERATOR, "DELETE", &path).await.json()["state"], "terminating");
    api.put(OPERATOR, &hold, &json!({ "reason": "too late", "seconds": 60 })).await.problem(409);
    api.put(OPERATOR, &format!("/api/v1/vms/{}/hold", Uuid::from_u128(9)), &json!({ "reason": "x", "seconds": 60 }))
        .await
        .problem(404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_has_a_reason_and_an_end_in_the_future(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    let hold = format!("/api/v1/vms/{vm}/hold");
    let now = api.clock.now();
    let bad = [
        json!({ "reason": "x" }),
        json!({ "reason": "x", "seconds": 60, "until": now + TimeDelta::hours(1) }),
        json!({ "reason": "x", "until": now }),
        json!({ "reason": "x", "until": now + TimeDelta::days(367) }),
        json!({ "reason": "x", "until": "+262000-01-01T00:00:00Z" }),
        json!({ "reason": "x", "seconds": 0 }),
        json!({ "reason": "", "seconds": 60 }),
        json!({ "reason": "a\u{0}b", "seconds": 60 }),
        json!({ "reason": "x".repeat(501), "seconds": 60 }),
    ];
    for body in bad {
        api.put(OPERATOR, &hold, &body).await.problem(422);
    }
    api.put(OPERATOR, &hold, &json!({ "seconds": 60 })).await.problem(400);
    let held = api.put(OPERATOR, &hold, &json!({ "reason": "x", "until": now + TimeDelta::days(366) })).await;
    assert_eq!(held.status, 200, "{held:?}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn unknown_machines_end_when_an_operator_says_so_and_orphans_take_their_own_way(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let insert = "insert into vms.orphans (provider, place, provider_id, unknown, first_seen_at, last_seen_at) values
                  ('sim', 'here', 'm-unknown', true, now(), now()), ('sim', 'here', 'm-orphan', false, now(), now())";
    sqlx::query(insert).execute(&pool).await.unwrap();
    let body = json!({ "unknown": true }).to_string();
    let terminate = async |token: &str| api.with_body(token, "POST", "/api/v1/vms/terminate", &body).await;
    terminate(VIEWER).await.problem(403);
    let expected = json!({ "terminating": [], "kept": [], "machines": ["m-unknown"] });
    assert_eq!(terminate(OPERATOR).await.json(), expected);
    let due = api.db().list_due_orphans(("sim", "here"), api.clock.now(), api.clock.now(), api.clock.now()).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].reason, "ended by the operator operator");
    assert_eq!(terminate(OPERATOR).await.json(), json!({ "terminating": [], "kept": [] }), "again changes nothing");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn many_vms_end_in_one_call_by_id_or_state(pool: PgPool) {
    let api = Api::new(pool).await;
    let terminate = async |body: Value| api.with_body(OPERATOR, "POST", "/api/v1/vms/terminate", &body.to_string()).await;
    let mut vms = Vec::new();
    for _ in 0..3 {
        vms.push(api.available_vm(Executor::Machine).await);
    }
    assert_eq!(terminate(json!({ "ids": [vms[0]] })).await.json(), json!({ "terminating": [vms[0]], "kept": [] }));
    let rest = terminate(json!({ "state": "available" })).await.json();
    assert_eq!(rest["terminating"].as_array().unwrap().len(), 2, "{rest}");
    assert_eq!(terminate(json!({ "state": "terminating" })).await.json()["kept"].as_array().unwrap().len(), 3);
    for bad in [
        json!({}),
        json!({ "ids": [vms[0]], "state": "available" }),
        json!({ "ids": [] }),
        json!({ "state": "available", "unknown": true }),
    ] {
        terminate(bad).await.problem(422);
    }
    terminate(json!({ "ids": ["x"] })).await.problem(400);
    let listed = api.call(VIEWER, "GET", "/api/v1/vms?state=terminating&limit=2").await;
    assert_eq!(listed.json()["items"].as_array().unwrap().len(), 2);
    let next = listed.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    assert_eq!(api.call(VIEWER, "GET", &next).await.json()["items"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn events_come_in_pages_oldest_first(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await;
    api.put(CI, &task_path(1), &machine()).await;
    let mut path = "/api/v1/events?limit=2".to_owned();
    let mut kinds = Vec::new();
    loop {
        let page = api.call(VIEWER, "GET", &path).await;
        kinds.extend(page.json()["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap().to_owned()));
        let Some(next) = page.header("link").strip_prefix('<') else { break };
        path = next.split('>').next().unwrap().to_owned();
    }
    assert_eq!(kinds, ["vm.requested", "vm.launched", "vm.booting", "vm.available", "task.created", "task.claimed", "task.ready"]);
    let count = async |query: String| {
        api.call(VIEWER, "GET", &format!("/api/v1/events?{query}")).await.json()["items"].as_array().unwrap().len()
    };
    assert_eq!(count(format!("vm_id={vm}")).await, 6);
    assert_eq!(count(format!("task_id={}", Uuid::from_u128(1))).await, 3);
}

async fn put_settings(api: &Api, body: &Value, if_match: Option<&str>) -> crate::api_support::Reply {
    let mut request = Api::request(OPERATOR, "PUT", "/api/v1/settings").header("content-type", "application/json");
    if let Some(tag) = if_match {
        request = request.header("if-match", tag);
    }
    api.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_are_saved_only_on_top_of_what_was_seen(pool: PgPool) {
    let api = Api::new(pool).await;
    api.settings.send_modify(|seed| seed.settings.history_days = 7);
    let seed = api.call(VIEWER, "GET", "/api/v1/settings").await;
    assert_eq!((seed.header("etag"), &seed.json()["history_days"]), ("\"0\"", &json!(7)), "the seed is in force");
    let mut body = seed.json();
    body["pause_launches"] = json!(true);
    put_settings(&api, &body, None).await.problem(428);
    for stale in ["\"1\"", "W/\"0\"", "*", "0", "\"x\"", ""] {
        put_settings(&api, &body, Some(stale)).await.problem(412);
    }
    let saved = put_settings(&api, &body, Some("\"0\"")).await;
    assert_eq!((saved.status, saved.json()), (200, body.clone()));
    let tag = saved.header("etag").to_owned();
    assert!(put_settings(&api, &body, Some("\"0\"")).await.problem(412).contains("read them again"));
    let read = api.call(VIEWER, "GET", "/api/v1/settings").await;
    assert_eq!((read.header("etag"), read.json()), (tag.as_str(), body.clone()));
    assert_eq!(put_settings(&api, &body, Some(&tag)).await.status, 200);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_that_cannot_be_are_refused(pool: PgPool) {
    let api = Api::new(pool).await;
    let bad = [
        (json!({ "history_days": 0 }), "history_days"),
        (json!({ "resource_classes": {} }), "resource_classes"),
        (json!({ "timeouts": { "task_hours": 0 } }), "timeouts.task_hours"),
        (json!({ "guest": { "http_proxy": "ftp://x" } }), "guest.http_proxy"),
    ];
    for (body, field) in bad {
        let reply = put_settings(&api, &body, Some("\"0\"")).await;
        reply.problem(422);
        assert!(
            reply.json()["errors"].as_array().unwrap().iter().any(|e| e["field"].as_str().unwrap().starts_with(field)),
            "{reply:?}"
        );
    }
    put_settings(&api, &json!({ "colour": "red" }), Some("\"0\"")).await.problem(400);
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/settings").await.header("etag"), "\"0\"");
}
