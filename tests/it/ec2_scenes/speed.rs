//! Calls, counted on the wire, as the simulated cloud counts them: the steps, rates and bars are those of `make bench`, and a burst is
//! held against the same burst on the simulated cloud. `make proof` runs them.
//!
//! Machines are held by the proxy here (`ec2_wire::held` says what is not foreign then): moto would take minutes. Model, policy, budgets,
//! tokens and lags are held as everywhere.

use super::scene::Scene;
use crate::ec2_wire::journal::Outcome;
use crate::ec2_wire::rules::Rules;
use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::{BTreeMap, VecDeque};
use vm_service::domain::lifecycle::TaskState;
use vm_service::loops;
use vm_service::sim::{self, Bucket, Spread};

/// "Of which about 18 s is AWS's" (EC2.md); guests answer at once.
const RUNS_AFTER: TimeDelta = TimeDelta::seconds(18);
/// How long a job has its VM.
const JOB: TimeDelta = TimeDelta::seconds(30);
const JOBS: u32 = 1000;
/// The step of virtual time while jobs come.
const STEP: TimeDelta = TimeDelta::milliseconds(50);

async fn scene(pool: PgPool) -> Scene {
    let runs_after = RUNS_AFTER.to_std().unwrap();
    Scene::with(pool, Rules { budgets: true, runs_after, speed: 0.0, held_by_us: true, ..Rules::default() }).await
}

/// Calls of all kinds for each job, when this many jobs come in a second, evenly spaced and each seen at once.
async fn calls_per_job(pool: PgPool, per_second: u32) -> f64 {
    let scene = scene(pool).await;
    let bench = &scene.bench;
    scene.set(|settings| (settings.limits.vms, settings.limits.in_flight) = (Some(5000), Some(5000))).await;
    let between = TimeDelta::milliseconds(1000 / i64::from(per_second));
    let (begun, mut asked, mut next_turn) = (bench.now(), 0, bench.now());
    let (mut waiting, mut running) = (VecDeque::new(), VecDeque::new());
    while asked < JOBS || !waiting.is_empty() || !running.is_empty() {
        let (now, mut changed) = (bench.now(), false);
        while asked < JOBS && now - begun >= between * i32::try_from(asked).unwrap() {
            waiting.push_back(bench.ask(&bench.request(&format!("p{}", asked % 20))).await.view.id);
            (asked, changed) = (asked + 1, true);
        }
        while let Some((task, _)) = running.pop_front_if(|(_, until)| *until <= now) {
            bench.db.release_task(task, now).await.unwrap();
            changed = true;
        }
        if changed {
            woken(bench).await;
        }
        if now >= next_turn {
            bench.turn_by(1, TimeDelta::zero()).await;
            next_turn = now + TimeDelta::milliseconds(500);
            for task in std::mem::take(&mut waiting) {
                match bench.state(task).await {
                    TaskState::Ready => running.push_back((task, now + JOB)),
                    _ => waiting.push_back(task),
                }
            }
        }
        bench.clock.advance(STEP);
        scene.cloud.pass(STEP.to_std().unwrap());
    }
    scene.ends_clean().await;
    let calls = Calls::on_the_wire(&scene);
    assert_eq!(scene.cloud.instances().await.len(), JOBS as usize, "one machine for each job, and no other");
    assert_eq!((calls.throttled, calls.tags), (0, 0), "{calls:?}");
    let per_job = f64::from(calls.all) / f64::from(JOBS);
    println!("figure ec2_calls_per_job_at_{per_second}_per_s {per_job:.3} calls");
    println!("# {JOBS} jobs of {} s in {} s: {calls:?}", JOB.num_seconds(), (bench.now() - begun).num_seconds());
    per_job
}

