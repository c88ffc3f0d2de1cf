//! What every command of lists and things does: asks, and shows the answer as a table, as fields, as a sentence, or as the API's own JSON.
//!
//! Reads, writes: nothing. Calls: the API. Runs: in `tasks`, `vms`, `volumes`, `images`, `settings`.

use super::client::most_a_page;
use super::table::{fields, json, table};
use super::{Client, ClientError};
use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A client, and whether its answers are for programs.
#[derive(Clone, Copy)]
pub(super) struct Calls<'a> {
    pub(super) client: &'a Client,
    pub(super) as_json: bool,
}

/// One filter of a list, when it was given.
pub(super) type Filter = Option<(&'static str, String)>;

/// How the items of a list are shown.
pub(super) struct Columns<T> {
    /// Above them.
    pub(super) heading: &'static [&'static str],
    /// One of them; with the service's time.
    pub(super) row: fn(T, Option<DateTime<Utc>>) -> Vec<String>,
    /// Instead of an empty table.
    pub(super) none: &'static str,
}

impl Calls<'_> {
    /// A whole list.
    pub(super) async fn list<T: DeserializeOwned>(
        self,
        path: &str,
        filters: impl IntoIterator<Item = Filter>,
        columns: Columns<T>,
    ) -> Result<String, ClientError> {
        let query: Vec<_> = filters.into_iter().flatten().chain([most_a_page()]).collect();
        let answer = self.client.list(path, &query).await?;
        if self.as_json {
            return Ok(json(&answer.body));
        }
        let items: Vec<T> = self.client.typed(answer.body)?;
        if items.is_empty() {
            return Ok(format!("{}\n", columns.none));
        }
        Ok(table(columns.heading, items.into_iter().map(|item| (columns.row)(item, answer.at)).collect()))
    }

    /// One thing, a line a field.
    pub(super) async fn show<T: DeserializeOwned>(
        self,
        path: String,
        lines: impl FnOnce(T, Option<DateTime<Utc>>) -> Vec<(&'static str, String)>,
    ) -> Result<String, ClientError> {
        let answer = self.client.get(&path).await?;
        if self.as_json {
            return Ok(json(&answer.body));
        }
        Ok(fields(&lines(self.client.typed(answer.body)?, answer.at)))
    }

    /// A change, told in a sentence.
    pub(super) async fn change<T: DeserializeOwned>(
        self,
        method: Method,
        path: String,
        body: Option<&impl Serialize>,
        said: impl FnOnce(T) -> String,
    ) -> Result<String, ClientError> {
        let answer = self.client.change(method, &path, body).await?;
        Ok(if self.as_json { json(&answer.body) } else { said(self.client.typed(answer.body)?) })
    }

    /// A change without a body.
    pub(super) async fn bare<T: DeserializeOwned>(
        self,
        method: Method,
        path: String,
        said: impl FnOnce(T) -> String,
    ) -> Result<String, ClientError> {
        self.change(method, path, None::<&()>, said).await
    }
}
