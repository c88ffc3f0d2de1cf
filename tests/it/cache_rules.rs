//! What the database refuses of caches by itself, whatever the application believes; and what goes when nobody needs it any more.

use crate::cache_scenes::small;
use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgPool};
use vm_service::admin::dry_run;
use vm_service::domain::api::Hold;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::TaskRequest;
use vm_service::provider::volumes::Volumes as _;

async fn refused(bench: &Bench, sql: &str, because: &str) {
    let error = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&bench.db.pool).await.expect_err(sql).to_string();
    assert!(error.contains(because), "{sql}\n{error}");
}

/// A project with a good state, and its volume free.
async fn warm(bench: &Bench, project: &str) {
    let (task, machine) = bench.cached_job(&bench.cached(project)).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(task).await;
}

const COPY: &str =
    "insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, parent_id,
        content, created_at, last_used_at, due_at)
    select gen_random_uuid(), $project, 'trusted', architecture, store, $major, provider, place, id, 'good', now(), now(), now()
    from vms.generations where project_id = 'p'";

const GENERATION: &str = "insert into vms.generations (id, project_id, cache_trust, architecture, store, engine_major, provider, place,
        volume_id, size_gib, created_at, last_used_at, deadline_at, due_at)
    select gen_random_uuid(), project_id, cache_trust, architecture, store, engine_major, provider, place, id, 100, now(), now(), now(), now()
    from vms.volumes";

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_copy_of_another_project_or_engine_and_no_state_of_an_untrusted_or_mounted_volume(pool: PgPool) {
    let bench = small(pool).await;
    warm(&bench, "p").await;
    let copy = |project: &str, major: &str| COPY.replace("$project", project).replace("$major", major);
    refused(&bench, &copy("'q'", "engine_major"), "may not be a copy").await;
    refused(&bench, &copy("project_id", "engine_major + 1"), "may not be a copy").await;
    sqlx::query(AssertSqlSafe(copy("project_id", "engine_major"))).execute(&bench.db.pool).await.unwrap();
    sqlx::query("delete from vms.volumes where provider_id is null").execute(&bench.db.pool).await.unwrap();

    refused(&bench, GENERATION, "no good state").await;
    let outside = TaskRequest { cache_trust: Trust::Untrusted, ..bench.cached("p") };
    let (task, _) = bench.cached_job(&outside).await;
    let of_untrusted = format!("{} where cache_trust = 'untrusted'", GENERATION.replace("place, id, 100", "place, null, 100"));
    refused(&bench, &of_untrusted, "check constraint").await;
    refused(&bench, "update vms.volumes set state = 'detaching' where state = 'attached'", "unmounted_first").await;
    sqlx::query("update vms.volumes set mounted = false, content = 'good', state = 'detaching' where state = 'attached'")
        .execute(&bench.db.pool)
        .await
        .unwrap();
    refused(&bench, "update vms.volumes set state = 'available', vm_id = null where state = 'detaching'", "untrusted_once").await;
    bench.over(task).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_in_quarantine_stays_there(pool: PgPool) {
    let bench = small(pool).await;
    warm(&bench, "p").await;
    let (_, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.kill(&machine);
    bench.turn(30).await;
    refused(&bench, "update vms.volumes set state = 'available' where state = 'quarantined'", "stays in quarantine").await;
    let lie = "update vms.volumes set state = 'available', content = 'unchecked' where state = 'quarantined'";
    refused(&bench, lie, "stays in quarantine").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn after_two_weeks_without_a_job_nothing_is_left_and_what_is_held_or_in_use_stays(pool: PgPool) {
    let bench = small(pool).await;
    for project in ["idle", "held", "busy"] {
        warm(&bench, project).await;
    }
    bench.set(|settings| (settings.timeouts.task_hours, settings.timeouts.vm_idle_hours) = (168, 168)).await;
    let held = bench.volume_of("held").await;
    let hold = Hold { reason: "a look".to_owned(), until: bench.now() + TimeDelta::days(30) };
    assert!(bench.db.set_volume_hold(held, Some(&hold), "op", bench.now()).await.unwrap());
    bench.turn_by(3, TimeDelta::days(6)).await;
    let (task, _) = bench.cached_job(&bench.cached("busy")).await;
    let found = dry_run::look(&bench.world, bench.now()).await.unwrap();
    println!("{found:#?}");
    bench.turn_by(5, TimeDelta::seconds(61)).await;
    let left: Vec<String> = bench.volumes().into_iter().map(|it| it.tags.lineage.project_id).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!left.contains(&"idle".to_owned()));
    assert!(!bench.sim.snapshots_truth().iter().any(|it| it.tags.lineage.project_id == "idle"));
    assert!(bench.cache(task).await.0 || bench.sim.snapshots_truth().is_empty());
    assert!(!bench.db.delete_volume(held, "op", bench.now()).await.unwrap(), "it is held");
    assert!(!bench.db.delete_volume(bench.volume_of("busy").await, "op", bench.now()).await.unwrap(), "it is in use");
    assert!(bench.db.set_volume_hold(held, None, "op", bench.now()).await.unwrap());
    assert!(bench.db.delete_volume(held, "op", bench.now()).await.unwrap());
    bench.turn(3).await;
    assert_eq!(bench.volumes().len(), 1);
}

/// As many volumes as there may be: another project's is cleared for the one that is needed, the least recently used first.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_limit_costs_the_least_recently_used(pool: PgPool) {
    let bench = small(pool).await;
    bench.set(|settings| settings.limits.volumes = Some(2)).await;
    for project in ["a", "b"] {
        warm(&bench, project).await;
    }
    let (first, _) = bench.cached_job(&bench.cached("c")).await;
    assert!(bench.task(first).await.view.cache.unwrap().volume_id.is_some(), "{:#?}", bench.timeline(first).await);
    let left: Vec<String> = bench.volumes().into_iter().map(|it| it.tags.lineage.project_id).collect();
    assert!(left.contains(&"b".to_owned()) && !left.contains(&"a".to_owned()), "{left:?}");
    let (_, _) = bench.cached_job(&bench.cached("b")).await;
    let asked_at = bench.now();
    let (without, _) = bench.cached_job(&bench.cached("d")).await;
    let (hit, reason) = bench.cache(without).await;
    assert!(!hit && reason.contains("limit reached: 2 volumes"), "{reason}");
    assert!((bench.now() - asked_at).num_seconds() < 10, "nobody waits for what cannot come");
}

/// Rows are lost, volumes and snapshots are not: they go back to their project, and the check at the mount decides.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn lost_rows_are_taken_back_and_checked(pool: PgPool) {
    let bench = small(pool).await;
    warm(&bench, "p").await;
    warm(&bench, "q").await;
    let torn = bench.sim.volumes_truth().into_iter().find(|it| it.tags.lineage.project_id == "q").unwrap().provider_id;
    bench.sim.damage_volume(&torn);
    for table in ["tasks", "volumes", "vms"] {
        sqlx::query(AssertSqlSafe(format!("delete from vms.{table}"))).execute(&bench.db.pool).await.unwrap();
    }
    sqlx::query("delete from vms.generations").execute(&bench.db.pool).await.unwrap();
    bench.turn_by(4, TimeDelta::seconds(61)).await;
    assert_eq!(bench.count("select count(*) from vms.volumes where state = 'quarantined' and content = 'unchecked'").await, 2);
    assert_eq!(bench.count("select count(*) from vms.generations where state = 'good' and content = 'unchecked'").await, 2);
    for project in ["p", "q"] {
        let (task, machine) = bench.cached_job(&bench.cached(project)).await;
        assert!(bench.cache(task).await.0, "{project}: {:#?}", bench.timeline(task).await);
        let seen = bench.volumes().into_iter().find(|it| it.machine() == Some(&machine)).unwrap();
        assert_eq!(seen.tags.lineage.project_id, project);
        bench.over(task).await;
    }
    assert!(bench.sim.list_snapshots().await.unwrap().snapshots.len() <= 4);
}