/// What a wake-up is followed by at once.
async fn woken(bench: &Bench) {
    let all = loops::serve_loops(&bench.world).into_iter().chain(loops::scaler_loops(&bench.world));
    for work in all.filter(|it| ["assign", "launch", "scale"].contains(&it.name())) {
        bench.tick(work.as_ref()).await;
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "a thousand machines, minutes: by make proof"]
async fn jobs_at_five_a_second_take_few_calls(pool: PgPool) {
    let calls = calls_per_job(pool, 5).await;
    assert!(calls <= 0.6, "{calls} calls a job");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "a thousand machines, minutes: by make proof"]
async fn jobs_at_twenty_a_second_take_fewer(pool: PgPool) {
    let calls = calls_per_job(pool, 20).await;
    assert!(calls <= 0.25, "{calls} calls a job");
}

/// Five hundred wanted at one moment, had for a minute, and wanted no more: the same calls as on the simulated cloud, within 5 %.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "hundreds of machines, minutes: by make proof"]
async fn a_burst_takes_the_calls_that_the_simulated_cloud_counts(pool: PgPool) {
    let simulated = simulated_burst(&pool).await;
    let scene = scene(pool).await;
    burst(&scene.bench, async || scene.turn(1).await).await;
    let wire = Calls::on_the_wire(&scene);
    println!("# on the wire {wire:?}");
    println!("# simulated   {simulated:?}");
    println!("figure ec2_burst_of_500_calls {} calls (simulated: {})", wire.all, simulated.all);
    println!("figure ec2_burst_of_500_throttled {} calls (simulated: {})", wire.throttled, simulated.throttled);
    let ratio = f64::from(wire.all) / f64::from(simulated.all);
    println!("figure ec2_burst_of_500_ratio {ratio:.3} of_simulated");
    assert!((0.95..=1.05).contains(&ratio), "{wire:?} and not {simulated:?}");
    let sorts = |it: &Calls| (it.launches, it.ends, it.tags, it.throttled);
    assert_eq!(sorts(&wire), sorts(&simulated));
}

/// See the test.
async fn burst(bench: &Bench, turn: impl AsyncFn()) {
    bench
        .set(|settings| {
            (settings.limits.vms, settings.limits.in_flight) = (Some(600), Some(600));
            settings.preallocated.machine = 500;
        })
        .await;
    for _ in 0..120 {
        turn().await;
        if bench.states().await == "available 500" {
            break;
        }
    }
    assert_eq!(bench.states().await, "available 500");
    for _ in 0..60 {
        turn().await;
    }
    bench.set(|settings| settings.preallocated.machine = 0).await;
    for _ in 0..120 {
        turn().await;
        if bench.states().await.is_empty() {
            return;
        }
    }
    panic!("left: {}", bench.states().await);
}

/// The same on the simulated cloud with the times and pages of the other, over a database of its own.
async fn simulated_burst(pool: &PgPool) -> Calls {
    let name = "simulated_burst";
    sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).execute(pool).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(pool).await.unwrap();
    let apart = PgPool::connect_with(pool.connect_options().as_ref().clone().database(name)).await.unwrap();
    vm_service::db::MIGRATOR.run(&apart).await.unwrap();
    let rules = sim::Rules {
        runs_after: Spread::exactly(RUNS_AFTER),
        answers_after: Spread::NONE,
        shuts_down_in: Spread::NONE,
        look_lag: Spread::NONE,
        list_lag: Spread::NONE,
        ..sim::Rules::default()
    };
    let bench = Bench::with(apart.clone(), rules).await;
    burst(&bench, async || bench.turn(1).await).await;
    let calls = Calls::simulated(&bench);
    apart.close().await;
    sqlx::query(AssertSqlSafe(format!("drop database {name} with (force)"))).execute(pool).await.unwrap();
    calls
}

/// How often the cloud was called, throttled calls too.
#[derive(Debug)]
struct Calls {
    all: u32,
    throttled: u32,
    launches: u32,
    ends: u32,
    tags: u32,
}

impl Calls {
    fn on_the_wire(scene: &Scene) -> Self {
        let journal = scene.cloud.journal();
        let mut by_action: BTreeMap<&str, u32> = BTreeMap::new();
        journal.iter().for_each(|it| *by_action.entry(&it.action).or_default() += 1);
        println!("# {by_action:?}");
        let of = |action: &str| by_action.get(action).copied().unwrap_or_default();
        let (launches, ends, tags) = (of("RunInstances"), of("TerminateInstances"), of("CreateTags"));
        // What the image is made of is looked at once in the life of a process; the simulated cloud has no images.
        assert_eq!(by_action.remove("DescribeImages"), Some(1));
        let all = by_action.values().sum();
        let throttled = journal.iter().filter(|it| it.outcome == Outcome::Throttled).count();
        let throttled = u32::try_from(throttled).unwrap();
        Self { all, throttled, launches, ends, tags }
    }

    fn simulated(bench: &Bench) -> Self {
        let totals = bench.sim.totals();
        let number = |count: u64| u32::try_from(count).unwrap();
        let of = |bucket: Bucket| totals.get(&bucket).map_or((0, 0), |total| (number(total.taken), number(total.throttled)));
        let buckets = [Bucket::LaunchCalls, Bucket::Terminate, Bucket::Describe, Bucket::CreateTags, Bucket::Mutating].map(of);
        let [launches, ends, _, tags, _] = buckets.map(|(taken, throttled)| taken + throttled);
        let all = buckets.iter().map(|(taken, throttled)| taken + throttled).sum();
        Self { all, throttled: buckets.iter().map(|it| it.1).sum(), launches, ends, tags }
    }
}
