//! What a cache adds to the start of a job: the same job without and with one, in clouds that differ in nothing else. *Added* is the time
//! from the wish to `ready` beyond the later of boot and attachment; on a VM that waited already, beyond the attachment.

use super::world::Engine;
use crate::report::Report;
use chrono::TimeDelta;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::sim::{FaultRates, Rules, Sim, Spread};

/// The step of virtual time while nothing is measured.
const STEP: TimeDelta = TimeDelta::milliseconds(250);
/// And while a job waits: each hand-over from loop to loop costs one, for which in life a loop is woken within milliseconds.
const FINE: TimeDelta = TimeDelta::milliseconds(50);
/// From running to the first answer, and from the wish to attach to the fact, milliseconds: within EC2's, and beyond.
const CLOUDS: [(i64, i64); 4] = [(5_000, 1_000), (8_000, 3_000), (11_000, 5_000), (5_000, 12_000)];

pub(super) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut worst = 0.0_f64;
    for (answers, attaches) in CLOUDS {
        let plain = start(answers, attaches, false, 0).await?;
        let cached = start(answers, attaches, true, 0).await?;
        // The machine runs; from then on it boots and the volume comes.
        let later = plain.seconds.max(plain.seconds - seconds(answers) + seconds(attaches));
        let added = (cached.seconds - later) / later;
        report.line(&format!(
            "# boot {:.1} s, attachment {:.1} s beside it: ready after {:.2} s, without a cache after {:.2} s",
            plain.seconds,
            seconds(attaches),
            cached.seconds,
            plain.seconds
        ))?;
        worst = worst.max(added);
        anyhow::ensure!(cached.hit, "the second job of the project found nothing");
        report.line(&format!("figure cache_mutating_calls_on_the_path {} calls (bar: 1)", cached.changes))?;
    }
    report.line(&format!(
        "figure cache_adds_to_the_start {:.2} % (bar: 3), the worst of {} clouds",
        worst * 100.0,
        CLOUDS.len()
    ))?;
    let warm = start(8_000, 3_000, true, 1).await?;
    report.line(&format!("figure cache_on_a_warm_vm {:.2} s, of which the attachment takes 3.00", warm.seconds))
}

struct Start {
    seconds: f64,
    hit: bool,
    /// Calls that change something, other than those for VMs.
    changes: u32,
}

/// The second job of a project, whose first one left layers.
async fn start(answers: i64, attaches: i64, caching: bool, preallocated: u32) -> anyhow::Result<Start> {
    let exactly = |milliseconds| Spread::exactly(TimeDelta::milliseconds(milliseconds));
    let rules = Rules {
        runs_after: exactly(18_000),
        answers_after: exactly(answers),
        volume_moves_in: exactly(attaches),
        zones: vec!["zone-a".to_owned()],
        ..Rules::default()
    };
    let engine = Engine::new("cache", |clock| Sim::strict(clock, rules, FaultRates::none(), 7)).await?;
    let first = engine.ask_cached("p", caching).await?;
    until_ready(&engine, first).await?;
    if let Some(machine) = engine.world.db.find_task(first).await?.and_then(|row| row.view.vm?.provider_id) {
        engine.sim.use_layers(&machine, &[("base", 1_000_000)]);
    }
    engine.world.db.release_task(first, engine.now()).await?;
    engine.set(|settings| settings.preallocated.machine = preallocated).await?;
    for _ in 0..800 {
        engine.turn(STEP).await?;
    }
    let made = |engine: &Engine| {
        ["create_volume", "attach_volume", "detach_volume", "snapshot_volume"].map(|op| engine.sim.calls(op)).iter().sum::<u32>()
    };
    let (began, before) = (engine.now(), made(&engine));
    let second = engine.ask_cached("p", caching).await?;
    until_ready(&engine, second).await?;
    let waited = engine.now() - began;
    let cache = engine.world.db.find_task(second).await?.and_then(|row| row.view.cache);
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    Ok(Start {
        seconds: waited.num_milliseconds() as f64 / 1000.0,
        hit: cache.is_some_and(|cache| cache.hit),
        changes: made(&engine) - before,
    })
}

async fn until_ready(engine: &Engine, task: TaskId) -> anyhow::Result<()> {
    for _ in 0..10_000 {
        if engine.world.db.find_task(task).await?.is_some_and(|row| row.view.state == TaskState::Ready) {
            return Ok(());
        }
        engine.turn(FINE).await?;
    }
    anyhow::bail!("the job was not ready in 500 s")
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a boot")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
