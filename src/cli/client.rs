//! Calls to the API: each has a deadline, and what goes wrong is one sentence.
//!
//! A call is *patient* when it is asked again while the service does not answer (a restart); every such call is idempotent, because
//! the id of a task is chosen here. A service that has never answered is not waited for: the URL is probably wrong.
//!
//! Reads, writes: nothing. Calls: the API. Runs: in every client command.
//!
//! Not here: URL, token and TLS (`connect`), what a refusal says (`problem`).

use super::base::Base;
use super::problem::{Problem, printable};
use crate::domain::api::{EventView, TaskView};
use crate::domain::ids::TaskId;
use crate::domain::secret::Secret;
use crate::domain::task::TaskRequest;
use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, Utc};
use reqwest::header::{DATE, ETAG, HeaderName, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// For a usual call.
const CALL: Duration = Duration::from_secs(15);
/// What a long poll asks for, seconds; the service allows up to 60.
const POLL_SECONDS: u64 = 30;
/// For a long poll: what it asks for and some.
const POLL: Duration = Duration::from_secs(POLL_SECONDS + 15);
/// Between two tries, at most, unless the service itself says (`Retry-After`).
const PAUSE: Duration = Duration::from_secs(2);
/// Pages of one list; far above what a service holds, so that a cursor that never ends does end.
const PAGES: usize = 10_000;

/// As many items a page as the service gives.
pub(super) fn most_a_page() -> (&'static str, String) {
    ("limit", "200".to_owned())
}

/// Named by what the caller does next; each shows as one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there: start the service or mend the URL.
    #[error(
        "Nothing answers at {0}: is the service running? Start it with `make up` or `vm-service up`, or say with VM_SERVICE_URL where it is."
    )]
    NothingThere(String),
    /// There is no way there (name, network, certificate).
    #[error("{url} cannot be reached: {why}.{hint}")]
    Unreachable {
        /// The service.
        url: String,
        /// The innermost cause.
        why: String,
        /// What may help; empty, or begins with a space.
        hint: &'static str,
    },
    /// The answer did not come, or not whole: it may have been carried out.
    #[error("{url} did not answer: {why}.")]
    NoAnswer {
        /// The service.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The service refused.
    #[error("{0}")]
    Problem(Problem),
    /// The answer is not one of this API.
    #[error("{url} gave an answer that this vm-service does not understand ({why}): is it another version, or another service?")]
    NotUnderstood {
        /// The service.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// The service has said no, and asking again would change nothing.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::NothingThere(_) | Self::Unreachable { .. } | Self::NoAnswer { .. } => false,
            Self::NotUnderstood { .. } => true,
            // Asked too fast, database away, or a proxy whose service restarts.
            Self::Problem(problem) => !matches!(problem.status, 429 | 502 | 503 | 504),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }
}

/// The innermost cause: the outer ones only repeat the URL.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    printable(&cause.to_string()).trim_end_matches('.').to_owned()
}

/// An answer, and what the service's clock said: ages and expiries are counted by it, not by the clock of this machine.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) body: Value,
    pub(super) at: Option<DateTime<Utc>>,
    /// Of what can be saved on top of it.
    pub(super) etag: Option<String>,
}

/// A connection to the API.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Base,
    token: Option<Secret>,
    /// The service has been reached at least once.
    reached: AtomicBool,
}

impl Client {
    pub(super) fn new(http: reqwest::Client, base: Base, token: Option<Secret>) -> Self {
        Self { http, base, token, reached: AtomicBool::new(false) }
    }

    /// Somebody answered, or took a call and did not.
    pub(super) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Makes the task, or finds that it was made.
    pub(super) async fn put_task(&self, id: TaskId, request: &TaskRequest, patience: Duration) -> Result<TaskView, ClientError> {
        let path = format!("tasks/{id}");
        self.patiently(patience, || self.send(Method::PUT, &path, &[], Some(request), CALL)).await.and_then(|a| self.typed(a.body))
    }

