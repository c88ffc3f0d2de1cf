//! The chain of the audit log: no row is changed, no row goes, and one that did is named. What it cannot show is held here too.

use crate::api_support::{Api, CI, Logs, VIEWER, machine, task_path};
use crate::support::Bench;
use axum::body::Body;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use std::os::unix::fs::PermissionsExt;
use tower::ServiceExt;
use vm_service::db::Db;
use vm_service::db::audit::Behind;
use vm_service::db::wake::Wake;
use vm_service::domain::audit::{AuditCheck, Party};
use vm_service::domain::audit_place::AuditPlace;
use vm_service::loops::Loop;
use vm_service::loops::audit::Files;
use vm_service::loops::audit_store::Store;
use vm_service::telemetry::logs::{Format, everything};

fn db(pool: &PgPool) -> Db {
    Db { pool: pool.clone(), wake: Wake::default() }
}

pub(crate) async fn add(db: &Db, action: &str, at: DateTime<Utc>) {
    let behind = Behind::new(Party::new("principal", "ada".to_owned()), None);
    db.insert_audit(&behind.event(action, at)).await.unwrap();
}

/// The loop that writes files, on a host of this name.
pub(crate) fn files_in(bench: &Bench, place: AuditPlace) -> Files {
    Files::new(bench.world.clone(), Store::open(place).unwrap(), "h".to_owned())
}

/// Ten sealed events.
async fn ten(pool: &PgPool) -> Db {
    let db = db(pool);
    for n in 0..10 {
        add(&db, &format!("test.n{n}"), crate::support::start() + TimeDelta::seconds(n)).await;
    }
    assert_eq!(db.seal_audit(500).await.unwrap(), 10);
    db
}

