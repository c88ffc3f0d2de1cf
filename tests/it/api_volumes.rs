//! Docker layer caches over the API: what a task says of its own, what operators see and do, and tokens for code from outside.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, start, task_path};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::admin::tokens;
use vm_service::domain::access::{Caller, Role};

const VOLUME: u128 = 5;

/// A volume that three jobs worked on, of a project whose jobs found layers two times of four.
async fn volume(api: &Api) -> String {
    let id = Uuid::from_u128(VOLUME);
    sqlx::query("update vms.budget set max_volumes = 9").execute(&api.db().pool).await.unwrap();
    sqlx::query(
        "insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, provider_id, zone,
                                  size_gib, used_bytes, jobs, created_at, last_used_at, due_at)
         values ($1, 'p', 'trusted', 'x86_64', 'classic', 28, 'onhost', 'here', 'vol-1', 'host', 100, 1048576, 3, $2, $2, $2)",
    )
    .bind(id)
    .bind(start())
    .execute(&api.db().pool)
    .await
    .unwrap();
    sqlx::query("update vms.volumes set state = 'available'").execute(&api.db().pool).await.unwrap();
    sqlx::query(
        "insert into vms.cache_uses (task_id, at, project_id, cache_trust, hit)
         select gen_random_uuid(), $1, p, 'trusted', n % 2 = 0 from generate_series(1, 4) as n, unnest(array['p', 'q']) as p",
    )
    .bind(start())
    .execute(&api.db().pool)
    .await
    .unwrap();
    format!("/api/v1/volumes/{id}")
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_is_shown_held_and_deleted(pool: PgPool) {
    let api = Api::new(pool).await;
    let path = volume(&api).await;
    let at = "2026-09-21T14:13:20Z";
    let shown = json!({
        "id": Uuid::from_u128(VOLUME), "project_id": "p", "trust": "trusted", "architecture": "x86_64", "store": "classic", "major": 28,
        "state": "available", "reason": null, "provider": "onhost", "provider_id": "vol-1", "zone": "host", "size_gib": 100,
        "used_bytes": 1_048_576, "generation": null, "jobs": 3, "vm_id": null, "created_at": at, "last_used_at": at,
        "project": { "jobs": 4, "hits": 2 }, "hold": null,
    });
    assert_eq!(api.call(VIEWER, "GET", &path).await.json(), shown);
    let items = |reply: Value| reply["items"].as_array().unwrap().len();
    for (query, found) in [("", 1), ("?project_id=p", 1), ("?project_id=q", 0), ("?state=available", 1), ("?state=quarantined", 0)]
    {
        assert_eq!(items(api.call(VIEWER, "GET", &format!("/api/v1/volumes{query}")).await.json()), found, "{query}");
    }
    api.call(VIEWER, "GET", "/api/v1/volumes?state=lost").await.problem(400);

    let held = api.put(OPERATOR, &format!("{path}/hold"), &json!({ "reason": "a look", "seconds": 60 })).await;
    assert_eq!(held.json()["hold"]["reason"], "a look");
    let refused = api.call(OPERATOR, "DELETE", &path).await.problem(409);
    assert!(refused.contains("held until") && refused.contains("/hold"), "{refused}");
    assert_eq!(api.call(OPERATOR, "DELETE", &format!("{path}/hold")).await.json()["hold"], Value::Null);
    assert_eq!(api.call(OPERATOR, "DELETE", &path).await.json()["state"], "deleting");
    assert_eq!(api.call(OPERATOR, "DELETE", &path).await.status, 200, "again changes nothing");
    api.put(OPERATOR, &format!("{path}/hold"), &json!({ "reason": "too late", "seconds": 60 })).await.problem(409);
    let nothing = format!("/api/v1/volumes/{}", Uuid::from_u128(9));
    api.call(OPERATOR, "DELETE", &nothing).await.problem(404);
    api.call(VIEWER, "GET", &nothing).await.problem(404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_in_use_is_not_deleted(pool: PgPool) {
    let api = Api::new(pool).await;
    let path = volume(&api).await;
    let vm = api.available_vm(vm_service::domain::task::Executor::Machine).await;
    let body = {
        let mut body = machine();
        body["docker_layer_caching"] = true.into();
        body
    };
    let task = api.put(CI, &task_path(1), &body).await.json();
    assert_eq!((&task["state"], &task["cache"]), (&json!("preparing"), &Value::Null), "its cache comes first");
    assert_eq!(task["docker_layer_caching"], true);
    let project = task["project_id"].as_str().unwrap();
    sqlx::query("update vms.volumes set project_id = $1, state = 'attaching', vm_id = $2")
        .bind(project)
        .bind(vm.0)
        .execute(&api.db().pool)
        .await
        .unwrap();
    let refused = api.call(OPERATOR, "DELETE", &path).await.problem(409);
    assert!(refused.contains(&format!("in use by VM {vm}")), "{refused}");
}

/// A request that says nothing of caches is the same request as before there were any.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_token_for_code_from_outside_makes_untrusted_tasks_only(pool: PgPool) {
    let api = Api::new(pool).await;
    let caller = Caller { principal: "forks".to_owned(), role: Role::Dispatcher, untrusted_only: true };
    let (_, token) = tokens::create(api.db(), &api.state.sealer, &caller, start()).await.unwrap();
    let refused = api.put(token.expose(), &task_path(1), &machine()).await.problem(403);
    assert!(refused.contains("\"cache_trust\": \"untrusted\""), "{refused}");
    let body = {
        let mut body = machine();
        body["cache_trust"] = "untrusted".into();
        body
    };
    let made = api.put(token.expose(), &task_path(1), &body).await;
    assert_eq!((made.status, &made.json()["cache_trust"]), (201, &json!("untrusted")));
    let plain = api.put(CI, &task_path(2), &machine()).await.json();
    assert_eq!((&plain["cache_trust"], &plain["docker_layer_caching"]), (&Value::Null, &Value::Null));
    let wrong = {
        let mut body = machine();
        body["cache_trust"] = "half".into();
        body
    };
    api.put(CI, &task_path(3), &wrong).await.problem(400);
}
