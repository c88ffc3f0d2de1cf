//! Issue point 2: one budget for every creator, a breaker with a slow return, a fair order, a call budget that is never overdrawn.

use crate::support::Bench;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use std::collections::BTreeMap;
use uuid::Uuid;
use vm_service::domain::ids::{LaunchId, TaskId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::settings::ProjectSettings;
use vm_service::loops::{Loop, assign::Assign, scale::Scale};
use vm_service::sim::{Bucket, Fault, FaultRates, Rules};

/// Sixteen planners at the same moment: those of the API and those of the scaler, as in many replicas.
async fn sixteen_planners(bench: &Bench) {
    let planner = |n: usize| {
        let (world, now) = (bench.world.clone(), bench.now());
        let work: Box<dyn Loop> = if n.is_multiple_of(2) { Box::new(Assign(world)) } else { Box::new(Scale(world)) };
        tokio::spawn(async move { assert!(work.tick(now, 64).await.unwrap().is_empty()) })
    };
    for planner in (0..16).map(planner).collect::<Vec<_>>() {
        planner.await.unwrap();
    }
}

const LIVE: &str = "select (select count(*) from vms.vms where state <> 'terminated') + (select count(*) from vms.orphans)";
const IN_FLIGHT: &str = "select count(*) from vms.vms where state in ('requested', 'launching', 'booting')";

/// Rows 7 and 8: the API, the scaler and cycling take from one budget; sixteen of them at once do not pass it, and orphans count.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn planners_of_every_kind_never_pass_the_limit_in_all(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.plant("orphan", bench.tags());
    bench.set(|settings| settings.limits.vms = Some(9)).await;
    bench.turn(1).await;
    assert_eq!(bench.count("select count(*) from vms.orphans").await, 1);
    bench.set(|settings| settings.preallocated.machine = 6).await;
    for n in 0..10 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    for _ in 0..4 {
        sixteen_planners(&bench).await;
        assert!(bench.count(LIVE).await <= 9, "{}", bench.states().await);
    }
    assert_eq!(bench.count(LIVE).await, 9);
    for _ in 0..20 {
        bench.turn(1).await;
        assert!(bench.count(LIVE).await <= 9, "{}", bench.states().await);
    }
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 8, "tasks go before the pool");
}

/// Row 7: what is wanted is launched once, however many planners see it: five for tasks and three for the pool.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn planners_of_every_kind_launch_what_is_wanted_once(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    bench.set(|settings| settings.preallocated.machine = 3).await;
    for n in 0..5 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    for _ in 0..5 {
        sixteen_planners(&bench).await;
        assert!(bench.count("select count(*) from vms.vms").await <= 8, "{}", bench.states().await);
    }
    bench.turn_until_states("assigned 5, available 3", 20).await;
    assert_eq!(bench.count("select count(*) from vms.vms").await, 8);
}

/// Point 2: the cap on launches in flight needs no confirmation; row 13: creation does not run away when none arrives.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_planner_passes_the_limit_in_flight(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(40));
    bench
        .set(|settings| {
            settings.limits.in_flight = Some(4);
            settings.preallocated.machine = 3;
        })
        .await;
    for n in 0..9 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    for _ in 0..3 {
        sixteen_planners(&bench).await;
        assert_eq!(bench.count(IN_FLIGHT).await, 4);
    }
    for _ in 0..100 {
        bench.turn(2).await;
        assert!(bench.count(IN_FLIGHT).await <= 4);
    }
    assert_eq!(bench.states().await, "assigned 9, available 3");
}

/// Row 13: the provider's answers do not arrive any more; what is asked for stays at the cap, for as long as that lasts.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn creation_does_not_run_away_when_no_answer_arrives(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.limits.in_flight = Some(3)).await;
    bench.sim.set_faults(FaultRates::none().with(Fault::LoseLaunchAnswer, 1.0));
    for n in 0..12 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    for _ in 0..100 {
        bench.turn(1).await;
        assert!(bench.sim.truth().len() <= 3, "{} machines were made", bench.sim.truth().len());
    }
    bench.sim.set_faults(FaultRates::none());
    bench.turn(30).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 12);
    assert_eq!(bench.sim.live().len(), 12);
}

/// Point 2: the limit of a class holds for every executor of it, for tasks and pool together.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_planner_passes_the_limit_of_a_class(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.resource_classes.get_mut("medium").unwrap().limit = Some(4);
            settings.preallocated.machine = 2;
            settings.preallocated.remote_docker = 2;
        })
        .await;
    let mut large = bench.request("l");
    large.resource_class = "large".to_owned();
    let large = bench.ask(&large).await.view.id;
    for n in 0..6 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    for _ in 0..20 {
        sixteen_planners(&bench).await;
        bench.turn(1).await;
        let of_class = bench.count("select count(*) from vms.vms where state <> 'terminated' and resource_class = 'medium'").await;
        assert!(of_class <= 4, "{of_class}");
    }
    assert_eq!(bench.state(large).await, TaskState::Ready, "another class goes on");
    let last = bench
        .count("select count(*) from vms.tasks where waiting_reason = 'There are as many VMs of class medium as there may be.'")
        .await;
    assert!(last >= 2, "{last}");
}

