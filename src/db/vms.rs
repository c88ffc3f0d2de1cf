//! `vms.vms`: every VM from the wish for it to its confirmed end.
//!
//! Not here: making rows (`launches`), claims (`claims`), the beginning of a VM's end (`release`), lists (`vm_list`).

use super::events::{self, Event};
use super::{Db, DbError, LEASE_SECONDS, launches, leased};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::lifecycle::VmState;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use std::net::IpAddr;

/// A VM under lease.
#[derive(Clone, Debug)]
pub struct LeasedVm {
    /// Its id.
    pub id: VmId,
    /// Fencing token.
    pub lease: i64,
    /// Its launch.
    pub launch: LaunchId,
    /// Where it is.
    pub state: VmState,
    /// What for.
    pub executor: Executor,
    /// The machine, once bound.
    pub provider_id: Option<String>,
    /// By when the present state must end.
    pub deadline_at: Option<DateTime<Utc>>,
    /// Where it answers.
    pub address: Option<String>,
    /// Its ports.
    pub ssh_port: Option<i32>,
    /// Its ports.
    pub docker_port: Option<i32>,
    /// Its identity, sealed.
    pub identity_sealed: Option<Vec<u8>>,
    /// When the provider was first asked to end it.
    pub terminating_at: Option<DateTime<Utc>>,
}

/// Where a machine answers.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its address.
    pub ip: IpAddr,
    /// Its ports.
    pub ssh_port: u16,
    /// Its ports.
    pub docker_port: u16,
}

impl Db {
    /// Binds a machine to a free row of its launch; the same machine again changes nothing. None: no row is free for it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn bind_machine(&self, launch: LaunchId, provider_id: &str, now: DateTime<Utc>) -> Result<Option<VmId>, DbError> {
        let mut tx = self.pool.begin().await?;
        let known = sqlx::query_scalar!(
            r#"-- vms::bind_machine (known)
               select id as "id: VmId" from vms.vms where provider_id = $1"#,
            provider_id
        )
        .fetch_optional(&mut *tx)
        .await?;
        if known.is_some() {
            return Ok(known);
        }
        let bound = sqlx::query_scalar!(
            r#"-- vms::bind_machine
               update vms.vms
               set provider_id = $2, launched_at = $3, due_at = $3,
                   state = case when state = 'requested' then 'launching' else state end
               where id = (select id from vms.vms
                           where launch_id = $1 and provider_id is null and state in ('requested', 'terminating')
                           order by state, id limit 1 for update)
               returning id as "id: VmId""#,
            launch.0,
            provider_id,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(vm) = bound {
            let message = format!("The provider made machine {provider_id}.");
            events::insert(&mut tx, now, Event { kind: "vm.launched", task: None, vm: Some(vm), message }).await?;
        }
        tx.commit().await?;
        Ok(bound)
    }

    /// Leases VMs in these states that are due, of one provider and place.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_vms(
        &self,
        states: &[VmState],
        place: (&str, &str),
        now: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<LeasedVm>, DbError> {
        let states: Vec<String> = states.iter().map(|state| state.as_str().to_owned()).collect();
        let rows = sqlx::query_as!(
            LeasedVm,
            r#"-- vms::lease_vms
               with due as (
                   select id from vms.vms
                   where state = any($1) and provider = $2 and place = $3 and due_at <= $4 and (lease_until is null or lease_until <= $4)
                   order by due_at limit $5 for update skip locked
               )
               update vms.vms v set lease_token = v.lease_token + 1, lease_until = $4::timestamptz + make_interval(secs => $6)
               from due where v.id = due.id
               returning v.id as "id: VmId", v.lease_token as lease, v.launch_id as "launch: LaunchId", v.state as "state: VmState",
                         v.executor as "executor: Executor", v.provider_id, v.deadline_at, v.address, v.ssh_port, v.docker_port,
                         v.identity_sealed, v.terminating_at"#,
            &states,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn renew_vm_lease(&self, vm: VmId, lease: i64, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- vms::renew_vm_lease
             update vms.vms set lease_until = $3::timestamptz + make_interval(secs => $4) where id = $1 and lease_token = $2",
            vm.0,
            lease,
            now,
            LEASE_SECONDS,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// Gives the lease back; the next step is due at `due_at`.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_vm(&self, vm: VmId, lease: i64, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- vms::postpone_vm
             update vms.vms set due_at = $3, lease_until = null where id = $1 and lease_token = $2",
            vm.0,
            lease,
            due_at
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The machine runs: keeps its address and the identity it is going to have, before anything is sent to it.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn boot_vm(
        &self,
        vm: VmId,
        lease: i64,
        at: Place,
        identity_sealed: &[u8],
        deadline_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "-- vms::boot_vm
             update vms.vms
             set state = 'booting', booted_at = $3, address = $4, ssh_port = $5, docker_port = $6, identity_sealed = $7,
                 deadline_at = $8
             where id = $1 and lease_token = $2",
            vm.0,
            lease,
            now,
            at.ip.to_string(),
            i32::from(at.ssh_port),
            i32::from(at.docker_port),
            identity_sealed,
            deadline_at,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        let message = format!("The machine runs at {}.", at.ip);
        events::insert(&mut tx, now, Event { kind: "vm.booting", task: None, vm: Some(vm), message }).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The VM is personalised: any fitting task may take it until `idle_end_at`.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn make_available(
        &self,
        vm: &LeasedVm,
        host_key: &str,
        absolute_end_at: DateTime<Utc>,
        idle_end_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "-- vms::make_available
             update vms.vms
             set state = 'available', available_at = $3, host_key = $4, absolute_end_at = $5, deadline_at = $6, due_at = $3,
                 lease_until = null
             where id = $1 and lease_token = $2",
            vm.id.0,
            vm.lease,
            now,
            host_key,
            absolute_end_at,
            idle_end_at,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        launches::void_bootstrap(&mut tx, vm.launch).await?;
        let message = "Personalised; a job may take it.".to_owned();
        events::insert(&mut tx, now, Event { kind: "vm.available", task: None, vm: Some(vm.id), message }).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// The provider confirmed that the machine is gone.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn confirm_terminated(&self, vm: &LeasedVm, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "-- vms::confirm_terminated
             update vms.vms set state = 'terminated', terminated_at = $3, lease_until = null where id = $1 and lease_token = $2",
            vm.id.0,
            vm.lease,
            now,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        launches::void_bootstrap(&mut tx, vm.launch).await?;
        let message = "The provider confirmed that it is gone.".to_owned();
        events::insert(&mut tx, now, Event { kind: "vm.terminated", task: None, vm: Some(vm.id), message }).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Whether the launch of a VM without a machine is over, so that none will come for it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_launch_over(&self, launch: LaunchId) -> Result<bool, DbError> {
        let state = sqlx::query_scalar!("-- vms::is_launch_over\n select state from vms.launches where id = $1", launch.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(state.as_deref() != Some("requested"))
    }

    /// Takes VMs that are not needed out of the pool; those that a task took meanwhile stay. Returns how many.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drain_vms(&self, vms: &[VmId], now: DateTime<Utc>) -> Result<u64, DbError> {
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let done = sqlx::query!(
            "-- vms::drain_vms
             update vms.vms set state = 'draining', reason = 'it is not needed any more', due_at = $2
             where id = any($1) and state = 'available' and (hold_until is null or hold_until <= $2)",
            &ids,
            now
        )
        .execute(&self.pool)
        .await?;
        self.wake.send();
        Ok(done.rows_affected())
    }
}
