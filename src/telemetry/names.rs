//! The catalogue: every metric of the service with its kind, unit, labels and meaning. Nothing is exported that is not here.
//!
//! Lengths are seconds, and a name says its unit. Label values come from small fixed sets, or from what an operator configured; never
//! from a job, a project or a machine.
//!
//! Not here: the names that dashboards of the guide's product know (`statsd`).

use metrics::Unit;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values fell below each of these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in Prometheus and, with the same labels as tags, in DogStatsD.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// Its labels; each value has all of them.
    pub labels: &'static [&'static str],
    /// What it means, one sentence.
    pub help: &'static str,
}

/// From a warm VM to one that is given up.
const STARTS: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0];
/// From a statement to a call that is given up.
const CALLS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From a leak that the next look finds to one that was paid for for a day.
const AGES: &[f64] = &[10.0, 30.0, 90.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

macro_rules! catalogue {
    ($($constant:ident $name:literal $kind:expr, $unit:ident [$($label:literal)*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All of them.
        pub const CATALOGUE: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help },)*
        ];
    };
}

catalogue! {
    // What there is. Every process with an API says the same: take the largest.
    VMS "vm_service_vms" Kind::Gauge, Count ["status" "executor" "origin" "provider"] "VMs that are not terminated.";
    STALE_VMS "vm_service_stale_vms" Kind::Gauge, Count [] "VMs that run since more than 24 hours.";
    TASKS "vm_service_tasks" Kind::Gauge, Count ["status"] "Tasks that have not ended.";
    UNASSIGNED_AGE "vm_service_unassigned_task_age_seconds" Kind::Gauge, Seconds [] "Age of the oldest task that waits for a VM; 0 when none does.";
    POOL_WANTED "vm_service_pool_wanted_vms" Kind::Gauge, Count ["executor" "resource_class"] "VMs that the settings want to be free ahead of demand.";
    POOL_AVAILABLE "vm_service_pool_available_vms" Kind::Gauge, Count ["executor" "resource_class"] "VMs that are free for any task.";
    LIMIT "vm_service_limit" Kind::Gauge, Count ["resource"] "The limits in force; one that is not set is missing.";
    LIMIT_USED "vm_service_limit_used" Kind::Gauge, Count ["resource"] "What there is of each limited resource.";
    VOLUMES "vm_service_volumes" Kind::Gauge, Count ["status" "provider"] "Cache volumes that are not deleted.";
    LEAKS "vm_service_leaks" Kind::Gauge, Count ["kind"] "Machines without a row (orphan, unknown) and rows whose machine is missing (lost), now.";
    LEAK_AGE_OLDEST "vm_service_oldest_leak_age_seconds" Kind::Gauge, Seconds ["kind"] "Since when the oldest of each kind of leak is known; 0 when there is none.";
    START_FAILURES "vm_service_start_failures_in_a_row" Kind::Gauge, Count ["provider" "executor" "resource_class"] "Rounds of starts that failed since the last that succeeded: starts of the kind are held back.";

    // Starts.
    START_PHASE "vm_service_start_phase_seconds" Kind::Histogram(STARTS), Seconds ["phase" "executor" "origin"] "Each phase of a start: queued, launching, booting, personalising, and preparing or caching.";
    TASK_READY "vm_service_task_ready_seconds" Kind::Histogram(STARTS), Seconds ["executor" "origin"] "From the PUT of a task until its job may begin.";
    CLAIMS "vm_service_claims_total" Kind::Counter, Count ["executor" "origin" "way"] "VMs given to tasks: in the PUT itself (put), or from the queue (queue).";
    TASKS_ENDED "vm_service_tasks_ended_total" Kind::Counter, Count ["status" "reason"] "Tasks that ended, and why those failed that did.";
    LAUNCHES "vm_service_launches_total" Kind::Counter, Count ["provider" "outcome" "market" "instance_type" "zone"] "Answers to launches, by what was asked for.";
    FAILED_STARTS "vm_service_failed_starts_total" Kind::Counter, Count ["provider" "reason"] "VMs that were given up before they were available.";

    // The provider.
    PROVIDER_CALLS "vm_service_provider_calls_total" Kind::Counter, Count ["provider" "class" "outcome"] "Calls to the provider, by class of call; outcome throttled: it was asked too fast.";
    PROVIDER_CALL "vm_service_provider_call_seconds" Kind::Histogram(CALLS), Seconds ["provider" "class"] "How long calls to the provider took.";

    // Caches and leaks.
    CACHES "vm_service_caches_total" Kind::Counter, Count ["outcome" "reason"] "What became of the caches that tasks asked for: hit, miss, or without.";
    CACHES_REFUSED "vm_service_caches_refused_total" Kind::Counter, Count ["reason"] "Cache volumes that were not fit when they were mounted.";
    LEAKS_FOUND "vm_service_leaks_found_total" Kind::Counter, Count ["kind"] "Leaks that were found: machines (orphan, unknown) and volumes (volume) without a row, rows without a machine (lost).";
    LEAK_AGE "vm_service_leak_age_seconds" Kind::Histogram(AGES), Seconds ["kind"] "How old leaks were when they were found.";

    // The service itself.
    LOOP_TICK "vm_service_loop_tick_seconds" Kind::Histogram(CALLS), Seconds ["loop"] "How long one pass of a loop took.";
    LOOP_FAILURES "vm_service_loop_failures_total" Kind::Counter, Count ["loop"] "Passes of a loop that failed.";
    ACT "vm_service_act_seconds" Kind::Histogram(STARTS), Seconds ["loop"] "How long the acts took that a loop started.";
    ACT_FAILURES "vm_service_act_failures_total" Kind::Counter, Count ["loop"] "Acts that failed; their rows are taken up again.";
    HTTP_REQUESTS "vm_service_http_requests_total" Kind::Counter, Count ["route" "method" "status"] "Answers of the API, by class of status; refused: the 503 that the setting refuse_new_tasks asks for.";
    HTTP_REQUEST "vm_service_http_request_seconds" Kind::Histogram(CALLS), Seconds ["route" "method"] "How long requests took; long polls wait on purpose.";
    EVENT_STREAMS "vm_service_event_streams" Kind::Gauge, Count [] "Streams of server-sent events that are open at this process.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_kind_and_unit() {
        for metric in CATALOGUE {
            let name = metric.name;
            let word = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && name.starts_with("vm_service_");
            assert!(word, "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            let ids = ["id", "task", "vm", "project", "project_id", "machine", "principal"];
            assert!(!metric.labels.iter().any(|label| ids.contains(label)), "{name}");
        }
        let names: std::collections::BTreeSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }
}
