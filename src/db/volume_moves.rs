//! A volume's way: made, brought to its VM, unmounted, taken off, deleted. Each step is a leased act on one row; a volume that was mounted
//! comes back into service only through a clean unmount.
//!
//! Not here: which volume goes where (`cache`); how it gets out of service or off its VM (`volume_ends`); what is kept of it
//! (`generations`).

use super::cache_gifts::{attach, tell};
use super::events::{self, Event};
use super::rows::{WayIn, way_in};
use super::volume_ends::hurry_task;
use super::{Db, DbError, LEASE_SECONDS, leased};
use crate::domain::ids::{VmId, VolumeId};
use crate::domain::lifecycle::{VmState, VolumeState};
use crate::domain::lineage::{Engine, Layer, Lineage, Store, Trust};
use chrono::{DateTime, Utc};

/// A volume under lease.
#[derive(Clone, Debug)]
pub struct LeasedVolume {
    /// Its id.
    pub id: VolumeId,
    /// Fencing token.
    pub lease: i64,
    /// Where it is.
    pub state: VolumeState,
    /// Whose.
    pub lineage: Lineage,
    /// Where its machines are.
    pub zone: String,
    /// In GiB.
    pub size_gib: u32,
    /// The volume, once made.
    pub provider_id: Option<String>,
    /// The snapshot that it is a copy of.
    pub snapshot: Option<String>,
    /// An engine works on it, or did when it was last heard of.
    pub mounted: bool,
    /// Its last job ended well, and nothing has been decided about what it left.
    pub undecided: bool,
    /// To be deleted when it is off.
    pub unwanted: bool,
    /// By when the present move must be over.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When the provider was last asked for it.
    pub asked_at: Option<DateTime<Utc>>,
    /// The VM that it is on, or on its way to or from.
    pub vm: Option<OnVm>,
}

/// The VM of a volume.
#[derive(Clone, Debug)]
pub struct OnVm {
    /// The VM.
    pub id: VmId,
    /// Where it is.
    pub state: VmState,
    /// Its machine.
    pub provider_id: Option<String>,
    /// As long as it can be logged into.
    pub way_in: Option<WayIn>,
}

impl Db {
    /// Leases volumes of this provider and place whose next step is due: those that move, and those whose VM ends.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_volumes(&self, place: (&str, &str), now: DateTime<Utc>, limit: i64) -> Result<Vec<LeasedVolume>, DbError> {
        let rows = sqlx::query!(
            r#"-- volume_moves::lease_volumes
               with due as (
                   select u.id from vms.volumes u
                   where u.provider = $1 and u.place = $2 and u.due_at <= $3 and (u.lease_until is null or u.lease_until <= $3)
                     and (u.state in ('creating', 'attaching', 'detaching', 'deleting')
                          or u.state = 'attached' and exists (
                              select from vms.vms m where m.id = u.vm_id and m.state in ('terminating', 'terminated')))
                   order by u.due_at, u.id limit $4 for update skip locked
               )
               update vms.volumes u set lease_token = u.lease_token + 1, lease_until = $3::timestamptz + make_interval(secs => $5)
               from due left join vms.volumes w on w.id = due.id left join vms.vms v on v.id = w.vm_id
                    left join vms.generations g on g.id = w.parent_id
               where u.id = due.id
               returning u.id as "id: VolumeId", u.lease_token, u.state as "state: VolumeState", u.project_id,
                         u.cache_trust as "trust: Trust", u.architecture, u.store as "store: Store", u.engine_major, u.zone, u.size_gib,
                         u.provider_id, g.provider_id as "snapshot?", u.mounted,
                         (u.content = 'good' and u.worn and u.kept_at is null) as "undecided!", u.unwanted, u.deadline_at, u.asked_at,
                         v.id as "vm?: VmId", v.state as "vm_state?: VmState", v.provider_id as "machine?", v.identity_sealed as "identity?",
                         v.address as "address?", v.ssh_port as "ssh_port?", v.docker_port as "docker_port?""#,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut volumes: Vec<_> = rows
            .into_iter()
            .map(|row| LeasedVolume {
                id: row.id,
                lease: row.lease_token,
                state: row.state,
                lineage: Lineage {
                    project_id: row.project_id,
                    trust: row.trust,
                    engine: Engine { architecture: row.architecture, store: row.store, major: row.engine_major },
                },
                zone: row.zone,
                size_gib: u32::try_from(row.size_gib).unwrap_or(0),
                provider_id: row.provider_id,
                snapshot: row.snapshot,
                mounted: row.mounted,
                undecided: row.undecided,
                unwanted: row.unwanted,
                deadline_at: row.deadline_at,
                asked_at: row.asked_at,
                vm: row.vm.zip(row.vm_state).map(|(id, state)| OnVm {
                    id,
                    state,
                    provider_id: row.machine,
                    way_in: way_in(Some(id), row.identity, row.address, row.ssh_port, row.docker_port),
                }),
            })
            .collect();
        // In one order, whatever the plan: the same history makes the same calls.
        volumes.sort_by_key(|volume| volume.id);
        Ok(volumes)
    }

