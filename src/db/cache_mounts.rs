//! What a task's cache comes to once its volume is attached: mounted and in use, or refused and never used again.
//!
//! *Mounted* is noted before the guest is told: from then on only a clean unmount makes the volume fit for another job.

use super::cache::note_use;
use super::cache_gifts::tell;
use super::claims::Preparing;
use super::events::{self, Event};
use super::volume_ends::quarantine;
use super::{Db, DbError, leased};
use crate::domain::ids::{GenerationId, TaskId, VolumeId};
use crate::domain::lifecycle::VolumeState;
use crate::domain::lineage::{Engine, Store};
use chrono::{DateTime, Utc};

/// What is on a volume before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Content {
    /// Nothing.
    Nothing,
    /// A state that ended well.
    Good,
    /// Nobody knows whether it ended well.
    Unchecked,
}

/// The volume of a task that prepares.
#[derive(Clone, Debug)]
pub struct Brought {
    /// Its id.
    pub id: VolumeId,
    /// Where it is.
    pub state: VolumeState,
    /// The volume, once made.
    pub provider_id: Option<String>,
    /// What is on it.
    pub content: Content,
    /// What it is a copy of, as long as no job has worked on it.
    pub copy_of: Option<GenerationId>,
    /// The engine that it is for.
    pub engine: Engine,
}

impl Db {
    /// The volume that is on its way to the task's VM, or there.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_brought(&self, task: &Preparing) -> Result<Option<Brought>, DbError> {
        let row = sqlx::query!(
            r#"-- cache_mounts::find_brought
               select id as "id: VolumeId", state as "state: VolumeState", provider_id, content as "content: Content",
                      case when not worn then parent_id end as "copy_of: GenerationId", architecture, store as "store: Store", engine_major
               from vms.volumes where vm_id = $1"#,
            task.way_in.vm.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Brought {
            id: row.id,
            state: row.state,
            provider_id: row.provider_id,
            content: row.content,
            copy_of: row.copy_of,
            engine: Engine { architecture: row.architecture, store: row.store, major: row.engine_major },
        }))
    }

    /// The task's engine is about to be moved onto the volume.
    ///
    /// # Errors
    /// `LostLease`: of the task, or the volume is not there any more.
    pub async fn begin_mount(&self, task: &Preparing, volume: VolumeId) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- cache_mounts::begin_mount
             update vms.volumes u set mounted = true, worn = true
             from vms.tasks t
             where u.id = $1 and u.state = 'attached' and u.vm_id = t.vm_id
               and t.id = $2 and t.lease_token = $3 and t.state = 'preparing'",
            volume.0,
            task.id.0,
            task.lease,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The engine works on the volume.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn note_mounted(
        &self,
        task: &Preparing,
        volume: &Brought,
        (hit, reason): (bool, &str),
        notes: &[String],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- cache_mounts::note_mounted
             update vms.tasks set cache_volume_id = $3, cache_hit = $4, cache_reason = $5
             where id = $1 and lease_token = $2 and state = 'preparing'",
            task.id.0,
            task.lease,
            volume.id.0,
            hit,
            reason,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        sqlx::query!(
            "-- cache_mounts::note_mounted (volume)
             update vms.volumes set content = case when content = 'unchecked' then 'good' else content end, last_used_at = $2 where id = $1",
            volume.id.0,
            now,
        )
        .execute(&mut *tx)
        .await?;
        note_use(&mut tx, task.id, Some(&volume.engine), hit, now).await?;
        for message in std::iter::once(reason).chain(notes.iter().map(String::as_str)) {
            let (task, vm, message) = (Some(task.id), Some(task.way_in.vm), message.to_owned());
            events::insert(&mut tx, now, Event { kind: "task.cached", task, vm, message }).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The volume is not fit: it is not used again, and what it is an unused copy of is not either. The VM may be brought another.
    ///
    /// # Errors
    /// `LostLease`: it is not there any more.
    pub async fn refuse_volume(&self, task: &Preparing, volume: &Brought, reason: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        quarantine(&mut tx, volume.id, None, reason, now).await?;
        if let Some(parent) = volume.copy_of {
            sqlx::query!(
                "-- cache_mounts::refuse_volume (parent)
                 update vms.generations set state = 'deleting', reason = 'a fresh copy of it was not fit', due_at = $2
                 where id = $1 and state in ('creating', 'good')",
                parent.0,
                now,
            )
            .execute(&mut *tx)
            .await?;
            tell(&mut tx, task.way_in.vm, "generation.deleting", format!("The good state {parent} is not used any more."), now)
                .await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// The task is looked at again then, or at once when its volume has come meanwhile; its lease ends.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_preparing(&self, task: TaskId, lease: i64, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- cache_mounts::postpone_preparing
             update vms.tasks t
             set lease_until = null,
                 due_at = case when exists (select from vms.volumes u where u.vm_id = t.vm_id and u.state = 'attached') then t.due_at else $3 end
             where t.id = $1 and t.lease_token = $2 and t.state = 'preparing'",
            task.0,
            lease,
            due_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }
}
