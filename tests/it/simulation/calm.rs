//! What needs time to settle, checked while nothing goes wrong: a calm stretch in the middle of a history, and its end.
//!
//! | check | bound, virtual time | why |
//! | --- | --- | --- |
//! | every task that waits is ready or failed; the pool is full | [`SETTLED_IN`] | a launch left over from before is given up after 5 min, its VM after 3 more; then come a breaker's pause of at most 5 min and a start |
//! | a job on a machine that died has its final answer | [`TOLD_IN`] | a list each half minute |
//! | a leaked machine is asked to end | 90 s after the first complete list that shows it | the promise |
//! | the daily cycle replaces the pool | [`SETTLED_IN`] | a few at a time, each a start |
//! | the pool is never below its base meanwhile | – | replacement first |
//! | at the end every row of a VM ends | [`SETTLED_IN`] | a termination is confirmed within minutes |
//! | caches: see `cache_calm` | – | – |
//! | at the end nothing is left, in the cloud and in the rows | [`GONE_IN`] | what lost its row ends at its own end: idle maximum, task limit and a margin |

use super::history::History;
use super::operations::Wish;
use super::report::Violation;
use super::{cache_calm, checks};
use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use std::collections::BTreeMap;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::resource_class::Reserve;
use vm_service::domain::settings::Settings;
use vm_service::domain::task::Executor;
use vm_service::sim::{MachineTruth, Outcome};

/// For tasks and pools.
const SETTLED_IN: TimeDelta = TimeDelta::minutes(25);
/// For the last machine: 24 h idle, 6 h of work, the margin, and twice the start.
const GONE_IN: TimeDelta = TimeDelta::hours(33);
/// Between a complete list that shows a leak and our asking for its end.
const LEAK_ASKED_IN: TimeDelta = TimeDelta::seconds(90);
/// Between the death of a machine and its job's final answer: the next list, which comes each half minute and can be a minute late.
const TOLD_IN: TimeDelta = TimeDelta::seconds(120);
/// A step of the clock with one round of all loops.
const STEP: TimeDelta = TimeDelta::seconds(4);
/// The pool of a calm stretch.
const MACHINES: u32 = 3;
const DOCKERS: u32 = 1;

/// A calm stretch; faults come back after it.
pub(super) async fn calm(history: &mut History) -> Result<(), Violation> {
    begin(history, |settings| {
        settings.preallocated.machine = MACHINES;
        settings.preallocated.remote_docker = DOCKERS;
        settings.preallocated.pools.clear();
        settings.timeouts.vm_idle_hours = 24;
        // All that is free is outdated: what the pool has at the end of this was made under these settings.
        settings.resource_classes.get_mut("medium").unwrap().disk_gib += 10;
    })
    .await;
    let began = history.now();
    until(history, "calm: every task that waits is ready or failed", SETTLED_IN, is_served).await?;
    leak(history).await?;
    death(history).await?;
    cache_calm::serves(history).await?;
    for job in history.model.open() {
        history.release_job(job).await;
    }
    let is_fresh = |since: DateTime<Utc>| {
        move |history: &History| {
            let free = free(history);
            pool_is_full(&free) && free.values().flatten().all(|machine| machine.tags.created_at >= since)
        }
    };
    until(history, "calm: the pool is full and up to date", SETTLED_IN, is_fresh(began)).await?;
    cycle(history, is_fresh).await?;
    let now = history.now();
    let mut settings = history.model.settings.settings.clone();
    settings.preallocated.cycle = format!("0 {} * * *", (now.hour() + 7) % 24);
    settings.limits.vms = Some(14);
    settings.limits.in_flight = Some(5);
    history.save(settings).await;
    history.set_faults(true);
    Ok(())
}

