//! The audit log for operators and viewers: as pages, as a whole in CSV or JSON lines, and whether its chain holds.
//!
//! An export is a stream: it holds no database connection between its parts, and ends when its reader leaves. One that is cut off, by an
//! error or a restart, never looks whole.
//!
//! Reads: `db` (audit). Not here: what is written (`audit`).

use super::auth::Viewer;
use super::extract::{Query, plain};
use super::guard::InFlight;
use super::paging;
use super::problem::Problem;
use super::state::AppState;
use crate::db::audit_log::AuditFilter;
use crate::domain::api::Page;
use crate::domain::audit::{AuditCheck, AuditView};
use axum::body::Body;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Events of an export that are read at a time.
const PART: i64 = 1000;
/// Links that one request looks at: a second or two.
const LINKS: i64 = 50_000;
/// The columns of the CSV: the guide's fields, then the chain.
const COLUMNS: [&str; 13] = [
    "id",
    "version",
    "action",
    "success",
    "actor",
    "target",
    "payload",
    "request",
    "scope",
    "occurred_at",
    "metadata",
    "link",
    "hash",
];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_audit)).routes(routes!(check_audit))
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Pages.
    Json,
    /// The whole, a line an event; nested fields are JSON.
    Csv,
    /// The whole, a line an event.
    Jsonl,
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListAudit {
    /// Only of this actor: a principal.
    actor: Option<String>,
    /// Only this action, such as `vm.terminate`.
    action: Option<String>,
    /// Only about this target: its id.
    target: Option<String>,
    /// Only what was done, or only what was not.
    success: Option<bool>,
    /// Not before.
    from: Option<DateTime<Utc>>,
    /// Before.
    to: Option<DateTime<Utc>>,
    /// Instead of the header `Accept`.
    #[param(inline)]
    format: Option<Format>,
    /// From the page before.
    cursor: Option<String>,
    /// 1 to 200, for pages; 50 when absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Who did what, newest first: a page, or with `Accept: text/csv` or `application/x-ndjson` everything that fits the filters.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit", params(ListAudit),
    responses((status = 200, description = "A page, whose header Link has the next; or the whole", content(
        (Page<AuditView> = "application/json"),
        (String = "text/csv"),
        (String = "application/x-ndjson"),
    )))
)]
async fn list_audit(
    State(state): State<AppState>,
    _: Viewer,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    in_flight: Option<Extension<InFlight>>,
    Query(query): Query<ListAudit>,
) -> Result<Response, Problem> {
    let limit = paging::limit(query.limit)?;
    for (name, text) in [("actor", &query.actor), ("action", &query.action), ("target", &query.target)] {
        text.as_deref().map_or(Ok(()), |text| plain(name, text))?;
    }
    if [query.from, query.to].into_iter().flatten().any(|at| !paging::is_storable(at)) {
        return Err(Problem::Malformed("Correct the query: \"from\" and \"to\" are times between 1970 and 2500.".to_owned()));
    }
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        target: query.target,
        success: query.success,
        from: query.from,
        to: query.to,
        before: paging::read(query.cursor.as_deref())?,
        limit: limit + 1,
    };
    let accepts = |kind: &str| headers.get_all(header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|text| text.contains(kind)));
    let asked = || match (accepts("text/csv"), accepts("application/x-ndjson")) {
        (true, _) => Format::Csv,
        (_, true) => Format::Jsonl,
        _ => Format::Json,
    };
    match query.format.unwrap_or_else(asked) {
        Format::Json => {
            let events = state.db.list_audit(&filter).await?;
            Ok(paging::page(events, limit, &uri, |view| (view.event.occurred_at, view.event.id)))
        }
        format => Ok(export(state, AuditFilter { limit: PART, ..filter }, format, in_flight)),
    }
}

/// Which part of the chain.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CheckAudit {
    /// Links up to here were looked at already; 0 when absent.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Whether the chain of the log holds, and where it does not; up to 50000 links at a time.
#[utoipa::path(
    get, path = "/api/v1/audit/check", tag = "audit", params(CheckAudit),
    responses((status = 200, description = "What was found; `next` when there is more", body = AuditCheck))
)]
async fn check_audit(
    State(state): State<AppState>,
    _: Viewer,
    Query(query): Query<CheckAudit>,
) -> Result<Json<AuditCheck>, Problem> {
    let after = query.after.unwrap_or(0);
    if !(0..i64::MAX - LINKS).contains(&after) {
        return Err(Problem::Malformed("Correct the query: \"after\" is a link, 0 or more.".to_owned()));
    }
    Ok(Json(state.db.check_audit(after, LINKS).await?))
}

/// What an export still has to write.
struct Export {
    state: AppState,
    filter: AuditFilter,
    format: Format,
    begun: bool,
    over: bool,
    /// Tells the guard that the connection is at work.
    _in_flight: Option<InFlight>,
}

fn export(state: AppState, filter: AuditFilter, format: Format, in_flight: Option<Extension<InFlight>>) -> Response {
    let kind = if format == Format::Csv { "text/csv; charset=utf-8" } else { "application/x-ndjson" };
    let name = if format == Format::Csv { "attachment; filename=\"audit.csv\"" } else { "attachment; filename=\"audit.jsonl\"" };
    let in_flight = in_flight.map(|Extension(token)| token);
    let export = Export { state, filter, format, begun: false, over: false, _in_flight: in_flight };
    let parts = futures::stream::unfold(export, |mut export| async move {
        if export.over {
            return None;
        }
        // An error breaks the answer off, so that nobody takes a part for the whole.
        let part = match export.state.stop.is_cancelled() {
            true => Err(std::io::Error::other("the service stops")),
            false => export.part().await.map_err(|error| std::io::Error::other(error.to_string())),
        };
        export.over |= part.is_err();
        Some((part, export))
    });
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], Body::from_stream(parts)).into_response()
}

impl Export {
    async fn part(&mut self) -> anyhow::Result<Vec<u8>> {
        let events = self.state.db.list_audit(&self.filter).await?;
        self.over = events.len() < usize::try_from(PART)?;
        self.filter.before = events.last().map(|view| (view.event.occurred_at, view.event.id)).or(self.filter.before);
        let with_heading = !std::mem::replace(&mut self.begun, true);
        match self.format {
            Format::Csv => csv(&events, with_heading),
            _ => lines(&events),
        }
    }
}

fn lines(events: &[AuditView]) -> anyhow::Result<Vec<u8>> {
    let mut written = Vec::new();
    for event in events {
        serde_json::to_writer(&mut written, event)?;
        written.push(b'\n');
    }
    Ok(written)
}

fn csv(events: &[AuditView], with_heading: bool) -> anyhow::Result<Vec<u8>> {
    let mut written = csv::Writer::from_writer(Vec::new());
    if with_heading {
        written.write_record(COLUMNS)?;
    }
    for AuditView { event, link, hash } in events {
        written.write_record([
            event.id.to_string(),
            event.version.to_string(),
            event.action.clone(),
            event.success.to_string(),
            nested(Some(&event.actor))?,
            nested(event.target.as_ref())?,
            nested(Some(&event.payload))?,
            nested(event.request.as_ref())?,
            nested(event.scope.as_ref())?,
            event.occurred_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            nested(Some(&event.metadata))?,
            link.map(|link| link.to_string()).unwrap_or_default(),
            hash.clone().unwrap_or_default(),
        ])?;
    }
    Ok(written.into_inner()?)
}

fn nested<T: Serialize>(field: Option<&T>) -> anyhow::Result<String> {
    Ok(field.map(serde_json::to_string).transpose()?.unwrap_or_default())
}
