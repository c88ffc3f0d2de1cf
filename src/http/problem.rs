//! The one file that chooses status codes: every answer that is not a success is a [`Problem`], shown as an RFC 9457 document.
//!
//! Status 5xx shows no inside text: its cause is logged once, here, with the request id that the document names. The exception is
//! the sentence about a bad configuration, which is written for the reader of `/status`.
//!
//! Reads, writes: the log. Not here: who adds the request id and calls [`render`] (`envelope`).

use crate::db::DbError;
use crate::domain::api::{FieldError, ProblemView};
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::{JsonProblemDetails, ProblemDetails, ProblemType};
use serde::Serialize;
use std::time::Duration;

/// Why a request was not served, named by what the caller does next.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    /// Cannot be read.
    Malformed(String),
    /// No token, or one that nobody has.
    Unauthorized(&'static str),
    /// A good token that may not do this.
    Forbidden(String),
    /// There is no such thing, or not for this caller.
    NotFound(String),
    /// The path exists for other methods.
    MethodNotAllowed,
    /// Sent under a name that is not ours.
    Misdirected(String),
    /// The body did not arrive in time.
    TooSlow,
    /// Another body under the same id, or an illegal move.
    Conflict(String),
    /// Changed since it was read.
    Stale,
    /// A body over the limit.
    TooLarge,
    /// Not JSON.
    NotJson,
    /// Understood but impossible.
    Impossible(String, Vec<FieldError>),
    /// A change that does not say what it is made on top of.
    NoIfMatch,
    /// This principal asks too fast.
    TooFast(Duration),
    /// This principal has as many streams open as it may.
    TooManyStreams,
    /// New tasks are refused for now, by the settings.
    Refusing,
    /// The database cannot be asked; with the cause.
    Unavailable(String),
    /// The service took longer than it allows itself.
    TookTooLong,
    /// The configuration must be mended first.
    Configuration(String),
    /// A defect; with the cause.
    Defect(String),
}

/// What RFC 9457 leaves to us.
#[derive(Serialize)]
struct Extensions<'a> {
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// For a caller who should come back after the database did.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Rounds up.
const ALMOST_A_SECOND: Duration = Duration::from_nanos(999_999_999);
/// For a reader who should come back when another one has closed its stream.
const RETRY_STREAM: Duration = Duration::from_secs(10);
/// For a caller who should come back when an operator has changed the settings.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

impl Problem {
    /// 422 with one wrong field.
    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let detail = format!("Change \"{field}\": {message}");
        Self::Impossible(detail, vec![FieldError { field: field.to_owned(), message }])
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Impossible(..) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoIfMatch => StatusCode::PRECONDITION_REQUIRED,
            Self::TooFast(_) | Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::Refusing | Self::Unavailable(_) | Self::TookTooLong => StatusCode::SERVICE_UNAVAILABLE,
            Self::Configuration(_) | Self::Defect(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Malformed(text)
            | Self::Forbidden(text)
            | Self::NotFound(text)
            | Self::Misdirected(text)
            | Self::Conflict(text)
            | Self::Impossible(text, _)
            | Self::Configuration(text) => text,
            Self::Unauthorized(text) => text,
            Self::MethodNotAllowed => "Use one of the methods in the Allow header.",
            Self::TooSlow => "The body did not arrive in time: send the request again, faster.",
            Self::Stale => "The settings were changed since you read them: read them again and repeat your change.",
            Self::TooLarge => "The body is larger than this call takes: send less.",
            Self::NotJson => "Send the body as JSON, with the header \"Content-Type: application/json\".",
            Self::NoIfMatch => "Send the ETag of the settings that you read in the header If-Match.",
            Self::TooFast(_) => "This principal asks too fast: wait as long as Retry-After says.",
            Self::TooManyStreams => "This principal has too many streams open: close one, then open the next.",
            Self::Refusing => "New tasks are refused for now, by the settings: ask again later.",
            Self::Unavailable(_) => "The database cannot be reached: ask again after Retry-After.",
            Self::TookTooLong => "The service did not answer in time: ask again after Retry-After.",
            Self::Defect(_) => "This is a defect of the service: give its operator the request id.",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooFast(wait) => Some(*wait),
            Self::TooManyStreams => Some(RETRY_STREAM),
            Self::Refusing => Some(RETRY_REFUSED),
            Self::Unavailable(_) | Self::TookTooLong => Some(RETRY_AFTER),
            _ => None,
        }
    }

    /// What is wrong with each field.
    pub(super) fn errors(&self) -> &[FieldError] {
        match self {
            Self::Impossible(_, errors) => errors,
            _ => &[],
        }
    }

    /// Whole seconds, rounded up: who waits that long is served.
    pub(super) fn retry_seconds(&self) -> Option<u64> {
        self.retry_after().map(|wait| (wait + ALMOST_A_SECOND).as_secs().max(1))
    }

    fn log(&self, request_id: &str) {
        match self {
            Self::Defect(cause) => tracing::error!(request_id, cause, "a request met a defect"),
            Self::Unavailable(cause) => tracing::warn!(request_id, cause, "a request found the database away"),
            Self::TookTooLong => tracing::warn!(request_id, "a request took too long"),
            _ => {}
        }
    }
}

