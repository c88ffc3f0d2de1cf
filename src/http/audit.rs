//! No change of a person or a token goes without an event in the audit log, whichever way it ends: done, refused, or without effect.
//!
//! What is done is written by the verb of `db` that does it, in its transaction; for that this module says who is *behind* the request.
//! What has no transaction is written afterwards: a change that was refused or had no effect, a look that was forbidden (403), and a
//! token that nobody has (401). Those are *limited*: nobody fills the disk with them, and how many were left out is told with the next.
//! A request that found the database away has changed nothing, and nobody was refused anything: nothing is kept of it.
//!
//! Writes: `db` (audit). Runs: around every request that [`super::auth`] lets in or turns away. Not here: the log itself (`audit_log`).

use super::envelope::REQUEST_ID;
use super::problem;
use super::state::AppState;
use crate::db::audit::Behind;
use crate::domain::access::Caller;
use crate::domain::audit::{AuditRequest, Party};
use crate::domain::ids::TokenId;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// Limited events of one principal, or of all callers that nobody knows: per minute, and at once. About 8 MB a day at the most.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not 0");
const AT_ONCE: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// Of what a caller says about itself.
const HEADER_MAX: usize = 200;
/// A look that was forbidden, or a request of nobody.
const ACCESS: &str = "api.access";

/// Changes: method and path, the action, and what it is done to (empty: to nothing that has a name yet). A look at a VM's keys is one too.
const ACTIONS: &[(Method, &str, &str, &str)] = &[
    (Method::POST, "/api/v1/tasks", "task.create", "task"),
    (Method::PUT, "/api/v1/tasks/{id}", "task.create", "task"),
    (Method::DELETE, "/api/v1/tasks/{id}", "task.release", "task"),
    (Method::DELETE, "/api/v1/vms/{id}", "vm.terminate", "vm"),
    (Method::POST, "/api/v1/vms/terminate", "vm.terminate", "vm"),
    (Method::PUT, "/api/v1/vms/{id}/hold", "vm.hold", "vm"),
    (Method::DELETE, "/api/v1/vms/{id}/hold", "vm.unhold", "vm"),
    (Method::GET, "/api/v1/vms/{id}/connection", "vm.connection.view", "vm"),
    (Method::DELETE, "/api/v1/volumes/{id}", "volume.delete", "volume"),
    (Method::PUT, "/api/v1/volumes/{id}/hold", "volume.hold", "volume"),
    (Method::DELETE, "/api/v1/volumes/{id}/hold", "volume.unhold", "volume"),
    (Method::POST, "/api/v1/images", "image.register", "image"),
    (Method::PUT, "/api/v1/images/{id}/share", "image.share", "image"),
    (Method::POST, "/api/v1/images/{id}/promote", "image.promote", "image"),
    (Method::POST, "/api/v1/images/{id}/retire", "image.retire", "image"),
    (Method::PUT, "/api/v1/settings", "settings.update", "settings"),
    (Method::POST, "/api/v1/settings/checks", "settings.check", "settings"),
    (Method::POST, "/console/sign-in", "user.logged_in", ""),
    (Method::POST, "/console/tasks/{id}/release", "task.release", "task"),
    (Method::POST, "/console/vms/{id}/terminate", "vm.terminate", "vm"),
    (Method::POST, "/console/vms/{id}/hold", "vm.hold", "vm"),
    (Method::POST, "/console/vms/{id}/let-go", "vm.unhold", "vm"),
    (Method::POST, "/console/volumes/{id}/delete", "volume.delete", "volume"),
    (Method::POST, "/console/volumes/{id}/hold", "volume.hold", "volume"),
    (Method::POST, "/console/volumes/{id}/let-go", "volume.unhold", "volume"),
    (Method::POST, "/console/images/{id}/share", "image.share", "image"),
    (Method::POST, "/console/images/{id}/promote", "image.promote", "image"),
    (Method::POST, "/console/images/{id}/retire", "image.retire", "image"),
    (Method::POST, "/console/settings", "settings.check", "settings"),
    (Method::POST, "/console/settings/json", "settings.check", "settings"),
    (Method::POST, "/console/settings/checks/{id}/rebase", "settings.check", "settings"),
    (Method::POST, "/console/settings/checks/{id}/save", "settings.update", "settings"),
    (Method::POST, "/console/settings/history/{version}/return", "settings.check", "settings"),
];
/// Says only that its dispatcher lives.
const UNTOLD: (Method, &str) = (Method::POST, "/api/v1/tasks/{id}/heartbeat");

/// Lets through so many limited events, and counts the others.
pub(super) struct Gate {
    limiter: DefaultKeyedRateLimiter<String>,
    left_out: Mutex<BTreeMap<String, u64>>,
}

impl Gate {
    pub(super) fn new() -> Self {
        let quota = Quota::per_minute(PER_MINUTE).allow_burst(AT_ONCE);
        Self { limiter: RateLimiter::keyed(quota), left_out: Mutex::default() }
    }

    /// How many were left out before this one; none: it is left out too.
    fn admit(&self, who: &str) -> Option<u64> {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if self.limiter.check_key(&who.to_owned()).is_ok() {
            return Some(left_out.remove(who).unwrap_or(0));
        }
        *left_out.entry(who.to_owned()).or_insert(0) += 1;
        None
    }
}

/// Where a caller has come in.
pub(super) enum Door {
    /// With his token, by each request.
    Api,
    /// With a session, which a token began.
    Console,
}

