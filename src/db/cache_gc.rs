//! What the garbage collection of caches reads and writes: idle volumes and good states, and snapshots held against rows.

use super::volume_ends::begin_deletion;
use super::{Db, DbError};
use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::lineage::Trust;
use crate::domain::plan::gc_cache::{Decision, IdleGeneration, IdleVolume, SeenSnapshot};
use chrono::{DateTime, Utc};
use uuid::Uuid;

impl Db {
    /// The volumes that no VM has, without held ones.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_idle_volumes(&self, place: (&str, &str), now: DateTime<Utc>) -> Result<Vec<IdleVolume>, DbError> {
        let rows = sqlx::query_as!(
            IdleVolume,
            r#"-- cache_gc::list_idle_volumes
               select id as "id: VolumeId", concat_ws(' ', cache_trust, architecture, store, engine_major, project_id) as "lineage!",
                      case when state = 'quarantined' then due_at end as quarantined_at,
                      (content = 'unchecked' and not mounted) as "unchecked!", last_used_at
               from vms.volumes
               where state in ('available', 'quarantined') and provider = $1 and place = $2 and (hold_until is null or hold_until <= $3)
               order by id"#,
            place.0,
            place.1,
            now,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Completed good states.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_idle_generations(&self, place: (&str, &str)) -> Result<Vec<IdleGeneration>, DbError> {
        let rows = sqlx::query_as!(
            IdleGeneration,
            r#"-- cache_gc::list_idle_generations
               select id as "id: GenerationId", concat_ws(' ', cache_trust, architecture, store, engine_major, project_id) as "lineage!",
                      last_used_at
               from vms.generations where state = 'good' and provider = $1 and place = $2
               order by id"#,
            place.0,
            place.1,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Lineages that have a volume in use; how many volumes there are in all places, and how many there may be.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn volume_census(&self) -> Result<(Vec<String>, usize, usize), DbError> {
        let row = sqlx::query!(
            r#"-- cache_gc::volume_census
               select coalesce(array_agg(distinct concat_ws(' ', cache_trust, architecture, store, engine_major, project_id))
                                   filter (where vm_id is not null), '{}') as "in_use!",
                      count(*) filter (where state <> 'deleting') as "count!", (select max_volumes from vms.budget) as "limit!"
               from vms.volumes where state <> 'deleted'"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.in_use, usize::try_from(row.count).unwrap_or(0), usize::try_from(row.limit).unwrap_or(0)))
    }

    /// Begins the end of what is not needed; what a job has got meanwhile, or an operator holds, stays.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drop_idle(&self, decision: &Decision, now: DateTime<Utc>) -> Result<(), DbError> {
        for (volume, reason) in &decision.volumes {
            let mut tx = self.begin().await?;
            begin_deletion(&mut tx, *volume, reason, now).await?;
            tx.commit().await?;
        }
        for (generation, reason) in &decision.generations {
            self.drop_generation(*generation, reason, now).await?;
        }
        if !decision.volumes.is_empty() {
            self.wake.send();
        }
        Ok(())
    }

    /// Holds the provider's snapshots of a place against our rows: binds those that a row waits for, and takes those without a row back
    /// as states that must be checked, under their own id or, if that is taken, a fresh one. Returns rows made before `since` whose snapshot is not among them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn collect_snapshots(
        &self,
        place: (&str, &str),
        seen: &[SeenSnapshot],
        since: DateTime<Utc>,
        fresh_id: &(dyn Fn() -> Uuid + Send + Sync),
        now: DateTime<Utc>,
    ) -> Result<Vec<(GenerationId, String)>, DbError> {
        for it in seen {
            let of = &it.tags.lineage;
            sqlx::query!(
                "-- cache_gc::collect_snapshots (bind)
                 update vms.generations set provider_id = $2, due_at = $3 where id = $1 and provider_id is null and state <> 'deleted'",
                it.tags.generation.0,
                it.provider_id,
                now,
            )
            .execute(&self.pool)
            .await?;
            sqlx::query!(
                "-- cache_gc::collect_snapshots (adopt)
                 insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, provider_id, content,
                                              size_gib, created_at, last_used_at, deadline_at, due_at)
                 select case when exists (select from vms.generations where id = $1) then $12 else $1 end,
                        $2, $3, $4, $5, $6, $7, $8, 'unchecked', $9, $10, $10, $10::timestamptz + interval '6 h', $10
                 where $11 and not exists (select from vms.generations where provider_id = $8 and state <> 'deleted')
                 on conflict (provider_id) do nothing",
                it.tags.generation.0,
                of.project_id,
                of.engine.architecture,
                of.engine.store.as_str(),
                of.engine.major,
                place.0,
                place.1,
                it.provider_id,
                i32::try_from(it.size_gib.max(1)).unwrap_or(i32::MAX),
                now,
                of.trust == Trust::Trusted,
                fresh_id(),
            )
            .execute(&self.pool)
            .await?;
        }
        let names: Vec<String> = seen.iter().map(|it| it.provider_id.clone()).collect();
        let missing = sqlx::query!(
            r#"-- cache_gc::collect_snapshots (missing)
               select id as "id: GenerationId", provider_id as "provider_id!" from vms.generations
               where provider = $1 and place = $2 and state in ('creating', 'good') and provider_id is not null
                 and provider_id <> all($3) and created_at <= $4"#,
            place.0,
            place.1,
            &names,
            since,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(missing.into_iter().map(|row| (row.id, row.provider_id)).collect())
    }
}
