//! What is around every page: head, navigation, who is signed in; and the page that tells a problem.
//!
//! Not here: what is in a page (the file of its tab), the headers of its answer (`doors`).

use super::session::{FOLLOWING, Session, Theme};
use super::{assets, live, words};
use crate::http::problem::{Problem, leave_alone};
use askama::Template;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use chrono::SecondsFormat;

/// A place in the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(super) enum Tab {
    Overview,
    Tasks,
    Vms,
    Volumes,
    Images,
    Events,
    Settings,
}

impl Tab {
    const ALL: [Self; 7] = [Self::Overview, Self::Tasks, Self::Vms, Self::Volumes, Self::Images, Self::Events, Self::Settings];

    /// As a person reads it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Tasks => "Tasks",
            Self::Vms => "VMs",
            Self::Volumes => "Volumes",
            Self::Images => "Images",
            Self::Events => "Events",
            Self::Settings => "Settings",
        }
    }

    /// Its path.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Tasks => "/console/tasks",
            Self::Vms => "/console/vms",
            Self::Volumes => "/console/volumes",
            Self::Images => "/console/images",
            Self::Events => "/console/events",
            Self::Settings => "/console/settings",
        }
    }
}

/// What a page is made of, as HTML.
#[derive(Default)]
pub(super) struct Parts {
    /// Filters, and what else stays.
    pub(super) above: String,
    /// Sent again when it changed; without a form in it. Empty: the page is not live.
    pub(super) live: String,
    /// What an operator can do; with forms.
    pub(super) below: String,
}

/// Around a page.
pub(super) struct Frame {
    title: String,
    theme: Theme,
    tab: Option<Tab>,
    who: Option<(String, &'static str)>,
    /// What is looked at, for the stream of changes.
    of: String,
    notice: Option<&'static str>,
    /// By which the browser lets ages run.
    now: Option<String>,
}

#[derive(Template)]
#[template(path = "frame.html", config = ".askama.toml")]
struct Page<'a> {
    frame: &'a Frame,
    parts: &'a Parts,
}

impl Page<'_> {
    fn asset(&self, name: &str) -> String {
        assets::path(name)
    }

    fn tabs(&self) -> [Tab; 7] {
        Tab::ALL
    }

    /// Where the changes of the live part come from.
    fn stream(&self) -> String {
        words::with_query(FOLLOWING, &[("of", self.frame.of.as_str()), ("seen", &live::mark(&self.parts.live))])
    }

    fn is_here(&self, tab: &Tab) -> bool {
        self.frame.tab == Some(*tab)
    }
}

#[derive(Template)]
#[template(path = "problem.html", config = ".askama.toml")]
struct Trouble<'a> {
    status: StatusCode,
    detail: &'a str,
    errors: &'a [crate::domain::api::FieldError],
    request_id: &'a str,
    way: Way<'a>,
}

/// Where a problem leads.
pub(super) enum Way<'a> {
    /// To the page that the change was asked for on.
    Back(Option<&'a str>),
    /// On, with what was typed: a form.
    On(String),
}

impl Frame {
    /// For somebody who is signed in. `uri`: what was asked for.
    pub(super) fn new(session: &Session, uri: &Uri, tab: Tab, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            theme: session.theme,
            tab: Some(tab),
            who: Some((session.caller.principal.clone(), session.caller.role.as_str())),
            of: words::without(uri, "done"),
            notice: words::field(uri, "done").and_then(|word| words::done(&word)),
            now: Some(session.now.to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }

    /// A page that an answer to a change shows again: its live part follows this address.
    pub(super) fn of(mut self, page: String) -> Self {
        self.of = page;
        self
    }

    /// For somebody who is not.
    pub(super) fn outside(title: &str, theme: Theme) -> Self {
        Self { title: title.to_owned(), theme, tab: None, who: None, of: String::new(), notice: None, now: None }
    }
}

/// A page.
pub(super) fn page(frame: &Frame, parts: Parts) -> Response {
    answer(StatusCode::OK, frame, parts)
}

/// A page with another status.
#[allow(clippy::needless_pass_by_value, reason = "a page is made once")]
pub(super) fn answer(status: StatusCode, frame: &Frame, parts: Parts) -> Response {
    let mut response = (status, Html(html(&Page { frame, parts: &parts }))).into_response();
    leave_alone(&mut response);
    response
}

/// The page of a problem. It is not known who looks: it shows no more than an API answer would, and what he sent.
pub(super) fn problem(problem: &Problem, request_id: &str, theme: Theme, way: Way<'_>) -> Response {
    let status = problem.status();
    let frame = Frame::outside(status.canonical_reason().unwrap_or("Problem"), theme);
    let above = html(&Trouble { status, detail: problem.detail(), errors: problem.errors(), request_id, way });
    let mut response = answer(status, &frame, Parts { above, ..Parts::default() });
    if let Some(seconds) = problem.retry_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A template as text. Ours cannot fail: they write to memory, and call nothing that fails.
pub(super) fn html(template: &impl Template) -> String {
    template.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a template failed");
        String::new()
    })
}
