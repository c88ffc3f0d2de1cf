//! Issue point 6: free VMs are replaced by fresh ones, at least once a day, replacement first and a few at a time.

use crate::support::Bench;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use std::collections::BTreeSet;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::preallocated::Pool;
use vm_service::domain::task::Executor;
use vm_service::sim::Rules;

/// The default cron pattern's next time: four in the morning.
const CYCLE: &str = "2026-09-22T04:00:00Z";

/// A pool of so many, and the clock just before the cycle.
async fn before_the_cycle(bench: &Bench, base: u32) -> BTreeSet<String> {
    bench.set(|settings| settings.preallocated.machine = base).await;
    bench.turn_until_states(&format!("available {base}"), 10).await;
    let cycle: DateTime<Utc> = CYCLE.parse().unwrap();
    bench.clock.advance(cycle - bench.now() - TimeDelta::seconds(3));
    bench.turn(2).await;
    machines(bench)
}

fn machines(bench: &Bench) -> BTreeSet<String> {
    bench.sim.live().into_keys().collect()
}

async fn available(bench: &Bench) -> i64 {
    bench.count("select count(*) from vms.vms where state = 'available'").await
}

/// Turns until none of `old` is left; never below the base, never more than a few extra. Returns how long it took.
async fn watch_the_cycle(bench: &Bench, old: &BTreeSet<String>, base: i64, extra: i64, bound: usize) -> usize {
    for second in 0..bound {
        bench.turn(1).await;
        assert!(available(bench).await >= base, "below the base: {}", bench.states().await);
        let there =
            bench.count("select count(*) from vms.vms where state in ('requested', 'launching', 'booting', 'available')").await;
        assert!(there <= base + extra, "more than {extra} at a time: {}", bench.states().await);
        if machines(bench).is_disjoint(old) {
            return second;
        }
    }
    panic!("still there after {bound} s: {:?}; {}", machines(bench).intersection(old).collect::<Vec<_>>(), bench.states().await);
}

/// Point 6: replacement first, never below the base, at most two extra, and all of it within minutes of its time.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_free_vm_is_replaced_once_a_day(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let old = before_the_cycle(&bench, 5).await;
    assert_eq!(bench.sim.calls("launch"), 5, "nothing before its time");
    bench.sim.set_boot_time(TimeDelta::seconds(10));
    watch_the_cycle(&bench, &old, 5, 2, 120).await;
    bench.turn(120).await;
    assert_eq!((bench.states().await.as_str(), bench.sim.calls("launch")), ("available 5", 10), "once, and not again");
}

/// Point 6: a smaller number at a time is kept to.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn one_at_a_time_is_one_at_a_time(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.cycle_at_a_time = 1).await;
    let old = before_the_cycle(&bench, 3).await;
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    watch_the_cycle(&bench, &old, 3, 1, 120).await;
}

/// Point 6: a class that changed its size makes free VMs stale at once; another class's stay.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_class_that_changed_replaces_its_free_vms(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 3).await;
    bench.turn_until_states("available 3", 10).await;
    let old = machines(&bench);
    bench.set(|settings| settings.resource_classes.get_mut("medium").unwrap().limit = Some(50)).await;
    bench.turn(10).await;
    assert_eq!(machines(&bench), old, "a limit does not make a VM");
    bench.set(|settings| settings.resource_classes.get_mut("medium").unwrap().memory_mib = 2048).await;
    watch_the_cycle(&bench, &old, 3, 2, 60).await;
    assert_eq!(bench.count("select count(*) from vms.launches where class_spec ->> 'memory_mib' = '2048'").await, 3);
}

/// Point 6: another image makes free VMs stale. This cloud names none, so the rows say what they were made of.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn vms_of_an_unknown_image_are_left_in_peace(pool: PgPool) {
    let bench = Bench::with(pool, Rules { image: None, ..Rules::obliging() }).await;
    bench.set(|settings| settings.preallocated.machine = 2).await;
    bench.turn_until_states("available 2", 10).await;
    let old = machines(&bench);
    sqlx::query("update vms.launches set image = 'another'").execute(&bench.db.pool).await.unwrap();
    bench.turn(30).await;
    assert_eq!(machines(&bench), old, "an unknown image proves nothing");
}

