//! Jobs that come at a steady rate, evenly spaced and each seen at once; and many VMs that wait for none.

use super::world::Engine;
use crate::report::Report;
use chrono::TimeDelta;
use std::collections::VecDeque;
use vm_service::domain::lifecycle::TaskState;
use vm_service::sim::{FaultRates, Rules, Sim};

/// How long a job has its VM.
const JOB: TimeDelta = TimeDelta::seconds(30);
/// The step of virtual time.
const STEP: TimeDelta = TimeDelta::milliseconds(50);

pub(super) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    for (per_second, jobs, bar) in [(5, 900, "0.6"), (20, 1000, "0.25")] {
        let calls = jobs_at(per_second, jobs).await?;
        report.line(&format!("figure calls_per_job_at_{per_second}_per_s {calls:.3} calls (bar: {bar}), {jobs} jobs"))?;
    }
    let reads = idle().await?;
    report.line(&format!("figure reads_per_minute_with_1000_idle {reads:.2} calls (bar: 4)"))
}

async fn jobs_at(per_second: u32, jobs: u32) -> anyhow::Result<f64> {
    let engine = Engine::new("steady", |clock| Sim::strict(clock, Rules::default(), FaultRates::none(), 7)).await?;
    engine.set(|settings| settings.limits.vms = Some(5000)).await?;
    engine.set(|settings| settings.limits.in_flight = Some(5000)).await?;
    let between = TimeDelta::milliseconds(1000 / i64::from(per_second));
    let (begun, mut asked, mut next_turn) = (engine.now(), 0, engine.now());
    let mut waiting = VecDeque::new();
    let mut running = VecDeque::new();
    loop {
        let now = engine.now();
        let mut changed = false;
        while asked < jobs && now - begun >= between * i32::try_from(asked)? {
            waiting.push_back(engine.ask(&format!("p{}", asked % 20)).await?);
            (asked, changed) = (asked + 1, true);
        }
        while running.front().is_some_and(|(_, until)| *until <= now) {
            if let Some((task, _)) = running.pop_front() {
                engine.world.db.release_task(task, now).await?;
                changed = true;
            }
        }
        if changed {
            engine.woken().await?;
        }
        if now >= next_turn {
            engine.turn(TimeDelta::zero()).await?;
            next_turn = now + TimeDelta::milliseconds(500);
            for _ in 0..waiting.len() {
                let Some(task) = waiting.pop_front() else { break };
                let state = engine.world.db.find_task(task).await?.map(|row| row.view.state);
                match state {
                    Some(TaskState::Ready) => running.push_back((task, now + JOB)),
                    _ => waiting.push_back(task),
                }
            }
        }
        if asked == jobs && waiting.is_empty() && running.is_empty() && engine.sim.live().is_empty() {
            break;
        }
        engine.clock.advance(STEP);
    }
    let calls = engine.calls();
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    Ok(calls.all as f64 / f64::from(jobs))
}

/// Reading calls a minute beside a full pool that nobody takes from.
async fn idle() -> anyhow::Result<f64> {
    const MINUTES: i32 = 10;
    let engine = Engine::new("idle", |clock| Sim::strict(clock, Rules::default(), FaultRates::none(), 7)).await?;
    engine
        .set(|settings| {
            settings.limits.vms = Some(2000);
            settings.limits.in_flight = Some(2000);
            settings.preallocated.machine = 1000;
        })
        .await?;
    let available = "select count(*) from vms.vms where state = 'available'";
    while engine.count(available).await? < 1000 {
        engine.turn(TimeDelta::seconds(1)).await?;
    }
    // What was seen while they started is over.
    for _ in 0..120 {
        engine.turn(TimeDelta::seconds(1)).await?;
    }
    let before = engine.calls().reads;
    for _ in 0..MINUTES * 60 {
        engine.turn(TimeDelta::seconds(1)).await?;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    Ok((engine.calls().reads - before) as f64 / f64::from(MINUTES))
}
