//! Who may call what: every route, every role, and nobody without a token; and every route is in the document.

use crate::api_support::{Api, CI, OPERATOR, OTHER, VIEWER};
use axum::body::Body;
use serde_json::Value;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use vm_service::http;

/// Method and path, and who may: dispatcher, operator, viewer.
const ROUTES: &[(&str, &str, [bool; 3])] = &[
    ("GET", "/health", [true, true, true]),
    ("GET", "/metrics", [false, true, true]),
    ("GET", "/api/v1/tasks", [true, true, true]),
    ("POST", "/api/v1/tasks", [true, true, false]),
    ("PUT", "/api/v1/tasks/{id}", [true, true, false]),
    ("GET", "/api/v1/tasks/{id}", [true, true, true]),
    ("DELETE", "/api/v1/tasks/{id}", [true, true, false]),
    ("POST", "/api/v1/tasks/{id}/heartbeat", [true, true, false]),
    ("GET", "/api/v1/tasks/{id}/timeline", [true, true, true]),
    ("GET", "/api/v1/vms", [false, true, true]),
    ("GET", "/api/v1/vms/{id}", [false, true, true]),
    ("DELETE", "/api/v1/vms/{id}", [false, true, false]),
    ("POST", "/api/v1/vms/terminate", [false, true, false]),
    ("PUT", "/api/v1/vms/{id}/hold", [false, true, false]),
    ("DELETE", "/api/v1/vms/{id}/hold", [false, true, false]),
    ("GET", "/api/v1/vms/{id}/connection", [false, true, false]),
    ("GET", "/api/v1/volumes", [false, true, true]),
    ("GET", "/api/v1/volumes/{id}", [false, true, true]),
    ("DELETE", "/api/v1/volumes/{id}", [false, true, false]),
    ("PUT", "/api/v1/volumes/{id}/hold", [false, true, false]),
    ("DELETE", "/api/v1/volumes/{id}/hold", [false, true, false]),
    ("GET", "/api/v1/images", [false, true, true]),
    ("POST", "/api/v1/images", [false, true, false]),
    ("GET", "/api/v1/images/{id}", [false, true, true]),
    ("PUT", "/api/v1/images/{id}/share", [false, true, false]),
    ("POST", "/api/v1/images/{id}/promote", [false, true, false]),
    ("POST", "/api/v1/images/{id}/retire", [false, true, false]),
    ("GET", "/api/v1/events", [false, true, true]),
    ("GET", "/api/v1/audit", [false, true, true]),
    ("GET", "/api/v1/audit/check", [false, true, true]),
    ("GET", "/api/v1/settings", [false, true, true]),
    ("PUT", "/api/v1/settings", [false, true, false]),
    ("POST", "/api/v1/settings/checks", [false, true, false]),
    ("GET", "/api/v1/settings/checks/{id}", [false, true, true]),
    ("GET", "/api/v1/settings/history", [false, true, true]),
    ("GET", "/api/v1/settings/history/{version}", [false, true, true]),
];

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn each_route_lets_in_its_roles_and_nobody_else(pool: PgPool) {
    let api = Api::new(pool).await;
    let document = [("GET", "/openapi.json", [true; 3])];
    for (method, path, may) in ROUTES.iter().chain(&document) {
        let path = path.replace("{id}", &Uuid::from_u128(77).to_string()).replace("{version}", "77");
        for (token, may) in [CI, OPERATOR, VIEWER].into_iter().zip(may) {
            let reply = api.call(token, method, &path).await;
            assert_ne!(reply.status, 401, "{method} {path} {token}");
            assert_eq!(reply.status == 403, !may, "{method} {path} {token}: {reply:?}");
        }
        for wrong in ["", "vms_nobody", "x", &"x".repeat(5000)] {
            let reply = api.call(wrong, method, &path).await;
            reply.problem(401);
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"vm-service\"");
        }
        let basic = Api::request("", method, &path).header("authorization", format!("Basic {OPERATOR}"));
        api.send(basic.body(Body::empty()).unwrap()).await.problem(401);
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn status_needs_no_token_and_tells_a_configuration_problem(pool: PgPool) {
    let api = Api::new(pool).await;
    let ok = api.call("", "GET", "/status").await;
    assert_eq!((ok.status, ok.text.as_str()), (200, "{\"status\":\"ok\"}"));
    assert_eq!(api.call("", "HEAD", "/status").await.status, 200);
    api.problem.send_replace(Some("The region is not set: set it.".to_owned()));
    assert_eq!(api.call("", "GET", "/status").await.problem(500), "The region is not set: set it.");
    let head = api.call("", "HEAD", "/status").await;
    assert_eq!((head.status, head.text.as_str()), (500, ""));
    let health = api.call(VIEWER, "GET", "/health").await.json();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["configuration_problem"], "The region is not set: set it.");
    assert_eq!(health["database"]["problem"], Value::Null);
    api.problem.send_replace(None);
    assert_eq!(api.call(CI, "GET", "/health").await.json()["status"], "ok");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_revoked_token_is_refused_at_once(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    assert_eq!(api.call(CI, "GET", "/api/v1/tasks").await.status, 200);
    sqlx::query("update vms.tokens set revoked_at = now() where principal = 'ci'").execute(&pool).await.unwrap();
    api.call(CI, "GET", "/api/v1/tasks").await.problem(401);
    assert_eq!(api.call(OTHER, "GET", "/api/v1/tasks").await.status, 200);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_page_of_the_documentation_holds_no_data_and_asks_for_a_token(pool: PgPool) {
    let api = Api::new(pool).await;
    assert_eq!(api.call("", "GET", "/docs").await.header("location"), "/docs/");
    let page = api.call("", "GET", "/docs/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html"));
    assert!(page.text.contains("swagger-initializer.js"));
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    for file in ["swagger-initializer.js", "swagger-ui-bundle.js", "swagger-ui.css"] {
        assert_eq!(api.call("", "GET", &format!("/docs/{file}")).await.status, 200, "{file}");
    }
    api.call("", "GET", "/docs/nothing.js").await.problem(404);
    api.call("", "GET", "/docs/..%2f..%2fetc%2fpasswd").await.problem(404);
}

fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch", "head"] {
            if let Some(operation) = item.get(method) {
                found.insert((method.to_uppercase(), path.clone()), operation.clone());
            }
        }
    }
    found
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(name)) = map.get("$ref") {
                found.insert(name.clone());
            }
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(all) => all.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[test]
fn the_document_has_every_route_with_the_schema_of_its_answers() {
    let document = serde_json::to_value(http::document()).unwrap();
    let operations = operations(&document);
    let expected: BTreeSet<_> = ROUTES.iter().map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned())).collect();
    let mut found: BTreeSet<_> = operations.keys().cloned().collect();
    assert!(found.remove(&("GET".to_owned(), "/status".to_owned())));
    assert_eq!(found, expected, "every route has its line in ROUTES, and each line its route");
    for ((method, path), operation) in &operations {
        let open = operation.get("security").is_some();
        assert_eq!(open, path == "/status", "{method} {path}: {}", operation["security"]);
        let responses = operation["responses"].as_object().unwrap();
        for (_, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
            let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ProblemView", "{method} {path}");
        }
        assert!(!responses.contains_key("default"), "{method} {path}: a status that is not named is none that may be given");
        for (status, response) in responses.iter().filter(|(status, _)| *status != "204") {
            let content = response["content"].as_object().unwrap_or_else(|| panic!("{method} {path} {status} has no content"));
            assert!(content.values().all(|content| !content["schema"].is_null()), "{method} {path} {status}");
        }
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path} is not described");
    }
    let mut references_found = BTreeSet::new();
    references(&document, &mut references_found);
    for name in references_found {
        let target = document.pointer(name.trim_start_matches('#'));
        assert!(target.is_some(), "{name} is not in the document");
    }
    for name in [
        "TaskView",
        "TaskCache",
        "VolumeView",
        "ImageView",
        "RegisteredImages",
        "VmView",
        "EventView",
        "Connection",
        "Settings",
        "Terminated",
        "HealthView",
        "StatusView",
        "FieldError",
    ] {
        assert!(!document["components"]["schemas"][name].is_null(), "{name}");
    }
    assert_eq!(document["security"], serde_json::json!([{ "bearer": [] }]));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

/// Routes outside the document and the console: each is known by name.
#[test]
fn no_route_is_added_beside_the_document() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let mut beside = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let added = text.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        beside.extend(added);
    }
    beside.sort();
    let known = ["/docs", "/docs/", "/docs/{file}", "/metrics", "/openapi.json", "/status"];
    assert_eq!(beside, known, "/status: the router of a broken service; /metrics: that of a role without an API");
}