    /// The task, after a change or half a minute.
    pub(super) async fn wait_task(&self, id: TaskId, patience: Duration) -> Result<TaskView, ClientError> {
        let (path, wait) = (format!("tasks/{id}"), [("wait", POLL_SECONDS.to_string())]);
        self.patiently(patience, || self.send::<()>(Method::GET, &path, &wait, None, POLL)).await.and_then(|a| self.typed(a.body))
    }

    /// The task, now.
    pub(super) async fn get_task(&self, id: TaskId) -> Result<TaskView, ClientError> {
        self.get(&format!("tasks/{id}")).await.and_then(|a| self.typed(a.body))
    }

    /// Renews the task's lease.
    pub(super) async fn heartbeat(&self, id: TaskId) -> Result<(), ClientError> {
        self.send::<()>(Method::POST, &format!("tasks/{id}/heartbeat"), &[], None, CALL).await.map(drop)
    }

    /// Says that the job is over; a task that the service does not know is over.
    pub(super) async fn release_task(&self, id: TaskId, patience: Duration) -> Result<(), ClientError> {
        let path = format!("tasks/{id}");
        match self.patiently(patience, || self.send::<()>(Method::DELETE, &path, &[], None, patience)).await {
            Err(ClientError::Problem(problem)) if problem.status == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    /// What happened to the task, oldest first.
    pub(super) async fn timeline(&self, id: TaskId) -> Result<Vec<EventView>, ClientError> {
        let items = self.list(&format!("tasks/{id}/timeline"), &[]).await?.body;
        self.typed(items)
    }

    /// One thing.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.send::<()>(Method::GET, path, &[], None, CALL).await
    }

    /// One page of a list, or one thing in part.
    pub(super) async fn get_with(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, ClientError> {
        self.send::<()>(Method::GET, path, query, None, CALL).await
    }

    /// Saves something on top of the version with this tag.
    pub(super) async fn save<B: Serialize>(&self, path: &str, body: &B, etag: &str) -> Result<Answer, ClientError> {
        let request = self.request(Method::PUT, path, &[]).header(reqwest::header::IF_MATCH, etag).json(body);
        self.whole(request, CALL).await
    }

    /// An answer that has no end, or a long one: part by part.
    pub(super) async fn stream(&self, path: &str, query: &[(&str, String)], kind: &str) -> Result<Stream<'_>, ClientError> {
        let request = self.request(Method::GET, path, query).header(reqwest::header::ACCEPT, kind);
        let answered = tokio::time::timeout(CALL, self.answered(request, CALL)).await;
        let response = answered.unwrap_or_else(|_| Err(self.silent(CALL)))?;
        Ok(Stream { client: self, response, rest: Vec::new() })
    }

    /// A change.
    pub(super) async fn change<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Answer, ClientError> {
        self.send(method, path, &[], body, CALL).await
    }

    /// All items of a list, page after page, as one array.
    pub(super) async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, ClientError> {
        let mut all = Vec::new();
        let mut at = None;
        let mut query = query.to_vec();
        for _ in 0..PAGES {
            let page = self.send::<()>(Method::GET, path, &query, None, CALL).await?;
            at = at.or(page.at);
            let mut body = page.body;
            match body.get_mut("items").map(Value::take).unwrap_or(body.clone()) {
                Value::Array(items) => all.extend(items),
                _ => return Err(self.not_understood("it is not a list")),
            }
            query.retain(|(key, _)| *key != "cursor");
            match body.get("next_cursor").and_then(Value::as_str) {
                Some(cursor) => query.push(("cursor", cursor.to_owned())),
                None => return Ok(Answer { body: Value::Array(all), at, etag: None }),
            }
        }
        Err(self.not_understood("its list does not end"))
    }

    /// An answer as the API defines it.
    pub(super) fn typed<T: DeserializeOwned>(&self, body: Value) -> Result<T, ClientError> {
        serde_json::from_value(body).map_err(|e| self.not_understood(&e.to_string()))
    }

    fn not_understood(&self, why: &str) -> ClientError {
        ClientError::NotUnderstood { url: self.base.to_string(), why: printable(why) }
    }

    /// Asks again while the service does not answer, for at most `patience` after the first failure.
    async fn patiently<F>(&self, patience: Duration, call: impl Fn() -> F) -> Result<Answer, ClientError>
    where
        F: Future<Output = Result<Answer, ClientError>>,
    {
        let mut pauses =
            ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_max_delay(PAUSE).without_max_times().build();
        let mut give_up_at = None;
        loop {
            let error = match call().await {
                Err(error) if !error.is_final() && self.was_reached() => error,
                other => return other,
            };
            let pause = error.retry_after().or_else(|| pauses.next()).unwrap_or(PAUSE);
            let give_up_at = *give_up_at.get_or_insert_with(|| Instant::now() + patience);
            if Instant::now() + pause >= give_up_at {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let request = self.request(method, path, query);
        self.whole(if let Some(body) = body { request.json(body) } else { request }, deadline).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1/{path}", self.base)).query(query);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// A whole answer.
    async fn whole(&self, request: RequestBuilder, deadline: Duration) -> Result<Answer, ClientError> {
        let response = self.answered(request.timeout(deadline), deadline).await?;
        let at = header(&response, DATE).and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|date| date.to_utc());
        let etag = header(&response, ETAG).map(str::to_owned);
        let body = response.bytes().await.map_err(|e| self.failed(&e, deadline))?;
        if body.is_empty() {
            return Ok(Answer { body: Value::Null, at, etag });
        }
        let body = serde_json::from_slice(&body).map_err(|_| self.not_understood("it is not JSON"))?;
        Ok(Answer { body, at, etag })
    }

    /// The beginning of an answer that is no refusal.
    async fn answered(&self, request: RequestBuilder, deadline: Duration) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|e| self.failed(&e, deadline))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = header(&response, RETRY_AFTER).and_then(|s| s.parse().ok()).map(Duration::from_secs);
        let body = response.bytes().await.map_err(|e| self.failed(&e, deadline))?;
        let mut problem = Problem::read(status, retry_after, &body);
        if status == StatusCode::UNAUTHORIZED && self.token.is_none() {
            problem.detail = "The service wants a token: set VM_SERVICE_TOKEN, or name a file with --token-file".to_owned();
        }
        Err(ClientError::Problem(problem))
    }

    fn silent(&self, deadline: Duration) -> ClientError {
        ClientError::NoAnswer { url: self.base.to_string(), why: format!("nothing came within {} s", deadline.as_secs()) }
    }

    fn failed(&self, error: &reqwest::Error, deadline: Duration) -> ClientError {
        let url = self.base.to_string();
        if error.is_connect() {
            if is_refused(error) {
                return ClientError::NothingThere(url);
            }
            let why = root_cause(error);
            let hint = if why.contains("certificate") { " Name the certificate of its issuer with --ca-file." } else { "" };
            return ClientError::Unreachable { url, why, hint };
        }
        // Somebody was there: worth asking again.
        self.reached.store(true, Ordering::Relaxed);
        if error.is_timeout() {
            return self.silent(deadline);
        }
        ClientError::NoAnswer { url, why: root_cause(error) }
    }
}

fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// An answer, part by part.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    client: &'a Client,
    response: Response,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl Stream<'_> {
    /// The next part; none at the end, an error when none comes within `silence`.
    pub(super) async fn part(&mut self, silence: Duration) -> Result<Option<Vec<u8>>, ClientError> {
        let part = tokio::time::timeout(silence, self.response.chunk()).await.map_err(|_| self.client.silent(silence))?;
        part.map(|part| part.map(Vec::from)).map_err(|e| self.client.failed(&e, silence))
    }

    /// The next line, without its end.
    pub(super) async fn line(&mut self, silence: Duration) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.part(silence).await? {
                Some(part) => self.rest.extend(part),
                None => return Ok(None),
            }
        }
    }
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}
