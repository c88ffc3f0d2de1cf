//! `vms.audit`, read: pages newest first, hours oldest first; and its chain: sealed link by link, and looked at.
//!
//! Not here: writing an event (`audit`), what the chain shows and what it cannot (`migrations/0010_audit.sql`).

use super::{Db, DbError};
use crate::domain::audit::{AuditBreak, AuditCheck, AuditEvent, AuditRequest, AuditView, Party};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only of this actor, by id.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only about this target, by id.
    pub target: Option<String>,
    /// Only what was done, or only what was not.
    pub success: Option<bool>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// Only older than this event.
    pub before: Option<(DateTime<Utc>, Uuid)>,
    /// At most this many.
    pub limit: i64,
}

struct Raw {
    id: Uuid,
    version: i32,
    action: String,
    success: bool,
    actor: Json<Party>,
    target: Option<Json<Party>>,
    payload: Value,
    request: Option<Json<AuditRequest>>,
    scope: Option<Json<Party>>,
    occurred_at: DateTime<Utc>,
    metadata: Json<BTreeMap<String, String>>,
    link: Option<i64>,
    hash: Option<String>,
}

impl From<Raw> for AuditView {
    fn from(raw: Raw) -> Self {
        let event = AuditEvent {
            id: raw.id,
            version: raw.version,
            action: raw.action,
            success: raw.success,
            actor: raw.actor.0,
            target: raw.target.map(|target| target.0),
            payload: raw.payload,
            request: raw.request.map(|request| request.0),
            scope: raw.scope.map(|scope| scope.0),
            occurred_at: raw.occurred_at,
            metadata: raw.metadata.0,
        };
        Self { event, link: raw.link, hash: raw.hash }
    }
}

impl Db {
    /// Events, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_audit(&self, filter: &AuditFilter) -> Result<Vec<AuditView>, DbError> {
        let rows = sqlx::query_as!(
            Raw,
            r#"-- audit_log::list_audit
               select id, version, action, success, actor as "actor: Json<Party>", target as "target: Json<Party>", payload,
                      request as "request: Json<AuditRequest>", scope as "scope: Json<Party>", occurred_at,
                      metadata as "metadata: Json<BTreeMap<String, String>>", link, encode(hash, 'hex') as hash
               from vms.audit
               where ($1::text is null or actor ->> 'id' = $1) and ($2::text is null or action = $2)
                 and ($3::text is null or target ->> 'id' = $3) and ($4::boolean is null or success = $4)
                 and ($5::timestamptz is null or occurred_at >= $5) and ($6::timestamptz is null or occurred_at < $6)
                 and ($7::timestamptz is null or (occurred_at, id) < ($7, $8))
               order by occurred_at desc, id desc
               limit $9"#,
            filter.actor,
            filter.action,
            filter.target,
            filter.success,
            filter.from,
            filter.to,
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(AuditView::from).collect())
    }

    /// Events of a span after one of them, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_audit_of(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<AuditView>, DbError> {
        let rows = sqlx::query_as!(
            Raw,
            r#"-- audit_log::list_audit_of
               select id, version, action, success, actor as "actor: Json<Party>", target as "target: Json<Party>", payload,
                      request as "request: Json<AuditRequest>", scope as "scope: Json<Party>", occurred_at,
                      metadata as "metadata: Json<BTreeMap<String, String>>", link, encode(hash, 'hex') as hash
               from vms.audit
               where occurred_at >= $1 and occurred_at < $2 and ($3::timestamptz is null or (occurred_at, id) > ($3, $4))
               order by occurred_at, id
               limit $5"#,
            from,
            to,
            after.map(|(at, _)| at),
            after.map(|(_, id)| id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(AuditView::from).collect())
    }

    /// When the first event from `from` on happened, and whether one up to `to` waits for its link.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn next_audit(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<(Option<DateTime<Utc>>, bool), DbError> {
        let row = sqlx::query!(
            r#"-- audit_log::next_audit
               select (select min(occurred_at) from vms.audit where occurred_at >= $1) as first,
                      exists (select from vms.audit where link is null and occurred_at < $2) as "waits!""#,
            from,
            to,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.first, row.waits))
    }

    /// Gives the oldest unsealed events their links; returns how many. None when another process is at it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn seal_audit(&self, most: i32) -> Result<i32, DbError> {
        let sealed = sqlx::query_scalar!(
            r#"-- audit_log::seal_audit
               select vms.seal_audit($1) as "sealed!""#,
            most
        )
        // To the end, which is the commit: the first row comes before it.
        .fetch_all(&self.pool)
        .await?;
        Ok(sealed.into_iter().sum())
    }

    /// Looks at up to `most` links after `after`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn check_audit(&self, after: i64, most: i64) -> Result<AuditCheck, DbError> {
        let row = sqlx::query!(
            r#"-- audit_log::check_audit
               select c.checked as "checked!", c.up_to as "up_to!", encode(c.hash, 'hex') as hash, c.broken_at, c.broken_id, c.why,
                      (select count(*) from vms.audit where link is null) as "unsealed!",
                      (select link > c.up_to from vms.audit_head) as "more!"
               from vms.check_audit($1, $2) c"#,
            after,
            most,
        )
        .fetch_one(&self.pool)
        .await?;
        let broken = row.broken_at.map(|link| AuditBreak { link, id: row.broken_id, why: row.why.unwrap_or_default() });
        Ok(AuditCheck {
            holds: broken.is_none(),
            checked: row.checked,
            up_to: row.up_to,
            hash: row.hash,
            unsealed: row.unsealed,
            next: (row.more && broken.is_none()).then_some(row.up_to),
            broken,
        })
    }
}
