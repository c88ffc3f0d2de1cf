//! The intent to bring a volume to a VM: for whom a VM that starts is, which free volume it gets, or which is made for it. One volume a
//! VM, and only one of its own project and trust; the database holds that too.
//!
//! Not here: which volume it is to be (`domain::plan::cache`); how it moves (`volume_moves`).

use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::{GenerationId, TaskId, VmId, VolumeId};
use crate::domain::lineage::Lineage;
use crate::domain::plan::assign::Owner;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct NewVolume<'a> {
    /// Its id.
    pub id: VolumeId,
    /// Whose.
    pub lineage: &'a Lineage,
    /// By whom: provider, and region or host.
    pub place: (&'a str, &'a str),
    /// Where its machines are.
    pub zone: &'a str,
    /// In GiB.
    pub size_gib: u32,
    /// What it is a copy of; none: empty.
    pub parent: Option<GenerationId>,
    /// Made for this VM.
    pub vm: VmId,
}

impl Db {
    /// From now on the VM, which starts, is for tasks of this owner that work on a volume. Whoever comes second changes nothing.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn mark_vm(&self, vm: VmId, owner: &Owner, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- cache_gifts::mark_vm
             update vms.vms set project_id = $2, cache_trust = $3
             where id = $1 and state = 'booting' and project_id is null and (hold_until is null or hold_until <= $4)",
            vm.0,
            owner.0,
            owner.1.as_str(),
            now,
        )
        .execute(&self.pool)
        .await?;
        self.wake.send();
        Ok(())
    }

    /// Brings a free volume to a VM of its owner. False when one of the two is not free for it any more.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn give_volume(
        &self,
        volume: VolumeId,
        vm: VmId,
        deadline_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        // What nobody is known to have left badly is checked at the mount.
        sqlx::query!(
            "-- cache_gifts::give_volume (out of quarantine)
             update vms.volumes set state = 'available'
             where id = $1 and state = 'quarantined' and content = 'unchecked' and (hold_until is null or hold_until <= $2)",
            volume.0,
            now,
        )
        .execute(&mut *tx)
        .await?;
        let given = attach(&mut tx, volume, vm, deadline_at, now).await?;
        if given {
            tx.commit().await?;
            self.wake.send();
        }
        Ok(given)
    }

    /// Writes the intent to make a volume for a VM. False when the VM is not there for it any more.
    ///
    /// # Errors
    /// `LimitReached`: there are as many volumes as there may be. `Conflict`: the VM has one, or the parent is gone.
    pub async fn insert_volume(
        &self,
        new: &NewVolume<'_>,
        deadline_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- cache_gifts::insert_volume
             insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, zone, size_gib,
                                      parent_id, content, layers, used_bytes, vm_id, created_at, last_used_at, due_at, deadline_at)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9, greatest($10, coalesce(g.size_gib, 0)), $11, coalesce(g.content, 'nothing'),
                    coalesce(g.layers, '{}'), g.used_bytes, v.id, $13, $13, $13, $14
             from vms.vms v left join vms.generations g on g.id = $11
             where v.id = $12 and v.state in ('booting', 'available', 'assigned')",
            new.id.0,
            new.lineage.project_id,
            new.lineage.trust.as_str(),
            new.lineage.engine.architecture,
            new.lineage.engine.store.as_str(),
            new.lineage.engine.major,
            new.place.0,
            new.place.1,
            new.zone,
            i32::try_from(new.size_gib).unwrap_or(i32::MAX),
            new.parent.map(|it| it.0),
            new.vm.0,
            now,
            deadline_at,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some(parent) = new.parent {
            sqlx::query!(
                "-- cache_gifts::insert_volume (parent)\n update vms.generations set last_used_at = $2 where id = $1",
                parent.0,
                now
            )
            .execute(&mut *tx)
            .await?;
        }
        note_try(&mut tx, new.vm).await?;
        let message = match new.parent {
            Some(parent) => format!("Volume {}: a copy of the good state {parent} is made.", new.id),
            None => format!("Volume {}: an empty one is made.", new.id),
        };
        tell(&mut tx, new.vm, "volume.creating", message, now).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(true)
    }
}

/// A free volume goes on its way to a VM of its owner that has none.
pub(super) async fn attach(
    connection: &mut PgConnection,
    volume: VolumeId,
    vm: VmId,
    deadline_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "-- cache_gifts::attach
         update vms.volumes u
         set state = 'attaching', vm_id = v.id, deadline_at = $3, due_at = $4, asked_at = null, last_used_at = $4,
             lease_token = u.lease_token + 1, lease_until = null
         from vms.vms v
         where u.id = $1 and u.state = 'available' and (u.hold_until is null or u.hold_until <= $4) and not u.unwanted
           and v.id = $2 and v.state in ('booting', 'available', 'assigned') and v.provider_id is not null
           and (v.project_id, v.cache_trust) = (u.project_id, u.cache_trust)",
        volume.0,
        vm.0,
        deadline_at,
        now,
    )
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    note_try(connection, vm).await?;
    tell(connection, vm, "volume.attaching", format!("Volume {volume} is brought to the VM."), now).await?;
    Ok(true)
}

async fn note_try(connection: &mut PgConnection, vm: VmId) -> Result<(), DbError> {
    sqlx::query!("-- cache_gifts::note_try\n update vms.vms set cache_tries = cache_tries + 1 where id = $1", vm.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// In the timeline of the VM, and of its task if it has one.
pub(super) async fn tell(
    connection: &mut PgConnection,
    vm: VmId,
    kind: &str,
    message: String,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let task = sqlx::query_scalar!(
        r#"-- cache_gifts::tell
           select id as "id: TaskId" from vms.tasks where vm_id = $1 and state in ('preparing', 'ready')"#,
        vm.0
    )
    .fetch_optional(&mut *connection)
    .await?;
    events::insert(connection, now, Event { kind, task, vm: Some(vm), message }).await
}
