//! Issue point 1: so many VMs stay free, in addition to those that jobs have; a job takes one in its PUT's commit.

use crate::support::Bench;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use vm_service::db::vm_list::VmFilter;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::preallocated::{Pool, Schedule};
use vm_service::domain::tags::Origin;
use vm_service::domain::task::Executor;
use vm_service::loops::scale::Scale;
use vm_service::sim::Fault;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Moves the clock to this time; nothing turns meanwhile.
fn go_to(bench: &Bench, text: &str) {
    assert!(at(text) >= bench.now(), "{text} is in the past");
    bench.clock.advance(at(text) - bench.now());
}

/// Point 1: a claimed VM is replaced in the next tick, and not after its job.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_base_is_kept_in_addition_to_what_jobs_have(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 2).await;
    bench.turn_until_states("available 2", 5).await;
    let first = bench.ask(&bench.request("p")).await.view;
    assert_eq!(first.state, TaskState::Ready, "claimed in the PUT's commit");
    assert_eq!(first.vm.unwrap().origin, Origin::Preallocated);
    bench.tick(&Scale(bench.world.clone())).await;
    assert_eq!(bench.states().await, "assigned 1, available 1, requested 1", "replaced in the next tick");
    let second = bench.ask(&bench.request("p")).await.view;
    assert_eq!(second.state, TaskState::Ready);
    bench.turn_until_states("assigned 2, available 2", 5).await;
    for task in [first.id, second.id] {
        bench.db.release_task(task, bench.now()).await.unwrap();
    }
    bench.turn(90).await;
    assert_eq!(bench.states().await, "available 2", "what jobs had is gone, and nothing else");
    assert_eq!(bench.sim.calls("launch"), 4);
}

/// Point 1: on demand when the pool is empty, and the pool is filled beside it; nothing is launched twice for either.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_empty_pool_is_no_reason_to_wait(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 5).await;
    let mut tasks = Vec::new();
    for n in 0..4 {
        tasks.push(bench.ask(&bench.request(&format!("p{n}"))).await.view.id);
    }
    assert_eq!(bench.state(tasks[0]).await, TaskState::Ready);
    assert!(bench.timeline(tasks[1]).await[1].starts_with("No machine VM of class medium is free"));
    bench.turn_until_states("assigned 4, available 1", 6).await;
    for task in tasks {
        assert_eq!(bench.state(task).await, TaskState::Ready);
    }
    bench.turn(70).await;
    assert_eq!(bench.states().await, "assigned 4, available 1");
    assert_eq!(bench.sim.calls("launch"), 5);
}

/// Point 1 and rows 9 and 10: VMs that start count as there, those that end or failed are replaced and still count against the limit.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn booting_vms_are_not_missing_and_ending_ones_are_not_free(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(60));
    bench.set(|settings| settings.preallocated.machine = 3).await;
    bench.turn(50).await;
    assert_eq!((bench.states().await.as_str(), bench.sim.calls("launch")), ("launching 3", 3));
    bench.turn_until_states("available 3", 20).await;
    let machine = bench.sim.live().keys().next().unwrap().clone();
    bench.sim.kill(&machine);
    bench.turn(30).await;
    assert_eq!(bench.states().await, "available 2, launching 1", "a dead one is replaced, once");
    bench.turn_until_states("available 3", 50).await;
    assert_eq!(bench.sim.calls("launch"), 4);
}

/// Point 1: each kind has its own base, classes and executors apart, and a job takes only what fits.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn each_kind_has_its_own_base(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let large = || "large".to_owned();
    bench
        .set(|settings| {
            settings.preallocated.machine = 1;
            settings.preallocated.remote_docker = 2;
            settings.preallocated.pools = vec![Pool { executor: Executor::Machine, resource_class: large(), count: 3 }];
        })
        .await;
    bench.turn_until_states("available 6", 5).await;
    let kinds: Vec<(String, String, i64)> =
        sqlx::query_as("select executor, resource_class, count(*) from vms.vms group by 1, 2 order by 1, 2")
            .fetch_all(&bench.db.pool)
            .await
            .unwrap();
    let kind = |executor: &str, class: &str, count| (executor.to_owned(), class.to_owned(), count);
    assert_eq!(kinds, [kind("machine", "large", 3), kind("machine", "medium", 1), kind("remote_docker", "medium", 2)]);
    let mut request = bench.request("p");
    request.resource_class = large();
    request.executor = Executor::RemoteDocker;
    assert_eq!(bench.ask(&request).await.view.state, TaskState::Queued, "no large VM is for remote Docker");
    request.executor = Executor::Machine;
    assert_eq!(bench.ask(&request).await.view.state, TaskState::Ready);
    bench.turn_until_states("assigned 2, available 6", 6).await;
}

