//! The database refuses impossible states by itself, whatever the application believes (DESIGN.md §4), and lets the runbook pass.

use crate::support::Bench;
use sqlx::{AssertSqlSafe, PgPool};
use vm_service::db::DbError;
use vm_service::domain::lifecycle::TaskState;

async fn refused(pool: &PgPool, sql: &str, because: &str) {
    let error = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(pool).await.expect_err(sql).to_string();
    assert!(error.contains(because), "{sql}\n{error}");
}

/// Two tasks that are ready, on two VMs.
async fn two(bench: &Bench) -> (String, String, String, String) {
    let mut ids = Vec::new();
    for project in ["p", "q"] {
        ids.push(bench.ask(&bench.request(project)).await.view.id);
    }
    for id in &ids {
        bench.turn_until(*id, TaskState::Ready, 5).await;
    }
    let vm = |row: &vm_service::db::rows::TaskRow| row.view.vm.as_ref().unwrap().id.to_string();
    let (a, b) = (bench.task(ids[0]).await, bench.task(ids[1]).await);
    (ids[0].to_string(), ids[1].to_string(), vm(&a), vm(&b))
}

const VOLUME: &str = "insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, created_at, last_used_at, due_at)
    select gen_random_uuid(), 'p', 'trusted', 'x86_64', 'classic', 20, 'onhost', 'sim', now(), now(), now()";

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn two_tasks_cannot_have_one_vm(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let (_, second, vm, _) = two(&bench).await;
    refused(&pool, &format!("update vms.tasks set vm_id = '{vm}' where id = '{second}'"), "tasks_vm_id_key").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_is_on_one_vm_of_its_own_project(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let (_, _, mine, other) = two(&bench).await;
    for _ in 0..2 {
        sqlx::query(VOLUME).execute(&pool).await.unwrap();
    }
    sqlx::query("update vms.volumes set state = 'available'").execute(&pool).await.unwrap();
    let attach = |vm: &str| {
        format!(
            "update vms.volumes set state = 'attaching', vm_id = '{vm}' where id = (select min(id::text)::uuid from vms.volumes)"
        )
    };
    refused(&pool, &attach(&other), "foreign key").await;
    sqlx::query(AssertSqlSafe(attach(&mine))).execute(&pool).await.unwrap();
    let all = format!("update vms.volumes set state = 'attaching', vm_id = '{mine}' where state = 'available'");
    refused(&pool, &all, "volumes_one_per_vm").await;
    refused(&pool, "update vms.volumes set cache_trust = 'untrusted' where state = 'attaching'", "foreign key").await;
    let second_owner = format!("update vms.vms set project_id = 'q' where id = '{mine}'");
    refused(&pool, &second_owner, "belongs to another project already").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn illegal_moves_are_refused(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    two(&bench).await;
    refused(&pool, "update vms.vms set state = 'available'", "may not move").await;
    refused(&pool, "update vms.vms set state = 'terminated'", "may not move").await;
    refused(&pool, "update vms.tasks set state = 'queued', vm_id = null", "may not move").await;
    refused(&pool, "update vms.tasks set state = 'failed', ended_at = now()", "check constraint").await;
    refused(
        &pool,
        &VOLUME.replace("due_at)", "due_at, state)").replace("now(), now(), now()", "now(), now(), now(), 'attached'"),
        "may not",
    )
    .await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_insert_passes_a_limit_and_lowering_one_blocks_no_move(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let (task, _, vm, _) = two(&bench).await;
    bench.set(|settings| settings.limits.vms = Some(1)).await;
    let copy = format!(
        "insert into vms.vms (id, launch_id, executor, resource_class, origin, provider, place, absolute_end_at, created_at, due_at)
         select gen_random_uuid(), launch_id, executor, resource_class, origin, provider, place, absolute_end_at, created_at, due_at
         from vms.vms where id = '{vm}'"
    );
    refused(&pool, &copy, "limit reached: 1 VMs in all").await;
    bench.db.release_task(task.parse().unwrap(), bench.now()).await.unwrap();
    bench.turn(3).await;
    assert_eq!(bench.sim.live().len(), 1, "the move to terminated was not in the way of the lower limit");
    bench.set(|settings| settings.limits.volumes = Some(1)).await;
    sqlx::query(VOLUME).execute(&pool).await.unwrap();
    refused(&pool, VOLUME, "limit reached: 1 volumes").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_project_has_no_more_vms_than_it_may(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    bench.set(|settings| settings.limits.vms_per_project = Some(1)).await;
    let first = bench.ask(&bench.request("p")).await.view.id;
    let second = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(10).await;
    assert_eq!((bench.state(first).await, bench.state(second).await), (TaskState::Ready, TaskState::Queued));
    assert!(bench.timeline(second).await.contains(&"Project p has as many VMs as it may.".to_owned()));
    bench.db.release_task(first, bench.now()).await.unwrap();
    bench.turn_until(second, TaskState::Ready, 10).await;
}

/// The planner respects the project's limit by itself; this is the database's own refusal.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_claim_passes_the_limit_of_its_project(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let first = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(first, TaskState::Ready, 5).await;
    let spare = bench.spare_vm().await;
    bench.set(|settings| settings.limits.vms_per_project = Some(1)).await;
    let second = bench.ask(&bench.request("p")).await.view;
    assert_eq!(second.state, TaskState::Queued);
    let refused = bench.db.claim_task(second.id, spare, bench.now()).await;
    assert!(matches!(&refused, Err(DbError::LimitReached(sentence)) if sentence.contains("project p")), "{refused:?}");
    bench.set(|settings| settings.limits.vms_per_project = Some(2)).await;
    bench.db.claim_task(second.id, spare, bench.now()).await.unwrap();
}

/// The guide's runbook, on a live service, in its order.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_three_deletes_work(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let (_, _, mine, _) = two(&bench).await;
    sqlx::query(VOLUME).execute(&pool).await.unwrap();
    sqlx::query("update vms.volumes set state = 'available'").execute(&pool).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("update vms.volumes set state = 'attaching', vm_id = '{mine}'")))
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("delete from vms.tasks").execute(&pool).await.unwrap();
    sqlx::query("delete from vms.volumes").execute(&pool).await.unwrap();
    // The service goes on meanwhile: a task is made and given a VM between the deletes.
    let between = bench.ask(&bench.request("p")).await.view.id;
    // Launches wait for the next list: what machines there are is not known before.
    bench.turn_until(between, TaskState::Ready, 15).await;
    sqlx::query("delete from vms.vms").execute(&pool).await.unwrap();
    assert!(bench.db.find_task(between).await.unwrap().is_none());
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_second_migration_changes_nothing_and_a_newer_schema_is_refused(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    bench.db.migrate().await.unwrap();
    bench.db.check_schema().await.unwrap();
    let own: i64 = sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(&pool).await.unwrap();
    for (ahead, fine) in [(1, true), (2, false)] {
        sqlx::query("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values ($1, 'newer', true, '', 0)")
            .bind(own + ahead)
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(bench.db.check_schema().await.is_ok(), fine, "{ahead}");
    }
}

/// A launch's rows by themselves: `count` VMs of this class.
fn vms(count: usize, class: &str) -> String {
    format!(
        "insert into vms.vms (id, launch_id, executor, resource_class, origin, provider, place, absolute_end_at, created_at, due_at)
         select gen_random_uuid(), gen_random_uuid(), 'machine', '{class}', 'on_demand', 'sim', 'sim', now(), now(), now()
         from generate_series(1, {count})"
    )
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// Rows 2 and 7: limits are counted once a statement, over all of its rows, and machines without a row count too.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn limits_hold_for_the_whole_statement_and_count_orphans(pool: PgPool) {
    let orphan = "insert into vms.orphans (provider, place, provider_id, executor, resource_class, first_seen_at, last_seen_at)
                  values ('sim', 'sim', gen_random_uuid()::text, 'machine', 'medium', now(), now())";
    run(&pool, "update vms.budget set max_vms = 5, max_in_flight = 4, max_vms_per_class = '{\"medium\": 3}'").await;
    refused(&pool, &vms(6, "large"), "limit reached: 5 VMs in all").await;
    refused(&pool, &vms(5, "large"), "limit reached: 4 VMs in flight").await;
    refused(&pool, &vms(4, "medium"), "limit reached: 3 VMs of class medium").await;
    run(&pool, &vms(2, "medium")).await;
    run(&pool, orphan).await;
    refused(&pool, &vms(1, "medium"), "limit reached: 3 VMs of class medium").await;
    run(&pool, &vms(2, "large")).await;
    refused(&pool, &vms(1, "large"), "limit reached: 5 VMs in all").await;
    run(&pool, "update vms.budget set max_vms = 10").await;
    refused(&pool, &vms(1, "large"), "limit reached: 4 VMs in flight").await;
    // What has ended does not count, in no limit.
    run(&pool, "update vms.vms set state = 'terminated', terminated_at = now()").await;
    run(&pool, &vms(2, "medium")).await;
    run(&pool, &vms(2, "large")).await;
}

/// Point 2: sixteen statements at once, each of which would fit alone.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn sixteen_inserts_at_once_do_not_pass_a_limit(pool: PgPool) {
    run(&pool, "update vms.budget set max_vms = 7, max_in_flight = 100").await;
    let insert = || {
        let pool = pool.clone();
        tokio::spawn(async move { sqlx::query(AssertSqlSafe(vms(2, "medium"))).execute(&pool).await.is_ok() })
    };
    let mut passed = 0;
    for done in (0..16).map(|_| insert()).collect::<Vec<_>>() {
        passed += usize::from(done.await.unwrap());
    }
    assert_eq!(passed, 3);
}

