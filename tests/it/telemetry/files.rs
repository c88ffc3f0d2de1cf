//! What operators load into Grafana and Prometheus reads metrics that there are, with labels that they have, and misses none.

use super::promql::metrics;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use vm_service::telemetry::names::{CATALOGUE, Kind, Metric};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("dashboard.json")).unwrap()).unwrap()
}

/// Every expression of the dashboard, with the name of its panel.
fn dashboard_expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        panel["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(move |target| (title.to_owned(), target["expr"].as_str().unwrap().to_owned()))
    });
    targets.collect()
}

/// Every expression of the alerts, with its name.
fn alert_expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("alerts.yml")).unwrap();
    let mut name = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            name = alert.to_owned();
        }
        if let Some(expression) = line.strip_prefix("expr: ") {
            found.push((name.clone(), expression.to_owned()));
        }
    }
    assert!(found.len() >= 10, "{found:?}");
    found
}

/// The metric whose line has this name: a histogram is read as what it is made of.
fn metric(line: &str) -> Option<&'static Metric> {
    CATALOGUE.iter().find(|metric| match metric.kind {
        Kind::Histogram(_) => ["_bucket", "_sum", "_count"].iter().any(|end| line.strip_suffix(end) == Some(metric.name)),
        Kind::Counter | Kind::Gauge => metric.name == line,
    })
}

#[test]
fn every_expression_reads_metrics_and_labels_that_there_are() {
    let mut read = BTreeSet::new();
    for (whose, expression) in dashboard_expressions().into_iter().chain(alert_expressions()) {
        let names = metrics(&expression);
        assert!(!names.is_empty(), "{whose}: {expression}");
        let found: Vec<_> = names
            .iter()
            .map(|name| metric(name).unwrap_or_else(|| panic!("{whose} reads {name}, which is not exported")))
            .collect();
        read.extend(found.iter().map(|metric| metric.name));
        let known: BTreeSet<&str> = found.iter().flat_map(|metric| metric.labels).copied().chain(["le"]).collect();
        for label in labels(&expression) {
            assert!(known.contains(label.as_str()), "{whose} reads the label {label}, which none of {names:?} has");
        }
    }
    let unread: Vec<&str> = CATALOGUE.iter().map(|metric| metric.name).filter(|name| !read.contains(name)).collect();
    assert_eq!(unread, Vec::<&str>::new(), "what is exported is shown somewhere");
}

/// The labels that an expression selects or groups by.
fn labels(expression: &str) -> BTreeSet<String> {
    let words = |text: &str| -> Vec<String> { text.split(',').map(|word| word.trim().to_owned()).collect() };
    let mut found = BTreeSet::new();
    for (at, _) in expression.match_indices(" by (") {
        let inside = &expression[at + " by (".len()..];
        found.extend(words(&inside[..inside.find(')').unwrap()]));
    }
    for (at, _) in expression.match_indices('{') {
        let inside = &expression[at + 1..];
        let selectors = words(&inside[..inside.find('}').unwrap()]);
        found.extend(selectors.iter().map(|it| it.split(['=', '!']).next().unwrap().to_owned()));
    }
    found
}

#[test]
fn the_dashboard_can_be_provisioned() {
    let dashboard = dashboard();
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    assert!(dashboard.get("id").is_none() && dashboard["uid"] == "vm-service");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(!panel["description"].as_str().unwrap().is_empty());
    }
}

/// Their expectations; that they hold, promtool says below.
#[test]
fn every_alert_is_tested_silent_and_firing() {
    let tests = std::fs::read_to_string(folder().join("alerts_test.yml")).unwrap();
    for (alert, _) in alert_expressions() {
        assert!(tests.contains(&format!("alertname: {alert}}}\n")), "{alert} is never seen silent");
        assert!(tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")), "{alert} is never seen to fire");
    }
}

/// Prometheus' own tool: of Debian's package `prometheus`, as `.ci/setup --test` fetches it.
#[test]
fn promtool_agrees_with_the_alerts() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let done = Command::new("promtool").args(arguments).current_dir(folder()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
}
