//! Versions of the settings over the API: who saved which and when, and the way back to an earlier one with its sealed secret.

use crate::api_support::{Api, CI, OPERATOR, Reply, VIEWER};
use crate::settings_browser::Browser;
use axum::body::Body;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use vm_service::clock::Clock;
use vm_service::db::DbError;
use vm_service::domain::settings::{ProjectSettings, Settings};

async fn save(api: &Api, body: &Value, on_top_of: i64) -> Reply {
    let request = Api::request(OPERATOR, "PUT", "/api/v1/settings").header("content-type", "application/json");
    api.send(request.header("if-match", format!("\"{on_top_of}\"")).body(Body::from(body.to_string())).unwrap()).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn versions_come_newest_first_with_who_and_when(pool: PgPool) {
    let api = Api::new(pool).await;
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/settings/history").await.json(), json!({ "items": [] }));
    let mut times = Vec::new();
    for days in 1..=3 {
        api.clock.advance(TimeDelta::minutes(1));
        times.push(api.clock.now());
        assert_eq!(save(&api, &json!({ "history_days": days }), days - 1).await.status, 200);
    }
    let version = |n: usize| json!({ "version": n, "created_at": times[n - 1], "created_by": "operator" });
    let page = api.call(VIEWER, "GET", "/api/v1/settings/history?limit=2").await;
    assert_eq!(page.json(), json!({ "items": [version(3), version(2)], "next_cursor": "2" }));
    let next = page.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
    assert_eq!(api.call(VIEWER, "GET", &next).await.json(), json!({ "items": [version(1)] }));
    let second = api.call(VIEWER, "GET", "/api/v1/settings/history/2").await.json();
    assert_eq!(
        (&second["version"], &second["created_by"], &second["settings"]["history_days"]),
        (&json!(2), &json!("operator"), &json!(2))
    );
    assert!(api.call(VIEWER, "GET", "/api/v1/settings/history/4").await.problem(404).contains("no version 4"));
    for bad in ["history/x", "history?cursor=0", "history?cursor=x", "history?limit=0", "history?colour=red"] {
        api.call(VIEWER, "GET", &format!("/api/v1/settings/{bad}")).await.problem(400);
    }
    api.call(CI, "GET", "/api/v1/settings/history").await.problem(403);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_the_database_cannot_hold_is_refused_as_what_it_is(pool: PgPool) {
    let api = Api::new(pool).await;
    let pem = "-----BEGIN CERTIFICATE-----\n\u{0}\n-----END CERTIFICATE-----";
    for (field, body) in [
        ("projects", json!({ "projects": { "\u{0}": {} } })),
        ("projects", json!({ "projects": { "": {} } })),
        ("projects", json!({ "projects": { ("x".repeat(201)): {} } })),
        (
            "resource_class",
            json!({ "preallocated": { "pools": [{ "executor": "machine", "resource_class": "\u{0}", "count": 1 }] } }),
        ),
        (
            "resource_class",
            json!({ "preallocated": { "schedules": [
                { "executor": "machine", "resource_class": "\u{0}", "cron": "0 8 * * *", "count": 1 }
            ] } }),
        ),
        ("root_certificates", json!({ "guest": { "root_certificates": [pem] } })),
    ] {
        let refused = save(&api, &body, 0).await.problem(422);
        assert!(refused.contains(field), "{refused}");
    }
    let mut unchecked = Settings::default();
    unchecked.projects.insert("\u{0}".to_owned(), ProjectSettings::default());
    let refused = api.db().insert_settings(0, &unchecked, api.clock.now(), "operator").await;
    assert!(matches!(refused, Err(DbError::Unstorable(_))), "{refused:?}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_earlier_version_comes_back_with_its_secret_and_nobody_elses_sealed_text_does(pool: PgPool) {
    let api = Api::new(pool).await;
    let with_key =
        json!({ "ec2": { "authentication": { "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": "canary-secret" } } } });
    assert_eq!(save(&api, &with_key, 0).await.status, 200);
    assert_eq!(save(&api, &json!({}), 1).await.status, 200);
    let old = api.call(OPERATOR, "GET", "/api/v1/settings/history/1").await;
    assert!(!old.text.contains("canary-secret"), "{old:?}");
    let settings = old.json()["settings"].clone();
    assert!(settings["ec2"]["authentication"]["access_key"]["sealed"].is_string(), "{settings}");
    let back = save(&api, &settings, 2).await;
    assert_eq!((back.status, back.json()), (200, settings.clone()));
    for foreign in ["AAAA", "not base64", ""] {
        let mut bent = settings.clone();
        bent["ec2"]["authentication"]["access_key"]["sealed"] = json!(foreign);
        save(&api, &bent, 3).await.problem(422);
    }
    let other_row = api.state.sealer.seal(uuid::Uuid::from_u128(1), b"x").unwrap();
    let mut bent = settings;
    bent["ec2"]["authentication"]["access_key"]["sealed"] =
        json!(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, other_row));
    assert!(save(&api, &bent, 3).await.problem(422).contains("access_key"), "sealed for something else");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_may_only_look_sees_no_secret_sealed_or_not(pool: PgPool) {
    let api = Api::new(pool).await;
    let with_secrets = json!({
        "ec2": { "authentication": { "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": "canary-secret" } } },
        "guest": { "http_proxy": "http://me:canary-1@proxy:3128", "https_proxy": "http://me:canary-2@proxy:3128" }
    });
    let saved = save(&api, &with_secrets, 0).await.json();
    let sealed = saved["ec2"]["authentication"]["access_key"]["sealed"].as_str().unwrap();
    let viewer = Browser::sign_in(&api, VIEWER).await;
    let seen = [
        api.call(VIEWER, "GET", "/api/v1/settings").await,
        api.call(VIEWER, "GET", "/api/v1/settings/history/1").await,
        viewer.get("/console/settings").await,
        viewer.get("/console/settings/json").await,
        viewer.get("/console/settings/history/1").await,
    ];
    for page in seen {
        assert!(page.status == 200 && page.text.contains("me:[secret]@proxy"), "{page:?}");
        assert!(!page.text.contains("canary") && !page.text.contains(sealed), "{page:?}");
    }
    assert_eq!(api.call(OPERATOR, "GET", "/api/v1/settings").await.json(), saved);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_version_of_another_binary_is_listed_and_not_shown(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    sqlx::query("insert into vms.settings (body, created_at, created_by) values ('{\"colour\": 1}', now(), 'old')")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/settings/history").await.json()["items"][0]["created_by"], "old");
    assert!(api.call(VIEWER, "GET", "/api/v1/settings/history/1").await.problem(409).contains("another vm-service"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_of_another_binary_are_named_with_the_way_back(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    assert_eq!(save(&api, &json!({ "history_days": 30 }), 0).await.status, 200);
    sqlx::query("insert into vms.settings (body, created_at, created_by) values ('{\"colour\": 1}', now(), 'new')")
        .execute(&pool)
        .await
        .unwrap();
    let told = api.call(VIEWER, "GET", "/api/v1/settings").await.problem(409);
    assert!(told.contains("Version 2") && told.contains("colour") && told.contains("settings revert VERSION"), "{told}");
    assert_eq!(api.with_body(OPERATOR, "POST", "/api/v1/settings/checks", "{}").await.problem(409), told);
    assert_eq!(save(&api, &json!({ "history_days": 30 }), 2).await.status, 200);
    assert_eq!(api.call(VIEWER, "GET", "/api/v1/settings").await.header("etag"), "\"3\"");
}
