//! Keeps the state gauges: what there is, counted once every few seconds for all who scrape and for StatsD.
//!
//! A label set that is not counted any more is set to 0, and does not stand as it was; a limit that is not set any more is missing.
//!
//! Reads: what `Db::count_state` counts; the settings. Writes: gauges. Runs: in `serve`.

use super::{Act, Loop, World};
use crate::db::gauges::State;
use crate::domain::lifecycle::{TaskState, VmState};
use crate::domain::settings::Settings;
use crate::domain::task::Executor;
use crate::telemetry::{names, recorder, statsd};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use metrics::gauge;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// See the module.
pub struct Gauges {
    world: World,
    /// What was set before.
    known: Mutex<BTreeSet<Series>>,
}

/// A gauge and its labels.
type Series = (&'static str, Vec<(&'static str, String)>);

impl Gauges {
    /// Nothing is set yet.
    pub fn new(world: World) -> Self {
        Self { world, known: Mutex::default() }
    }
}

#[async_trait]
impl Loop for Gauges {
    fn name(&self) -> &'static str {
        "gauges"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let state = self.world.db.count_state(now).await?;
        let values = values(&state, &self.world.settings(), now);
        tell_statsd(&state, now);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, labels) in known.iter().filter(|series| !values.contains_key(*series)) {
            let gone = if *name == names::LIMIT { recorder::MISSING } else { 0.0 };
            gauge!(*name, labels).set(gone);
        }
        for ((name, labels), value) in &values {
            gauge!(*name, labels).set(*value);
        }
        *known = values.into_keys().collect();
        Ok(Vec::new())
    }
}

/// Every gauge with its value.
fn values(state: &State, settings: &Settings, now: DateTime<Utc>) -> BTreeMap<Series, f64> {
    let mut values = Values(BTreeMap::new());
    let open_tasks = [TaskState::Queued, TaskState::Preparing, TaskState::Ready];
    for open in open_tasks {
        let tasks = state.tasks.iter().filter(|count| count.state == open).map(|count| count.tasks).sum();
        values.add(names::TASKS, [("status", open.as_str())], tasks);
    }
    let oldest = state.tasks.iter().find(|count| count.state == TaskState::Queued).map(|count| count.since);
    values.set(names::UNASSIGNED_AGE, [], age(oldest, now));

    let (mut stale, mut live, mut in_flight, mut gpus, mut missing) = (0, 0, 0, 0, 0);
    for count in &state.vms {
        let (executor, origin) = (count.executor.as_str(), count.origin.as_str());
        let labels = [("status", count.state.as_str()), ("executor", executor), ("origin", origin), ("provider", &count.provider)];
        values.add(names::VMS, labels, count.vms);
        values.add(names::POOL_AVAILABLE, [("executor", executor), ("resource_class", &count.resource_class)], count.free);
        let starts = matches!(count.state, VmState::Requested | VmState::Launching | VmState::Booting);
        in_flight += if starts { count.vms } else { 0 };
        stale += count.stale;
        live += count.vms;
        gpus += count.gpus;
        missing += count.missing;
    }
    values.add(names::STALE_VMS, [], stale);
    for (executor, class) in settings.preallocated.kinds() {
        let labels = [("executor", executor.as_str()), ("resource_class", class.as_str())];
        values.add(names::POOL_WANTED, labels, settings.preallocated.base(executor, &class, now).into());
        values.add(names::POOL_AVAILABLE, labels, 0);
    }

    for (kind, unknown) in [("orphan", false), ("unknown", true)] {
        let rowless = state.rowless.iter().find(|count| count.unknown == unknown);
        values.add(names::LEAKS, [("kind", kind)], rowless.map_or(0, |count| count.machines));
        values.set(names::LEAK_AGE_OLDEST, [("kind", kind)], age(rowless.map(|count| count.since), now));
    }
    values.add(names::LEAKS, [("kind", "lost")], missing);
    let missing_since = state.vms.iter().filter_map(|count| count.missing_since).min();
    values.set(names::LEAK_AGE_OLDEST, [("kind", "lost")], age(missing_since, now));

    let mut volumes = 0;
    for count in &state.volumes {
        values.add(names::VOLUMES, [("status", count.state.as_str()), ("provider", &count.provider)], count.volumes);
        volumes += count.volumes;
    }
    let limits = &state.limits;
    live += state.rowless.iter().map(|count| count.machines).sum::<i64>();
    let limited = [
        ("vms", Some(limits.vms), live),
        ("in_flight", Some(limits.in_flight), in_flight),
        ("volumes", Some(limits.volumes), volumes),
        ("gpus", limits.gpus, gpus),
    ];
    for (resource, limit, used) in limited {
        values.add(names::LIMIT_USED, [("resource", resource)], used);
        if let Some(limit) = limit {
            values.add(names::LIMIT, [("resource", resource)], limit.into());
        }
    }
    for kind in &state.failing {
        let executor: Executor = kind.executor;
        let labels =
            [("provider", kind.provider.as_str()), ("executor", executor.as_str()), ("resource_class", &kind.resource_class)];
        values.add(names::START_FAILURES, labels, kind.rounds.into());
    }
    values.0
}

struct Values(BTreeMap<Series, f64>);

impl Values {
    #[allow(clippy::cast_precision_loss, reason = "counts of rows")]
    fn add<const N: usize>(&mut self, name: &'static str, labels: [(&'static str, &str); N], value: i64) {
        *self.0.entry(series(name, labels)).or_default() += value as f64;
    }

    fn set<const N: usize>(&mut self, name: &'static str, labels: [(&'static str, &str); N], value: f64) {
        self.0.insert(series(name, labels), value);
    }
}

fn series<const N: usize>(name: &'static str, labels: [(&'static str, &str); N]) -> Series {
    (name, labels.map(|(label, value)| (label, value.to_owned())).to_vec())
}

/// Seconds since then; 0 without.
fn age(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> f64 {
    since.and_then(|since| (now - since).to_std().ok()).map_or(0.0, |age| age.as_secs_f64())
}

fn tell_statsd(state: &State, now: DateTime<Utc>) {
    let number = |count: i64| u64::try_from(count).unwrap_or_default();
    for status in VmState::ALL.iter().filter(|state| !state.is_terminal()) {
        let vms = state.vms.iter().filter(|count| count.state == *status).map(|count| count.vms).sum();
        statsd::vms_by_status(status.as_str(), number(vms));
    }
    for status in TaskState::ALL.iter().filter(|state| !state.is_terminal()) {
        let tasks = state.tasks.iter().filter(|count| count.state == *status).map(|count| count.tasks).sum();
        statsd::tasks_by_status(status.as_str(), number(tasks));
    }
    let oldest = state.tasks.iter().find(|count| count.state == TaskState::Queued).map(|count| count.since);
    statsd::unassigned_tasks_age(age(oldest, now));
}