/// As somebody with all rights, past the triggers.
pub(crate) async fn forge(pool: &PgPool, sql: &str) {
    let mut tx = Db { pool: pool.clone(), wake: Wake::default() }.begin().await.unwrap();
    for statement in ["alter table vms.audit disable trigger user", sql, "alter table vms.audit enable trigger user"] {
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn after(seconds: i64) -> String {
    (crate::support::start() + TimeDelta::seconds(seconds)).to_rfc3339()
}

async fn broken(db: &Db) -> (i64, String) {
    let check = db.check_audit(0, 1000).await.unwrap();
    assert!(!check.holds, "{check:?}");
    let broken = check.broken.unwrap();
    (broken.link, broken.why)
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_log_is_append_only_and_the_runbook_still_works(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    api.put(CI, &task_path(1), &machine()).await;
    for link in ["null", "1"] {
        for edit in ["update vms.audit set success = false", "delete from vms.audit", "truncate vms.audit"] {
            let error = sqlx::query(edit).execute(&pool).await.unwrap_err().to_string();
            assert!(error.contains("append-only"), "{link} {edit}: {error}");
        }
        api.db().seal_audit(500).await.unwrap();
    }
    let forged = "update vms.audit set link = 7, previous = '', hash = '', action = 'x'";
    assert!(sqlx::query(forged).execute(&pool).await.is_err());
    for table in ["tasks", "volumes", "vms"] {
        sqlx::query(AssertSqlSafe(format!("delete from vms.{table}"))).execute(&pool).await.unwrap();
    }
    assert!(api.db().check_audit(0, 1000).await.unwrap().holds);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_edit_is_named(pool: PgPool) {
    let db = ten(&pool).await;
    let good = db.check_audit(0, 1000).await.unwrap();
    assert_eq!((good.holds, good.checked, good.up_to, good.unsealed, good.next), (true, 10, 10, 0, None));
    for (edit, undo) in [
        ("action = 'test.other'", "action = 'test.n4'"),
        ("success = false", "success = true"),
        ("actor = jsonb_set(actor, '{id}', '\"eve\"')", "actor = jsonb_set(actor, '{id}', '\"ada\"')"),
        ("occurred_at = occurred_at + interval '1 microsecond'", "occurred_at = occurred_at - interval '1 microsecond'"),
        ("payload = '{\"a\": 1}'", "payload = '{}'"),
    ] {
        forge(&pool, &format!("update vms.audit set {edit} where link = 5")).await;
        assert_eq!(broken(&db).await, (5, "this row was changed".to_owned()), "{edit}");
        forge(&pool, &format!("update vms.audit set {undo} where link = 5")).await;
        assert_eq!(db.check_audit(0, 1000).await.unwrap(), good);
    }
    // With a hash of its own it fits no more to the next.
    forge(&pool, "update vms.audit set success = false where link = 5").await;
    forge(&pool, "update vms.audit a set hash = vms.audit_hash(a.previous, a.link, a) where link = 5").await;
    assert_eq!(broken(&db).await.0, 6);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_gone_is_named(pool: PgPool) {
    let db = ten(&pool).await;
    forge(&pool, "delete from vms.audit where link in (4, 5)").await;
    assert_eq!(broken(&db).await.0, 4);
    let part = db.check_audit(5, 1000).await.unwrap();
    assert_eq!(part.broken.unwrap().link, 6, "a part that begins after a gap does not hold");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_tail_that_is_gone_is_named_as_long_as_the_head_is_there(pool: PgPool) {
    let db = ten(&pool).await;
    let noted = db.check_audit(0, 1000).await.unwrap().hash;
    forge(&pool, "delete from vms.audit where link > 8").await;
    assert_eq!(broken(&db).await, (9, "the last rows are gone".to_owned()));
    forge(&pool, "update vms.audit_head set link = 7").await;
    assert_eq!(broken(&db).await, (7, "the head of the chain was changed".to_owned()));
    forge(&pool, "update vms.audit_head h set hash = a.hash from vms.audit a where a.link = 7").await;
    assert_eq!(broken(&db).await, (8, "there are rows after the last one that was sealed".to_owned()));
    // Whoever sets the head back as well is not seen here; the hash that was noted elsewhere shows him.
    forge(&pool, "update vms.audit_head h set link = 8, hash = a.hash from vms.audit a where a.link = 8").await;
    let check = db.check_audit(0, 1000).await.unwrap();
    assert!(check.holds && check.up_to == 8 && check.hash != noted, "{check:?}");
    forge(&pool, "delete from vms.audit").await;
    assert_eq!(broken(&db).await.0, 1);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_edit_before_the_seal_is_not_seen(pool: PgPool) {
    let db = db(&pool);
    add(&db, "test.before", crate::support::start()).await;
    assert_eq!(db.check_audit(0, 1000).await.unwrap().unsealed, 1);
    forge(&pool, "update vms.audit set action = 'test.after'").await;
    db.seal_audit(500).await.unwrap();
    assert!(db.check_audit(0, 1000).await.unwrap().holds);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn many_at_once_make_one_chain_without_gaps(pool: PgPool) {
    let db = db(&pool);
    let writers = (0..8).map(|writer| {
        let db = db.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                add(&db, &format!("test.w{writer}n{n}"), crate::support::start()).await;
                db.seal_audit(3).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    while db.seal_audit(500).await.unwrap() > 0 {}
    let mut check = db.check_audit(0, 50).await.unwrap();
    let mut checked = check.checked;
    while let Some(after) = check.next {
        check = db.check_audit(after, 50).await.unwrap();
        checked += check.checked;
    }
    assert_eq!((check.holds, checked, check.up_to), (true, 160, 160), "{check:?}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_log_is_filtered_paged_and_exported(pool: PgPool) {
    let api = Api::new(pool).await;
    for n in 1..=5 {
        api.clock.advance(TimeDelta::minutes(1));
        api.put(CI, &task_path(n), &machine()).await;
    }
    api.call(CI, "GET", "/api/v1/vms").await.problem(403);
    api.call(CI, "DELETE", &task_path(3)).await;
    api.db().seal_audit(500).await.unwrap();
    let count = async |query: &str| {
        let page = api.call(VIEWER, "GET", &format!("/api/v1/audit?{query}")).await;
        page.json()["items"].as_array().unwrap_or_else(|| panic!("{page:?}")).len()
    };
    for (query, expected) in [
        ("", 7),
        ("actor=ci", 7),
        ("actor=eve", 0),
        ("action=task.create", 5),
        ("success=false", 1),
        ("target=00000000-0000-0000-0000-000000000003", 2),
        ("from=2026-09-21T14:17:20Z", 4),
        ("to=2026-09-21T14:17:20Z", 3),
        ("from=2026-09-21T14:15:20Z&to=2026-09-21T14:17:20Z", 2),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    let mut path = "/api/v1/audit?limit=3".to_owned();
    let mut links = Vec::new();
    loop {
        let page = api.call(VIEWER, "GET", &path).await;
        links.extend(page.json()["items"].as_array().unwrap().iter().map(|event| event["link"].as_i64().unwrap()));
        let Some(next) = page.header("link").strip_prefix('<') else { break };
        path = next.split('>').next().unwrap().to_owned();
    }
    assert_eq!(links.len(), 7);

    let whole = api.call(VIEWER, "GET", "/api/v1/audit").await.json()["items"].clone();
    let lines = api
        .send(Api::request(VIEWER, "GET", "/api/v1/audit").header("accept", "application/x-ndjson").body(Body::empty()).unwrap())
        .await;
    let parsed: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.header("content-type"), json!(parsed)), ("application/x-ndjson", whole.clone()));
    let table = api.call(VIEWER, "GET", "/api/v1/audit?format=csv&action=task.create").await;
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8");
    let mut read = csv::Reader::from_reader(table.text.as_bytes());
    assert_eq!(read.headers().unwrap().iter().take(5).collect::<Vec<_>>(), ["id", "version", "action", "success", "actor"]);
    let rows: Vec<csv::StringRecord> = read.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5);
    assert_eq!(serde_json::from_str::<Value>(&rows[0][4]).unwrap()["id"], "ci");

    let check: AuditCheck = serde_json::from_value(api.call(VIEWER, "GET", "/api/v1/audit/check").await.json()).unwrap();
    assert!(check.holds && check.checked == 7, "{check:?}");
    for bad in
        ["?cursor=x", "?limit=0", "?format=xml", "?from=yesterday", "?from=9999-01-01T00:00:00Z", "?actor=%00", "/check?after=-1"]
    {
        api.call(VIEWER, "GET", &format!("/api/v1/audit{bad}")).await.problem(400);
    }
    api.call(CI, "GET", "/api/v1/audit").await.problem(403);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_hour_becomes_a_file_when_it_is_over_once_and_whole(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let folder = tempfile::tempdir().unwrap();
    let files = files_in(&bench, AuditPlace::Folder(folder.path().to_owned()));
    let inside = folder.path().join("audit-logs/audit_log/v1");
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&inside)
            .map(|all| all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    };
    // 14:13:20 and, two hours later, 16:13:20.
    let start = bench.now();
    for n in 0..3 {
        add(&bench.db, &format!("test.n{n}"), start + TimeDelta::seconds(n)).await;
    }
    add(&bench.db, "test.later", start + TimeDelta::hours(2)).await;
    let tick = async |minutes: i64| files.tick(start + TimeDelta::minutes(minutes), 1).await.map(drop);
    tick(48).await.unwrap();
    assert_eq!(names(), [] as [&str; 0], "15:01: transactions of the hour may still run");
    tick(60).await.unwrap();
    assert_eq!(names(), [] as [&str; 0], "its events have no links yet");
    bench.db.seal_audit(500).await.unwrap();
    tick(60).await.unwrap();
    assert_eq!(names(), ["2026-09-21T14-00-00Z.jsonl"]);
    let file = inside.join("2026-09-21T14-00-00Z.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["action"].as_str().unwrap()).collect::<Vec<_>>(), ["test.n0", "test.n1", "test.n2"]);
    assert_eq!((lines[2]["link"].as_i64(), lines[2]["hash"].as_str().unwrap().len()), (Some(3), 64));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);

    // A crash before it was noted: the same file once more. Afterwards one that was moved away stays away.
    sqlx::query("delete from vms.schedules").execute(&bench.db.pool).await.unwrap();
    tick(61).await.unwrap();
    assert_eq!((names().len(), std::fs::read_to_string(&file).unwrap()), (1, text));
    std::fs::remove_file(&file).unwrap();
    tick(240).await.unwrap();
    assert_eq!(names(), ["2026-09-21T16-00-00Z.jsonl"]);

    // Of many that wait, one a tick, and the next soon.
    for later in 1..=2 {
        add(&bench.db, "test.more", start + TimeDelta::hours(4 + later)).await;
    }
    bench.db.seal_audit(500).await.unwrap();
    for written in [2, 3] {
        tick(600).await.unwrap();
        assert_eq!((names().len(), files.interval().as_secs()), (written, 1));
    }
    tick(600).await.unwrap();
    assert_eq!((names().len(), files.interval().as_secs()), (3, 60));

    let nowhere = files_in(&bench, AuditPlace::Folder("/proc/nowhere".into()));
    assert!(format!("{:#}", nowhere.tick(start + TimeDelta::hours(4), 1).await.err().unwrap()).contains("/proc/nowhere"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_file_is_never_replaced(pool: PgPool) {
    let (bench, logs) = (Bench::new(pool.clone()).await, Logs::default());
    let folder = tempfile::tempdir().unwrap();
    let files = files_in(&bench, AuditPlace::Folder(folder.path().to_owned()));
    let inside = folder.path().join("audit-logs/audit_log/v1");
    let text = |end: &str| std::fs::read_to_string(inside.join(format!("2026-09-21T14-00-00Z{end}.jsonl"))).unwrap();
    let start = bench.now();
    add(&bench.db, "test.before", start).await;
    bench.db.seal_audit(500).await.unwrap();
    let to = logs.clone();
    let _logging = tracing::subscriber::set_default(everything(Format::Text, move || to.clone()));
    let again = async || {
        sqlx::query("delete from vms.schedules").execute(&pool).await.unwrap();
        files.tick(start + TimeDelta::hours(1), 1).await.unwrap();
    };
    again().await;
    let first = text("");
    for (n, forged) in ["test.after", "test.other"].into_iter().enumerate() {
        forge(&pool, &format!("update vms.audit set action = '{forged}'")).await;
        again().await;
        assert_eq!((text(""), text(&format!(".{}", n + 2)).contains(forged)), (first.clone(), true));
        assert_eq!(logs.text().lines().filter(|line| line.contains("ERROR") && line.contains("other content")).count(), n + 1);
    }
    forge(&pool, "update vms.audit set action = 'test.before'").await;
    again().await;
    assert_eq!((text(""), std::fs::read_dir(&inside).unwrap().count()), (first, 3));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_export_that_is_cut_off_does_not_look_whole(pool: PgPool) {
    let api = Api::new(pool).await;
    for n in 0..1001 {
        add(api.db(), "test.n", crate::support::start() + TimeDelta::milliseconds(n)).await;
    }
    let request = || Api::request(VIEWER, "GET", "/api/v1/audit?format=jsonl").body(Body::empty()).unwrap();
    let whole = api.send(request()).await;
    assert_eq!(whole.text.lines().count(), 1001);
    let mut parts = api.router.clone().oneshot(request()).await.unwrap().into_body().into_data_stream();
    assert!(parts.next().await.unwrap().is_ok());
    api.state.stop.cancel();
    assert!(parts.next().await.unwrap().is_err());
    assert!(parts.next().await.is_none());
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_runbook_of_archiving_leaves_a_chain_that_holds(pool: PgPool) {
    let db = ten(&pool).await;
    // Two that were seen in another order than that of their times; the hashes are made anew, for they are about them.
    for (link, seconds) in [(6, 7), (7, 5)] {
        forge(&pool, &format!("update vms.audit set occurred_at = '{}' where link = {link}", after(seconds))).await;
    }
    for link in 6..=10 {
        let hashed = "update vms.audit a set previous = b.hash, hash = vms.audit_hash(b.hash, a.link, a) from vms.audit b";
        forge(&pool, &format!("{hashed} where a.link = {link} and b.link = {link} - 1")).await;
    }
    forge(&pool, "update vms.audit_head h set hash = a.hash from vms.audit a where a.link = 10").await;
    assert!(db.check_audit(0, 1000).await.unwrap().holds);
    let (_, book) = include_str!("../../docs/operate.md").split_once("        begin;\n").unwrap();
    let (book, _) = book.split_once("        commit;\n").unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(book.replace("2026-01-01", &after(6)))).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let left: (i64, i64) = sqlx::query_as("select min(link), count(*) from vms.audit").fetch_one(&pool).await.unwrap();
    assert_eq!(left, (5, 6), "the last archived row stays, and one that is as old behind it; nothing newer goes");
    let check = db.check_audit(5, 1000).await.unwrap();
    assert!(check.holds && check.checked == 5, "{check:?}");
    assert_eq!(broken(&db).await.1, "4 rows are gone: 1 to 4");
    let refused = sqlx::query("delete from vms.audit").execute(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("append-only"), "{refused}");
}
