//! What it costs to follow the pages of the console over the rows of a busy day while jobs come and go: the processor time of the service
//! and of its Postgres with and without viewers, in one run.

use crate::api_support::{Api, VIEWER};
use crate::console_speed::seed;
use crate::console_support::Browser;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;
use vm_service::clock::Clock as _;
use vm_service::db::tasks::NewTask;
use vm_service::domain::ids::TaskId;
use vm_service::http::serve::{HttpConfig, bind, serve};

/// Each period lasts so long, with a number of viewers.
const PERIOD: Duration = Duration::from_secs(20);
const VIEWERS: usize = 20;
/// A job is asked for and another ends this often: ten thousand VMs with jobs of half an hour have five and five a second.
const STEP: Duration = Duration::from_millis(200);
/// Of proc(5), on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a service logs, to nowhere.
pub(crate) fn as_in_production() -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(std::io::sink).finish()
}

/// Processor time of these processes, seconds.
fn processor_time(of: &[String]) -> f64 {
    let ticks = of.iter().filter_map(|process| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name stands in brackets; utime and stime are fields 14 and 15.
        let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
        Some(fields.map(|field| field.parse::<f64>().unwrap()).sum::<f64>())
    });
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

async fn backends(pool: &PgPool) -> Vec<String> {
    let which = "select pid::text from pg_stat_activity where datname = current_database() order by 1";
    sqlx::query_scalar(which).fetch_all(pool).await.unwrap()
}

/// Jobs that come and go.
struct Jobs(VecDeque<TaskId>);

impl Jobs {
    async fn step(&mut self, api: &Api) {
        api.clock.advance(TimeDelta::from_std(STEP).unwrap());
        let (id, now) = (TaskId(Uuid::now_v7()), api.clock.now());
        let body = serde_json::json!({ "executor": "machine", "project_id": "acme/app-7" });
        let request = serde_json::from_value(body).unwrap();
        let new = NewTask { id, principal: "ci", request: &request, request_hash: b"hash", max_run_seconds: 3600 };
        api.db().ensure_task(&new, now).await.unwrap();
        self.0.push_back(id);
        if self.0.len() > 10 {
            api.db().release_task(self.0.pop_front().unwrap(), now).await.unwrap();
        }
    }
}

/// What a period costs while these pages are followed, one viewer each: the service, and Postgres, in seconds of a processor.
async fn period(api: &Api, pool: &PgPool, jobs: &mut Jobs, at: &str, pages: &[String]) -> (f64, f64) {
    let cookie = Browser::new(api, VIEWER).await.cookie;
    let folder = tempfile::tempdir().unwrap();
    let viewers: BTreeMap<_, _> = (0..pages.len())
        .map(|n| {
            let url = reqwest::Url::parse_with_params(&format!("{at}/console/live"), [("of", &pages[n])]).unwrap();
            let read = folder.path().join(n.to_string());
            let mut viewer = Command::new("curl");
            viewer.args(["-sN", "-H", &format!("cookie: {cookie}"), "-o"]).arg(&read).arg(url.as_str()).stdin(Stdio::null());
            (read, viewer.kill_on_drop(true).spawn().unwrap())
        })
        .collect();
    let (service, postgres) = ([std::process::id().to_string()], backends(pool).await);
    let before = (processor_time(&service), processor_time(&postgres));
    let end = Instant::now() + PERIOD;
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        steps.tick().await;
        jobs.step(api).await;
    }
    let after = (processor_time(&service), processor_time(&backends(pool).await));
    for (n, read) in viewers.keys().enumerate() {
        let text = std::fs::read_to_string(read).unwrap_or_default();
        assert!(text.contains("event: part") && !text.contains("event: gone"), "viewer {n} follows nothing: {text}");
    }
    (after.0 - before.0, after.1 - before.1)
}

/// Twenty pages that nobody else follows.
fn pages_of_their_own() -> Vec<String> {
    let task = |n: usize| format!("/console/tasks/20000000-0000-4000-8000-{n:012}");
    let mut pages: Vec<String> = [
        "/console",
        "/console/tasks",
        "/console/tasks?state=queued",
        "/console/tasks?state=failed",
        "/console/tasks?project=acme/app-7",
        "/console/tasks?age=24h",
        "/console/vms",
        "/console/vms?state=available",
        "/console/vms?state=booting",
        "/console/vms/10000000-0000-4000-8000-000000000007",
        "/console/volumes",
        "/console/volumes?project=acme/app-7",
        "/console/images",
        "/console/events",
        "/console/events?about=task",
    ]
    .map(str::to_owned)
    .to_vec();
    pages.extend((pages.len()..VIEWERS).map(task));
    pages
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "fills a database for half a minute and follows it for another; run with --run-ignored only"]
async fn a_viewer_costs_little_of_a_core(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    seed(&pool, 5_000).await;
    let _quiet = tracing::subscriber::set_default(as_in_production());
    let listener = bind(&HttpConfig::new(([127, 0, 0, 1], 0).into())).await.unwrap();
    let at = listener.url();
    let serving = tokio::spawn(serve(listener, api.state.clone()));
    let mut jobs = Jobs(VecDeque::new());
    let alone = period(&api, &pool, &mut jobs, &at, &[]).await;
    println!(
        "# {VIEWERS} viewers of the console for {PERIOD:?}, five jobs a second: % of a core for each, beside the same time without viewers"
    );
    println!("figure live_without_viewers {:.1} %", (alone.0 + alone.1) / PERIOD.as_secs_f64() * 100.0);
    let overviews = vec!["/console".to_owned(); VIEWERS];
    for (name, pages) in [("one_page", overviews), ("pages_of_their_own", pages_of_their_own())] {
        let with = period(&api, &pool, &mut jobs, &at, &pages).await;
        let each = |cost: f64| cost / PERIOD.as_secs_f64() / pages.len() as f64 * 100.0;
        println!("figure live_{name}_per_viewer {:.2} %", each(with.0 - alone.0));
        println!("figure live_{name}_per_viewer_in_postgres {:.2} %", each(with.1 - alone.1));
    }
    api.state.stop.cancel();
    serving.await.unwrap().unwrap();
}
