//! Recording in one line, where several places would write the same: each function fills every label of its metric.
//!
//! Not here: state gauges (`loops::gauges`), what the API answers (`http::envelope`).

use super::names;
use metrics::{counter, gauge, histogram};
use std::cell::Cell;
use std::time::{Duration, Instant};

tokio::task_local! {
    /// When the machine that is just being met answered.
    static ANSWERED: Cell<Option<Instant>>;
}

/// One phase of a start is over.
pub fn phase(phase: &'static str, executor: &'static str, origin: &'static str, took: Duration) {
    histogram!(names::START_PHASE, "phase" => phase, "executor" => executor, "origin" => origin).record(took.as_secs_f64());
}

/// Meets a machine, and says since when it answered [`answered`]: until then it booted, from then on it is personalised.
pub async fn contact<T>(meeting: impl Future<Output = T>) -> (T, Option<Instant>) {
    ANSWERED.scope(Cell::new(None), async { (meeting.await, ANSWERED.with(Cell::get)) }).await
}

/// The machine answers.
pub fn answered() {
    // Nobody asks outside of a [`contact`].
    ANSWERED.try_with(|at| at.set(Some(Instant::now()))).ok();
}

/// The job may begin: this long after its PUT.
pub fn task_ready(executor: &'static str, origin: &'static str, took: Duration) {
    histogram!(names::TASK_READY, "executor" => executor, "origin" => origin).record(took.as_secs_f64());
}

/// A task was given a VM; `way` is `put` or `queue`.
pub fn claim(executor: &'static str, origin: &'static str, way: &'static str) {
    counter!(names::CLAIMS, "executor" => executor, "origin" => origin, "way" => way).increment(1);
}

/// A task ended; `reason` is the code of its failure, or `none`.
pub fn task_ended(status: &'static str, reason: &'static str) {
    counter!(names::TASKS_ENDED, "status" => status, "reason" => reason).increment(1);
}

/// What became of a cache that a task asked for: `hit`, `miss` or `without`.
pub fn cache(outcome: &'static str, reason: &'static str) {
    counter!(names::CACHES, "outcome" => outcome, "reason" => reason).increment(1);
}

/// Leaks were found, this old.
pub fn leak(kind: &'static str, age: Duration) {
    counter!(names::LEAKS_FOUND, "kind" => kind).increment(1);
    histogram!(names::LEAK_AGE, "kind" => kind).record(age.as_secs_f64());
}

/// A call to a provider is over.
pub fn provider_call(provider: &'static str, class: &'static str, outcome: &'static str, took: Duration) {
    counter!(names::PROVIDER_CALLS, "provider" => provider, "class" => class, "outcome" => outcome).increment(1);
    histogram!(names::PROVIDER_CALL, "provider" => provider, "class" => class).record(took.as_secs_f64());
}

/// Counters that an alert watches begin at 0 and not at their first event, which would not be seen as growth.
pub fn zeroes() {
    for kind in ["orphan", "unknown", "lost", "volume"] {
        drop(counter!(names::LEAKS_FOUND, "kind" => kind));
    }
    gauge!(names::EVENT_STREAMS).set(0.0);
}
