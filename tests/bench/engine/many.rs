//! Ten thousand live VMs, half of them at work: how long one tick of each loop takes, and how large the process is.

use super::world::Engine;
use crate::report::Report;
use anyhow::Context as _;
use chrono::TimeDelta;
use std::time::Instant;
use vm_service::sim::Sim;

const LIVE: u32 = 10_000;

pub(super) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let engine = Engine::new("many", Sim::new).await?;
    engine.sim.set_max_batch(1000);
    engine
        .set(|settings| {
            settings.limits.vms = Some(2 * LIVE);
            settings.limits.in_flight = Some(2 * LIVE);
            settings.preallocated.machine = LIVE;
        })
        .await?;
    let available = "select count(*) from vms.vms where state = 'available'";
    while engine.count(available).await? < i64::from(LIVE) {
        engine.turn(TimeDelta::seconds(1)).await?;
    }
    engine.set(|settings| settings.preallocated.machine = LIVE / 2).await?;
    for n in 0..LIVE / 2 {
        engine.ask(&format!("p{}", n % 100)).await?;
    }
    let mut worst: f64 = 0.0;
    for _ in 0..3 {
        // Far enough for every loop that has a pace of its own.
        engine.clock.advance(TimeDelta::seconds(61));
        for work in &engine.loops {
            let begun = Instant::now();
            engine.tick(work.as_ref()).await?;
            let took = begun.elapsed().as_secs_f64();
            report.line(&format!("# tick of {} with {} live machines: {took:.3} s", work.name(), engine.sim.live().len()))?;
            worst = worst.max(took);
        }
    }
    report.line(&format!("figure tick_worst_with_10000_live {worst:.3} s (bar: 2), unoptimised build, with its acts"))?;
    report.line(&format!("figure memory_with_10000_live {} MiB (bar: 256), the simulated cloud in it", resident_mib()?))
}

/// What this process has in memory now.
fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1024)
}
