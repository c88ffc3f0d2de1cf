//! `vms.volumes`: cache volumes as the garbage collection sees them.
//!
//! Not here: how a volume gets to a job (`cache`).

use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::VolumeId;
use crate::domain::plan::gc_volumes::{SeenVolume, VolumeRow};
use chrono::{DateTime, Utc};

impl Db {
    /// Every row of this provider and place that is not deleted.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_volume_rows(&self, place: (&str, &str)) -> Result<Vec<VolumeRow>, DbError> {
        let rows = sqlx::query_as!(
            VolumeRow,
            r#"-- volumes::list_volume_rows
               select id as "id: VolumeId", provider_id, missing_at, created_at, state = 'deleting' as "deleting!" from vms.volumes
               where state <> 'deleted' and provider = $1 and place = $2"#,
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Binds a volume to the row that waits for it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn bind_volume(&self, volume: VolumeId, provider_id: &str) -> Result<(), DbError> {
        sqlx::query!(
            "-- volumes::bind_volume\n update vms.volumes set provider_id = $2 where id = $1 and provider_id is null",
            volume.0,
            provider_id
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes a volume without a row back for its project: in quarantine, until it has been checked. `fresh` is the row's id when the
    /// one of its tags is taken. False: it has a row.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn adopt_volume(
        &self,
        place: (&str, &str),
        seen: &SeenVolume,
        fresh: VolumeId,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let tags = &seen.tags;
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- volumes::adopt_volume
             insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, provider_id,
                                      zone, content, state, reason, created_at, last_used_at, due_at)
             select case when exists (select from vms.volumes where id = $1) then $2 else $1 end,
                    $3, $4, $5, $6, $7, $8, $9, $10, $12, case when $4 = 'trusted' then 'unchecked' else 'nothing' end,
                    'quarantined', 'it had no row; it must be checked', $11, $11, $11
             on conflict (provider_id) do nothing",
            tags.volume.0,
            fresh.0,
            tags.lineage.project_id,
            tags.lineage.trust.as_str(),
            tags.lineage.engine.architecture,
            tags.lineage.engine.store.as_str(),
            tags.lineage.engine.major,
            place.0,
            place.1,
            seen.provider_id,
            now,
            seen.zone,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            let message = format!(
                "Volume {} had no row: it is project {}'s again, in quarantine.",
                seen.provider_id, tags.lineage.project_id
            );
            events::insert(&mut tx, now, Event { kind: "volume.adopted", task: None, vm: None, message }).await?;
        }
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes which volumes a complete list did not show, and which it shows again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_missing_volumes(
        &self,
        missing: &[VolumeId],
        seen_again: &[VolumeId],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let ids = |volumes: &[VolumeId]| volumes.iter().map(|volume| volume.0).collect::<Vec<_>>();
        sqlx::query!(
            "-- volumes::note_missing_volumes
             update vms.volumes set missing_at = case when id = any($1) then $3::timestamptz end where id = any($1) or id = any($2)",
            &ids(missing),
            &ids(seen_again),
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The volume is gone: its row ends, through the states that lead there.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_lost_volume(&self, volume: VolumeId, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for (from, to) in [("", "quarantined"), ("quarantined", "deleting"), ("deleting", "deleted")] {
            sqlx::query!(
                "-- volumes::end_lost_volume
                 update vms.volumes
                 set state = $3, reason = 'the provider does not know it any more', vm_id = null,
                     deleted_at = case when $3 = 'deleted' then $4::timestamptz end
                 where id = $1 and (state = $2 or ($2 = '' and state not in ('quarantined', 'deleting', 'deleted')))",
                volume.0,
                from,
                to,
                now,
            )
            .execute(&mut *tx)
            .await?;
        }
        let message = format!("Volume {volume} is gone: the provider does not know it any more.");
        events::insert(&mut tx, now, Event { kind: "volume.lost", task: None, vm: None, message }).await?;
        tx.commit().await?;
        Ok(())
    }
}
