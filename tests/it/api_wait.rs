//! Long polls and streams: they end when there is something to say, hold no connection meanwhile, and end at the stop.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, eventually, machine, task_path};
use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::time::{Duration, Instant};
use tower::ServiceExt;
use uuid::Uuid;
use vm_service::db::Db;
use vm_service::db::wake::Wake;
use vm_service::domain::ids::TaskId;
use vm_service::http::state::Limits;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn long_polls_hold_no_connection_and_end_within_a_second_of_the_change(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5)).connect_with(options).await.unwrap();
    let api = Api::new(pool).await;
    api.put(CI, &task_path(1), &machine()).await;
    let path = format!("{}?wait=30", task_path(1));
    let polls = futures::future::join_all((0..8).map(|_| api.call(CI, "GET", &path)));
    let changed = async {
        // Others are served by the one connection while eight wait.
        for n in 2..6 {
            assert_eq!(api.put(CI, &task_path(n), &machine()).await.status, 201);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        api.call(CI, "DELETE", &task_path(1)).await;
        Instant::now()
    };
    let (answers, changed) = tokio::join!(polls, changed);
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    assert!(answers.iter().all(|reply| reply.json()["state"] == "cancelled"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_wake_up_costs_at_most_about_a_second(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    api.put(CI, &task_path(1), &machine()).await;
    // A process of its own: its wake-ups do not come here.
    let far = vm_service::db::Db { pool, wake: vm_service::db::wake::Wake::default() };
    let path = format!("{}?wait=30", task_path(1));
    let poll = api.call(CI, "GET", &path);
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        far.release_task(TaskId(Uuid::from_u128(1)), crate::api_support::start()).await.unwrap();
        Instant::now()
    };
    let (answer, changed) = tokio::join!(poll, change);
    assert_eq!(answer.json()["state"], "cancelled");
    assert!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_long_poll_ends_at_its_time_and_at_the_stop(pool: PgPool) {
    let api = Api::new(pool).await;
    api.put(CI, &task_path(1), &machine()).await;
    let begun = Instant::now();
    let short = api.call(CI, "GET", &format!("{}?wait=1", task_path(1))).await;
    assert_eq!((short.status, &short.json()["state"]), (200, &json!("queued")));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let path = format!("{}?wait=60", task_path(1));
    let poll = api.call(CI, "GET", &path);
    let (long, ()) = tokio::join!(poll, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        api.state.stop.cancel();
    });
    assert_eq!(long.json()["state"], "queued");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    async fn open(api: &Api, path: &str, last: Option<&str>) -> Self {
        let mut request = Api::request(VIEWER, "GET", path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// Reads until this many events are there.
    async fn kinds(&mut self, many: usize) -> Vec<String> {
        let read = async {
            // The first block only says where the stream begins.
            while self.text.matches("\n\n").count() < many + 1 {
                self.text += std::str::from_utf8(&self.body.next().await.unwrap().unwrap()).unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(5), read).await.unwrap_or_else(|_| panic!("only {}", self.text));
        self.text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.text.lines().filter_map(|line| line.strip_prefix("id: ")).skip(1).map(str::to_owned).collect()
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stream_tells_what_comes_once_and_goes_on_after_the_last_seen(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    api.put(CI, &task_path(1), &machine()).await;
    let mut stream = Events::open(&api, "/api/v1/events", None).await;
    api.put(CI, &task_path(2), &machine()).await;
    assert_eq!(stream.kinds(1).await, ["task.created"], "from now on");
    api.call(CI, "DELETE", &task_path(2)).await;
    assert_eq!(stream.kinds(3).await, ["task.created", "task.queued", "task.released"]);
    let data = stream.text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let view: vm_service::domain::api::EventView = serde_json::from_str(data).unwrap();
    assert_eq!((view.task_id, view.id.to_string()), (Some(TaskId(Uuid::from_u128(2))), stream.ids()[0].clone()));
    let mut resumed = Events::open(&api, "/api/v1/events", Some(&stream.ids()[0])).await;
    assert_eq!(resumed.kinds(2).await, ["task.queued", "task.released"]);
    let of_one = format!("/api/v1/events?task_id={}&cursor=0", Uuid::from_u128(1));
    let mut filtered = Events::open(&api, &of_one, None).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    assert_eq!(filtered.kinds(3).await, ["task.created", "task.queued", "task.released"]);
    api.call(VIEWER, "GET", "/api/v1/events?cursor=x").await.problem(400);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_event_that_commits_late_is_still_told(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let mut stream = Events::open(&api, "/api/v1/events", None).await;
    let mut late = Db { pool: pool.clone(), wake: Wake::default() }.begin().await.unwrap();
    let insert = "insert into vms.events (at, kind, message) values (now(), 'late', '')";
    sqlx::query(insert).execute(&mut *late).await.unwrap();
    api.put(CI, &task_path(1), &machine()).await;
    assert_eq!(stream.kinds(1).await, ["task.created"]);
    late.commit().await.unwrap();
    assert_eq!(stream.kinds(3).await, ["task.created", "task.queued", "late"]);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stream_ends_at_its_time(pool: PgPool) {
    let api = Api::with_limits(pool, Limits { stream: Duration::from_millis(200), ..Limits::default() }).await;
    let short = Events::open(&api, "/api/v1/events", None).await;
    tokio::time::timeout(Duration::from_secs(5), short.body.collect::<Vec<_>>()).await.unwrap();
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_stop_ends_a_stream_that_runs(pool: PgPool) {
    let api = Api::new(pool).await;
    let stream = Events::open(&api, "/api/v1/events", None).await;
    let ended = tokio::spawn(stream.body.collect::<Vec<_>>());
    api.state.stop.cancel();
    eventually(async || ended.is_finished()).await;
    assert_eq!(api.call(OPERATOR, "GET", "/api/v1/vms").await.status, 200, "short calls are served to the end");
}
