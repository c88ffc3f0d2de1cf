//! Pages that follow the service: a change comes by itself, nothing else does, and nothing comes to who is not signed in any more.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, task_path};
use crate::console_support::{Browser, request};
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use vm_service::domain::task::Executor;
use vm_service::http::serve::{HttpConfig, bind, serve};

/// Generous: a machine under load is slow.
const SOON: Duration = Duration::from_secs(15);

struct Stream {
    socket: TcpStream,
    read: String,
    _serving: JoinHandle<std::io::Result<()>>,
}

/// Where a page's changes come from.
fn live(page: &str) -> String {
    page.split("data-live=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&")
}

impl Stream {
    /// Follows a page as its script does.
    async fn of(browser: &Browser<'_>, page: &str) -> Self {
        Self::from(browser, &browser.get(page).await.text).await
    }

    /// Follows a page that was loaded before.
    async fn from(browser: &Browser<'_>, text: &str) -> Self {
        Self::again(browser, &live(text), "").await
    }

    /// Opens the stream at an address; `last`: the id of the last event that came from there, or nothing.
    async fn again(browser: &Browser<'_>, path: &str, last: &str) -> Self {
        let listener = bind(&HttpConfig::new(([127, 0, 0, 1], 0).into())).await.unwrap();
        let mut socket = TcpStream::connect(listener.address).await.unwrap();
        let serving = tokio::spawn(serve(listener, browser.api.state.clone()));
        let last = if last.is_empty() { String::new() } else { format!("last-event-id: {last}\r\n") };
        let ask =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {}\r\naccept-encoding: gzip\r\n{last}\r\n", browser.cookie);
        socket.write_all(ask.as_bytes()).await.unwrap();
        let mut stream = Self { socket, read: String::new(), _serving: serving };
        assert!(stream.until("\r\n\r\n", SOON).await, "{}", stream.read);
        assert!(stream.read.contains("text/event-stream") && !stream.read.contains("content-encoding"), "{}", stream.read);
        stream
    }

    /// The id of the last event.
    fn last(&self) -> &str {
        self.read.rsplit_once("id: ").unwrap().1.lines().next().unwrap()
    }

