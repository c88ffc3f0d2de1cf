//! `vms.vms`: every VM from its machine to a task.
//!
//! Not here: making rows (`launches`), claims (`claims`), ends (`release`, `vm_ends`), lists (`vm_list`).

use super::events::{self, Event};
use super::leases::columns;
use super::{Db, DbError, LEASE_SECONDS, breakers, launches, leased};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::lifecycle::VmState;
use crate::domain::lineage::Engine;
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
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
    /// It has been met before: it comes out of the reserve.
    pub met: bool,
    /// How many GPUs it must have.
    pub gpus: i32,
}

/// A VM whose machine has not been met.
#[derive(Clone, Debug)]
pub struct Starting {
    /// The VM.
    pub id: VmId,
    /// Its machine.
    pub provider_id: String,
    /// By when it must run, or answer.
    pub deadline_at: Option<DateTime<Utc>>,
    /// It is not known to run.
    pub launching: bool,
    /// It has been met before: it comes out of the reserve.
    pub met: bool,
}

/// Where a machine answers.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address.
    pub ip: IpAddr,
    /// Its ports.
    pub ssh_port: u16,
    /// Its ports.
    pub docker_port: u16,
    /// Where its volumes must be.
    pub zone: Option<String>,
}

/// What first contact settles.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// Public, pinned from now on.
    pub host_key: &'a str,
    /// When it ends itself, as it was told.
    pub absolute_end_at: DateTime<Utc>,
    /// Until when it may wait for a task.
    pub idle_end_at: DateTime<Utc>,
    /// Its Docker engine, if it has one that can be told.
    pub engine: Option<&'a Engine>,
}

/// The phases of a start that succeeded.
#[derive(Clone, Debug)]
pub struct StartedVm {
    /// What for.
    pub executor: Executor,
    /// Why it was launched.
    pub origin: Origin,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its machine was first seen to run.
    pub booted_at: Option<DateTime<Utc>>,
}