/// Point 1: settings change while the service runs: up at once; down by draining free VMs, and no job's.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_base_follows_the_settings_up_and_down(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 4).await;
    bench.turn_until_states("available 4", 5).await;
    let (task, _, machine) = bench.job("p").await;
    bench.turn_until_states("assigned 1, available 4", 5).await;
    bench.set(|settings| settings.preallocated.machine = 6).await;
    bench.turn_until_states("assigned 1, available 6", 5).await;
    bench.turn(60).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("assigned 1, available 1", 5).await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    bench.turn_until_states("assigned 1", 65).await;
    assert_eq!((bench.state(task).await, bench.lives(&machine)), (TaskState::Ready, true));
}

/// Point 1: while launches are paused or no provider is set nothing is launched, and afterwards the base is filled.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_pause_keeps_the_pool_as_it_is(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 5).await;
    bench.set(|settings| settings.pause_launches = true).await;
    assert_eq!(bench.ask(&bench.request("p")).await.view.state, TaskState::Ready, "free VMs are given");
    let waits = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(30).await;
    assert_eq!((bench.states().await.as_str(), bench.sim.calls("launch")), ("assigned 1", 1));
    assert_eq!(bench.timeline(waits).await.last().unwrap(), "Launches are paused in the settings.");
    bench.set(|settings| settings.pause_launches = false).await;
    bench.turn_until_states("assigned 2, available 1", 6).await;
}

/// Point 1: schedules keep the hours of their time zone, across the end of summer time.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_schedule_keeps_local_hours_across_a_time_change(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let schedule = |cron: &str, count| Schedule {
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        cron: cron.to_owned(),
        count,
    };
    bench
        .set(|settings| {
            settings.preallocated.time_zone = "Europe/Paris".to_owned();
            settings.preallocated.machine = 9;
            settings.preallocated.schedules = vec![schedule("0 8 * * 1-5", 3), schedule("0 18 * * 1-5", 0)];
        })
        .await;
    // Summer time: eight is six in UTC.
    go_to(&bench, "2026-10-23T05:59:50Z");
    bench.turn(5).await;
    assert_eq!(bench.states().await, "", "it is not eight yet");
    go_to(&bench, "2026-10-23T06:00:00Z");
    bench.turn_until_states("available 3", 5).await;
    go_to(&bench, "2026-10-23T16:00:00Z");
    bench.turn_until_states("", 70).await;
    // Winter time from Sunday on: eight is seven in UTC.
    go_to(&bench, "2026-10-26T06:30:00Z");
    bench.turn(5).await;
    assert_eq!(bench.states().await, "", "it is half past seven");
    go_to(&bench, "2026-10-26T07:00:00Z");
    bench.turn_until_states("available 3", 5).await;
    // A restart, or a settings change, in the middle of the day finds the same.
    go_to(&bench, "2026-10-26T12:00:00Z");
    bench.set(|settings| settings.history_days = 30).await;
    bench.turn(5).await;
    assert_eq!(bench.states().await, "available 3");
}

/// Row 25: the smaller base at night takes no VM from a job, and a job that comes at night is served on demand.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_schedule_that_ends_takes_nothing_from_jobs(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 2).await;
    bench.turn_until_states("available 2", 5).await;
    let (task, vm, _) = bench.job("p").await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    bench.turn_by(30, TimeDelta::seconds(10)).await;
    assert_eq!((bench.states().await.as_str(), bench.state(task).await), ("assigned 1", TaskState::Ready));
    let views = bench.db.list_vms(&VmFilter { id: Some(vm), limit: 1, ..VmFilter::default() }).await.unwrap();
    assert_eq!(views[0].task_id, Some(task));
    let (_, other, _) = bench.job("q").await;
    assert_ne!(other, vm);
}

/// Row 14: a launch for the pool that the provider refuses leaves nothing behind, and the pool is filled when it does not any more.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_refused_launch_for_the_pool_is_tried_again(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::Refuse("VcpuLimitExceeded".to_owned()));
    bench.set(|settings| settings.preallocated.machine = 2).await;
    bench.turn_until_states("available 2", 30).await;
    assert_eq!(bench.sim.live().len(), 2);
}
