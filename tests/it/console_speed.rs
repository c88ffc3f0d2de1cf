//! How fast the pages of the console are over the rows of a busy day, how large, and what it costs to follow one.

use crate::api_support::{Api, OPERATOR, start};
use crate::console_support::Browser;
use crate::many_rows;
use sqlx::PgPool;
use std::time::Instant;
use vm_service::db::Db;
use vm_service::db::wake::Wake;

/// Each page is asked for so often.
const TIMES: usize = 40;
/// No page is larger. (How long one may take, 100 ms, is for who reads the figures: a test asserts no time.)
const BYTES_MAX: usize = 200 * 1024;

/// A day's rows, and what the console adds to them: images with a hundred thousand boots, and starts that failed.
async fn seed(pool: &PgPool, hot: i32) {
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

/// Each page by name, with filters that find much, little and nothing.
const PAGES: [(&str, &str); 17] = [
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
    ("images", "/console/images"),
    ("image", "/console/images/80000000-0000-4000-8000-000000000000"),
    ("events", "/console/events?about=volume"),
];

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "fills a database for half a minute; run with --run-ignored only"]
async fn every_page_is_fast_over_the_rows_of_a_busy_day(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    seed(&pool, 5_000).await;
    let browser = Browser::new(&api, OPERATOR).await;
    let mut large = Vec::new();
    for (name, path) in PAGES {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..TIMES {
            let began = Instant::now();
            let reply = browser.get(path).await;
            times.push(began.elapsed());
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            bytes = bytes.max(reply.text.len());
        }
        times.sort();
        let p95 = times[TIMES * 95 / 100];
        println!("figure page_{name}_p95 {:.1} ms", p95.as_secs_f64() * 1000.0);
        println!("figure page_{name}_size {bytes} bytes");
        if bytes > BYTES_MAX {
            large.push(name);
        }
    }
    assert_eq!(large, Vec::<&str>::new());
}
