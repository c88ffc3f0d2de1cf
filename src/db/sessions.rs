//! `vms.sessions`: who is signed in to the console. Only keyed hashes are kept, and a session ends with the token that began it.

use super::{Db, DbError};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use chrono::{DateTime, TimeDelta, Utc};

/// A session ends after this long, whatever is done with it.
pub const LONGEST: TimeDelta = TimeDelta::hours(12);
/// A session ends after this long without a request.
pub const IDLE: TimeDelta = TimeDelta::hours(1);
/// Between two notes that a session is in use.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

impl Db {
    /// Begins a session of a token under the first of these keyed hashes.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn begin_session(&self, token: TokenId, session: &[Vec<u8>], now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- sessions::begin_session
             insert into vms.sessions (hash, token_id, created_at, last_seen_at, expires_at) values ($1, $2, $3, $3, $4)",
            session.first().map(Vec::as_slice),
            token.0,
            now,
            now + LONGEST,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whose session has one of these keyed hashes, and notes that it is in use; none: it has ended, or its token was revoked.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_session(&self, session: &[Vec<u8>], now: DateTime<Utc>) -> Result<Option<Caller>, DbError> {
        let row = sqlx::query!(
            r#"-- sessions::find_session
               select s.hash, s.last_seen_at, t.principal, t.role as "role: Role", t.untrusted_only
               from vms.sessions s join vms.tokens t on t.id = s.token_id
               where s.hash = any($1) and s.expires_at > $2 and s.last_seen_at > $3 and t.revoked_at is null"#,
            session,
            now,
            now - IDLE,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.last_seen_at <= now - NOTED_EVERY {
            sqlx::query!(
                "-- sessions::find_session (note)\n update vms.sessions set last_seen_at = $2 where hash = $1",
                row.hash,
                now
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(Some(Caller { principal: row.principal, role: row.role, untrusted_only: row.untrusted_only }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_session(&self, session: &[Vec<u8>]) -> Result<(), DbError> {
        sqlx::query!("-- sessions::end_session\n delete from vms.sessions where hash = any($1)", session)
            .execute(&self.pool)
            .await?;
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
