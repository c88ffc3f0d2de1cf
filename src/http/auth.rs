//! Nobody gets past [`demand_token`] without a good token, and no handler runs for a role that it does not name in its arguments.
//!
//! A token is looked up on every request, so that a revoked one is refused at once. Each principal has a budget of requests.
//!
//! Reads: `db` (tokens, by keyed hash). Not here: whose a task is (`tasks`), what is noted of it all
//! (`audit`).

use super::audit::{self, Door};
use super::problem::{self, Problem};
use super::state::AppState;
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// More than any token has; longer ones are not hashed.
const TOKEN_MAX: usize = 512;

/// Any role.
pub(super) struct Anyone(pub(super) Caller);
/// Who may make tasks.
pub(super) struct Dispatcher(pub(super) Caller);
/// Who may see everything.
pub(super) struct Viewer(pub(super) Caller);
/// Who may change everything.
pub(super) struct Operator(pub(super) Caller);

/// Finds out who calls; the roles below rely on it.
pub(super) async fn demand_token(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let (who, problem) = match find(&state, request.headers()).await {
        Ok(who) => match state.admit(&who.1.principal) {
            Ok(()) => {
                tracing::Span::current().record("principal", &who.1.principal);
                request.extensions_mut().insert(who.1.clone());
                return audit::act(&state, &who, Door::Api, request, next).await;
            }
            Err(problem) => (Some(who), problem),
        },
        Err(problem) => (None, problem),
    };
    let response = problem.into_response();
    // Who shows no token at all has tried nothing, and while the database is away nobody is turned away.
    if request.headers().contains_key(AUTHORIZATION) && !problem::is_unavailable(&response) {
        audit::turned_away(&state, who.as_ref(), &request.into_parts().0, response.status()).await;
    }
    response
}

async fn find(state: &AppState, headers: &HeaderMap) -> Result<(TokenId, Caller), Problem> {
    let missing = Problem::Unauthorized("Send a token in the header \"Authorization: Bearer …\".");
    let Some(header) = headers.get(AUTHORIZATION) else { return Err(missing) };
    let unknown = Problem::Unauthorized("This token is not known or was revoked: use another.");
    let Some((scheme, token)) = header.to_str().ok().and_then(|text| text.split_once(' ')) else { return Err(missing) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing);
    }
    let token = token.trim();
    if token.is_empty() || token.len() > TOKEN_MAX {
        return Err(unknown);
    }
    state.db.find_token(&state.sealer.token_hashes(token)).await?.ok_or(unknown)
}

fn with_role(parts: &Parts, may: fn(Role) -> bool, needs: &str) -> Result<Caller, Problem> {
    let caller = parts
        .extensions
        .get::<Caller>()
        .ok_or_else(|| Problem::Defect("a route without demand_token asks for a role".to_owned()))?;
    if may(caller.role) {
        return Ok(caller.clone());
    }
    Err(Problem::Forbidden(format!(
        "This needs the role {needs}; the token has the role {}: use another token.",
        caller.role.as_str()
    )))
}

macro_rules! role {
    ($name:ident, $made:expr, $may:expr, $needs:literal) => {
        impl<S: Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
                with_role(parts, $may, $needs).map($made)
            }
        }
    };
}

role!(Anyone, Anyone, |_| true, "dispatcher, operator or viewer");
role!(Dispatcher, Dispatcher, Role::may_run_tasks, "dispatcher or operator");
role!(Viewer, Viewer, Role::may_see_everything, "operator or viewer");
role!(Operator, Operator, Role::may_operate, "operator");