/// Who is behind a request: a token, and who has it.
pub(super) fn behind((token, caller): &(TokenId, Caller), parts: &Parts) -> Arc<Behind> {
    let actor = Party { role: Some(caller.role), token_id: Some(*token), ..Party::new("principal", caller.principal.clone()) };
    Behind::new(actor, Some(request(parts)))
}

/// Carries out a request of somebody who is known.
pub(super) async fn act(state: &AppState, who: &(TokenId, Caller), door: Door, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let deed = Deed::of(&parts);
    let behind = behind(who, &parts);
    let response = Arc::clone(&behind).run(next.run(Request::from_parts(parts, body))).await;
    if problem::is_unavailable(&response) {
        return response;
    }
    let status = response.extensions().get::<Instead>().map_or(response.status(), |instead| instead.0);
    let told = match (deed.is_change, door) {
        (true, Door::Api) => status.is_success() && behind.is_noted(),
        // The console answers a change with the way to another page; a form that is shown again has changed nothing yet.
        (true, Door::Console) => status.is_success() || (status.is_redirection() && behind.is_noted()),
        (false, _) => status != StatusCode::FORBIDDEN,
    };
    if !told {
        write(state, &behind, &who.1.principal, deed, status).await;
    }
    response
}

/// What a change came to whose answer only leads to another page.
#[derive(Clone, Copy)]
struct Instead(StatusCode);

/// Says that the change behind this answer was refused with this status: the console leads to a page that tells why.
pub(super) fn refused(mut answer: Response, status: StatusCode) -> Response {
    answer.extensions_mut().insert(Instead(status));
    answer
}

/// A request that was turned away: nobody has its token (none), or he who has it may not come in, or asks too fast.
pub(super) async fn turned_away(state: &AppState, who: Option<&(TokenId, Caller)>, parts: &Parts, status: StatusCode) {
    let nobody = || Behind::new(Party::new("unknown", "unknown".to_owned()), Some(request(parts)));
    let behind = who.map_or_else(nobody, |who| behind(who, parts));
    let name = who.map_or("", |(_, caller)| caller.principal.as_str());
    write(state, &behind, name, Deed::of(parts), status).await;
}

async fn write(state: &AppState, behind: &Behind, who: &str, deed: Deed, status: StatusCode) {
    let Some(left_out) = state.audit.admit(who) else { return };
    let mut event = behind.event(deed.action, state.clock.now());
    event.success = status.is_success() || status.is_redirection();
    event.target = deed.target;
    event.metadata.insert("status".to_owned(), status.as_u16().to_string());
    if left_out > 0 {
        event.metadata.insert("left_out_before".to_owned(), left_out.to_string());
    }
    if let Err(error) = state.db.insert_audit(&event).await {
        tracing::error!(action = event.action, %error, "an event of the audit log could not be written");
    }
}

/// What a request is for.
struct Deed {
    action: &'static str,
    target: Option<Party>,
    is_change: bool,
}

impl Deed {
    fn of(parts: &Parts) -> Self {
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let known = ACTIONS.iter().find(|(method, path, ..)| *method == parts.method && *path == route);
        let (action, target) = match known {
            Some((_, _, action, "")) => (*action, None),
            Some((_, _, action, kind)) => (*action, Some(Party::new(kind, id(route, parts.uri.path())))),
            None => (ACCESS, None),
        };
        let changes = !parts.method.is_safe() && (&parts.method, route) != (&UNTOLD.0, UNTOLD.1);
        Self { action, target, is_change: known.is_some() || changes }
    }
}

/// What stands for `{id}` or `{version}`; empty for a route without one.
fn id(route: &str, path: &str) -> String {
    let part = route.split('/').zip(path.split('/')).find(|(name, _)| ["{id}", "{version}"].contains(name)).map(|(_, part)| part);
    part.unwrap_or_default().chars().take(HEADER_MAX).collect()
}

fn request(parts: &Parts) -> AuditRequest {
    let header = |name: &str| {
        let text = parts.headers.get(name)?.to_str().ok()?;
        Some(text.chars().take(HEADER_MAX).collect::<String>())
    };
    AuditRequest {
        id: header(REQUEST_ID.as_str()).unwrap_or_default(),
        method: parts.method.to_string(),
        path: parts.uri.path().chars().take(HEADER_MAX).collect(),
        ip_address: parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(at)| at.ip().to_canonical().to_string()),
        forwarded_for: header("x-forwarded-for"),
        client_trace_id: header("x-client-trace-id"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_change_of_the_document_has_its_action() {
        let document = serde_json::to_value(super::super::document()).unwrap();
        let mut without = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, _) in
                item.as_object().unwrap().iter().filter(|(method, _)| ["put", "post", "delete", "patch"].contains(&method.as_str()))
            {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let known = ACTIONS.iter().any(|(known, at, ..)| *known == method && at == path);
                if !known && (method.clone(), path.as_str()) != UNTOLD {
                    without.insert(format!("{method} {path}"));
                }
            }
        }
        assert_eq!(without, BTreeSet::new(), "name the action of each in ACTIONS");
    }

    #[test]
    fn limited_events_are_counted_when_they_are_left_out() {
        let gate = Gate::new();
        let let_in = (0..100).filter(|_| gate.admit("a").is_some()).count();
        assert_eq!(let_in, 60);
        assert_eq!(gate.admit("b"), Some(0), "one caller does not silence another");
        assert_eq!(gate.left_out.lock().unwrap().get("a"), Some(&40));
    }
}
