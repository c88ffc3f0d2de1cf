//! `vms.installation`: who we are. Made once, by the first `up` or `migrate`.

use super::{Db, DbError};
use crate::domain::ids::InstallationId;
use chrono::{DateTime, Utc};

impl Db {
    /// The installation's id; `fresh` becomes it when there is none. Whoever comes second gets the first one's. Machines of this
    /// installation that are older than its database are known to have lost their rows.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn ensure_installation(&self, fresh: InstallationId, now: DateTime<Utc>) -> Result<InstallationId, DbError> {
        sqlx::query!(
            "-- installation::ensure_installation
             with made as (insert into vms.installation (id, created_at) values ($1, $2) on conflict do nothing returning created_at)
             insert into vms.losses (until, reason) select created_at, 'the database was new' from made",
            fresh.0,
            now
        )
        .execute(&self.pool)
        .await?;
        let id = sqlx::query_scalar!(
            r#"-- installation::ensure_installation (read)
               select id as "id: InstallationId" from vms.installation"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(id)
    }

    /// The installation's id, for commands that only look; none before the service has run for the first time.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_installation(&self) -> Result<Option<InstallationId>, DbError> {
        let id = sqlx::query_scalar!(
            r#"-- installation::find_installation
               select id as "id: InstallationId" from vms.installation"#
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(id)
    }
}
