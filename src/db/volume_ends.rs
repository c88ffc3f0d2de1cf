//! How a volume leaves its VM and the service: taken off, or out of service for good; and how a VM that ends and its volume let go of each
//! other, in the order of a clean end: unmount, detach, terminate.
//!
//! Not here: the way to a VM (`volume_moves`).

use super::cache_gifts::tell;
use super::events::{self, Event};
use super::volume_moves::LeasedVolume;
use super::{Db, DbError, leased};
use crate::domain::ids::{VmId, VolumeId};
use crate::domain::lifecycle::VolumeState;
use crate::domain::lineage::Trust;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

impl Db {
    /// It is not used any more, whatever is on it, and the VM that waited for it goes its way.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn quarantine_volume(&self, volume: &LeasedVolume, reason: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        quarantine(&mut tx, volume.id, Some(volume.lease), reason, now).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// It is on no machine any more: free, or on its way to be deleted; held, it stays in quarantine instead.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_off(&self, volume: &LeasedVolume, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let spent = volume.unwanted || volume.lineage.trust == Trust::Untrusted;
        let steps: &[VolumeState] =
            if spent { &[VolumeState::Quarantined, VolumeState::Deleting] } else { &[VolumeState::Available] };
        for state in steps {
            let done = sqlx::query!(
                "-- volume_ends::volume_off
                 update vms.volumes set state = $3, vm_id = null, asked_at = null, deadline_at = null, due_at = $4,
                        reason = case when $5 then 'nothing of it is kept' end
                 where id = $1 and lease_token = $2 and ($3 <> 'deleting' or hold_until is null or hold_until <= $4)",
                volume.id.0,
                volume.lease,
                state.as_str(),
                now,
                spent,
            )
            .execute(&mut *tx)
            .await?;
            if *state != VolumeState::Deleting {
                leased(done.rows_affected())?;
            }
        }
        sqlx::query!("-- volume_ends::volume_off (lease)\n update vms.volumes set lease_until = null where id = $1", volume.id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// The VM does not wait for it any longer: its machine's end takes the volume off, which has been unmounted.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn let_vm_go(&self, vm: VmId, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut connection = self.pool.acquire().await?;
        let_vm_go(&mut connection, vm, now).await?;
        self.wake.send();
        Ok(())
    }
}

/// Begins the end of a volume that no VM has; false when a job has got it meanwhile, an operator holds it, or it is going already.
pub(super) async fn begin_deletion(
    connection: &mut PgConnection,
    volume: VolumeId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "-- volume_ends::begin_deletion
         update vms.volumes set state = 'deleting', reason = $2, due_at = $3, asked_at = null, deadline_at = null
         where id = $1 and state in ('available', 'quarantined') and (hold_until is null or hold_until <= $3)",
        volume.0,
        reason,
        now,
    )
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let message = format!("Volume {volume} is deleted: {reason}.");
    events::insert(connection, now, Event { kind: "volume.deleting", task: None, vm: None, message }).await?;
    Ok(true)
}

/// See [`Db::quarantine_volume`]; `lease`: of the caller, if it has one.
pub(super) async fn quarantine(
    connection: &mut PgConnection,
    volume: VolumeId,
    lease: Option<i64>,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let vm = sqlx::query_scalar!(
        r#"-- volume_ends::quarantine
           update vms.volumes u
           set state = 'quarantined', reason = $3, vm_id = null, asked_at = null, deadline_at = null, due_at = $4, lease_until = null,
               lease_token = u.lease_token + 1, content = case when u.content = 'unchecked' then 'good' else u.content end
           from vms.volumes was
           where u.id = $1 and was.id = u.id and ($2::bigint is null or u.lease_token = $2)
             and u.state in ('creating', 'available', 'attaching', 'attached', 'detaching')
           returning was.vm_id as "vm: VmId""#,
        volume.0,
        lease,
        reason,
        now,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(DbError::LostLease)?;
    let message = format!("Volume {volume} is not used any more: {reason}.");
    match vm {
        Some(vm) => {
            tell(connection, vm, "volume.quarantined", message, now).await?;
            hurry_task(connection, vm, now).await?;
            let_vm_go(connection, vm, now).await
        }
        None => events::insert(connection, now, Event { kind: "volume.quarantined", task: None, vm: None, message }).await,
    }
}

/// The task of this VM, which prepares, is looked at now.
pub(super) async fn hurry_task(connection: &mut PgConnection, vm: VmId, now: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!(
        "-- volume_ends::hurry_task\n update vms.tasks set due_at = $2 where vm_id = $1 and state = 'preparing'",
        vm.0,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A VM that ends need not wait for its volume any longer: its secrets are erased.
async fn let_vm_go(connection: &mut PgConnection, vm: VmId, now: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!(
        "-- volume_ends::let_vm_go
         update vms.vms set identity_sealed = null, due_at = least(due_at, $2) where id = $1 and state = 'terminating' and end_asked_at is null",
        vm.0,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The VMs end: a volume that is mounted is unmounted first, until then; what is on its way to one of them stays out of it.
pub(super) async fn let_volumes_go(connection: &mut PgConnection, vms: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
    /// For the unmount; the VM waits a little longer, for the detachment.
    const UNMOUNT_WITHIN: TimeDelta = TimeDelta::seconds(90);
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    let until = now + UNMOUNT_WITHIN;
    sqlx::query!("-- volume_ends::let_volumes_go (made for it)\n update vms.volumes set vm_id = null where vm_id = any($1) and state = 'creating'", &ids)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "-- volume_ends::let_volumes_go (on its way)
         update vms.volumes set state = 'attached', lease_token = lease_token + 1, lease_until = null
         where vm_id = any($1) and state = 'attaching'",
        &ids
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "-- volume_ends::let_volumes_go (attached)
         update vms.volumes
         set state = case when mounted then 'attached' else 'detaching' end, asked_at = null, due_at = $2, deadline_at = $3,
             lease_token = lease_token + 1, lease_until = null
         where vm_id = any($1) and state = 'attached'",
        &ids,
        now,
        until,
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}