/// Leaves the document to [`render`], which knows the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether an answer refuses a new task because the settings say so. Ask before [`render`].
pub(super) fn is_refusing(response: &Response) -> bool {
    matches!(response.extensions().get(), Some(Problem::Refusing))
}

/// Whether an answer says that the database is away: nothing was done, and nothing can be written. Ask before [`render`].
pub(super) fn is_unavailable(response: &Response) -> bool {
    matches!(response.extensions().get(), Some(Problem::Unavailable(_)))
}

/// An answer that has its form already: a page of the console.
#[derive(Clone)]
struct Shown;

/// Keeps [`render`] from an answer that was given its form.
pub(super) fn leave_alone(response: &mut Response) {
    response.extensions_mut().insert(Shown);
}

/// The problem of an answer that is not a success, for whoever shows it; what must be logged is logged.
pub(super) fn take(response: &mut Response, request_id: &str) -> Option<Problem> {
    let status = response.status();
    let extensions = response.extensions_mut();
    if extensions.get::<Shown>().is_some() {
        return None;
    }
    let problem = match extensions.remove::<Problem>() {
        Some(problem) => problem,
        None if status == StatusCode::METHOD_NOT_ALLOWED => Problem::MethodNotAllowed,
        None if status.is_client_error() || status.is_server_error() => {
            Problem::Defect(format!("status {status} without a document"))
        }
        None => return None,
    };
    problem.log(request_id);
    Some(problem)
}

/// Gives every answer that is not a success its document.
pub(super) fn render(mut response: Response, request_id: &str) -> Response {
    let Some(problem) = take(&mut response, request_id) else { return response };
    let document = ProblemDetails::from_status_code(problem.status())
        .with_type(ProblemType::default())
        .with_detail(problem.detail())
        .with_extensions(Extensions { request_id, errors: problem.errors() });
    let mut rendered = JsonProblemDetails::from(document).into_response();
    let headers = rendered.headers_mut();
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    if matches!(problem, Problem::Unauthorized(_)) {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"vm-service\""));
    }
    if let Some(seconds) = problem.retry_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    rendered
}

/// Every wrong field, for 422.
impl From<garde::Report> for Problem {
    fn from(report: garde::Report) -> Self {
        let errors: Vec<_> = report
            .iter()
            .map(|(path, error)| FieldError { field: path.to_string(), message: error.message().to_owned() })
            .collect();
        let fields = errors.iter().map(|e| format!("\"{}\"", e.field)).collect::<Vec<_>>().join(", ");
        Self::Impossible(format!("Change {fields}: \"errors\" says what is wrong with each."), errors)
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(cause) => Self::Unavailable(cause.to_string()),
            // Postgres' own words stay inside.
            DbError::Conflict(_) | DbError::LimitReached(_) => {
                Self::Conflict("It was changed by somebody else just now: look again and repeat what still makes sense.".to_owned())
            }
            unreadable @ (DbError::UnreadableSettings { .. } | DbError::UnreadableCheck(_)) => {
                Self::Conflict(unreadable.to_string())
            }
            DbError::Unstorable(_) => {
                Self::Impossible("Leave the character U+0000 out: it cannot be kept in any text.".to_owned(), Vec::new())
            }
            DbError::LostLease => Self::Defect("a lease was asked for in a request".to_owned()),
            DbError::Refused(cause) => Self::Defect(cause.to_string()),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            _ => Self::Malformed("The body broke off: send the request again.".to_owned()),
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::NotJson,
            JsonRejection::BytesRejection(rejection) => rejection.into(),
            other => Self::Malformed(format!("Send a body that this call understands: {}", cause(&other))),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::Malformed(format!("Correct the path: {}", cause(&rejection)))
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::Malformed(format!("Correct the query: {}", cause(&rejection)))
    }
}

/// The innermost sentence: the outer ones only say that something could not be read.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text: String = innermost.to_string().chars().take(300).collect();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

/// The shape that [`render`] writes, for the document of the API.
pub(super) type Shape = ProblemView;
