//! What a list is asked for: fields of a filter, where an empty one means any; and the page after this one.

use super::words;
use crate::http::paging;
use crate::http::problem::Problem;
use axum::http::Uri;
use chrono::{DateTime, TimeDelta, Utc};
use std::str::FromStr;
use uuid::Uuid;

/// Rows of a page.
pub(super) const ROWS: i64 = 50;

/// One field of a filter.
pub(super) fn pick<T: FromStr<Err = String>>(name: &str, text: &str) -> Result<Option<T>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|why: String| Problem::Malformed(format!("Correct the filter \"{name}\": {why}.")))
}

/// Free text of a filter.
pub(super) fn text(name: &str, text: &str) -> Result<Option<String>, Problem> {
    crate::http::extract::plain(name, text)?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The row that the page begins after.
pub(super) fn before(cursor: &str) -> Result<Option<(DateTime<Utc>, Uuid)>, Problem> {
    paging::read(Some(cursor).filter(|cursor| !cursor.is_empty()))
}

/// How far back a list goes.
pub(super) fn age(text: &str) -> Result<Option<TimeDelta>, Problem> {
    match text {
        "" => Ok(None),
        "1h" => Ok(Some(TimeDelta::hours(1))),
        "24h" => Ok(Some(TimeDelta::hours(24))),
        "7d" => Ok(Some(TimeDelta::days(7))),
        _ => Err(Problem::Malformed("Correct the filter \"age\": it is 1h, 24h or 7d.".to_owned())),
    }
}

/// At most [`ROWS`] rows, and the cursor after them when there are more.
pub(super) fn cut<T>(mut rows: Vec<T>, key: impl Fn(&T) -> (DateTime<Utc>, Uuid)) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(ROWS).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let cursor = rows.last().filter(|_| more).map(|last| {
        let (at, id) = key(last);
        paging::write(at, id)
    });
    (rows, cursor)
}

/// An id in a path.
pub(super) fn id<T: FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::NotFound(format!("{:?} is no id: check the address.", words::head(text, 60))))
}

/// The query of an address as a filter.
pub(super) fn of<T: serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(asked)| asked).map_err(Problem::from)
}
