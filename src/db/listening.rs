//! `vms.listening`: since when dispatchers can be heard. A heartbeat is missed only by one who could have sent it.

use super::{Db, DbError};
use chrono::{DateTime, TimeDelta, Utc};

/// The pause after which listening begins anew: three beats, and the same as in `vms.is_silent`.
const PAUSE: TimeDelta = TimeDelta::seconds(15);

impl Db {
    /// The API listens.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_listening(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- listening::note_listening
             insert into vms.listening as l (since, at) values ($1, $1)
             on conflict (only_row) do update
             set at = greatest(l.at, $1), since = case when l.at < $2 then $1 else l.since end",
            now,
            now - PAUSE,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