    /// Whether the text comes within the time.
    async fn until(&mut self, text: &str, within: Duration) -> bool {
        let read = async {
            while !self.read.contains(text) {
                let mut bytes = vec![0; 65_536];
                match self.socket.read(&mut bytes).await {
                    Ok(0) | Err(_) => return false,
                    Ok(n) => self.read.push_str(&String::from_utf8_lossy(&bytes[..n])),
                }
            }
            true
        };
        tokio::time::timeout(within, read).await.unwrap_or(false)
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_change_comes_by_itself_and_nothing_else_does(pool: PgPool) {
    let api = Api::new(pool).await;
    let (operator, viewer) = (Browser::new(&api, OPERATOR).await, Browser::new(&api, VIEWER).await);
    api.put(CI, &task_path(1), &machine()).await;
    let page = format!("/console/tasks/{}", uuid::Uuid::from_u128(1));
    let mut one = Stream::of(&operator, &page).await;
    let mut list = Stream::of(&viewer, "/console/tasks?state=queued").await;
    let mut other = Stream::of(&viewer, "/console/vms").await;
    assert!(!list.until("event: part", Duration::from_millis(2500)).await, "nothing has changed: {}", list.read);
    api.call(CI, "DELETE", &task_path(1)).await;
    assert!(one.until("cancelled", SOON).await, "{}", one.read);
    assert!(list.until("There are no such tasks.", SOON).await, "{}", list.read);
    assert!(!one.read.contains("form_token") && !list.read.contains("<form"), "no form is in what all share");
    assert!(!other.until("event: part", Duration::from_millis(500)).await, "no VM has changed: {}", other.read);
    api.state.stop.cancel();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn nothing_comes_to_who_is_not_signed_in_any_more(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let viewer = Browser::new(&api, VIEWER).await;
    let mut stream = Stream::of(&viewer, "/console/tasks").await;
    sqlx::query("update vms.tokens set revoked_at = now() where principal = 'viewer'").execute(&pool).await.unwrap();
    api.put(CI, &task_path(1), &machine()).await;
    assert!(stream.until("event: gone", SOON).await, "{}", stream.read);
    assert!(!stream.read.contains("event: part"), "{}", stream.read);
    api.state.stop.cancel();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn only_a_page_of_the_console_is_followed(pool: PgPool) {
    let api = Api::new(pool).await;
    let viewer = Browser::new(&api, VIEWER).await;
    for wrong in ["", "x", "/api/v1/vms", "/console/settings", "/console/tasks/a/b", "/console/sign-in"] {
        let reply = viewer.get(&format!("/console/live?of={wrong}")).await;
        assert_eq!(reply.status, 400, "{wrong}: {reply:?}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_page_goes_back_to_what_others_were_sent_before(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let (operator, viewer) = (Browser::new(&api, OPERATOR).await, Browser::new(&api, VIEWER).await);
    let page = format!("/console/vms/{}", api.available_vm(Executor::Machine).await);
    let before = operator.get(&page).await.text;
    let mut first = Stream::from(&operator, &before).await;
    assert!(!first.until("event: part", Duration::from_millis(500)).await, "{}", first.read);
    // Nothing wakes the look that is shared: it shows for a while what was.
    sqlx::query("update vms.vms set state = 'draining'").execute(&pool).await.unwrap();
    let mut fresh = Stream::of(&viewer, &page).await;
    assert!(!fresh.until("data-state=\"available\"", Duration::from_secs(3)).await, "{}", fresh.read);
    // Who comes back with an old page is sent the new one at once, not when the next change comes.
    let mut back = Stream::from(&operator, &before).await;
    assert!(back.until("data-state=\"draining\"", Duration::from_secs(3)).await, "{}", back.read);
    api.state.stop.cancel();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_went_and_came_back_while_nobody_followed_is_sent(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let viewer = Browser::new(&api, VIEWER).await;
    let page = live(&viewer.get("/console/tasks?state=queued").await.text);
    api.put(CI, &task_path(1), &machine()).await;
    let mut first = Stream::again(&viewer, &page, "").await;
    assert!(first.until("/console/tasks/00000000", SOON).await, "{}", first.read);
    let shown = first.last().to_owned();
    drop(first);
    let mut same = Stream::again(&viewer, &page, &shown).await;
    assert!(!same.until("event: part", Duration::from_millis(1500)).await, "it shows that already: {}", same.read);
    drop(same);
    // The address still names what the page was loaded with, and that is what there is again.
    api.call(CI, "DELETE", &task_path(1)).await;
    let mut back = Stream::again(&viewer, &page, &shown).await;
    assert!(back.until("There are no such tasks.", SOON).await, "{}", back.read);
    assert_ne!(back.last(), shown);
    api.state.stop.cancel();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_looks_at_what_is_not_there_any_more_is_told(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let viewer = Browser::new(&api, VIEWER).await;
    let page = format!("/console/vms/{}", api.available_vm(Executor::Machine).await);
    let text = viewer.get(&page).await.text;
    let mut stream = Stream::from(&viewer, &text).await;
    sqlx::query("delete from vms.vms").execute(&pool).await.unwrap();
    assert!(stream.until("event: gone", SOON).await, "{}", stream.read);
    assert!(!stream.read.contains("event: part"), "{}", stream.read);
    let mut late = Stream::from(&viewer, &text).await;
    assert!(late.until("event: gone", SOON).await, "{}", late.read);
    assert_eq!(viewer.get(&page).await.status, 404);
    api.state.stop.cancel();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_look_that_fails_ends_its_streams_and_the_next_follower_begins_anew(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let viewer = Browser::new(&api, VIEWER).await;
    api.put(CI, &task_path(1), &machine()).await;
    let page = viewer.get("/console/tasks?state=queued").await.text;
    let mut stream = Stream::from(&viewer, &page).await;
    assert!(!stream.until("event: part", Duration::from_millis(500)).await, "{}", stream.read);
    sqlx::query("alter table vms.tasks rename to away").execute(&pool).await.unwrap();
    assert!(stream.until("\r\n0\r\n\r\n", SOON).await, "its page would go on to say that it is live: {}", stream.read);
    sqlx::query("alter table vms.away rename to tasks").execute(&pool).await.unwrap();
    let mut again = Stream::from(&viewer, &page).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    assert!(again.until("There are no such tasks.", SOON).await, "{}", again.read);
    api.state.stop.cancel();
}

fn viewer_page(browser: &Browser<'_>) -> Request<Body> {
    request("GET", "/console/live?of=/console/vms").header("cookie", &browser.cookie).body(Body::empty()).unwrap()
}

fn events(token: &str) -> Request<Body> {
    Api::request(token, "GET", "/api/v1/events").header("accept", "text/event-stream").body(Body::empty()).unwrap()
}

/// A stream that nobody reads is open until it is dropped.
async fn open(api: &Api, request: Request<Body>) -> Response {
    api.router.clone().oneshot(request).await.unwrap()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn one_principal_has_only_so_many_streams_open(pool: PgPool) {
    let api = Api::new(pool).await;
    let viewer = Browser::new(&api, VIEWER).await;
    let mut streams = Vec::new();
    for n in 0..64 {
        let request = if n % 2 == 0 { events(VIEWER) } else { viewer_page(&viewer) };
        let stream = open(&api, request).await;
        assert_eq!(stream.status(), 200, "{n}");
        streams.push(stream);
    }
    let refused = open(&api, events(VIEWER)).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
    assert_eq!(open(&api, viewer_page(&viewer)).await.status(), 429, "its pages count too");
    assert_eq!(open(&api, events(OPERATOR)).await.status(), 200, "others have their own");
    streams.pop();
    assert_eq!(open(&api, events(VIEWER)).await.status(), 200, "one was closed");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_open_page_does_not_keep_its_session(pool: PgPool) {
    let api = Api::new(pool).await;
    let viewer = Browser::new(&api, VIEWER).await;
    let mut stream = Stream::of(&viewer, "/console/tasks").await;
    api.clock.advance(TimeDelta::minutes(59));
    api.put(CI, &task_path(1), &machine()).await;
    assert!(stream.until("event: part", SOON).await, "{}", stream.read);
    drop(open(&api, viewer_page(&viewer)).await);
    api.clock.advance(TimeDelta::minutes(2));
    api.call(CI, "DELETE", &task_path(1)).await;
    assert!(stream.until("event: gone", SOON).await, "{}", stream.read);
    api.state.stop.cancel();
}
