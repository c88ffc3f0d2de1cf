//! `vms.turns`: work that one replica does for all, such as a shared look at the provider. A replica that dies in its turn delays the
//! next one by the turn's length and nothing more.

use super::{Db, DbError};
use chrono::{DateTime, Utc};
use std::time::Duration;

impl Db {
    /// True when it is time, and nobody else has it: the next turn comes `every` later.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn take_turn(&self, name: &str, place: (&str, &str), every: Duration, now: DateTime<Utc>) -> Result<bool, DbError> {
        let done = sqlx::query!(
            "-- turns::take_turn
             insert into vms.turns as t (name, provider, place, next_at) values ($1, $2, $3, $4::timestamptz + make_interval(secs => $5))
             on conflict (name, provider, place) do update set next_at = excluded.next_at where t.next_at <= $4",
            name,
            place.0,
            place.1,
            now,
            every.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
