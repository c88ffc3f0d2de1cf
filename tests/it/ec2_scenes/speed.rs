//! Calls, counted on the wire. Long, because moto is slow: `make proof` runs them.

use super::scene::Scene;
use crate::ec2_wire::journal::Outcome;
use crate::ec2_wire::rules::Rules;
use sqlx::PgPool;
use std::collections::VecDeque;
use std::time::Duration;

/// So many jobs a second, each half a minute long: calls for launches, looks and ends together, for each job.
async fn calls_per_job(pool: PgPool, per_second: u32, seconds: u32) -> f64 {
    let rules = Rules { budgets: true, runs_after: Duration::from_secs(8), speed: 0.0, ..Rules::default() };
    let scene = Scene::with(pool, rules).await;
    scene
        .set(|settings| {
            settings.limits.vms = Some(5000);
            settings.limits.in_flight = Some(5000);
        })
        .await;
    let mut open = VecDeque::new();
    for second in 0..seconds + 40 {
        for nth in 0..if second < seconds { per_second } else { 0 } {
            open.push_back((second, scene.bench.ask(&scene.bench.request(&format!("p{nth}"))).await.view.id));
        }
        while let Some((_, task)) = open.pop_front_if(|(began, _)| second >= *began + 30) {
            scene.bench.db.release_task(task, scene.bench.now()).await.unwrap();
        }
        scene.turn(1).await;
    }
    scene.ends_clean().await;
    assert_eq!(scene.cloud.calls("CreateTags").len(), 0);
    let throttled = scene.cloud.journal().iter().filter(|it| it.outcome == Outcome::Throttled).count();
    let (calls, jobs) = (u32::try_from(scene.cloud.journal().len()).unwrap(), seconds * per_second);
    println!("{calls} calls, {throttled} of them throttled, for {jobs} jobs");
    assert_eq!(throttled, 0);
    f64::from(calls) / f64::from(jobs)
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "moto makes 40 to 120 machines a second: by make proof"]
async fn jobs_at_five_a_second_take_few_calls(pool: PgPool) {
    let calls = calls_per_job(pool, 5, 40).await;
    assert!(calls <= 0.6, "{calls} calls a job");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "moto makes 40 to 120 machines a second: by make proof"]
async fn jobs_at_twenty_a_second_take_fewer(pool: PgPool) {
    let calls = calls_per_job(pool, 20, 20).await;
    assert!(calls <= 0.25, "{calls} calls a job");
}

/// Five hundred at once: asked for in one call each second as the budget allows, and none throttled.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "moto makes 40 to 120 machines a second: by make proof"]
async fn a_burst_is_asked_for_at_once(pool: PgPool) {
    let rules = Rules { budgets: true, runs_after: Duration::from_secs(8), speed: 0.0, ..Rules::default() };
    let scene = Scene::with(pool, rules).await;
    scene
        .set(|settings| {
            settings.limits.vms = Some(600);
            settings.limits.in_flight = Some(600);
            settings.preallocated.machine = 500;
        })
        .await;
    let mut seconds = 0;
    while scene.bench.count("select count(*) from vms.vms where launched_at is not null").await < 500 {
        assert!(seconds < 30, "not asked for within 30 s");
        scene.turn(1).await;
        seconds += 1;
    }
    let launches = scene.cloud.calls("RunInstances");
    assert!(launches.len() <= 2, "{} calls", launches.len());
    assert!(launches.iter().all(|it| it.outcome == Outcome::Done));
    scene.set(|settings| settings.preallocated.machine = 0).await;
    scene.ends_clean().await;
}
