//! Every page is fit for everybody: in both themes and on a phone, with something on it to look at.

use super::console::{ask, task};
use super::with_browser;
use crate::api_support::{CI, OPERATOR};
use crate::console_support::pages_beside;
use crate::over_sim::{COLLEAGUE, OverSim};
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeSet;

const IMAGE: &str = "/console/images/00000000-0000-4000-8000-000000000003";
/// What no task of the simulated cloud leaves behind at once.
const ROWS: [&str; 2] = [
    "insert into vms.images (id, name, provider, place, architecture, kind, provider_id, facts, registered_at, registered_by, changed_at,
         changed_by, due_at)
     values ('00000000-0000-4000-8000-000000000003', 'guest', 'ec2', 'eu-west-1', 'x86_64', 'base', 'ami-1', '{}', now(), 'op', now(), 'op',
         now() + interval '1 day')",
    "insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, provider_id, state, size_gib, created_at,
         last_used_at, deadline_at, due_at)
     values (gen_random_uuid(), 'acme/app', 'x86_64', 'classic', 28, 'sim', 'here', 'snap-1', 'good', 100, now(), now(),
         now() + interval '1 day', now() + interval '1 day')",
];

/// Two schedules, and by them a picture of the week.
fn settings() -> Value {
    let schedule =
        |cron: &str, count: u32| json!({ "executor": "machine", "resource_class": "medium", "cron": cron, "count": count });
    let schedules = [schedule("0 7 * * 1-5", 3), schedule("0 20 * * *", 1)];
    json!({ "provider": "on_host", "preallocated": { "remote_docker": 1, "machine": 1, "schedules": schedules } })
}

fn of(task: &Value) -> String {
    format!("/console/tasks/{}", task["id"].as_str().unwrap())
}

/// A page: its name, its path, and what must stand on it for the look to be worth something.
type Page = (&'static str, String, &'static str);

/// Fills the service, and names every page of it.
async fn pages(service: &OverSim, pool: &PgPool) -> Vec<Page> {
    let cached = task(service, true, &[("docker_layer_caching", json!(true)), ("labels", json!({ "job": "4711" }))]).await;
    assert_eq!(cached["state"], "ready", "{cached}");
    let ended = task(service, true, &[]).await;
    ask(service, CI, "DELETE", &format!("/api/v1/tasks/{}", ended["id"].as_str().unwrap()), None).await;
    service.sim.set_boot_time(TimeDelta::hours(1));
    let waits = task(service, false, &[]).await;
    ask(service, COLLEAGUE, "PUT", "/api/v1/settings", Some(&settings())).await;
    let check = ask(service, OPERATOR, "POST", "/api/v1/settings/checks", Some(&settings())).await;
    let check = check["id"].as_str().unwrap();
    ask(service, OPERATOR, "GET", &format!("/api/v1/settings/checks/{check}?wait=60"), None).await;
    for row in ROWS {
        sqlx::query(row).execute(pool).await.unwrap();
    }
    let volume = &ask(service, OPERATOR, "GET", "/api/v1/volumes", None).await["items"][0];
    vec![
        ("overview", "/console".to_owned(), ".starts text"),
        ("tasks", "/console/tasks".to_owned(), "tbody tr[id]"),
        ("task-ready", of(&cached), "#events"),
        ("task-waits", of(&waits), "#release"),
        ("task-ended", of(&ended), "#events"),
        ("vms", "/console/vms".to_owned(), "tbody tr[id]"),
        ("vm", format!("/console/vms/{}", cached["vm"]["id"].as_str().unwrap()), "#end"),
        ("volumes", "/console/volumes".to_owned(), "tbody th[scope=row]"),
        ("volumes-project", "/console/volumes?project=acme%2Fapp".to_owned(), "#volumes tr[id], #generations tr[id]"),
        ("volume", format!("/console/volumes/{}", volume["id"].as_str().unwrap()), "#end"),
        ("images", "/console/images".to_owned(), "tbody th[scope=row]"),
        ("image", IMAGE.to_owned(), "#figures, #promote"),
        ("events", "/console/events".to_owned(), "tbody tr"),
        ("settings", "/console/settings".to_owned(), ".row, .week text"),
        ("settings-json", "/console/settings/json".to_owned(), "#json"),
        ("settings-done", format!("/console/settings/checks/{check}"), "[data-state=done]"),
        ("settings-history", "/console/settings/history".to_owned(), "[data-version]"),
        ("settings-version", "/console/settings/history/2".to_owned(), "table"),
        ("settings-return", "/console/settings/history/1".to_owned(), "#return"),
        ("problem", "/console/nothing".to_owned(), "#problem"),
    ]
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_page_is_fit_for_everybody(pool: PgPool) {
    let service = OverSim::start(&pool, |settings| settings.preallocated.remote_docker = 1).await;
    let pages = pages(&service, &pool).await;
    let paths: Vec<&str> = pages.iter().map(|(_, path, _)| path.as_str()).chain(["/console/sign-in"]).collect();
    assert_eq!(pages_beside(&paths), BTreeSet::new(), "give each a line in this test");
    with_browser(async |browser| {
        browser.open(&service, "/console/sign-in").await;
        browser.look("sign-in").await;
        browser.sign_in(&service, OPERATOR).await;
        let mut wrong = Vec::new();
        for (name, path, has) in &pages {
            browser.open(&service, path).await;
            for part in has.split(", ") {
                browser.until(name, &format!("document.querySelector({})", json!(part))).await;
            }
            wrong.extend(browser.found_at(name).await);
        }
        browser.open(&service, "/console/settings").await;
        browser.fill("#preallocated-machine", "many").await;
        browser.fill("#preallocated-schedules-0-count", "some").await;
        browser.press("#check").await;
        browser.until("what is wrong", "document.getElementById('errors')").await;
        wrong.extend(browser.found_at("settings-errors").await);
        // A page that tells what is wrong has a status that says so, and the browser's console names its address.
        let refused =
            ["/console/nothing", "/console/settings"].map(|path| format!("{}{path} - Failed to load resource", service.url));
        wrong.retain(|sentence| !refused.iter().any(|refused| sentence.contains(refused)));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
    service.stop().await;
}
