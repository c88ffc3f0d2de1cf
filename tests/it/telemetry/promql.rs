//! The names in a PromQL expression and in a text of Prometheus: as much of both languages as tests need.

use std::collections::{BTreeMap, BTreeSet};

/// Words of the language that stand where a metric could.
const WORDS: [&str; 13] =
    ["and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "inf", "nan"];

/// The metrics that an expression reads.
pub(super) fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let mut labels_follow = false;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '{' => rest.find('}').expect("a selector ends") + 1,
            '[' => rest.find(']').expect("a range ends") + 1,
            '(' if std::mem::take(&mut labels_follow) => rest.find(')').expect("labels end") + 1,
            '$' => 1 + word(&rest[1..]),
            '0'..='9' => 1 + word(&rest[1..]),
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = word(rest);
                let name = &rest[..length];
                labels_follow = ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&name);
                let is_function = rest[length..].trim_start().starts_with('(');
                if !WORDS.contains(&name) && !is_function && !["by", "without"].iter().any(|word| before_by(rest, length, word)) {
                    found.insert(name.to_owned());
                }
                length
            }
            other => other.len_utf8(),
        };
        rest = &rest[length..];
    }
    found
}

/// `sum by (…)`: an aggregation's name stands before its labels.
fn before_by(rest: &str, length: usize, word: &str) -> bool {
    rest[length..].trim_start().strip_prefix(word).is_some_and(|after| after.trim_start().starts_with('('))
}

fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len())
}

/// A metric that is exported.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) labels: BTreeSet<String>,
    /// Names of its lines: of a histogram `_bucket`, `_sum` and `_count`.
    pub(super) lines: BTreeSet<String>,
    /// Labels with their values, and the value.
    pub(super) values: Vec<(BTreeMap<String, String>, f64)>,
}

/// Everything in a text of Prometheus, by its name.
pub(super) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: BTreeMap<String, String> = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|label| label.split_once("=\""))
            .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
            .filter(|(label, _)| label != "le")
            .collect();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| families.get(*base).is_some_and(|family| family.kind == "histogram")).unwrap_or(name);
        let family = families.get_mut(base).unwrap_or_else(|| panic!("{name} has no type"));
        family.lines.insert(name.to_owned());
        family.labels.extend(labels.keys().cloned());
        family.values.push((labels, value.parse().unwrap()));
    }
    families
}

#[test]
fn the_reader_of_expressions_reads_them() {
    let of = |text: &str| metrics(text).into_iter().collect::<Vec<_>>();
    assert_eq!(of("max(vm_service_a{x=\"y\"}) > 5"), ["vm_service_a"]);
    assert_eq!(of("sum by (loop, x) (rate(b_total[$__rate_interval])) / on(x) c offset 5m"), ["b_total", "c"]);
    assert_eq!(of("histogram_quantile(0.95, sum(rate(d_bucket[5m])) by (le))"), ["d_bucket"]);
    assert_eq!(of("1e3 * max without (instance) (e) unless f == bool 0"), ["e", "f"]);
}
