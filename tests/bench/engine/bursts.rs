//! Bursts: so many tasks at one moment, and nothing before them.

use super::world::Engine;
use crate::report::Report;
use chrono::TimeDelta;
use vm_service::provider::Provider as _;
use vm_service::sim::{FaultRates, Rules, Sim};

/// Between ticks, in virtual time; a loop sleeps no longer.
const STEP: TimeDelta = TimeDelta::seconds(1);

pub(super) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    for machines in [10_u32, 100, 1000, 5000] {
        let engine =
            Engine::new("bursts", |clock| Sim::strict(clock, Rules::default(), FaultRates::none(), u64::from(machines))).await?;
        engine
            .set(|settings| {
                settings.limits.vms = Some(20_000);
                settings.limits.in_flight = Some(20_000);
            })
            .await?;
        let begun = engine.now();
        for n in 0..machines {
            engine.ask(&format!("p{}", n % 20)).await?;
        }
        let mut asked_after = TimeDelta::zero();
        while engine.calls().machines < u64::from(machines) {
            engine.turn(TimeDelta::zero()).await?;
            asked_after = engine.now() - begun;
            engine.clock.advance(STEP);
        }
        let calls = engine.calls();
        let optimum = optimum(&engine.sim, machines);
        let name = format!("burst_{machines}");
        report.figure(&format!("{name}_asked"), asked_after.as_seconds_f64(), "virtual_s")?;
        // Below a second there is nothing to compare.
        let ratio = asked_after.as_seconds_f64().max(1.0) / optimum.max(1.0);
        report.line(&format!("figure {name}_ratio {ratio:.3} of_optimum (bar: 1.10)"))?;
        let throttled = share(calls.throttled, calls.all);
        report.line(&format!("figure {name}_throttled {throttled:.2} % (bar: 1 %), {} launch calls", calls.launches))?;
    }
    Ok(())
}

/// The least time in which the budgets let so many machines be asked for, seconds.
fn optimum(sim: &Sim, machines: u32) -> f64 {
    let Some(rate) = sim.launch_rate() else { return 0.0 };
    let calls = machines.div_ceil(sim.max_batch());
    let wait = |needed: u32, rate: vm_service::domain::rate::Rate| f64::from(needed.saturating_sub(rate.burst)) / rate.per_second;
    wait(machines, rate.machines).max(wait(calls, rate.calls))
}

#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
