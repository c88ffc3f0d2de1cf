//! `vms.vms`: VMs that are stopped for the reserve and started out of it. Who wants one writes the move; whoever leases it then asks the
//! provider (`loops::power`).
//!
//! Not here: how many there are to be (`domain::plan::scale`).

use super::release::end_vms;
use super::{Db, DbError, LEASE_SECONDS, events, leased};
use crate::domain::ids::VmId;
use crate::domain::plan::room::Kind;
use crate::domain::resource_class::ResourceClass;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use sqlx::types::Json;
use std::collections::BTreeMap;

/// A VM that is to stop, or to run again.
#[derive(Clone, Debug)]
pub struct PowerWish {
    /// Its id.
    pub id: VmId,
    /// Fencing token.
    pub lease: i64,
    /// Its machine.
    pub provider_id: String,
    /// True: it is to run again. False: it is to stop.
    pub start: bool,
    /// Whoever asked before was interrupted: his call may still come, at any time.
    pub interrupted: bool,
    /// Its class as it was made.
    pub class: Option<ResourceClass>,
}

impl Db {
    /// Takes free VMs out of the pool into the reserve; those that a task took meanwhile stay. They wait there as long as they would
    /// have waited in the pool.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn stop_vms(&self, vms: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let mut tx = self.begin().await?;
        let stopping = sqlx::query_scalar!(
            r#"-- reserve::stop_vms
               update vms.vms set state = 'stopping', due_at = $2, power_asked_at = null, lease_token = lease_token + 1, lease_until = null
               where id = any($1) and state = 'available' and (hold_until is null or hold_until <= $2)
               returning id as "id: VmId""#,
            &ids,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        events::insert_about_vms(&mut tx, now, "vm.stopping", &stopping, "It goes to the reserve: its machine is stopped.").await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Takes VMs out of the reserve, as many of them as may be in flight; each must run by `deadline_at`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn start_vms(&self, vms: &[VmId], deadline_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), DbError> {
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let mut tx = self.begin().await?;
        sqlx::query!("-- reserve::start_vms (lock)\n select only_row from vms.budget for update").fetch_one(&mut *tx).await?;
        let starting = sqlx::query_scalar!(
            r#"-- reserve::start_vms
               update vms.vms set state = 'launching', deadline_at = $2, due_at = $3, power_asked_at = null, lease_token = lease_token + 1, lease_until = null
               where id in (select v.id from vms.vms v join unnest($1::uuid[]) with ordinality as w (id, nth) on w.id = v.id
                            where v.state = 'stopped' and (v.hold_until is null or v.hold_until <= $3)
                            order by w.nth
                            limit (select greatest(b.max_in_flight - count(f.id), 0)
                                   from vms.budget b left join vms.vms f on f.state in ('requested', 'launching', 'booting')
                                   group by b.max_in_flight))
               returning id as "id: VmId""#,
            &ids,
            deadline_at,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        events::insert_about_vms(&mut tx, now, "vm.starting", &starting, "Its machine is started, out of the reserve.").await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Takes VMs out of the reserve for good, each with its reason; those that are started meanwhile stay.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drop_reserved(&self, vms: &[(VmId, &str)], now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for (vm, reason) in vms {
            let reserved = sqlx::query_scalar!(
                r#"-- reserve::drop_reserved
                   select id as "id: VmId" from vms.vms where id = $1 and state in ('stopping', 'stopped') for update"#,
                vm.0
            )
            .fetch_optional(&mut *tx)
            .await?;
            end_vms(&mut tx, reserved.as_slice(), reason, now).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Stopped VMs that may be started, by kind, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_reserve(&self, now: DateTime<Utc>) -> Result<BTreeMap<Kind, Vec<VmId>>, DbError> {
        let rows = sqlx::query!(
            r#"-- reserve::list_reserve
               select id as "id: VmId", executor as "executor: Executor", resource_class from vms.vms
               where state = 'stopped' and due_at <= $1 and (hold_until is null or hold_until <= $1) order by available_at, id"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let mut reserve: BTreeMap<Kind, Vec<VmId>> = BTreeMap::new();
        for row in rows {
            reserve.entry((row.executor, row.resource_class)).or_default().push(row.id);
        }
        Ok(reserve)
    }

    /// Leases VMs whose machine must be asked to stop, or to run again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_power(&self, place: (&str, &str), now: DateTime<Utc>, limit: i64) -> Result<Vec<PowerWish>, DbError> {
        let rows = sqlx::query!(
            r#"-- reserve::lease_power
               with due as (
                   select id, power_pending from vms.vms
                   where (state = 'stopping' or state = 'launching' and available_at is not null) and provider = $1 and place = $2
                     and due_at <= $3 and (lease_until is null or lease_until <= $3)
                   order by due_at, id limit $4 for update skip locked
               )
               update vms.vms v set power_pending = true, lease_token = v.lease_token + 1,
                                    lease_until = $3::timestamptz + make_interval(secs => $5)
               from due where v.id = due.id
               returning v.id as "id: VmId", v.lease_token, v.provider_id as "provider_id!", v.state = 'launching' as "start!",
                         due.power_pending as interrupted,
                         (select l.class_spec from vms.launches l where l.id = v.launch_id) as "class: Json<ResourceClass>""#,
            place.0,
            place.1,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut wishes: Vec<PowerWish> = rows
            .into_iter()
            .map(|row| PowerWish {
                id: row.id,
                lease: row.lease_token,
                provider_id: row.provider_id,
                start: row.start,
                interrupted: row.interrupted,
                class: row.class.map(|class| class.0),
            })
            .collect();
        wishes.sort_by_key(|wish| wish.id);
        Ok(wishes)
    }

    /// The provider was asked; it is asked again at `again_at`, unless the machine has done it by then.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn mark_power_asked(&self, vm: VmId, lease: i64, again_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- reserve::mark_power_asked
             update vms.vms set power_asked_at = $3, power_pending = false, due_at = $4, lease_until = null
             where id = $1 and lease_token = $2",
            vm.0,
            lease,
            now,
            again_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The provider was asked in vain; the next try is due at `due_at`.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_power(&self, vm: VmId, lease: i64, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- reserve::postpone_power
             update vms.vms set power_pending = false, due_at = $3, lease_until = null where id = $1 and lease_token = $2",
            vm.0,
            lease,
            due_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// It could not be started: it stays in the reserve, and nobody tries before `again_at`.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn put_back(
        &self,
        vm: VmId,
        lease: i64,
        reason: &str,
        again_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- reserve::put_back
             update vms.vms set state = 'stopped', due_at = $3, deadline_at = null, power_pending = false, lease_until = null
             where id = $1 and lease_token = $2 and state = 'launching'",
            vm.0,
            lease,
            again_at,
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        let message = format!("It stays in the reserve: {reason}");
        events::insert_about_vms(&mut tx, now, "vm.stopped", &[vm], &message).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// VMs whose machine was asked to stop: each with its machine.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_stopping(&self, place: (&str, &str)) -> Result<Vec<(VmId, String)>, DbError> {
        let rows = sqlx::query!(
            r#"-- reserve::list_stopping
               select id as "id: VmId", provider_id as "provider_id!" from vms.vms
               where state = 'stopping' and power_asked_at is not null and provider = $1 and place = $2 order by id"#,
            place.0,
            place.1,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id, row.provider_id)).collect())
    }

    /// The provider confirmed that these machines have stopped.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn confirm_stopped(&self, vms: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
        if vms.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
        let mut tx = self.begin().await?;
        let stopped = sqlx::query_scalar!(
            r#"-- reserve::confirm_stopped
               update vms.vms set state = 'stopped', due_at = $2, lease_token = lease_token + 1, lease_until = null
               where id = any($1) and state = 'stopping' returning id as "id: VmId""#,
            &ids,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        events::insert_about_vms(&mut tx, now, "vm.stopped", &stopped, "It is in the reserve: its machine has stopped.").await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }
}