/// Point 7: a loss is noted when rows of live VMs are deleted, or the table is emptied, by whomever; never by the move into the history.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn losses_are_noted_by_deletes_and_not_by_the_history(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let losses = || async { bench.count("select count(*) from vms.losses").await };
    let (task, ..) = bench.job("p").await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(3).await;
    bench.clock.advance(chrono::TimeDelta::minutes(20));
    while bench.db.move_to_history(bench.now()).await.unwrap() > 0 {}
    assert_eq!((bench.count("select count(*) from vms.vms").await, losses().await), (0, 0), "the history is no loss");
    bench.job("p").await;
    run(&pool, "delete from vms.vms where state = 'terminated'").await;
    assert_eq!(losses().await, 0, "nothing live was deleted");
    run(&pool, "delete from vms.vms").await;
    assert_ne!(losses().await, 0, "rows of live VMs were deleted");
    run(&pool, "delete from vms.losses; truncate vms.vms cascade").await;
    assert_ne!(losses().await, 0, "the table was emptied");
    let open = bench.count("select count(*) from vms.losses where until is null").await;
    assert_eq!(open, losses().await, "up to now, until the clock is looked at");
    bench.db.close_losses(bench.now()).await.unwrap();
    assert_eq!(bench.count("select count(*) from vms.losses where until is null").await, 0);
}
