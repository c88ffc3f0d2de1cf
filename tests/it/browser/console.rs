//! The console as people use it: the work of an operator from the sign-in to VMs that come and go, on pages that are never
//! loaded again. And what hands do in it, for all who drive it.
//!
//! Not here: every page (`pages`), what the script does when nobody looks or when asked (`script`).

use super::{APPEARS_WITHIN, Browser, with_browser};
use crate::api_support::{CI, OPERATOR, VIEWER};
use crate::over_sim::{COLLEAGUE, OverSim};
use chrono::TimeDelta;
use fantoccini::Locator;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::key::Key;
use serde_json::{Value, json};
use sqlx::PgPool;
use vm_service::domain::plan::scale::LINGER;

/// Long enough for a page to show VMs on their way.
const SLOW_BOOT: TimeDelta = TimeDelta::seconds(4);

impl Browser {
    pub(super) async fn open(&self, service: &OverSim, path: &str) {
        self.client.goto(&format!("{}{path}", service.url)).await.unwrap();
    }

    pub(super) async fn press(&self, css: &str) {
        self.until(css, &format!("document.querySelector({})", json!(css))).await;
        self.client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    pub(super) async fn fill(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    pub(super) async fn keys(&self, keys: impl IntoIterator<Item = char>) {
        let actions = keys.into_iter().fold(KeyActions::new("keys".to_owned()), |actions, key| {
            actions.then(KeyAction::Down { value: key }).then(KeyAction::Up { value: key })
        });
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Tabs until the element has the focus, as who has no mouse does.
    async fn tab_to(&self, css: &str) {
        for _ in 0..150 {
            self.keys([char::from(Key::Tab)]).await;
            if self.evaluate(&format!("document.activeElement.matches({})", json!(css))).await == true {
                return;
            }
        }
        panic!("no number of tabs leads to {css}");
    }

    pub(super) async fn sign_in(&self, service: &OverSim, token: &str) {
        self.open(service, "/console").await;
        self.fill("#token", token).await;
        self.press("#sign-in button").await;
        self.until("who is signed in", "document.getElementById('who')").await;
    }

    /// From here on it would show if the page were loaded again.
    pub(super) async fn mark(&self) {
        self.evaluate("window.notLoadedAgain = true").await;
    }

    pub(super) async fn assert_not_loaded_again(&self) {
        assert_eq!(self.evaluate("window.notLoadedAgain").await, true, "the page was loaded again");
        assert_eq!(self.console_errors().await, Vec::<String>::new());
    }

    /// The number in a pool's column of the overview.
    async fn until_pool(&self, kind: &str, column: &str, number: u32) {
        let cell = format!("document.querySelector('#pool-{kind}-medium [data-of={column}]')?.innerText.trim()");
        // A VM that is not needed any more stays for a while.
        let longest = LINGER.to_std().unwrap() + APPEARS_WITHIN;
        self.until_within(longest, &format!("{number} {column} {kind} VMs"), &format!("{cell} === '{number}'")).await;
    }

    /// Looks at the check that was begun, and saves it.
    async fn save(&self) {
        self.press("#save").await;
        self.until("the saved version", "document.getElementById('notice')?.innerText.includes('saved')").await;
    }
}

/// Asks the API.
pub(super) async fn ask(service: &OverSim, token: &str, method: &str, path: &str, body: Option<&Value>) -> Value {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", service.url)).bearer_auth(token);
    if path == "/api/v1/settings" && method == "PUT" {
        let newest = client.get(format!("{}{path}", service.url)).bearer_auth(token).send().await.unwrap();
        request = request.header("if-match", newest.headers()["etag"].clone());
    }
    let answer = if let Some(body) = body { request.json(body) } else { request }.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

pub(super) async fn task(service: &OverSim, wait: bool, more: &[(&str, Value)]) -> Value {
    let mut body = json!({ "executor": "machine", "project_id": "acme/app" });
    for (name, value) in more {
        body[*name] = value.clone();
    }
    let task = ask(service, CI, "POST", "/api/v1/tasks", Some(&body)).await;
    let wait = if wait { "?wait=30" } else { "" };
    ask(service, CI, "GET", &format!("/api/v1/tasks/{}{wait}", task["id"].as_str().unwrap()), None).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn vms_come_and_go_on_the_open_page_when_the_preallocation_changes(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    service.sim.set_boot_time(SLOW_BOOT);
    with_browser(async |browser| {
        browser.sign_in(&service, OPERATOR).await;
        browser.open(&service, "/console/settings").await;
        browser.fill("#preallocated-machine", "2").await;
        browser.press("#check").await;
        browser.until("the check's answer", "document.getElementById('save')").await;
        let starts = "document.querySelector('[data-pool=\"machine medium\"] [data-starts]').innerText";
        assert_eq!(browser.evaluate(starts).await, "2", "what a save would start");
        browser.look("settings-check").await;
        browser.save().await;

        browser.open(&service, "/console").await;
        browser.mark().await;
        browser.until_pool("machine", "starting", 2).await;
        browser.until_pool("machine", "available", 2).await;
        browser.assert_not_loaded_again().await;

        browser.open(&service, "/console/settings/history/1").await;
        browser.press("#return").await;
        browser.save().await;
        browser.open(&service, "/console").await;
        browser.mark().await;
        browser.until_pool("machine", "available", 0).await;
        browser.assert_not_loaded_again().await;
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_second_of_two_people_is_told_and_loses_nothing(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    with_browser(async |browser| {
        browser.sign_in(&service, OPERATOR).await;
        browser.open(&service, "/console/settings").await;
        browser.fill("#preallocated-machine", "1").await;
        let theirs = json!({ "provider": "on_host", "limits": { "vms": 50 } });
        ask(&service, COLLEAGUE, "PUT", "/api/v1/settings", Some(&theirs)).await;
        browser.press("#check").await;
        // The page is loaded anew when the check has come to its end.
        let both = "document.getElementById('overtaken-by') && document.getElementById('findings')";
        browser.until("the conflict and what was looked at", both).await;
        assert_eq!(browser.evaluate("document.getElementById('overtaken-by').innerText").await, "colleague");
        browser.look("settings-conflict").await;
        browser.press("#check-again").await;
        browser.save().await;
        assert_eq!(browser.console_errors().await, Vec::<String>::new());
    })
    .await;
    let saved = ask(&service, OPERATOR, "GET", "/api/v1/settings", None).await;
    assert_eq!((&saved["preallocated"]["machine"], &saved["limits"]["vms"]), (&json!(1), &json!(50)));
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_becomes_ready_on_the_open_page(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    service.sim.set_boot_time(SLOW_BOOT);
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        let task = task(&service, false, &[]).await;
        browser.open(&service, &format!("/console/tasks/{}", task["id"].as_str().unwrap())).await;
        browser.mark().await;
        assert_eq!(browser.evaluate("document.getElementById('state').innerText.trim()").await, "queued");
        browser.until("the ready task", "document.getElementById('state').innerText.trim() === 'ready'").await;
        browser.until("its timeline", "document.getElementById('events').innerText.includes('The job may begin.')").await;
        browser.assert_not_loaded_again().await;
        browser.picture("task-became-ready").await;
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_mouse_is_needed(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    let enter = char::from(Key::Enter);
    with_browser(async |browser| {
        browser.open(&service, "/console").await;
        // The field has the focus already.
        browser.keys(OPERATOR.chars().chain([enter])).await;
        browser.until("who is signed in", "document.getElementById('who')").await;
        browser.keys([char::from(Key::Tab), enter]).await;
        browser.until("the skipped navigation", "document.activeElement.id === 'main'").await;
        browser.open(&service, "/console").await;
        browser.tab_to("nav a[href='/console/settings']").await;
        browser.keys([enter]).await;
        browser.until("the settings", "document.getElementById('settings')").await;
        browser.tab_to("#preallocated-machine").await;
        // What stands in a field is selected when a tab leads to it: it is typed over.
        browser.keys(['1', enter]).await;
        browser.until("the check's answer", "document.getElementById('save')").await;
        browser.tab_to("#save").await;
        browser.keys([enter]).await;
        browser.until("the saved version", "document.getElementById('notice')?.innerText.includes('saved')").await;
        assert_eq!(browser.console_errors().await, Vec::<String>::new());
    })
    .await;
    assert_eq!(ask(&service, OPERATOR, "GET", "/api/v1/settings", None).await["preallocated"]["machine"], 1);
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_viewer_finds_nothing_to_change(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.open(&service, "/console/settings").await;
        let fields = "document.querySelector('fieldset.all').disabled && !document.getElementById('check')";
        assert_eq!(browser.evaluate(fields).await, true);
        let task = task(&service, true, &[]).await;
        browser.open(&service, &format!("/console/tasks/{}", task["id"].as_str().unwrap())).await;
        assert_eq!(browser.evaluate("document.getElementById('actions')").await, Value::Null);
    })
    .await;
    service.stop().await;
}
