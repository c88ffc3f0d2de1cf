//! `vms.orphans`: machines without a row, and since when they are seen.

use super::{Db, DbError};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

impl Db {
    /// Notes the orphans of this list and forgets those it does not show any more; returns since when each is seen.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_orphans(&self, place: (&str, &str), seen: &[String], now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "-- orphans::note_orphans (forget)
             delete from vms.orphans where provider = $1 and place = $2 and provider_id <> all($3)",
            place.0,
            place.1,
            seen,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "-- orphans::note_orphans
             insert into vms.orphans (provider, place, provider_id, first_seen_at, last_seen_at)
             select $1, $2, id, $4, $4 from unnest($3::text[]) as id
             on conflict (provider, place, provider_id) do update set last_seen_at = $4, sightings = orphans.sightings + 1",
            place.0,
            place.1,
            seen,
            now,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Since when each orphan is seen.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_orphans(&self, place: (&str, &str)) -> Result<BTreeMap<String, DateTime<Utc>>, DbError> {
        let rows = sqlx::query!(
            "-- orphans::list_orphans
             select provider_id, first_seen_at from vms.orphans where provider = $1 and place = $2",
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.provider_id, row.first_seen_at)).collect())
    }
}
