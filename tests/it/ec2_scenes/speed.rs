//! Calls, counted on the wire.

use super::scene::Scene;
use crate::ec2_wire::rules::Rules;
use sqlx::PgPool;
use std::time::Duration;

/// Jobs at five a second, each two minutes long: at most 0.6 calls a job, launches, looks and ends together.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn jobs_at_five_a_second_take_few_calls(pool: PgPool) {
    const SECONDS: usize = 40;
    let scene = Scene::with(pool, Rules { runs_after: Duration::from_secs(8), speed: 0.0, ..Rules::default() }).await;
    scene
        .set(|settings| {
            settings.limits.vms = Some(1000);
            settings.limits.in_flight = Some(1000);
        })
        .await;
    let mut jobs = std::collections::VecDeque::new();
    for second in 0..SECONDS + 60 {
        if second < SECONDS {
            for nth in 0..5 {
                jobs.push_back((second, scene.bench.ask(&scene.bench.request(&format!("p{nth}"))).await.view.id));
            }
        }
        while let Some((_, task)) = jobs.pop_front_if(|(began, _)| second >= *began + 30) {
            scene.bench.db.release_task(task, scene.bench.now()).await.unwrap();
        }
        scene.turn(1).await;
    }
    scene.ends_clean().await;
    let calls = scene.cloud.journal().len();
    let made = scene.cloud.instances().await.len();
    let jobs = SECONDS * 5;
    println!("{calls} calls, {made} machines, {jobs} jobs");
    assert!(calls * 10 <= jobs * 6, "{calls} calls for {jobs} jobs");
}
