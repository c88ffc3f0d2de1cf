//! How fast the pages of the console are over the rows of a busy day, and how large, as a browser gets them: every page that the router
//! has. What it costs to follow them is in `console_cost`.

use crate::api_support::{Api, OPERATOR, start};
use crate::console_support::{Browser, pages_beside, request};
use crate::many_rows;
use crate::support::Bench;
use axum::body::{Body, to_bytes};
use serde_json::json;
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tower::ServiceExt as _;
use uuid::Uuid;
use vm_service::db::Db;
use vm_service::db::settings::Versioned;
use vm_service::db::settings_checks::NewCheck;
use vm_service::db::wake::Wake;
use vm_service::domain::ids::SettingsCheckId;
use vm_service::domain::settings::Settings;
use vm_service::loops::checks::CheckSettings;

/// Each page is asked for so often.
const TIMES: usize = 40;
/// No page is larger. (How long one may take, 100 ms, is for who reads the figures: a test asserts no time.)
const BYTES_MAX: usize = 200 * 1024;
/// Saved before.
const VERSIONS: i64 = 120;

/// A day's rows, and what the console adds to them: images with a hundred thousand boots, and starts that failed.
pub(crate) async fn seed(pool: &PgPool, hot: i32) {
    many_rows::seed(pool, hot, start()).await;
    let more = [
        "update vms.history set body = body || jsonb_build_object('launch_id', id, 'absolute_end_at', $1::timestamptz) where kind = 'vm'",
        "insert into vms.images (id, name, provider, place, architecture, kind, provider_id, facts, state, promoted_at, registered_at, registered_by,
             changed_at, changed_by, due_at)
         select ('80000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'guest-' || n, 'sim', 'here', 'x86_64', 'base', 'ami-' || n, '{}',
                case n when 0 then 'promoted' else 'candidate' end, $1, $1, 'op', $1, 'op', $1
         from generate_series(0, 9) n",
        "insert into vms.image_boots (vm_id, image_id, asked_at, ready_at)
         select ('40000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
                ('80000000-0000-4000-8000-' || lpad((n % 100 / 90 * (n % 9 + 1))::text, 12, '0'))::uuid,
                $1 - interval '20 s' * n, $1 - interval '20 s' * n + interval '1 ms' * (30000 + n % 9000)
         from generate_series(0, 99999) n",
        "insert into vms.events (at, kind, message)
         select $1 - interval '1 s' * n, case when n % 50 = 0 then 'vm.start_failed' else 'vm.available' end, 'x' from generate_series(0, 20000) n",
        "insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, provider_id, state, size_gib, created_at,
             last_used_at, deadline_at, due_at)
         select gen_random_uuid(), 'acme/app-' || n % 200, 'x86_64', 'classic', 28, 'sim', 'here', 'snap-' || n, 'good', 100, $1, $1, $1, $1
         from generate_series(0, 999) n",
    ];
    let mut tx = Db { pool: pool.clone(), wake: Wake::default() }.begin().await.unwrap();
    sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
    for statement in more {
        sqlx::query(statement).bind(start()).execute(&mut *tx).await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    tx.commit().await.unwrap();
    sqlx::query("vacuum analyze").execute(pool).await.unwrap();
}

/// Settings of an installation with many classes and schedules, each version with its own.
fn settings(version: i64) -> Settings {
    let mut settings = serde_json::to_value(Settings::default()).unwrap();
    let medium = settings["resource_classes"]["medium"].clone();
    for n in 0..30 {
        settings["resource_classes"][format!("class-{n}")] = medium.clone();
    }
    settings["preallocated"]["schedules"] = (0..20)
        .map(|n| json!({ "executor": "machine", "resource_class": format!("class-{n}"), "cron": format!("{n} {} * * 1-5", version % 24), "count": n }))
        .collect();
    settings["history_days"] = json!(version % 80 + 7);
    serde_json::from_value(settings).unwrap()
}

/// Versions of the settings, and a check of other ones that is over.
async fn seed_settings(pool: &PgPool, db: &Db) {
    for version in 0..VERSIONS {
        db.insert_settings(version, &settings(version), start(), "anna").await.unwrap();
    }
    let bench = Bench::new(pool.clone()).await;
    let base = Versioned { version: VERSIONS, settings: settings(VERSIONS - 1) };
    let (id, proposed) = (SettingsCheckId(Uuid::from_u128(9)), settings(7));
    let check =
        NewCheck { id, principal: "anna", base: &base, proposed: &proposed, deadline_at: start() + chrono::TimeDelta::hours(1) };
    db.insert_settings_check(&check, start()).await.unwrap();
    bench.tick(&CheckSettings { world: bench.world.clone(), open: Arc::new(|_| None) }).await;
}

/// Each page by name, with filters that find much, little and nothing.
const PAGES: [(&str, &str); 24] = [
    ("overview", "/console"),
    ("tasks", "/console/tasks"),
    ("tasks_failed", "/console/tasks?state=failed"),
    ("tasks_expired", "/console/tasks?state=expired"),
    ("tasks_project", "/console/tasks?project=acme%2Fapp-7"),
    ("tasks_nobody", "/console/tasks?project=nobody&state=released"),
    ("tasks_day", "/console/tasks?age=24h&executor=machine"),
    ("task_live", "/console/tasks/20000000-0000-4000-8000-000000000007"),
    ("task_old", "/console/tasks/50000000-0000-4000-8000-000000099999"),
    ("vms", "/console/vms"),
    ("vms_quarantined", "/console/vms?state=quarantined"),
    ("vm", "/console/vms/10000000-0000-4000-8000-000000000007"),
    ("volumes", "/console/volumes"),
    ("volumes_project", "/console/volumes?project=acme%2Fapp-7"),
    ("volume", "/console/volumes/70000000-0000-4000-8000-000000000007"),
    ("images", "/console/images"),
    ("image", "/console/images/80000000-0000-4000-8000-000000000000"),
    ("events", "/console/events?about=volume"),
    ("settings", "/console/settings"),
    ("settings_json", "/console/settings/json"),
    ("settings_check", "/console/settings/checks/00000000-0000-0000-0000-000000000009"),
    ("settings_history", "/console/settings/history"),
    ("settings_version", "/console/settings/history/60"),
    ("sign_in", "/console/sign-in"),
];

#[test]
fn every_page_of_the_router_is_measured() {
    assert_eq!(pages_beside(&PAGES.map(|(_, path)| path)), BTreeSet::new(), "give each a line in PAGES");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "fills a database for half a minute; run with --run-ignored only"]
async fn every_page_is_fast_over_the_rows_of_a_busy_day(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    seed(&pool, 5_000).await;
    seed_settings(&pool, api.db()).await;
    let _quiet = tracing::subscriber::set_default(crate::console_cost::as_in_production());
    let cookie = Browser::new(&api, OPERATOR).await.cookie;
    let mut large = Vec::new();
    for (name, path) in PAGES {
        let (mut times, mut bytes) = (Vec::new(), 0);
        // Who is signed in is not shown the way in.
        let cookie = if name == "sign_in" { "" } else { cookie.as_str() };
        for _ in 0..TIMES {
            let asked =
                request("GET", path).header("cookie", cookie).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
            let began = Instant::now();
            let answer = api.router.clone().oneshot(asked).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["content-encoding"].as_bytes()),
                (200, "gzip".as_bytes()),
                "{path}"
            );
            let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            times.push(began.elapsed());
            bytes = bytes.max(body.len());
        }
        times.sort();
        let p95 = times[TIMES * 95 / 100];
        println!("figure page_{name}_p95 {:.1} ms", p95.as_secs_f64() * 1000.0);
        println!("figure page_{name}_size {:.1} KiB", f64::from(u32::try_from(bytes).unwrap()) / 1024.0);
        if bytes > BYTES_MAX {
            large.push(name);
        }
    }
    assert_eq!(large, Vec::<&str>::new());
}
