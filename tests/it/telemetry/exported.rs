//! What the running service exports is the catalogue: every metric of it, with its kind and labels, and nothing beside.

use super::day::Day;
use super::promql::{Family, families};
use crate::api_support::{Api, CI, VIEWER};
use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::time::Duration;
use vm_service::telemetry::names::{self, CATALOGUE, Kind};
use vm_service::telemetry::recorder;

const FLUSH: Duration = Duration::from_secs(3);

/// The sum of the values whose labels include these; of a histogram, how often something was recorded.
fn sum(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("{name} is not exported"));
    let fits = |of: &BTreeMap<String, String>| labels.iter().all(|(label, value)| of.get(*label).is_some_and(|it| it == value));
    family.values.iter().filter(|(of, _)| fits(of)).map(|(_, value)| value).sum()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn everything_in_the_catalogue_is_exported_and_nothing_beside(pool: PgPool) {
    let _relay = recorder::install(FLUSH).unwrap();
    let mut day = Day::new(pool).await;
    day.live().await;
    let text = day.metrics().await;
    let exported = families(&text);
    for metric in CATALOGUE {
        let family = exported.get(metric.name).unwrap_or_else(|| panic!("{} is not exported:\n{text}", metric.name));
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert_eq!(family.kind, kind, "{}", metric.name);
        assert_eq!(family.labels.iter().map(String::as_str).collect::<Vec<_>>(), sorted(metric.labels), "{}", metric.name);
        assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
    }
    let known: Vec<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    assert_eq!(exported.keys().filter(|name| !known.contains(&name.as_str())).collect::<Vec<_>>(), Vec::<&String>::new());
    for id in ["warm", "cached", "ops", "unlucky", "sim-"] {
        assert!(!text.contains(&format!("\"{id}")), "{id} is a label: {text}");
    }

    let phase = |phase| sum(&exported, names::START_PHASE, &[("phase", phase)]) > 0.0;
    assert!(["queued", "launching", "booting", "personalising", "preparing", "caching"].into_iter().all(phase), "{text}");
    assert!(sum(&exported, names::CLAIMS, &[("way", "put"), ("origin", "preallocated")]) >= 1.0);
    assert!(sum(&exported, names::CLAIMS, &[("way", "queue"), ("origin", "on_demand")]) >= 5.0);
    assert_eq!(sum(&exported, names::TASKS_ENDED, &[("status", "released"), ("reason", "none")]), 8.0, "{text}");
    assert_eq!(sum(&exported, names::TASKS_ENDED, &[("status", "failed"), ("reason", "vm_lost")]), 1.0);
    assert_eq!(sum(&exported, names::LEAKS_FOUND, &[("kind", "orphan")]), 1.0);
    assert_eq!(sum(&exported, names::CACHES_REFUSED, &[("reason", "damaged")]), 1.0);
    assert!(
        sum(&exported, names::CACHES, &[("outcome", "hit")]) >= 1.0 && sum(&exported, names::CACHES, &[("outcome", "miss")]) >= 1.0
    );
    assert_eq!(sum(&exported, names::FAILED_STARTS, &[("reason", "not_reached")]), 1.0);
    assert!(sum(&exported, names::PROVIDER_CALLS, &[("provider", "sim"), ("outcome", "throttled")]) >= 1.0);
    // The setting was asked to refuse: that is told, and is no error of the server.
    assert_eq!(sum(&exported, names::HTTP_REQUESTS, &[("route", "/api/v1/tasks"), ("method", "POST"), ("status", "refused")]), 1.0);
    assert_eq!(sum(&exported, names::HTTP_REQUESTS, &[("status", "5xx")]), 0.0);
    assert!(sum(&exported, names::HTTP_REQUESTS, &[("route", "-"), ("status", "4xx")]) >= 1.0);
}

fn sorted<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    labels
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn state_gauges_follow_the_rows_down_to_nothing(pool: PgPool) {
    let _relay = recorder::install(FLUSH).unwrap();
    let mut day = Day::new(pool).await;
    let gauges = vm_service::loops::gauges::Gauges::new(day.bench.world.clone());
    day.bench.set(|settings| (settings.preallocated.machine, settings.limits.gpus) = (2, Some(4))).await;
    day.bench.turn_until_states("available 2", 60).await;
    let (_, _) = day.ask(&json!({"executor": "remote_docker", "project_id": "p"})).await;
    day.bench.clock.advance(TimeDelta::hours(23));
    day.bench.tick(&gauges).await;
    let now = families(&recorder::render());
    assert_eq!(
        sum(&now, names::VMS, &[("status", "available"), ("executor", "machine"), ("origin", "preallocated"), ("provider", "sim")]),
        2.0
    );
    assert_eq!(sum(&now, names::POOL_WANTED, &[("executor", "machine"), ("resource_class", "medium")]), 2.0);
    assert_eq!(sum(&now, names::POOL_AVAILABLE, &[("executor", "machine"), ("resource_class", "medium")]), 2.0);
    assert_eq!(sum(&now, names::POOL_AVAILABLE, &[("executor", "remote_docker"), ("resource_class", "medium")]), 0.0);
    assert_eq!(sum(&now, names::TASKS, &[("status", "queued")]), 1.0);
    assert_eq!(sum(&now, names::UNASSIGNED_AGE, &[]), 23.0 * 3600.0);
    assert_eq!(
        (sum(&now, names::LIMIT, &[("resource", "gpus")]), sum(&now, names::LIMIT_USED, &[("resource", "vms")])),
        (4.0, 2.0)
    );
    assert_eq!(sum(&now, names::STALE_VMS, &[]), 0.0);
    day.bench.clock.advance(TimeDelta::hours(2));
    day.bench.tick(&gauges).await;
    assert_eq!(sum(&families(&recorder::render()), names::STALE_VMS, &[]), 2.0);

    day.bench.set(|settings| settings.limits.gpus = None).await;
    day.bench.tick(&gauges).await;
    let limits =
        |text: &str| text.lines().filter(|line| line.starts_with("vm_service_limit{")).map(str::to_owned).collect::<Vec<_>>();
    let left = limits(&recorder::render());
    assert!(left.len() == 3 && !left.iter().any(|line| line.contains("gpus")), "a limit that is not set is missing: {left:?}");

    sqlx::query("delete from vms.tasks").execute(&day.bench.db.pool).await.unwrap();
    sqlx::query("delete from vms.vms").execute(&day.bench.db.pool).await.unwrap();
    day.bench.tick(&gauges).await;
    let now = families(&recorder::render());
    for name in [names::VMS, names::POOL_AVAILABLE, names::TASKS, names::UNASSIGNED_AGE, names::STALE_VMS] {
        assert_eq!(sum(&now, name, &[]), 0.0, "{name}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn viewers_may_read_metrics_and_dispatchers_may_not(pool: PgPool) {
    let _relay = recorder::install(FLUSH).unwrap();
    let api = Api::new(pool).await;
    api.call(CI, "GET", "/metrics").await.problem(403);
    api.call("", "GET", "/metrics").await.problem(401);
    let stream = api.router.clone();
    let open = Api::request(VIEWER, "GET", "/api/v1/events").header("accept", "text/event-stream");
    let open = tower::ServiceExt::oneshot(stream, open.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let streams = async || sum(&families(&api.call(VIEWER, "GET", "/metrics").await.text), names::EVENT_STREAMS, &[]);
    assert_eq!(streams().await, 1.0);
    drop(open);
    assert_eq!(streams().await, 0.0);
}
