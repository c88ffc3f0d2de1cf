//! What the service refuses with becomes one sentence that a person can act on; what it lists as errors is listed.
//!
//! A *problem document* is RFC 9457's: `title`, `status`, `detail`, and here also `errors`, what is wrong with each field.
//!
//! Reads: an answer. Writes, calls: nothing. Runs: in `client`.

use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// What is wrong, one sentence.
    pub detail: String,
    /// What is wrong with each field.
    pub errors: Vec<String>,
    /// When the service wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Reads what came with `status`. Anything else than a problem document is told by its status alone.
    pub(super) fn read(status: reqwest::StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |key: &str| document.get(key).and_then(Value::as_str).map(printable).filter(|text| !text.is_empty());
        let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| match status.canonical_reason() {
            Some(reason) => format!("The service answered \"{reason}\" and did not say why"),
            None => "The service refused and did not say why".to_owned(),
        });
        let errors = document.get("errors").map(list).unwrap_or_default();
        Self { status: status.as_u16(), detail, errors, retry_after }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail.trim_end_matches('.'), self.status)?;
        if self.errors.is_empty() {
            return f.write_str(".");
        }
        f.write_str(":")?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

/// One line for each entry, whichever of the usual forms the list has.
fn list(errors: &Value) -> Vec<String> {
    match errors {
        Value::Array(entries) => entries.iter().map(entry).collect(),
        Value::Object(fields) => fields.iter().map(|(field, what)| format!("{}: {}", printable(field), plain(what))).collect(),
        other => vec![plain(other)],
    }
}

fn entry(error: &Value) -> String {
    let first = |keys: &[&str]| keys.iter().find_map(|key| error.get(key)).map(plain).filter(|text| !text.is_empty());
    let what = first(&["detail", "message", "reason", "error"]);
    match (first(&["pointer", "path", "field", "name"]), what) {
        (Some(field), Some(what)) => format!("{field}: {what}"),
        (None, Some(what)) => what,
        _ => plain(error),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(entries) => entries.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => printable(&other.to_string()),
    }
}

/// Text of others on a terminal: without control characters, on one line.
pub(super) fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