/// Point 2: the limit of a project is checked at the claim, for sixteen that claim at once; others pass by it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_claimer_passes_the_limit_of_a_project(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.limits.vms_per_project = Some(3);
            settings.preallocated.machine = 12;
        })
        .await;
    bench.turn_until_states("available 12", 10).await;
    let vms: Vec<_> = bench.db.list_available(bench.now()).await.unwrap().into_iter().map(|vm| vm.id).collect();
    // With all VMs held away the tasks wait; then everyone claims at once.
    sqlx::query("update vms.vms set hold_reason = 'x', hold_until = $1")
        .bind(bench.now() + TimeDelta::days(1))
        .execute(&bench.db.pool)
        .await
        .unwrap();
    let mut tasks = Vec::new();
    for _ in 0..12 {
        tasks.push(bench.ask(&bench.request("p")).await.view.id);
    }
    sqlx::query("update vms.vms set hold_reason = null, hold_until = null").execute(&bench.db.pool).await.unwrap();
    let claims = tasks.iter().zip(vms).map(|(task, vm)| {
        let (db, now, task) = (bench.db.clone(), bench.now(), *task);
        tokio::spawn(async move { db.claim_task(task, vm, now).await.is_ok() })
    });
    let mut won = 0;
    for claim in claims.collect::<Vec<_>>() {
        won += usize::from(claim.await.unwrap());
    }
    assert_eq!(won, 3);
    let other = bench.ask(&bench.request("q")).await.view.id;
    bench.turn_until(other, TaskState::Ready, 5).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready' and project_id = 'p'").await, 3);
}

/// Point 2, row 13: three rounds of failures, each after twice the pause; then one probe at a time, and 1, 2, 4 … on the way back.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn starts_that_fail_pause_longer_and_come_back_slowly(pool: PgPool) {
    let bench = Bench::with(pool, Rules { max_batch: 50, ..Rules::obliging() }).await;
    bench.sim.set_faults(FaultRates::none().with(Fault::NeverAnswers, 1.0));
    bench
        .set(|settings| {
            settings.preallocated.machine = 16;
            settings.timeouts.ssh_connect_ms = 1000;
        })
        .await;
    let launches = "select extract(epoch from created_at)::bigint from vms.launches order by created_at, id";
    bench.turn(60).await;
    let at: Vec<i64> = sqlx::query_scalar(launches).fetch_all(&bench.db.pool).await.unwrap();
    let pauses: Vec<i64> = at.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.len() >= 3 && pauses.windows(2).all(|two| two[1] > two[0]), "each pause is longer: {pauses:?}");
    let counts: Vec<i32> =
        sqlx::query_scalar("select machines from vms.launches order by created_at, id").fetch_all(&bench.db.pool).await.unwrap();
    assert_eq!(counts[0], 16);
    assert!(counts[1..].iter().all(|machines| *machines == 1), "one probe at a time: {counts:?}");
    bench.sim.set_faults(FaultRates::none());
    bench.sim.set_boot_time(TimeDelta::seconds(3));
    let mut most: Vec<i64> = vec![0];
    for _ in 0..400 {
        bench.turn(1).await;
        let in_flight = bench.count(IN_FLIGHT).await;
        if in_flight > *most.last().unwrap() {
            most.push(in_flight);
        }
        if bench.states().await.starts_with("available 16") {
            break;
        }
    }
    assert_eq!(bench.states().await, "available 16");
    assert_eq!(most[..3], [0, 1, 2], "{most:?}");
    assert!(most.windows(2).all(|two| two[1] <= 2 * two[0].max(1)), "no step is larger than double: {most:?}");
}

/// Releases each job that ran for so long; returns how many VMs each project got.
async fn jobs_of(bench: &Bench, rounds: usize, job: TimeDelta, got: &mut BTreeMap<String, usize>) {
    let mut begun: BTreeMap<TaskId, DateTime<Utc>> = BTreeMap::new();
    for _ in 0..rounds {
        let ready: Vec<(Uuid, String)> =
            sqlx::query_as("select id, project_id from vms.tasks where state = 'ready'").fetch_all(&bench.db.pool).await.unwrap();
        for (id, project) in ready {
            let since = *begun.entry(TaskId(id)).or_insert_with(|| {
                *got.entry(project).or_default() += 1;
                bench.now()
            });
            if bench.now() - since >= job {
                bench.db.release_task(TaskId(id), bench.now()).await.unwrap();
            }
        }
        bench.turn_by(1, TimeDelta::seconds(5)).await;
    }
}

/// Point 2: between projects of one priority VMs are shared by weight, also when one of them asked for much more, and before.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn vms_are_shared_by_weight(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.limits.vms = Some(9);
            settings.projects = [("heavy".to_owned(), ProjectSettings { weight: 2, priority: 0 })].into();
        })
        .await;
    for _ in 0..40 {
        bench.ask(&bench.request("light")).await;
    }
    bench.clock.advance(TimeDelta::seconds(1));
    for _ in 0..20 {
        bench.ask(&bench.request("heavy")).await;
    }
    bench.turn(5).await;
    let at_work = bench.db.at_work().await.unwrap();
    assert_eq!(at_work, [("heavy".to_owned(), 6), ("light".to_owned(), 3)].into());
}

