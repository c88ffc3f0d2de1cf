//! `vms.losses`, `vms.pulse`: when rows may have been lost, so that a machine of that time is not taken for an orphan.
//!
//! Rows are lost when somebody deletes those of live VMs (noted by a trigger), when the whole database is new (noted with the
//! installation), and when an older copy of it was put back: then its newest sign of life lies behind. A service that was away for a
//! minute looks the same, which costs little. Known and not mended: the rows of an older copy are believed, so a VM that was free in it
//! can be given to a second job (`tests/it/rebuild.rs` has it as an ignored test).

use super::{Db, DbError};
use crate::domain::plan::gc::Loss;
use chrono::{DateTime, TimeDelta, Utc};

/// Between signs of life.
const BEAT: TimeDelta = TimeDelta::seconds(5);
/// Silence longer than this may be a database of the past. Whatever was made in it without a row is unknown; in plain idleness
/// nothing is made.
const SILENCE: TimeDelta = TimeDelta::seconds(60);

/// A loss is noted by the database while the service works: what was made a moment later may be part of it.
const MARGIN: TimeDelta = TimeDelta::seconds(10);
/// Without a list for so long, launches go on: jobs wait, and a `gc` that is down must not stop them.
const BLIND_MAX: TimeDelta = TimeDelta::minutes(2);

impl Db {
    /// Gives a sign of life; notes a loss when the last one is too long ago.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn beat(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        let fresh = sqlx::query_scalar!(
            r#"-- losses::beat (fresh)
               select exists (select from vms.pulse where at >= $1) as "fresh!""#,
            now - BEAT
        )
        .fetch_one(&self.pool)
        .await?;
        if fresh {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        let last = sqlx::query_scalar!(
            "-- losses::beat
             with last as (select at from vms.pulse)
             insert into vms.pulse (at) values ($1)
             on conflict (only_row) do update set at = $1 where pulse.at < $2
             returning (select at from last)",
            now,
            now - BEAT,
        )
        .fetch_optional(&mut *tx)
        .await?
        .flatten();
        if let Some(last) = last.filter(|last| now - *last > SILENCE) {
            sqlx::query!(
                "-- losses::beat (loss)
                 insert into vms.losses (since, until, reason) values ($1, $2, 'nothing was written for a while')",
                last,
                now,
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Losses that were noted without their end end now.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn close_losses(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!("-- losses::close_losses\n update vms.losses set until = $1 where until is null", now + MARGIN)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// When rows may have been lost.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_losses(&self, now: DateTime<Utc>) -> Result<Vec<Loss>, DbError> {
        let rows = sqlx::query!(
            r#"-- losses::list_losses
               select greatest(since, '1970-01-01') as "since!", coalesce(until, $1) as "until!" from vms.losses"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| Loss { since: row.since, until: row.until }).collect())
    }

    /// A complete list shows what machines there are: they are counted from now on.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_machines_seen(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- losses::note_machines_seen\n update vms.losses set seen_at = $1 where seen_at is null and until is not null",
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether rows were lost a moment ago, and no complete list has shown yet what machines there are: they may fill the limits.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_blind(&self, now: DateTime<Utc>) -> Result<bool, DbError> {
        let blind = sqlx::query_scalar!(
            r#"-- losses::is_blind
               select exists (select from vms.losses where seen_at is null and coalesce(until, $1) > $2) as "blind!""#,
            now,
            now - BLIND_MAX,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(blind)
    }

    /// Forgets losses of a time of which no machine can be left.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn trim_losses(&self, before: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!("-- losses::trim_losses\n delete from vms.losses where until <= $1", before).execute(&self.pool).await?;
        Ok(())
    }
}
