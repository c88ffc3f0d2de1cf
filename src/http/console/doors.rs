//! What every request to the console passes: a name that is ours, no change asked for by another site, and headers that keep a browser
//! from loading, framing or keeping anything that it should not. A problem becomes a page.
//!
//! A browser says with `Sec-Fetch-Site` where a request comes from; an old one, and every one on plain HTTP under a name, at least with
//! `Origin` (which our referrer policy must not take away: Fetch standard, "append a request Origin header"). Who says neither is no
//! browser, and uses the API. The token in each form (`session`) is the second lock on the same door.

use super::frame::Way;
use super::kept::Kept;
use super::session::{Theme, theme};
use super::settings::FORMS;
use super::{frame, hosts};
use crate::http::envelope::REQUEST_ID;
use crate::http::problem::{self, Problem};
use crate::http::state::AppState;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Nothing but our own files; no script or style in a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const FETCH_SITE: &str = "sec-fetch-site";

/// See the module.
pub(super) async fn pass(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let shown = Shown::to(&request);
    let response = match admit(&state, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    shown.dress(response)
}

/// The same for pages that hold nothing but what `/status` tells everybody: under any name.
pub(super) async fn dress(request: Request, next: Next) -> Response {
    let shown = Shown::to(&request);
    shown.dress(next.run(request).await)
}

/// What of a request its answer needs.
struct Shown {
    theme: Theme,
    id: String,
    back: Option<String>,
}

impl Shown {
    fn to(request: &Request) -> Self {
        let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let back = (!request.method().is_safe()).then(|| page_of(request.uri().path()).to_owned());
        Self { theme: theme(request.headers()), id, back }
    }

    fn dress(self, mut response: Response) -> Response {
        let Self { theme, id, back } = self;
        if let Some(problem) = problem::take(&mut response, &id) {
            let kept = response.extensions_mut().remove::<Kept>();
            let page = frame::problem(&problem, &id, theme, kept.map_or(Way::Back(back.as_deref()), |Kept(form)| Way::On(form)));
            response = (response.status(), page).into_response();
        }
        problem::leave_alone(&mut response);
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "same-origin"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }
}

/// The page whose form is sent here: the path above; those of the settings are sent to their own.
pub(super) fn page_of(path: &str) -> &str {
    match path {
        _ if FORMS.contains(&path) => path,
        _ => path.rsplit_once('/').map_or(path, |(page, _)| page),
    }
}

fn admit(state: &AppState, request: &Request) -> Result<(), Problem> {
    let host = host(request.uri(), request.headers());
    if !state.console.hosts.has(host) {
        return Err(Problem::Misdirected(format!(
            "The console does not answer under the name {:?}: use one of its own, or add this one to VM_SERVICE_CONSOLE_HOSTS.",
            hosts::name(host).unwrap_or_default().chars().take(100).collect::<String>()
        )));
    }
    if request.method().is_safe() || is_ours(request.headers(), host) {
        return Ok(());
    }
    Err(Problem::Forbidden("This was asked for from elsewhere: do it on the console's own page, in a current browser.".to_owned()))
}

/// Where HTTP/2 says it, or where HTTP/1 does.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let authority = uri.authority().map(axum::http::uri::Authority::as_str);
    authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default()
}

fn is_ours(headers: &HeaderMap, host: &str) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return site == "same-origin";
    }
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}
