//! Tables for people: plain columns that can be copied and cut, ages instead of times.
//!
//! Reads, writes, calls: nothing. Runs: in `tasks`, `vms` and `run --timings`.

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// A table with this heading; never folded to the width of a terminal, because ids are to be copied.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heading.to_vec());
    table.add_rows(rows.into_iter().map(|row| row.iter().map(|cell| super::problem::printable(cell)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    lines(&table)
}

/// One thing, a line for each field.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    fields.iter().map(|(name, value)| format!("{name:width$}{}\n", super::problem::printable(value))).collect()
}

fn lines(table: &Table) -> String {
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// The API's own words, for programs.
pub(super) fn json(body: &Value) -> String {
    format!("{body:#}\n")
}

/// A value, or what a person takes for none.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// How long ago: "45s", "3m", "5h", "2d"; without the service's clock, the time itself.
pub(super) fn age(at: DateTime<Utc>, now: Option<DateTime<Utc>>) -> String {
    now.map_or_else(|| time(at), |now| length(now - at))
}

/// A length of time, in its largest unit that says enough.
pub(super) fn length(length: TimeDelta) -> String {
    match length.num_seconds().max(0) {
        s @ ..120 => format!("{s}s"),
        s @ ..7200 => format!("{}m", s / 60),
        s @ ..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// A time, UTC, to the second.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}
