//! `vms.sessions`: who is signed in to the console. Only keyed hashes are kept, and a session ends with the token that began it.

use super::audit::{self, Deed};
use super::{Db, DbError};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

/// A session ends after this long, whatever is done with it.
pub const LONGEST: TimeDelta = TimeDelta::hours(12);
/// A session ends after this long without a request of its person; a page that stands open and follows is none.
pub const IDLE: TimeDelta = TimeDelta::hours(1);
/// Between two notes that a session is in use.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// A session that has not ended.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// The token that began it.
    pub token: TokenId,
    /// Who has the token.
    pub caller: Caller,
    /// When it was last noted to be in use.
    pub last_seen_at: DateTime<Utc>,
}

impl Db {
    /// Begins a session of a token, and of its principal, under the first of these keyed hashes.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn begin_session(
        &self,
        token: TokenId,
        principal: &str,
        session: &[Vec<u8>],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- sessions::begin_session
             insert into vms.sessions (hash, token_id, created_at, last_seen_at, expires_at) values ($1, $2, $3, $3, $4)",
            session.first().map(Vec::as_slice),
            token.0,
            now,
            now + LONGEST,
        )
        .execute(&mut *tx)
        .await?;
        audit::note(&mut tx, now, Deed::to("user.logged_in", "principal", principal.to_owned(), json!({}))).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The session with one of these keyed hashes; none: it has ended, or its token was revoked.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_session(&self, session: &[Vec<u8>], now: DateTime<Utc>) -> Result<Option<SessionRow>, DbError> {
        let row = sqlx::query!(
            r#"-- sessions::find_session
               select s.last_seen_at, t.id as "token: TokenId", t.principal, t.role as "role: Role", t.untrusted_only
               from vms.sessions s join vms.tokens t on t.id = s.token_id
               where s.hash = any($1) and s.expires_at > $2 and s.last_seen_at > $3 and t.revoked_at is null"#,
            session,
            now,
            now - IDLE,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| SessionRow {
            token: row.token,
            caller: Caller { principal: row.principal, role: row.role, untrusted_only: row.untrusted_only },
            last_seen_at: row.last_seen_at,
        }))
    }

    /// The same, for a request of its person: notes that it is in use.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn use_session(&self, session: &[Vec<u8>], now: DateTime<Utc>) -> Result<Option<SessionRow>, DbError> {
        let found = self.find_session(session, now).await?;
        if found.as_ref().is_some_and(|row| row.last_seen_at <= now - NOTED_EVERY) {
            sqlx::query!("-- sessions::use_session\n update vms.sessions set last_seen_at = $2 where hash = any($1)", session, now)
                .execute(&self.pool)
                .await?;
        }
        Ok(found)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_session(&self, session: &[Vec<u8>], now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let ended = sqlx::query_scalar!(
            "-- sessions::end_session
             delete from vms.sessions s using vms.tokens t where s.hash = any($1) and t.id = s.token_id returning t.principal",
            session,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(principal) = ended {
            audit::note(&mut tx, now, Deed::to("user.logged_out", "principal", principal, json!({}))).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Deletes sessions that have ended.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn trim_sessions(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- sessions::trim_sessions
             delete from vms.sessions s using vms.tokens t
             where t.id = s.token_id and (s.expires_at <= $1 or s.last_seen_at <= $2 or t.revoked_at is not null)",
            now,
            now - IDLE,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