/// The daily cycle: all replaced, never below the base.
async fn cycle<F: Fn(&History) -> bool>(history: &mut History, is_fresh: impl Fn(DateTime<Utc>) -> F) -> Result<(), Violation> {
    let at = (history.now() + TimeDelta::minutes(3)).with_second(0).and_then(|at| at.with_nanosecond(0)).unwrap();
    let mut settings = history.model.settings.settings.clone();
    settings.preallocated.cycle = format!("{} {} * * *", at.minute(), at.hour());
    history.save(settings).await;
    let end = at + SETTLED_IN;
    // Its last time was a day ago: saving it made nothing stale.
    while history.now() < at || !is_fresh(at)(history) {
        step(history).await?;
        let free = free(history);
        if !pool_is_full(&free) {
            return Err(Violation::new("the pool is never below its base because of a cycle", told(&free)));
        }
        if history.now() > end {
            let detail = format!("cycle at {at}, by {end} there were {}", told(&free));
            return Err(Violation::new("the daily cycle replaces the pool", detail));
        }
    }
    Ok(())
}

/// A machine without a row, from the first complete list that shows it to our wish that it ends.
async fn leak(history: &mut History) -> Result<(), Violation> {
    let from = history.cluster.sim.journal().len();
    let machine = history.plant_machine();
    let mut shown_at: Option<DateTime<Utc>> = None;
    for _ in 0..60 {
        step(history).await?;
        let calls = history.cluster.sim.journal_from(from);
        let shows = |call: &&vm_service::sim::Call| {
            call.op == "list_machines" && call.outcome == Outcome::Done && call.detail.ends_with("complete: true")
        };
        shown_at = shown_at.or_else(|| calls.iter().find(shows).map(|call| call.at));
        let asked = calls.iter().find(|call| call.op == "terminate" && call.detail.contains(&machine));
        let late = |at: DateTime<Utc>| shown_at.is_some_and(|shown| at - shown > LEAK_ASKED_IN);
        if late(asked.map_or(history.now(), |call| call.at)) {
            return Err(
                Violation::new("a leaked machine is asked to end within 90 s", format!("shown at {shown_at:?}")).machine(&machine)
            );
        }
        if asked.is_some() {
            return Ok(());
        }
    }
    Err(Violation::new("a leaked machine is asked to end within 90 s", "no list was made in four minutes").machine(&machine))
}

/// A machine that dies under its job, from its death to the job's final answer.
async fn death(history: &mut History) -> Result<(), Violation> {
    let wish = Wish {
        executor: Executor::Machine,
        class: "medium",
        project: 0,
        priority: 0,
        keys: false,
        lease_seconds: None,
        max_run_seconds: 3600,
        cache: None,
    };
    // When there are many jobs, one of them will do.
    let job = match history.request(&wish).await? {
        Some(job) => job,
        None => history.model.open()[0],
    };
    until(history, "calm: every task that waits is ready or failed", SETTLED_IN, is_served).await?;
    let Some(machine) = history.model.jobs[&job].machine.clone() else { return Ok(()) };
    history.cluster.sim.kill(&machine);
    let is_told = move |history: &History| !history.model.jobs[&job].is_open();
    until(history, "calm: a job is told that its machine died", TOLD_IN, is_told).await
}

/// The end of a history: everything is given back, and nothing is left.
pub(super) async fn quiesce(history: &mut History) -> Result<(), Violation> {
    begin(history, |settings| {
        settings.preallocated.machine = 0;
        settings.preallocated.remote_docker = 0;
        settings.preallocated.pools.clear();
    })
    .await;
    until(history, "end: every task that waits is ready or failed", SETTLED_IN, is_served).await?;
    for job in history.model.open() {
        history.release_job(job).await;
    }
    for machine in history.model.holds.keys().cloned().collect::<Vec<_>>() {
        history.let_go(&machine).await;
    }
    let end = history.now() + GONE_IN;
    let settles = history.now() + SETTLED_IN;
    while !history.cluster.sim.live().is_empty() || unended(history).await > 0 {
        if history.now() > end {
            let left: Vec<_> = history.cluster.sim.live().into_values().collect();
            let rows = unended(history).await;
            let machine = left.first().map(|truth| truth.provider_id.clone()).unwrap_or_default();
            return Err(Violation::new("nothing is left at the end", format!("{rows} rows, machines: {left:?}")).machine(&machine));
        }
        // What has a row is gone within minutes; what has none is left to its own end.
        if history.now() > settles {
            let rows = unended(history).await;
            if rows > 0 {
                return Err(Violation::new(
                    "what has a row is gone soon after its end was wished",
                    format!("{rows} rows have not ended"),
                ));
            }
            history.cluster.clock.advance(TimeDelta::minutes(10));
        }
        step(history).await?;
    }
    cache_calm::rest(history).await
}