impl Db {
    /// Binds machines to free rows of their launch, and says which row each has; the same machines again change nothing. One that is
    /// missing from the answer found no free row.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn bind_machines(
        &self,
        launch: LaunchId,
        machines: &[String],
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<String, VmId>, DbError> {
        let mut tx = self.begin().await?;
        // One binder of a launch at a time.
        sqlx::query!("-- vms::bind_machines (lock)\n select id from vms.launches where id = $1 for update", launch.0)
            .fetch_optional(&mut *tx)
            .await?;
        let bound = sqlx::query!(
            r#"-- vms::bind_machines
               with fresh as (
                   select m.id, row_number() over (order by m.nth) as n
                   from unnest($2::text[]) with ordinality as m (id, nth)
                   where not exists (select from vms.vms where provider_id = m.id)
               ), free as (
                   select f.id, row_number() over (order by f.state, f.id) as n
                   from vms.vms f where f.launch_id = $1 and f.provider_id is null and f.state in ('requested', 'terminating')
               )
               update vms.vms v
               set provider_id = fresh.id, launched_at = $3, due_at = $3,
                   state = case when v.state = 'requested' then 'launching' else v.state end
               from fresh join free on free.n = fresh.n
               where v.id = free.id and v.provider_id is null
               returning v.id as "id: VmId", fresh.id as "machine!""#,
            launch.0,
            machines,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in bound {
            let message = format!("The provider made machine {}.", row.machine);
            events::insert(&mut tx, now, Event { kind: "vm.launched", task: None, vm: Some(row.id), message }).await?;
        }
        let known = sqlx::query!(
            r#"-- vms::bind_machines (known)
               select id as "id: VmId", provider_id as "machine!" from vms.vms where provider_id = any($1)"#,
            machines
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(known.into_iter().map(|row| (row.machine, row.id)).collect())
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
        let mut rows = sqlx::query_as!(
            LeasedVm,
            r#"-- vms::lease_vms
               with due as (
                   select id from vms.vms
                   where state = any($1) and provider = $2 and place = $3 and due_at <= $4 and (lease_until is null or lease_until <= $4)
                   order by due_at, id limit $5 for update skip locked
               )
               update vms.vms v set lease_token = v.lease_token + 1, lease_until = $4::timestamptz + make_interval(secs => $6)
               from due where v.id = due.id
               returning v.id as "id: VmId", v.lease_token as lease, v.launch_id as "launch: LaunchId", v.state as "state: VmState",
                         v.executor as "executor: Executor", v.provider_id, v.deadline_at, v.address, v.ssh_port, v.docker_port,
                         v.identity_sealed, v.available_at is not null as "met!", v.gpus"#,
            &states,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        // In one order, whatever the plan: the same history makes the same calls.
        rows.sort_by_key(|vm| vm.id);
        Ok(rows)
    }

    /// Gives the leases back; the next step of each is due at `due_at`. Those that were lost stay as they are.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn postpone_vms(&self, vms: &[(VmId, i64)], due_at: DateTime<Utc>) -> Result<(), DbError> {
        let (ids, tokens) = columns(vms);
        sqlx::query!(
            "-- vms::postpone_vms
             update vms.vms v set due_at = $3, lease_until = null
             from unnest($1::uuid[], $2::bigint[]) as l (id, token) where v.id = l.id and v.lease_token = l.token",
            &ids,
            &tokens,
            due_at
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// These machines run: each VM is met from now on, until `deadline_at`. Whoever comes second changes nothing.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn boot_vms(&self, running: &[(VmId, Place)], deadline_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), DbError> {
        let ids: Vec<_> = running.iter().map(|(vm, _)| vm.0).collect();
        let addresses: Vec<_> = running.iter().map(|(_, at)| at.ip.to_string()).collect();
        let ssh_ports: Vec<_> = running.iter().map(|(_, at)| i32::from(at.ssh_port)).collect();
        let docker_ports: Vec<_> = running.iter().map(|(_, at)| i32::from(at.docker_port)).collect();
        let zones: Vec<_> = running.iter().map(|(_, at)| at.zone.clone().unwrap_or_default()).collect();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- vms::boot_vms
             with booted as (
                 update vms.vms v
                 set state = 'booting', booted_at = $5, address = r.address, ssh_port = r.ssh, docker_port = r.docker,
                     zone = nullif(r.zone, ''), deadline_at = $6, due_at = $5
                 from unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $7::text[]) as r (id, address, ssh, docker, zone)
                 where v.id = r.id and v.state = 'launching'
                 returning v.id, v.address
             )
             insert into vms.events (at, kind, vm_id, message)
             select $5, 'vm.booting', id, 'The machine runs at ' || address || '; its first contact is awaited.' from booted",
            &ids,
            &addresses,
            &ssh_ports,
            &docker_ports,
            now,
            deadline_at,
            &zones,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Keeps the identity that the VM is going to have, before anything of it is sent.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn keep_identity(&self, vm: VmId, lease: i64, identity_sealed: &[u8]) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- vms::keep_identity
             update vms.vms set identity_sealed = $3 where id = $1 and lease_token = $2 and state = 'booting'",
            vm.0,
            lease,
            identity_sealed,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// VMs whose machine was made before then and has not been met: its name, the VM's deadline, and whether it is not known to run.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_starting(&self, place: (&str, &str), launched_before: DateTime<Utc>) -> Result<Vec<Starting>, DbError> {
        let rows = sqlx::query_as!(
            Starting,
            r#"-- vms::list_starting
               select id as "id: VmId", provider_id as "provider_id!", deadline_at, state = 'launching' as "launching!",
                      available_at is not null as "met!"
               from vms.vms
               where state in ('launching', 'booting') and provider_id is not null and provider = $1 and place = $2
                 and launched_at <= $3
               order by id"#,
            place.0,
            place.1,
            launched_before,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The VM is personalised: any fitting task may take it until `idle_end_at`.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn make_available(&self, vm: &LeasedVm, met: &Met<'_>, now: DateTime<Utc>) -> Result<StartedVm, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query_as!(
            StartedVm,
            r#"-- vms::make_available
             update vms.vms
             set state = 'available', available_at = $3, host_key = $4, guest_end_at = $5, absolute_end_at = greatest($5, absolute_end_at),
                 -- One that a volume was brought to is for one project only: it does not wait for long.
                 deadline_at = case when project_id is null then $6 else $3::timestamptz + interval '60 s' end,
                 due_at = $3, lease_until = null, architecture = $7, store = $8, engine_major = $9
             where id = $1 and lease_token = $2
             returning executor as "executor: Executor", origin as "origin: Origin", created_at, booted_at"#,
            vm.id.0,
            vm.lease,
            now,
            met.host_key,
            met.absolute_end_at,
            met.idle_end_at,
            met.engine.map(|it| it.architecture.as_str()),
            met.engine.map(|it| it.store.as_str()),
            met.engine.map(|it| it.major),
        )
        .fetch_optional(&mut *tx)
        .await?;
        let started = done.ok_or(DbError::LostLease)?;
        if met.engine.is_some() {
            sqlx::query!(
                "-- vms::make_available (engine of its image)
                 insert into vms.engines (provider, place, image, architecture, store, engine_major)
                 select v.provider, v.place, l.image, v.architecture, v.store, v.engine_major
                 from vms.vms v join vms.launches l on l.id = v.launch_id where v.id = $1 and l.image is not null
                 on conflict (provider, place, image) do update
                 set architecture = excluded.architecture, store = excluded.store, engine_major = excluded.engine_major
                 where (engines.architecture, engines.store, engines.engine_major)
                       is distinct from (excluded.architecture, excluded.store, excluded.engine_major)",
                vm.id.0,
            )
            .execute(&mut *tx)
            .await?;
        }
        launches::void_bootstrap(&mut tx, &[vm.launch]).await?;
        breakers::note_good_start(&mut tx, vm.id).await?;
        let message = "First contact: personalised; a job may take it.".to_owned();
        events::insert(&mut tx, now, Event { kind: "vm.available", task: None, vm: Some(vm.id), message }).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(started)
    }
}
