//! `vms.generations`: good states of lineages, each a snapshot; and what of a lineage is kept when a job has ended well.
//!
//! Intent first: the row, then the snapshot with the row's id as token, then its name.

use super::cache::{list_free_volumes, list_good_generations};
use super::events::{self, Event};
use super::volume_moves::LeasedVolume;
use super::{Db, DbError, LEASE_SECONDS, leased};
use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::lineage::Copies;
use crate::domain::plan::cache::{Left, plan_kept};
use chrono::{DateTime, TimeDelta, Utc};

/// A snapshot that is not completed by then never will be.
const COMPLETED_WITHIN: TimeDelta = TimeDelta::hours(6);

/// A generation under lease.
#[derive(Clone, Debug)]
pub struct LeasedGeneration {
    /// Its id.
    pub id: GenerationId,
    /// Fencing token.
    pub lease: i64,
    /// Its snapshot, once asked for.
    pub provider_id: Option<String>,
    /// To be deleted; else it is being made.
    pub deleting: bool,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// By when it must be completed.
    pub deadline_at: DateTime<Utc>,
}

impl Db {
    /// Decides what is kept of the lineage, now that this volume holds a good state and is on no machine, and writes the intents. Returns
    /// whether the volume stays. Once for each job: a repetition says the same.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn keep_best(
        &self,
        volume: &LeasedVolume,
        place: (&str, &str),
        copies: Copies,
        fresh: GenerationId,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let of = &volume.lineage;
        // One decision of a lineage at a time.
        sqlx::query!("-- generations::keep_best (lock)\n select pg_advisory_xact_lock(hashtextextended($1, 8))", of.project_id)
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query!(
            r#"-- generations::keep_best (left)
               select vms.worth(v.layers, vms.lately_used(v.project_id, v.architecture, v.store, v.engine_major)) as "worth!",
                      exists (select jsonb_object_keys(v.layers) except
                              select k from vms.generations g, jsonb_object_keys(g.layers) as k
                              where g.project_id = v.project_id and g.architecture = v.architecture and g.store = v.store
                                and g.engine_major = v.engine_major and g.state in ('creating', 'good')
                                and g.provider = v.provider and g.place = v.place) as "something_new!",
                      v.unwanted, v.kept_at is not null as "decided!"
               from vms.volumes v where v.id = $1 and v.lease_token = $2 and v.state = 'detaching'"#,
            volume.id.0,
            volume.lease,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(DbError::LostLease)?;
        if row.decided {
            return Ok(!row.unwanted);
        }
        let generations = list_good_generations(&mut tx, of, place).await?;
        let free = list_free_volumes(&mut tx, of, place, now).await?;
        let left = Left { worth: u64::try_from(row.worth).unwrap_or(0), something_new: row.something_new };
        let kept = plan_kept(left, &generations, &free, copies, now);
        if kept.generation {
            sqlx::query!(
                "-- generations::keep_best (intent)
                 insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, volume_id, layers,
                                              used_bytes, size_gib, created_at, last_used_at, deadline_at, due_at)
                 select $2, project_id, architecture, store, engine_major, provider, place, id, layers, used_bytes, greatest(size_gib, 1),
                        $3, $3, $4, $4
                 from vms.volumes where id = $1",
                volume.id.0,
                fresh.0,
                now,
                now + COMPLETED_WITHIN,
            )
            .execute(&mut *tx)
            .await?;
        }
        let (drop_generations, drop_volumes): (Vec<_>, Vec<_>) =
            (kept.drop_generations.iter().map(|it| it.0).collect(), kept.drop_volumes.iter().map(|it| it.0).collect());
        sqlx::query!(
            "-- generations::keep_best (generations)
             update vms.generations set state = 'deleting', reason = 'better ones are kept', due_at = $2
             where id = any($1) and state in ('creating', 'good')",
            &drop_generations,
            now,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "-- generations::keep_best (volumes)
             update vms.volumes set state = 'deleting', reason = 'a better state is kept', due_at = $2, asked_at = null
             where id = any($1) and state = 'available' and (hold_until is null or hold_until <= $2)",
            &drop_volumes,
            now,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "-- generations::keep_best (volume)
             update vms.volumes set kept_at = $3, unwanted = $4 where id = $1 and lease_token = $2",
            volume.id.0,
            volume.lease,
            now,
            !kept.volume,
        )
        .execute(&mut *tx)
        .await?;
        let message = match (kept.generation, kept.volume) {
            (true, _) => format!("What the job left on volume {} is kept as the good state {fresh}.", volume.id),
            (false, true) => format!("Volume {} stays; no new good state was made of it.", volume.id),
            (false, false) => format!("What the job left on volume {} is not kept: a better state is.", volume.id),
        };
        let vm = volume.vm.as_ref().map(|vm| vm.id);
        events::insert(&mut tx, now, Event { kind: "volume.kept", task: None, vm, message }).await?;
        tx.commit().await?;
        Ok(kept.volume)
    }

    /// The generation that is to be made of this volume before anything else happens to it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_wanted_generation(&self, volume: VolumeId) -> Result<Option<GenerationId>, DbError> {
        let found = sqlx::query_scalar!(
            r#"-- generations::find_wanted_generation
               select id as "id: GenerationId" from vms.generations
               where volume_id = $1 and state = 'creating' and provider_id is null order by created_at limit 1"#,
            volume.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// The snapshot has been asked for; from now on it is looked at. One that comes after its row has ended has no row: it is taken back.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn bind_generation(&self, generation: GenerationId, provider_id: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- generations::bind_generation
             update vms.generations set provider_id = $2, due_at = $3 where id = $1 and provider_id is null and state <> 'deleted'",
            generation.0,
            provider_id,
            now,
        )
        .execute(&self.pool)
        .await?;
        self.wake.send();
        Ok(())
    }

    /// Leases generations that are being made or deleted.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_generations(
        &self,
        place: (&str, &str),
        now: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<LeasedGeneration>, DbError> {
        let mut rows = sqlx::query_as!(
            LeasedGeneration,
            r#"-- generations::lease_generations
               with due as (
                   select id from vms.generations
                   where state in ('creating', 'deleting') and provider = $1 and place = $2 and due_at <= $3
                     and (lease_until is null or lease_until <= $3)
                   order by due_at, id limit $4 for update skip locked
               )
               update vms.generations g set lease_token = g.lease_token + 1, lease_until = $3::timestamptz + make_interval(secs => $5)
               from due where g.id = due.id
               returning g.id as "id: GenerationId", g.lease_token as lease, g.provider_id, g.state = 'deleting' as "deleting!",
                         g.created_at, g.deadline_at"#,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.sort_by_key(|row| row.id);
        Ok(rows)
    }

    /// Looked at again then.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_generation(&self, it: &LeasedGeneration, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- generations::postpone_generation
             update vms.generations set due_at = $3, lease_until = null where id = $1 and lease_token = $2",
            it.id.0,
            it.lease,
            due_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// It is completed: copies may be made of it.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn complete_generation(&self, it: &LeasedGeneration, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- generations::complete_generation
             update vms.generations set state = 'good', good_at = $3, lease_until = null
             where id = $1 and lease_token = $2 and state = 'creating'",
            it.id.0,
            it.lease,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())?;
        self.wake.send();
        Ok(())
    }

    /// It is of no use any more: its snapshot is to be deleted.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drop_generation(&self, generation: GenerationId, reason: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- generations::drop_generation
             update vms.generations set state = 'deleting', reason = $2, due_at = $3, lease_token = lease_token + 1, lease_until = null
             where id = $1 and state in ('creating', 'good')",
            generation.0,
            reason,
            now,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            let message = format!("The good state {generation} is deleted: {reason}.");
            events::insert(&mut tx, now, Event { kind: "generation.deleting", task: None, vm: None, message }).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// The provider has no such snapshot any more.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn generation_deleted(&self, it: &LeasedGeneration, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- generations::generation_deleted
             update vms.generations set state = 'deleted', deleted_at = $3, lease_until = null
             where id = $1 and lease_token = $2 and state = 'deleting'",
            it.id.0,
            it.lease,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }
}