    /// Gives the lease back; the next step is due then. `asked`: the provider has been asked for the move just now.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_volume(
        &self,
        volume: VolumeId,
        lease: i64,
        asked: bool,
        due_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- volume_moves::postpone_volume
             update vms.volumes set due_at = $3, lease_until = null, asked_at = case when $4 then $5 else asked_at end
             where id = $1 and lease_token = $2",
            volume.0,
            lease,
            due_at,
            asked,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The provider made it: it goes on to the VM that it was made for, if that is still there.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_made(
        &self,
        volume: &LeasedVolume,
        provider_id: &str,
        deadline_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- volume_moves::volume_made
             update vms.volumes set provider_id = $3, state = 'available', vm_id = null, due_at = $4, asked_at = null,
                    deadline_at = null, lease_until = null
             where id = $1 and lease_token = $2 and state = 'creating'",
            volume.id.0,
            volume.lease,
            provider_id,
            now,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        if let Some(vm) = &volume.vm {
            attach(&mut tx, volume.id, vm.id, deadline_at, now).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// It has come: the VM's task may mount it.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_attached(&self, volume: &LeasedVolume, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- volume_moves::volume_attached
             update vms.volumes set state = 'attached', asked_at = null, deadline_at = null, due_at = $3, lease_until = null
             where id = $1 and lease_token = $2 and state = 'attaching'",
            volume.id.0,
            volume.lease,
            now,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        if let Some(vm) = &volume.vm {
            tell(&mut tx, vm.id, "volume.attached", format!("Volume {} is attached.", volume.id), now).await?;
            hurry_task(&mut tx, vm.id, now).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// It did not get to its VM, and is on none: free for another.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_put_back(&self, volume: &LeasedVolume, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- volume_moves::volume_put_back
             update vms.volumes set state = 'available', vm_id = null, asked_at = null, deadline_at = null, lease_until = null, due_at = $3
             where id = $1 and lease_token = $2 and state = 'attaching'",
            volume.id.0,
            volume.lease,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())?;
        self.wake.send();
        Ok(())
    }

    /// Its engine is off it: what it holds is a good state, and this is what its job used of it. A guest that had nothing mounted (no byte
    /// is used) knows no more how that came about: an earlier answer was lost, or the disk was. It is checked before its next job then.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_unmounted(
        &self,
        volume: &LeasedVolume,
        used_bytes: u64,
        layers: &[Layer],
        used: &[Layer],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let object = |layers: &[Layer]| {
            serde_json::Value::Object(layers.iter().map(|layer| (layer.id.clone(), layer.bytes.into())).collect())
        };
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- volume_moves::volume_unmounted
             update vms.volumes
             set state = 'detaching', mounted = false, content = case when $4::bigint > 0 then 'good' else 'unchecked' end,
                 layers = case when $4 > 0 then $3 else layers end, used_bytes = case when $4 > 0 then $4 else used_bytes end,
                 good_at = case when $4 > 0 then $5 else good_at end, jobs = jobs + case when $4 > 0 then 1 else 0 end, last_used_at = $5,
                 kept_at = null, asked_at = null, due_at = $5, deadline_at = $5::timestamptz + interval '60 s'
             where id = $1 and lease_token = $2 and state = 'attached'",
            volume.id.0,
            volume.lease,
            object(layers),
            i64::try_from(used_bytes).unwrap_or(i64::MAX),
            now,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        sqlx::query!(
            "-- volume_moves::volume_unmounted (use)
             update vms.cache_uses set used = $2, at = $3 where $5 and task_id in (select id from vms.tasks where cache_volume_id = $1 and vm_id = $4)",
            volume.id.0,
            object(used),
            now,
            volume.vm.as_ref().map(|vm| vm.id.0),
            used_bytes > 0,
        )
        .execute(&mut *tx)
        .await?;
        if let Some(vm) = &volume.vm {
            let message = match used_bytes {
                0 => format!("Volume {} was mounted no more: it is checked before its next job.", volume.id),
                _ => format!("Volume {} was unmounted; {} MiB are on it.", volume.id, used_bytes >> 20),
            };
            events::insert(&mut tx, now, Event { kind: "volume.unmounted", task: None, vm: Some(vm.id), message }).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The provider has no such volume any more.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn volume_deleted(&self, volume: &LeasedVolume, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- volume_moves::volume_deleted
             update vms.volumes set state = 'deleted', deleted_at = $3, lease_until = null
             where id = $1 and lease_token = $2 and state = 'deleting'",
            volume.id.0,
            volume.lease,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())?;
        self.wake.send();
        Ok(())
    }
}
