//! `vms.vms`: VMs that leave the pool, live longer than they were told, or are confirmed to be gone.
//!
//! Not here: where a VM's end begins (`release`).

use super::events;
use super::leases::columns;
use super::rows::{WayIn, way_in};
use super::{Db, DbError, LEASE_SECONDS, launches, leased};
use crate::domain::ids::{LaunchId, VmId};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// A VM that must be told a later end.
#[derive(Clone, Debug)]
pub struct Outlived {
    /// Fencing token.
    pub lease: i64,
    /// When it ends itself.
    pub end_at: DateTime<Utc>,
    /// How it is entered.
    pub way_in: WayIn,
}

/// A VM whose machine was asked to end.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The VM.
    pub id: VmId,
    /// Its machine.
    pub provider_id: String,
    /// When it was bound: just after that the provider may not know it yet.
    pub launched_at: DateTime<Utc>,
    /// When the provider was last asked.
    pub end_asked_at: DateTime<Utc>,
}

impl Db {
    /// Takes VMs out of the pool, each with its reason; those that a task took meanwhile stay. Returns how many.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drain_vms(&self, vms: &[(VmId, &str)], now: DateTime<Utc>) -> Result<u64, DbError> {
        let ids: Vec<_> = vms.iter().map(|(vm, _)| vm.0).collect();
        let reasons: Vec<_> = vms.iter().map(|(_, reason)| (*reason).to_owned()).collect();
        let done = sqlx::query!(
            "-- vm_ends::drain_vms
             update vms.vms v set state = 'draining', reason = d.reason, due_at = $3
             from unnest($1::uuid[], $2::text[]) as d (id, reason)
             where v.id = d.id and v.state = 'available' and (v.hold_until is null or v.hold_until <= $3)",
            &ids,
            &reasons,
            now
        )
        .execute(&self.pool)
        .await?;
        self.wake.send();
        Ok(done.rows_affected())
    }

    /// Whether a termination is due.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_any_terminating(&self, place: (&str, &str), now: DateTime<Utc>) -> Result<bool, DbError> {
        let any = sqlx::query_scalar!(
            r#"-- vm_ends::is_any_terminating
               select exists (select from vms.vms
                              where state = 'terminating' and provider = $1 and place = $2 and due_at <= $3
                                and (lease_until is null or lease_until <= $3)) as "any!""#,
            place.0,
            place.1,
            now
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(any)
    }

    /// Of these launches, those that are still to be sent: machines may come of them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_open_launches(&self, launches: &[LaunchId]) -> Result<BTreeSet<LaunchId>, DbError> {
        let ids: Vec<_> = launches.iter().map(|launch| launch.0).collect();
        let open = sqlx::query_scalar!(
            r#"-- vm_ends::list_open_launches
               select id as "id: LaunchId" from vms.launches where id = any($1) and state = 'requested'"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(open.into_iter().collect())
    }

    /// The provider was asked to end these machines: it is asked again at `again_at`. Those whose lease was lost stay as they are.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn mark_end_asked(&self, vms: &[(VmId, i64)], again_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), DbError> {
        let (ids, tokens) = columns(vms);
        sqlx::query!(
            "-- vm_ends::mark_end_asked
             update vms.vms v set end_asked_at = $3, due_at = $4, lease_until = null
             from unnest($1::uuid[], $2::bigint[]) as l (id, token)
             where v.id = l.id and v.lease_token = l.token and v.state = 'terminating'",
            &ids,
            &tokens,
            now,
            again_at,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// VMs whose machine was asked to end before then, and is not known to be gone.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_ending(&self, place: (&str, &str), asked_before: DateTime<Utc>) -> Result<Vec<Ending>, DbError> {
        let rows = sqlx::query_as!(
            Ending,
            r#"-- vm_ends::list_ending
               select id as "id: VmId", provider_id as "provider_id!", coalesce(launched_at, created_at) as "launched_at!",
                      end_asked_at as "end_asked_at!"
               from vms.vms
               where state = 'terminating' and provider_id is not null and provider = $1 and place = $2 and end_asked_at <= $3
               order by id"#,
            place.0,
            place.1,
            asked_before,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The provider was asked in vain: it is asked again at once.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn ask_end_again(&self, vms: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        sqlx::query!(
            "-- vm_ends::ask_end_again
             update vms.vms set due_at = $2 where id = any($1) and state = 'terminating' and due_at > $2",
            &ids,
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The machines of these VMs are gone; or, of VMs without one (`unbound`), none will come. Said twice, the second time changes nothing.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn confirm_terminated(&self, vms: &[VmId], unbound: bool, now: DateTime<Utc>) -> Result<(), DbError> {
        if vms.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let mut tx = self.begin().await?;
        let gone = sqlx::query!(
            r#"-- vm_ends::confirm_terminated
               update vms.vms set state = 'terminated', terminated_at = $2, identity_sealed = null, lease_token = lease_token + 1, lease_until = null
               where id = any($1) and state = 'terminating' and (provider_id is null) = $3
               returning id as "id: VmId", launch_id as "launch: LaunchId""#,
            &ids,
            now,
            unbound,
        )
        .fetch_all(&mut *tx)
        .await?;
        let (vms, launches): (Vec<_>, Vec<_>) = gone.into_iter().map(|row| (row.id, row.launch)).unzip();
        launches::void_bootstrap(&mut tx, &launches).await?;
        events::insert_about_vms(&mut tx, now, "vm.terminated", &vms, "The provider confirmed that it is gone.").await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Leases VMs that must be told a later end than the one they know.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_outlived(&self, place: (&str, &str), now: DateTime<Utc>, limit: i64) -> Result<Vec<Outlived>, DbError> {
        let rows = sqlx::query!(
            r#"-- vm_ends::lease_outlived
               with due as (
                   select id from vms.vms
                   where state in ('available', 'assigned', 'draining', 'quarantined') and guest_end_at < absolute_end_at
                     and identity_sealed is not null and provider = $1 and place = $2 and due_at <= $3
                     and (lease_until is null or lease_until <= $3)
                   order by due_at, id limit $4 for update skip locked
               )
               update vms.vms v set lease_token = v.lease_token + 1, lease_until = $3::timestamptz + make_interval(secs => $5)
               from due where v.id = due.id
               returning v.id as "id: VmId", v.lease_token, v.absolute_end_at, v.identity_sealed, v.address, v.ssh_port, v.docker_port"#,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let way_in = way_in(Some(row.id), row.identity_sealed, row.address, row.ssh_port, row.docker_port)?;
                Some(Outlived { lease: row.lease_token, end_at: row.absolute_end_at, way_in })
            })
            .collect())
    }

    /// The VM knows its end.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn note_guest_end(&self, vm: VmId, lease: i64, end_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- vm_ends::note_guest_end
             update vms.vms set guest_end_at = $3, lease_until = null where id = $1 and lease_token = $2",
            vm.0,
            lease,
            end_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }
}
