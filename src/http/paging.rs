//! Lists come in pages: a cursor names the last row that was shown, so that rows that come or go meanwhile neither repeat nor hide others.
//!
//! A cursor is opaque to callers: base64 of the row's creation time in microseconds and its id.

use super::problem::Problem;
use crate::domain::api::Page;
use axum::Json;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;
/// 2500-01-01: no row is newer, and Postgres knows every time before it.
const LATEST_MICROS: i64 = 16_725_225_600_000_000;

/// The number of rows asked for, 1 to 200.
pub(super) fn limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        other => Err(Problem::Malformed(format!("Correct the query: \"limit\" is {other}, and may be 1 to {LIMIT_MAX}."))),
    }
}

/// The row that a cursor names.
pub(super) fn read(cursor: Option<&str>) -> Result<Option<(DateTime<Utc>, Uuid)>, Problem> {
    let Some(text) = cursor else { return Ok(None) };
    let row = || {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (micros, id) = bytes.split_first_chunk::<8>()?;
        let micros = Some(i64::from_be_bytes(*micros)).filter(|micros| (0..LATEST_MICROS).contains(micros))?;
        Some((DateTime::from_timestamp_micros(micros)?, Uuid::from_slice(id).ok()?))
    };
    row().map(Some).ok_or_else(unknown_cursor)
}

/// Postgres keeps this time, and so do cursors.
pub(super) fn is_storable(at: DateTime<Utc>) -> bool {
    (0..LATEST_MICROS).contains(&at.timestamp_micros())
}

/// For cursors of every kind.
pub(super) fn unknown_cursor() -> Problem {
    Problem::Malformed("Correct the query: \"cursor\" is not one that this list gave.".to_owned())
}

/// The cursor that names a row.
pub(super) fn write(at: DateTime<Utc>, id: Uuid) -> String {
    let mut bytes = at.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend_from_slice(id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A page of at most `limit` rows, made of up to one more.
pub(super) fn page<T: Serialize>(mut items: Vec<T>, limit: i64, uri: &Uri, key: impl Fn(&T) -> (DateTime<Utc>, Uuid)) -> Response {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| {
        let (at, id) = key(last);
        write(at, id)
    });
    answer(Page { items, next_cursor }, uri)
}

/// A page of at most `limit` rows that are named by a number, made of up to one more.
pub(super) fn numbered_page<T: Serialize>(mut items: Vec<T>, limit: i64, uri: &Uri, key: impl Fn(&T) -> i64) -> Response {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| key(last).to_string());
    answer(Page { items, next_cursor }, uri)
}

/// A page with the `Link` to the next.
fn answer<T: Serialize>(page: Page<T>, uri: &Uri) -> Response {
    let link = page.next_cursor.as_deref().and_then(|cursor| {
        let others = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query = others.map(|pair| format!("{}&", pair.replace('>', "%3E"))).collect::<String>();
        HeaderValue::from_str(&format!("<{}?{query}cursor={cursor}>; rel=\"next\"", uri.path())).ok()
    });
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was_and_nothing_else_is_one() {
        let at = DateTime::from_timestamp_micros(1_795_000_000_123_456).unwrap();
        let id = Uuid::from_u128(7);
        assert_eq!(read(Some(&write(at, id))).unwrap(), Some((at, id)));
        assert_eq!(read(None).unwrap(), None);
        let far = DateTime::from_timestamp(-62_135_596_800, 0).unwrap();
        for bad in ["", "x", "!!", "AAAA", &write(at, id)[1..], &write(far, id)] {
            assert!(read(Some(bad)).is_err(), "{bad}");
        }
    }
}
