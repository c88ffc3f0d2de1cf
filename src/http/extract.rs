//! What handlers take from a request; whatever cannot be read becomes a problem document.
//!
//! A body has a deadline: a client that sends it drop by drop is cut off.
//! Not here: who calls (`auth`); the size of a body (`router`).

use super::problem::Problem;
use super::state::AppState;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use garde::Validate;
use serde::de::DeserializeOwned;

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
    T: DeserializeOwned + Validate<Context = ()>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let whole = Request::from_parts(parts.clone(), body);
        let bytes =
            tokio::time::timeout(state.limits.body, Bytes::from_request(whole, state)).await.map_err(|_| Problem::TooSlow)??;
        // The content type is judged by axum, on the body that is here already.
        let ready = Request::from_parts(parts, axum::body::Body::from(bytes));
        let axum::Json(value) = axum::Json::<T>::from_request(ready, state).await?;
        value.validate()?;
        Ok(Self(value))
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
