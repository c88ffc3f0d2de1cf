//! What the script of a page does: it leaves the service alone while nobody looks, and shows afterwards what is; the theme, the key `/`
//! and the question before something ends.

use super::console::{ask, task};
use super::{Browser, with_browser};
use crate::api_support::{CI, OPERATOR, VIEWER};
use crate::over_sim::OverSim;
use chrono::TimeDelta;
use fantoccini::key::Key;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::Duration;

/// For what would come with the first look, and otherwise never.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Streams that one principal may have open.
const STREAMS: usize = 64;
/// Keeps how a stream is after the script closed it.
const NOTE_CLOSED: &str = "window.close_stream ??= EventSource.prototype.close;
    EventSource.prototype.close = function () { close_stream.call(this); window.left = this.readyState; }; 0";
const LIVE: &str = "document.getElementById('live-sign').dataset.sign === 'live' && !document.getElementById('live-sign').hidden";

impl Browser {
    /// As when another tab comes to the front, or this one again.
    async fn hide(&self, is_hidden: bool) {
        self.evaluate(NOTE_CLOSED).await;
        let hidden = format!("Object.defineProperty(document, 'hidden', {{ configurable: true, value: {is_hidden} }})");
        self.evaluate(&format!("{hidden}; document.dispatchEvent(new Event('visibilitychange'))")).await;
    }

    /// The theme that was chosen: what the page says, what it looks like, what the button offers, and what the browser keeps.
    async fn assert_theme(&self, theme: &str, other: &str) {
        let said =
            "[document.querySelector(':root[data-theme]').dataset.theme, getComputedStyle(document.documentElement).colorScheme,
            document.getElementById('theme').textContent, document.cookie]";
        assert_eq!(self.evaluate(said).await, json!([theme, theme, other, format!("theme={theme}")]));
        assert_eq!(self.barriers().await, Vec::<String>::new(), "{theme}");
    }
}

async fn end(service: &OverSim, task: &Value) {
    ask(service, CI, "DELETE", &format!("/api/v1/tasks/{}", task["id"].as_str().unwrap()), None).await;
}

async fn state(service: &OverSim, task: &Value) -> Value {
    ask(service, CI, "GET", &format!("/api/v1/tasks/{}", task["id"].as_str().unwrap()), None).await["state"].clone()
}

/// The service, where what is asked for waits.
async fn waiting(pool: &PgPool) -> OverSim {
    let service = OverSim::start(pool, |_| {}).await;
    service.sim.set_boot_time(TimeDelta::hours(1));
    service
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_page_that_was_hidden_shows_what_is_even_when_it_was_so_before(pool: PgPool) {
    let service = waiting(&pool).await;
    let none = "document.getElementById('live').innerText.includes('There are no such tasks.')";
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.open(&service, "/console/tasks?state=queued").await;
        browser.mark().await;
        browser.until("the empty list", none).await;
        let task = task(&service, false, &[]).await;
        browser.until("the task", &format!("!({none})")).await;
        browser.hide(true).await;
        let follows_nothing = format!("window.left === EventSource.CLOSED && !({LIVE})");
        assert_eq!(browser.evaluate(&follows_nothing).await, true, "and it does not say that it is live");
        end(&service, &task).await;
        assert_eq!(browser.evaluate(none).await, false, "nothing comes to a page that nobody sees");
        browser.hide(false).await;
        browser.until_within(AT_ONCE, "the empty list again", none).await;
        browser.until("the sign of a live page", LIVE).await;
        browser.assert_not_loaded_again().await;
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_was_signed_out_while_the_page_was_hidden_is_led_to_the_sign_in(pool: PgPool) {
    let service = waiting(&pool).await;
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.open(&service, "/console/tasks?state=queued").await;
        browser.until("the sign of a live page", LIVE).await;
        browser.hide(true).await;
        sqlx::query("delete from vms.sessions").execute(&pool).await.unwrap();
        browser.hide(false).await;
        browser.until_within(AT_ONCE, "the sign-in", "document.getElementById('sign-in')").await;
        let next = "new URL(location).searchParams.get('next')";
        assert_eq!(browser.evaluate(next).await, "/console/tasks?state=queued", "and from there back");
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_page_that_is_refused_its_stream_asks_more_and_more_slowly(pool: PgPool) {
    let service = waiting(&pool).await;
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut others = Vec::new();
    for n in 0..STREAMS {
        let ask = client.get(format!("{}/api/v1/events", service.url)).bearer_auth(VIEWER).header("accept", "text/event-stream");
        let stream = ask.send().await.unwrap();
        assert_eq!(stream.status(), 200, "{n}");
        others.push(stream);
    }
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.until("the sign of a page that is not", "document.getElementById('live-sign').dataset.sign === 'not live'").await;
        browser.hide(true).await;
        // Waits are noted, and take no time.
        let noted = "window.waits = []; const later = setTimeout; window.setTimeout = (what, ms) => { waits.push(ms); return later(what); }";
        browser.evaluate(&format!("{noted}; 0")).await;
        browser.hide(false).await;
        browser.until("the refused streams", "waits.length > 6").await;
        let waits = browser.evaluate("waits.slice(0, 6)").await;
        assert_eq!(waits, json!([10_000, 20_000, 40_000, 80_000, 120_000, 120_000]));
        drop(others);
        browser.until("the stream", LIVE).await;
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_theme_is_chosen_kept_and_fit_for_everybody(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.open(&service, "/console").await;
        assert_eq!(browser.evaluate("document.documentElement.dataset.theme").await, Value::Null);
        browser.press("#theme").await;
        browser.assert_theme("dark", "Light").await;
        browser.open(&service, "/console/tasks").await;
        browser.assert_theme("dark", "Light").await;
        // What was chosen wins over what the browser prefers.
        browser.media("dark").await;
        browser.press("#theme").await;
        browser.assert_theme("light", "Dark").await;
        browser.open(&service, "/console").await;
        browser.assert_theme("light", "Dark").await;
        assert_eq!(browser.console_errors().await, Vec::<String>::new());
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_slash_leads_to_the_filter_and_is_a_letter_there(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    let field = "[document.activeElement.id, document.getElementById('f-project').value]";
    with_browser(async |browser| {
        browser.sign_in(&service, VIEWER).await;
        browser.open(&service, "/console/tasks?project=acme").await;
        browser.keys(['/']).await;
        assert_eq!(browser.evaluate(field).await, json!(["f-project", "acme"]));
        // All of it is selected: it is typed over.
        browser.keys("a/b".chars().chain([char::from(Key::Enter)])).await;
        browser.until("what was looked for", "location.search.includes('project=a%2Fb')").await;
    })
    .await;
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn nothing_ends_before_the_question_is_answered(pool: PgPool) {
    let service = waiting(&pool).await;
    with_browser(async |browser| {
        browser.sign_in(&service, OPERATOR).await;
        let task = task(&service, false, &[]).await;
        browser.open(&service, &format!("/console/tasks/{}", task["id"].as_str().unwrap())).await;
        browser.mark().await;
        browser.press("#release").await;
        assert_eq!(browser.client.get_alert_text().await.unwrap(), "Cancel this task?");
        browser.client.dismiss_alert().await.unwrap();
        browser.assert_not_loaded_again().await;
        assert_eq!(state(&service, &task).await, "queued");
        browser.press("#release").await;
        browser.client.accept_alert().await.unwrap();
        browser.until("the cancelled task", "document.getElementById('state').innerText.trim() === 'cancelled'").await;
        assert_eq!(state(&service, &task).await, "cancelled");
    })
    .await;
    service.stop().await;
}
