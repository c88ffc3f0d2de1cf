//! Leases: a worker's time-limited right to act on rows, with a fencing number that grows with every lease of a row. Every write of a
//! worker carries it, so whoever lost a lease changes nothing.
//!
//! Not here: taking a lease, which is part of finding the work (`launches`, `vms`, `claims`); holding it meanwhile (`loops::lease`).

use super::{Db, DbError, LEASE_SECONDS};
use crate::domain::ids::{GenerationId, LaunchId, SettingsCheckId, TaskId, VmId, VolumeId};
use chrono::{DateTime, Utc};

/// What is leased, and with which fencing numbers.
#[derive(Clone, Debug)]
pub enum Lease {
    /// A launch.
    Launch(LaunchId, i64),
    /// A task.
    Task(TaskId, i64),
    /// A volume.
    Volume(VolumeId, i64),
    /// A good state.
    Generation(GenerationId, i64),
    /// A check of settings.
    SettingsCheck(SettingsCheckId, i64),
    /// VMs that are worked on together.
    Vms(Vec<(VmId, i64)>),
}

impl Db {
    /// Renews the lease; of many VMs, of those that are still ours.
    ///
    /// # Errors
    /// `LostLease`: nothing of it is ours any more.
    pub async fn renew_lease(&self, lease: &Lease, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = match lease {
            Lease::Launch(launch, token) => {
                sqlx::query!(
                    "-- leases::renew_lease (launch)
                     update vms.launches set lease_until = $3::timestamptz + make_interval(secs => $4)
                     where id = $1 and lease_token = $2 and state = 'requested'",
                    launch.0,
                    token,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
            Lease::Task(task, token) => {
                sqlx::query!(
                    "-- leases::renew_lease (task)
                     update vms.tasks set lease_until = $3::timestamptz + make_interval(secs => $4)
                     where id = $1 and lease_token = $2 and state = 'preparing'",
                    task.0,
                    token,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
            Lease::Volume(volume, token) => {
                sqlx::query!(
                    "-- leases::renew_lease (volume)
                     update vms.volumes set lease_until = $3::timestamptz + make_interval(secs => $4)
                     where id = $1 and lease_token = $2",
                    volume.0,
                    token,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
            Lease::Generation(generation, token) => {
                sqlx::query!(
                    "-- leases::renew_lease (generation)
                     update vms.generations set lease_until = $3::timestamptz + make_interval(secs => $4)
                     where id = $1 and lease_token = $2",
                    generation.0,
                    token,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
            Lease::SettingsCheck(check, token) => {
                sqlx::query!(
                    "-- leases::renew_lease (check of settings)
                     update vms.settings_checks set lease_until = $3::timestamptz + make_interval(secs => $4)
                     where id = $1 and lease_token = $2 and finished_at is null",
                    check.0,
                    token,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
            Lease::Vms(vms) => {
                let (ids, tokens) = columns(vms);
                sqlx::query!(
                    "-- leases::renew_lease (VMs)
                     update vms.vms v set lease_until = $3::timestamptz + make_interval(secs => $4)
                     from unnest($1::uuid[], $2::bigint[]) as l (id, token) where v.id = l.id and v.lease_token = l.token",
                    &ids,
                    &tokens,
                    now,
                    LEASE_SECONDS,
                )
                .execute(&self.pool)
                .await?
            }
        };
        if done.rows_affected() == 0 { Err(DbError::LostLease) } else { Ok(()) }
    }
}

/// Ids and fencing numbers, as a statement takes them.
pub(super) fn columns(vms: &[(VmId, i64)]) -> (Vec<uuid::Uuid>, Vec<i64>) {
    vms.iter().map(|(vm, token)| (vm.0, *token)).unzip()
}