/// Row 25: cycling touches no job's VM, whatever its age; when the job is over the VM goes as always.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn cycling_kills_no_running_job(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut old = before_the_cycle(&bench, 3).await;
    let (task, _, machine) = bench.job("p").await;
    old.remove(&machine);
    bench.turn_until_states("assigned 1, available 3", 10).await;
    bench.turn(60).await;
    assert!(machines(&bench).is_disjoint(&old), "the free ones were replaced");
    assert_eq!((bench.state(task).await, bench.lives(&machine)), (TaskState::Ready, true));
}

/// Points 6 and 8: a held VM is not replaced while it is held.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_held_vm_is_not_cycled(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let old = before_the_cycle(&bench, 2).await;
    let held = bench.db.list_available(bench.now()).await.unwrap()[0].id;
    bench.hold(held, TimeDelta::minutes(10)).await;
    bench.turn(60).await;
    assert_eq!(machines(&bench).intersection(&old).count(), 1, "the held one, and only it");
    bench.clock.advance(TimeDelta::minutes(10));
    bench.turn(60).await;
    assert_eq!((machines(&bench).intersection(&old).count(), bench.states().await.as_str()), (0, "available 2"));
}

/// Point 6, no room for a replacement: the pool is at its limit. It stays whole and stale, and each VM is replaced when it reaches
/// its idle maximum: late, and not never.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_pool_at_its_limit_is_cycled_at_the_idle_maximum(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.limits.vms = Some(2)).await;
    let old = before_the_cycle(&bench, 2).await;
    bench.turn_by(60, TimeDelta::seconds(10)).await;
    assert_eq!(machines(&bench), old, "no room for a replacement: none is ended without one");
    bench.turn_by(12, TimeDelta::hours(1)).await;
    bench.turn(20).await;
    assert_eq!((bench.states().await.as_str(), machines(&bench).intersection(&old).count()), ("available 2", 0));
}

/// Point 6: a job that comes in the middle of a cycle is given a VM at once, and the cycle is finished.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn jobs_are_served_in_the_middle_of_a_cycle(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let old = before_the_cycle(&bench, 4).await;
    bench.sim.set_boot_time(TimeDelta::seconds(10));
    bench.turn(5).await;
    let mut jobs = BTreeSet::new();
    for n in 0..3 {
        let task = bench.ask(&bench.request(&format!("p{n}"))).await.view;
        assert_eq!(task.state, TaskState::Ready);
        jobs.insert(task.vm.unwrap().provider_id.unwrap());
        bench.turn(3).await;
    }
    bench.turn(120).await;
    assert_eq!(bench.states().await, "assigned 3, available 4");
    let left: BTreeSet<_> = machines(&bench).intersection(&old).cloned().collect();
    assert!(left.is_subset(&jobs), "{left:?} of {old:?}");
}

/// Point 6: a kind that has no room for a replacement does not keep the others from theirs.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_kind_without_room_does_not_starve_the_others(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.resource_classes.get_mut("large").unwrap().limit = Some(2);
            let large = Pool { executor: Executor::Machine, resource_class: "large".to_owned(), count: 2 };
            settings.preallocated.pools = vec![large];
            settings.preallocated.machine = 2;
        })
        .await;
    bench.turn_until_states("available 4", 10).await;
    let of_class = |class: &str| -> BTreeSet<String> {
        let live = bench.sim.live().into_iter();
        live.filter(|(_, machine)| machine.tags.resource_class == class).map(|(id, _)| id).collect()
    };
    let (large, medium) = (of_class("large"), of_class("medium"));
    let cycle: DateTime<Utc> = CYCLE.parse().unwrap();
    bench.clock.advance(cycle - bench.now());
    bench.turn(60).await;
    assert!(of_class("medium").is_disjoint(&medium), "replaced");
    assert_eq!(of_class("large"), large, "no room");
    assert_eq!(bench.states().await, "available 4");
}

/// Point 6: at most so many at a time over all kinds together.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_number_at_a_time_is_for_all_kinds_together(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.remote_docker = 3).await;
    bench.turn_until_states("available 3", 10).await;
    let docker = machines(&bench);
    bench.set(|settings| settings.preallocated.machine = 3).await;
    bench.turn_until_states("available 6", 10).await;
    let old = machines(&bench);
    assert!(docker.is_subset(&old));
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    let cycle: DateTime<Utc> = CYCLE.parse().unwrap();
    bench.clock.advance(cycle - bench.now() - TimeDelta::seconds(1));
    watch_the_cycle(&bench, &old, 6, 2, 200).await;
}
