//! What handlers take from a request; whatever cannot be read becomes a problem document.
//!
//! A body has a deadline: a client that sends it drop by drop is cut off.
//! Not here: who calls (`auth`); the size of a body (`router`).

use super::problem::Problem;
use super::state::AppState;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use garde::Validate;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A JSON body that was read in time and whose every field was checked.
pub(super) struct Json<T>(pub(super) T);

/// Parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// The query; unknown names are refused by the types themselves.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

impl<T> FromRequest<AppState> for Json<T>
where
    T: DeserializeOwned + Serialize + Validate<Context = ()>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let whole = Request::from_parts(parts.clone(), body);
        let bytes =
            tokio::time::timeout(state.limits.body, Bytes::from_request(whole, state)).await.map_err(|_| Problem::TooSlow)??;
        // The content type is judged by axum, on the body that is here already.
        let ready = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
        let axum::Json(value) = axum::Json::<T>::from_request(ready, state).await?;
        no_list_for_an_object(&bytes, &value)?;
        value.validate()?;
        Ok(Self(value))
    }
}

/// Refuses what serde takes and the document forbids: the fields of an object as a list, without their names.
fn no_list_for_an_object(bytes: &[u8], read: &impl Serialize) -> Result<(), Problem> {
    let (Ok(given), Ok(read)) = (serde_json::from_slice(bytes), serde_json::to_value(read)) else { return Ok(()) };
    let Some(place) = list_for_an_object(&given, &read) else { return Ok(()) };
    let place =
        if place.is_empty() { "the body".to_owned() } else { format!("\"{}\"", place.trim_start_matches('.').escape_debug()) };
    Err(Problem::Malformed(format!("Send a body that this call understands: {place} is an object, and not a list.")))
}

fn list_for_an_object(given: &Value, read: &Value) -> Option<String> {
    match (given, read) {
        (Value::Array(_), Value::Object(_)) => Some(String::new()),
        (Value::Object(given), Value::Object(read)) => given.iter().find_map(|(name, value)| {
            let inner = list_for_an_object(value, read.get(name)?)?;
            Some(format!(".{name}{inner}"))
        }),
        (Value::Array(given), Value::Array(read)) => given.iter().zip(read).enumerate().find_map(|(n, (given, read))| {
            let inner = list_for_an_object(given, read)?;
            Some(format!("[{n}]{inner}"))
        }),
        _ => None,
    }
}

/// Refuses text that Postgres cannot store and that no list could show.
pub(super) fn plain(name: &str, text: &str) -> Result<(), Problem> {
    if text.chars().any(char::is_control) || text.chars().count() > 200 {
        return Err(Problem::Malformed(format!(
            "Correct the query: \"{name}\" has up to 200 characters, none of them control characters."
        )));
    }
    Ok(())
}
