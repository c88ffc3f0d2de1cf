//! How pages say times, lengths, sizes, ids and states: one way each, everywhere.
//!
//! Templates pass what they have by reference, so these functions take numbers so too.
//!
//! A time is shown as its age, and has the exact time beside it for whoever wants it; the script lets ages count.

use askama::filters::HtmlSafe;
use axum::http::Uri;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use std::fmt;
use uuid::Uuid;

/// A moment, as its distance from `now`.
pub(super) struct Ago {
    at: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// How long ago, or in how long.
pub(super) fn ago(at: &DateTime<Utc>, now: &DateTime<Utc>) -> Ago {
    Ago { at: *at, now: *now }
}

impl HtmlSafe for Ago {}

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iso = self.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let exact = self.at.format("%Y-%m-%d %H:%M:%S UTC");
        let distance = self.now - self.at;
        write!(f, r#"<time datetime="{iso}" title="{exact}" data-age>"#)?;
        if distance < TimeDelta::zero() {
            write!(f, "in {}", span(&-distance))?
        } else {
            write!(f, "{}", span(&distance))?
        }
        f.write_str("</time>")
    }
}

/// A moment itself.
pub(super) struct Moment(DateTime<Utc>);

/// See [`Moment`].
pub(super) fn moment(at: &DateTime<Utc>) -> Moment {
    Moment(*at)
}

impl HtmlSafe for Moment {}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iso = self.0.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(f, r#"<time datetime="{iso}">{}</time>"#, self.0.format("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// From one moment to a later one.
pub(super) fn between(from: &DateTime<Utc>, to: &DateTime<Utc>) -> String {
    span(&(*to - *from))
}

/// A length: two units at most, such as `1 min 20 s`.
pub(super) fn span(length: &TimeDelta) -> String {
    let ms = length.num_milliseconds().max(0);
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes, seconds) {
        (0, 0, 0..10) if ms % 1000 != 0 => format!("{}.{} s", seconds, ms % 1000 / 100),
        (0, 0, _) => format!("{seconds} s"),
        (0, _, _) => format!("{minutes} min {} s", seconds % 60),
        (0..48, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// A size, binary units.
pub(super) fn bytes(bytes: &u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) => {
            let tenths = (u128::from(*bytes) * 10) >> bits;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A size that the database has as a signed number.
pub(super) fn signed_bytes(size: &i64) -> String {
    bytes(&u64::try_from(*size).unwrap_or(0))
}

/// A size in GiB.
pub(super) fn gib(size: &i64) -> String {
    signed_bytes(&size.saturating_mul(1 << 30))
}

/// [`percent`] of numbers that the database has signed.
pub(super) fn share(part: &i64, whole: &i64) -> String {
    percent(&u64::try_from(*part).unwrap_or(0), &u64::try_from(*whole).unwrap_or(0))
}

/// A number that is only seen when there is something to see.
pub(super) struct Count(i64);

/// See [`Count`].
pub(super) fn count(number: &i64) -> Count {
    Count(*number)
}

impl HtmlSafe for Count {}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(r#"<span class="zero">0</span>"#),
            number => number.fmt(f),
        }
    }
}

/// `part` of `whole` in percent; a dash of nothing.
pub(super) fn percent(part: &u64, whole: &u64) -> String {
    match (part * 100).checked_div(*whole) {
        Some(percent) => format!("{percent} %"),
        None => "–".to_owned(),
    }
}

/// A state as a word with a mark; colour is never the only sign.
pub(super) struct State(&'static str);

/// See [`State`].
pub(super) fn state(word: &'static str) -> State {
    State(word)
}

impl HtmlSafe for State {}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            "ready" | "assigned" | "attached" | "promoted" | "good" => "at-work",
            "available" => "good",
            "queued" | "preparing" | "requested" | "launching" | "booting" | "creating" | "attaching" | "candidate" => "coming",
            "failed" | "expired" | "quarantined" => "bad",
            _ => "over",
        };
        write!(f, r#"<span class="state {kind}" data-state="{0}">{0}</span>"#, self.0)
    }
}

/// An id, shortened to what tells two apart.
pub(super) struct Short(Uuid);

/// See [`Short`].
pub(super) fn short(id: &Uuid) -> Short {
    Short(*id)
}

impl HtmlSafe for Short {}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        write!(f, r#"<code title="{text}">{}…{}</code>"#, &text[..8], &text[text.len() - 6..])
    }
}

/// The first characters of a text from outside.
pub(super) fn head(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// What was done, for the page that follows.
pub(super) fn done(word: &str) -> Option<&'static str> {
    Some(match word {
        "released" => "The task is over; its VM is given back.",
        "terminated" => "The VM's end has begun.",
        "held" => "It is held: nothing ends it until then.",
        "let-go" => "It is not held any more.",
        "deleted" => "The volume's end has begun.",
        "share" => "The image has its share.",
        "promoted" => "The image is promoted: launches take it from now on.",
        "retired" => "The image is retired: no launch takes it any more.",
        "saved" => "The settings are saved, and in force everywhere within seconds.",
        _ => return None,
    })
}

/// A path with a query; empty values are left out.
pub(super) fn with_query(path: &str, fields: &[(&str, impl AsRef<str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields.iter().filter(|(_, value)| !value.as_ref().is_empty()) {
        query.append_pair(name, value.as_ref());
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// One field of a query.
pub(super) fn field(uri: &Uri, name: &str) -> Option<String> {
    let mut fields = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The path and query without one field.
pub(super) fn without(uri: &Uri, name: &str) -> String {
    let fields = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let kept: Vec<_> = fields.filter(|(key, _)| key != name).collect();
    let kept: Vec<_> = kept.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
    with_query(uri.path(), &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_sizes_are_short() {
        let said = [80, 999, 1_000, 9_900, 59_000, 80_000, 3_600_000, 200_000_000].map(|ms| span(&TimeDelta::milliseconds(ms)));
        assert_eq!(said, ["0.0 s", "0.9 s", "1 s", "9.9 s", "59 s", "1 min 20 s", "1 h 0 min", "2 d 7 h"]);
        assert_eq!([0, 1023, 1024, 1 << 30, 3 << 39].map(|size| bytes(&size)), ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "1.5 TiB"]);
        assert_eq!([percent(&0, &0), percent(&1, &3)], ["–", "33 %"]);
    }

    #[test]
    fn a_query_is_built_and_taken_apart() {
        let uri: Uri = with_query("/console/tasks", &[("project", "a&b <c>"), ("state", ""), ("done", "held")]).parse().unwrap();
        assert_eq!(field(&uri, "project").as_deref(), Some("a&b <c>"));
        assert_eq!(without(&uri, "done"), "/console/tasks?project=a%26b+%3Cc%3E");
    }
}
