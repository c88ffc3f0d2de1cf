//! How long `/metrics` takes with 10,000 VMs and a hundred thousand ended tasks, the worst case of all of them hot included.

use super::day::Day;
use crate::many_rows;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use vm_service::loops::Loop as _;
use vm_service::loops::gauges::Gauges;
use vm_service::telemetry::recorder;

const TIMES: usize = 200;
/// Of the issue.
const P95: Duration = Duration::from_millis(50);

fn figures(what: &str, mut took: Vec<Duration>) -> Duration {
    took.sort();
    let (p50, p95) = (took[took.len() / 2], took[took.len() * 95 / 100]);
    for (name, value) in [("p50", p50), ("p95", p95)] {
        println!("figure {what}_{name} {:.2} ms", value.as_secs_f64() * 1000.0);
    }
    p95
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "a measurement: `make bench` runs it"]
async fn metrics_are_fast_over_many_rows(pool: PgPool) {
    let _relay = recorder::install(Duration::from_secs(3)).unwrap();
    let day = Day::new(pool.clone()).await;
    many_rows::seed(&pool, many_rows::ENDED, day.bench.now()).await;
    let gauges = Gauges::new(day.bench.world.clone());
    let (mut counting, mut answering) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let began = Instant::now();
        gauges.tick(day.bench.now(), 0).await.unwrap();
        counting.push(began.elapsed());
        let began = Instant::now();
        let reply = day.call("GET", "/metrics", None).await;
        answering.push(began.elapsed());
        assert_eq!(reply.status, 200);
    }
    let together: Vec<Duration> = counting.iter().zip(&answering).map(|(counting, answering)| *counting + *answering).collect();
    figures("metrics_count", counting);
    figures("metrics_answer", answering);
    // A scrape waits for no count; both together are what it would take if it did.
    assert!(figures("metrics", together) < P95);
}