/// Rows of VMs that have not ended.
async fn unended(history: &History) -> i64 {
    sqlx::query_scalar("select count(*) from vms.vms where state <> 'terminated'").fetch_one(&history.db.pool).await.unwrap()
}

async fn begin(history: &mut History, change: impl FnOnce(&mut Settings)) {
    history.set_faults(false);
    history.cluster.heal().await;
    let mut settings = history.model.settings.settings.clone();
    settings.pause_launches = false;
    // Machines that lost their rows count until their own end: there is room beside them.
    settings.limits.vms = Some(200);
    settings.limits.in_flight = Some(40);
    settings.limits.vms_per_project = None;
    settings.limits.volumes = None;
    settings.resource_classes.values_mut().for_each(|class| (class.limit, class.reserve) = (None, Reserve::default()));
    change(&mut settings);
    history.save(settings).await;
}

/// Some seconds, one round and all checks.
pub(super) async fn step(history: &mut History) -> Result<(), Violation> {
    history.model.begin(history.now());
    history.cluster.log.push(format!("-- operation {}: a step", history.model.operation()));
    history.cluster.round(STEP, &mut history.rng).await;
    checks::all(history).await
}

pub(super) async fn until(
    history: &mut History,
    rule: &'static str,
    bound: TimeDelta,
    settled: impl Fn(&History) -> bool,
) -> Result<(), Violation> {
    let end = history.now() + bound;
    while !settled(history) {
        if history.now() > end {
            let waits = history.model.jobs.values().find(|job| job.is_open() && job.state != TaskState::Ready).map(|job| job.id);
            let violation = Violation::new(rule, format!("not after {} min; free: {}", bound.num_minutes(), told(&free(history))));
            return Err(waits.map_or(violation.clone(), |task| violation.task(task)));
        }
        step(history).await?;
    }
    Ok(())
}

fn is_served(history: &History) -> bool {
    history.model.jobs.values().all(|job| !job.is_open() || job.state == TaskState::Ready)
}

/// Machines of class `medium` that were met, serve nobody and are not to end.
fn free(history: &History) -> BTreeMap<Executor, Vec<MachineTruth>> {
    let mut free: BTreeMap<Executor, Vec<MachineTruth>> = BTreeMap::new();
    let model = &history.model;
    for truth in history.cluster.sim.live().into_values() {
        let is_free = truth.end.is_none()
            && truth.personalised_as.is_some()
            && truth.tags.resource_class == "medium"
            && !model.served.contains_key(&truth.provider_id)
            && !model.holds.contains_key(&truth.provider_id)
            && model.losses.iter().all(|(at, _)| truth.tags.created_at > *at);
        if is_free {
            free.entry(truth.tags.executor).or_default().push(truth);
        }
    }
    free
}

fn told(free: &BTreeMap<Executor, Vec<MachineTruth>>) -> String {
    let line = |truth: &MachineTruth| format!("{} {} of {}", truth.provider_id, truth.tags.executor, truth.tags.created_at);
    free.values().flatten().map(line).collect::<Vec<_>>().join(", ")
}

fn pool_is_full(free: &BTreeMap<Executor, Vec<MachineTruth>>) -> bool {
    let has = |executor, base: u32| free.get(&executor).map_or(0, Vec::len) >= base as usize;
    has(Executor::Machine, MACHINES) && has(Executor::RemoteDocker, DOCKERS)
}
