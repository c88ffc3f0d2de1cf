//! `vms.launches`, one attempt at a time: what is asked for is written before the call, and a token always goes with its parameters.
//!
//! An *attempt* is a client token with what it asks for. It is repeated until its answer is known; only what certainly made nothing is
//! followed by another.
//!
//! Not here: launches as a whole (`launches`).

use super::{Db, DbError, leased};
use crate::domain::ids::LaunchId;
use crate::domain::plan::room::Kind;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// What the answer to a call says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing happened: the same call again.
    Throttled,
    /// Nothing happened, and the same call would be refused again: a new attempt.
    Refused,
    /// It may have happened: the same call with the same token.
    Unclear,
}

impl Db {
    /// Notes that the call goes out next, asking for this, made of that image: from here on machines may exist. The first word of an
    /// attempt counts.
    ///
    /// # Errors
    /// `LostLease`. `Conflict`: the image was retired meanwhile.
    pub async fn mark_attempt(
        &self,
        launch: LaunchId,
        lease: i64,
        candidate: &str,
        image: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launch_attempts::mark_attempt
             update vms.launches set attempted_at = coalesce(attempted_at, $3), candidate = coalesce(candidate, $4),
                    image = case when candidate is null then $5 else image end
             where id = $1 and lease_token = $2",
            launch.0,
            lease,
            now,
            candidate,
            image,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The attempt was refused and made nothing: the next one may ask for something else. The lease goes on.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn next_attempt(&self, launch: LaunchId, lease: i64, error: &str) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launch_attempts::next_attempt
             update vms.launches set attempt = attempt + 1, attempted_at = null, candidate = null, error = $3
             where id = $1 and lease_token = $2",
            launch.0,
            lease,
            error,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// What was said last to launches that have not been carried out, by kind of VM.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_refusals(&self) -> Result<BTreeMap<Kind, String>, DbError> {
        let rows = sqlx::query!(
            r#"-- launch_attempts::list_refusals
               select distinct on (executor, resource_class) executor as "executor: Executor", resource_class, error as "error!"
               from vms.launches where state = 'requested' and error is not null
               order by executor, resource_class, created_at"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| ((row.executor, row.resource_class), row.error)).collect())
    }

    /// Puts the call back.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_launch(
        &self,
        launch: LaunchId,
        lease: i64,
        due_at: DateTime<Utc>,
        after: After,
        error: &str,
    ) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launch_attempts::postpone_launch
             update vms.launches
             set due_at = $3, error = $4, lease_until = null, attempt = attempt + case when $5 then 1 else 0 end,
                 attempted_at = case when $6 then null else attempted_at end,
                 candidate = case when $5 then null else candidate end
             where id = $1 and lease_token = $2",
            launch.0,
            lease,
            due_at,
            error,
            after == After::Refused,
            after != After::Unclear,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// No call is left for it now: it stays as it is, and is due again then.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn put_back_launch(&self, launch: LaunchId, lease: i64, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launch_attempts::put_back_launch
             update vms.launches set due_at = $3, lease_until = null where id = $1 and lease_token = $2",
            launch.0,
            lease,
            due_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }
}