/// Point 2: priority goes before share, and still nobody starves: a lane that was given nothing for ten minutes goes first.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn priority_goes_first_and_nobody_starves(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.limits.vms = Some(2)).await;
    let low = bench.ask(&bench.request("low")).await.view.id;
    let mut request = bench.request("high");
    request.priority = 50;
    for _ in 0..80 {
        bench.ask(&request).await;
    }
    let mut got = BTreeMap::new();
    jobs_of(&bench, 100, TimeDelta::seconds(20), &mut got).await;
    assert_eq!(bench.state(low).await, TaskState::Queued, "priority goes first: {got:?}");
    jobs_of(&bench, 40, TimeDelta::seconds(20), &mut got).await;
    assert!(got.contains_key("low"), "the bound is ten minutes and one VM that comes free: {got:?}");
    assert!(got["high"] > 20, "{got:?}");
}

/// Point 2 and the speed section: a burst of fifty at the real budgets goes out in a few calls, and none of any sort is throttled.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_burst_goes_out_within_the_budgets(pool: PgPool) {
    let bench = Bench::strict(pool).await;
    for n in 0..50 {
        bench.ask(&bench.request(&format!("p{}", n % 7))).await;
        if n % 10 == 9 {
            bench.tick(&Assign(bench.world.clone())).await;
        }
    }
    bench.turn(60).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 50);
    assert!(bench.sim.calls("launch") <= 6, "{} calls", bench.sim.calls("launch"));
    sqlx::query("select 1").execute(&bench.db.pool).await.unwrap();
    for id in sqlx::query_scalar::<_, Uuid>("select id from vms.tasks").fetch_all(&bench.db.pool).await.unwrap() {
        bench.db.release_task(TaskId(id), bench.now()).await.unwrap();
    }
    bench.turn(60).await;
    assert_eq!(bench.sim.live().len(), 0);
    assert!(bench.sim.calls("terminate") <= 12, "{} calls", bench.sim.calls("terminate"));
    let totals = bench.sim.totals();
    assert!(totals.values().all(|total| total.throttled == 0), "{totals:?}");
}

/// Point 2: the call budget is one for all planners; more classes than the bucket holds calls wait their turn, and say so.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_call_budget_is_shared_by_all_planners(pool: PgPool) {
    let bench = Bench::strict(pool).await;
    bench
        .set(|settings| {
            for n in 0..20 {
                let class = settings.resource_classes["medium"].clone();
                settings.resource_classes.insert(format!("c{n}"), class);
            }
        })
        .await;
    let mut tasks = Vec::new();
    for n in 0..20 {
        let mut request = bench.request("p");
        request.resource_class = format!("c{n}");
        tasks.push(bench.ask(&request).await.view.id);
    }
    sixteen_planners(&bench).await;
    assert_eq!(bench.count("select count(*) from vms.launches").await, 5, "the bucket holds five calls");
    assert_eq!(bench.timeline(tasks[19]).await.last().unwrap(), "The provider is asked as fast as it may be; it is next.");
    bench.turn(60).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 20);
    assert_eq!((bench.sim.throttled(Bucket::LaunchCalls), bench.sim.calls("launch")), (0, 20));
}

/// Row 24: a hundred jobs go out in batches, in one tick, and not in single file.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hundred_jobs_go_out_in_batches(pool: PgPool) {
    let bench = Bench::with(pool, Rules { max_batch: 40, ..Rules::obliging() }).await;
    bench.set(|settings| settings.limits.in_flight = Some(100)).await;
    for n in 0..100 {
        bench.ask(&bench.request(&format!("p{}", n % 9))).await;
    }
    bench.turn(3).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 100);
    assert_eq!(bench.sim.calls("launch"), 3);
}

/// Row 15: a throttled launch is put back with its whole batch; nothing of it is dropped, and nothing is made twice.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_throttled_batch_is_put_back_whole(pool: PgPool) {
    let bench = Bench::with(pool, Rules { max_batch: 50, ..Rules::obliging() }).await;
    for n in 0..20 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    bench.tick(&Assign(bench.world.clone())).await;
    bench.sim.inject(Fault::Throttle);
    bench.tick(&vm_service::loops::launch::Launch(bench.world.clone())).await;
    assert_eq!((bench.sim.live().len(), bench.count("select count(*) from vms.vms where state = 'requested'").await), (0, 20));
    let launch: Uuid = sqlx::query_scalar("select id from vms.launches").fetch_one(&bench.db.pool).await.unwrap();
    bench.turn(5).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 20);
    assert_eq!((bench.sim.calls("launch"), bench.sim.live().len()), (2, 20));
    assert!(bench.sim.live().values().all(|machine| machine.tags.launch == LaunchId(launch)), "the same launch");
}
