//! `vms.launches`: intent before effect. The row, its token and its VMs are there before the provider is called; whatever
//! happens to the caller, the same call is made again with the same token, or its machines are found by their tags.

use super::events::{self, Event};
use super::{Db, DbError, LEASE_SECONDS, leased};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::resource_class::ResourceClass;
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

/// A launch to be made.
#[derive(Clone, Debug)]
pub struct NewLaunch {
    /// Its id.
    pub id: LaunchId,
    /// Its VMs, one row each.
    pub vms: Vec<VmId>,
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// The class as it is now.
    pub class: ResourceClass,
    /// Why.
    pub origin: Origin,
    /// By whom.
    pub provider: String,
    /// Region or host.
    pub place: String,
    /// Sealed [`crate::domain::identity::Bootstrap`], with the launch's id as associated data.
    pub bootstrap_sealed: Vec<u8>,
    /// By when its VMs must run.
    pub deadline_at: DateTime<Utc>,
    /// When its VMs end themselves as long as nobody has called them.
    pub absolute_end_at: DateTime<Utc>,
}

/// A launch under lease.
#[derive(Clone, Debug)]
pub struct LeasedLaunch {
    /// Its id.
    pub id: LaunchId,
    /// Fencing token.
    pub lease: i64,
    /// Part of the client token: grows when parameters change or a refusal is final.
    pub attempt: i32,
    /// What for.
    pub executor: Executor,
    /// Name of the class.
    pub resource_class: String,
    /// The class as it was decided.
    pub class: ResourceClass,
    /// Why.
    pub origin: Origin,
    /// By whom.
    pub provider: String,
    /// Sealed bootstrap identity.
    pub bootstrap_sealed: Option<Vec<u8>>,
    /// How many machines.
    pub machines: i32,
    /// When it was decided.
    pub created_at: DateTime<Utc>,
    /// Whether a call may have gone out already.
    pub attempted: bool,
    /// Rows that still want a machine.
    pub wanted: i64,
}

impl Db {
    /// Writes the launch and its VMs in one transaction, within the limits. An on-demand launch is written only while as many
    /// tasks wait without a VM: two planners of the same queue cannot both launch for it.
    ///
    /// # Errors
    /// `LimitReached`, `Conflict` (nobody waits for it any more): nothing was written.
    pub async fn insert_launch(&self, new: &NewLaunch, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("-- launches::insert_launch (lock)\n select only_row from vms.budget for update").fetch_one(&mut *tx).await?;
        if new.origin == Origin::OnDemand {
            let unserved = unserved(&mut tx, new.executor, &new.resource_class, now).await?;
            if unserved < i64::try_from(new.vms.len()).unwrap_or(i64::MAX) {
                return Err(DbError::Conflict("nobody waits for this launch any more".to_owned()));
            }
        }
        sqlx::query!(
            "-- launches::insert_launch
             insert into vms.launches (id, executor, resource_class, class_spec, origin, provider, place, machines,
                                       bootstrap_sealed, created_at, due_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
            new.id.0,
            new.executor.as_str(),
            new.resource_class,
            Json(&new.class) as _,
            new.origin.as_str(),
            new.provider,
            new.place,
            i32::try_from(new.vms.len()).unwrap_or(i32::MAX),
            new.bootstrap_sealed,
            now,
        )
        .execute(&mut *tx)
        .await?;
        for vm in &new.vms {
            sqlx::query!(
                "-- launches::insert_launch (VM)
                 insert into vms.vms (id, launch_id, executor, resource_class, origin, provider, place, deadline_at,
                                      absolute_end_at, created_at, due_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
                vm.0,
                new.id.0,
                new.executor.as_str(),
                new.resource_class,
                new.origin.as_str(),
                new.provider,
                new.place,
                new.deadline_at,
                new.absolute_end_at,
                now,
            )
            .execute(&mut *tx)
            .await?;
            let message = format!("A {} VM of class {} is wanted.", new.executor, new.resource_class);
            events::insert(&mut tx, now, Event { kind: "vm.requested", task: None, vm: Some(*vm), message }).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Leases launches that must be sent, or sent again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_launches(&self, place: (&str, &str), now: DateTime<Utc>, limit: i64) -> Result<Vec<LeasedLaunch>, DbError> {
        let rows = sqlx::query!(
            r#"-- launches::lease_launches
               with due as (
                   select id from vms.launches
                   where state = 'requested' and provider = $1 and place = $2 and due_at <= $3
                     and (lease_until is null or lease_until <= $3)
                   order by due_at limit $4 for update skip locked
               )
               update vms.launches l set lease_token = lease_token + 1, lease_until = $3::timestamptz + make_interval(secs => $5)
               from due where l.id = due.id
               returning l.id as "id: LaunchId", l.lease_token, l.attempt, l.executor as "executor: Executor", l.resource_class,
                         l.class_spec as "class: Json<ResourceClass>", l.origin as "origin: Origin", l.provider,
                         l.bootstrap_sealed, l.machines, l.created_at, l.attempted_at is not null as "attempted!",
                         (select count(*) from vms.vms v where v.launch_id = l.id and v.state = 'requested') as "wanted!""#,
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
            .map(|row| LeasedLaunch {
                id: row.id,
                lease: row.lease_token,
                attempt: row.attempt,
                executor: row.executor,
                resource_class: row.resource_class,
                class: row.class.0,
                origin: row.origin,
                provider: row.provider,
                bootstrap_sealed: row.bootstrap_sealed,
                machines: row.machines,
                created_at: row.created_at,
                attempted: row.attempted,
                wanted: row.wanted,
            })
            .collect())
    }

    /// Whether somebody still waits for the VMs of this kind that are on their way.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_launch_needed(&self, launch: &LeasedLaunch, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut connection = self.pool.acquire().await?;
        Ok(launch.origin == Origin::Preallocated
            || unserved(&mut connection, launch.executor, &launch.resource_class, now).await? >= 0)
    }

    /// Notes that the call goes out next: from here on machines may exist.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn mark_attempt(&self, launch: LaunchId, lease: i64, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launches::mark_attempt
             update vms.launches set attempted_at = coalesce(attempted_at, $3) where id = $1 and lease_token = $2",
            launch.0,
            lease,
            now
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The provider answered: the launch is over, and rows without a machine are not going to have one.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn finish_launch(&self, launch: LaunchId, lease: i64, now: DateTime<Utc>) -> Result<(), DbError> {
        self.end_launch(launch, lease, "sent", "the provider gave fewer machines than asked for", None, now).await
    }

    /// The launch is not made, or refused for good; `failure` is the reason of a refusal.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn fail_launch(
        &self,
        launch: LaunchId,
        lease: i64,
        failure: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        self.end_launch(launch, lease, "failed", failure.unwrap_or("it is not needed any more"), failure, now).await
    }

    async fn end_launch(
        &self,
        launch: LaunchId,
        lease: i64,
        state: &str,
        reason: &str,
        failure: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "-- launches::end_launch
             update vms.launches set state = $3, error = $4, lease_until = null where id = $1 and lease_token = $2",
            launch.0,
            lease,
            state,
            failure
        )
        .execute(&mut *tx)
        .await?;
        leased(done.rows_affected())?;
        let unbound = sqlx::query_scalar!(
            r#"-- launches::end_launch (VMs)
               update vms.vms
               set state = 'terminated', reason = $2, terminated_at = $3, deadline_at = null,
                   start_failed_at = case when $4 then $3::timestamptz end
               where launch_id = $1 and provider_id is null and state in ('requested', 'terminating')
               returning id as "id: VmId""#,
            launch.0,
            reason,
            now,
            failure.is_some(),
        )
        .fetch_all(&mut *tx)
        .await?;
        for vm in unbound {
            let message = format!("No machine: {reason}.");
            events::insert(&mut tx, now, Event { kind: "vm.terminated", task: None, vm: Some(vm), message }).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Puts the call back; `new_attempt` when the next one must carry a new token.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn postpone_launch(
        &self,
        launch: LaunchId,
        lease: i64,
        due_at: DateTime<Utc>,
        new_attempt: bool,
        error: &str,
    ) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launches::postpone_launch
             update vms.launches set due_at = $3, attempt = attempt + case when $4 then 1 else 0 end, error = $5, lease_until = null
             where id = $1 and lease_token = $2",
            launch.0,
            lease,
            due_at,
            new_attempt,
            error,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn renew_launch_lease(&self, launch: LaunchId, lease: i64, now: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- launches::renew_launch_lease
             update vms.launches set lease_until = $3::timestamptz + make_interval(secs => $4) where id = $1 and lease_token = $2",
            launch.0,
            lease,
            now,
            LEASE_SECONDS,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// The bootstrap identity that a launch's machines are first met with; none once it is void.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_bootstrap(&self, launch: LaunchId) -> Result<Option<Vec<u8>>, DbError> {
        let sealed = sqlx::query_scalar!(
            "-- launches::find_bootstrap
             select bootstrap_sealed from vms.launches where id = $1",
            launch.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(sealed.flatten())
    }
}

/// Waiting tasks of a kind less the VMs that are free or on their way for them.
async fn unserved(connection: &mut PgConnection, executor: Executor, class: &str, now: DateTime<Utc>) -> Result<i64, DbError> {
    let count = sqlx::query_scalar!(
        r#"-- launches::unserved
           select (select count(*) from vms.tasks where state = 'queued' and executor = $1 and resource_class = $2)
                - (select count(*) from vms.vms
                   where state in ('requested', 'launching', 'booting', 'available') and executor = $1 and resource_class = $2
                     and (hold_until is null or hold_until <= $3)) as "count!""#,
        executor.as_str(),
        class,
        now,
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// The last VM of the launch has been met, or given up: its bootstrap identity is void.
pub(super) async fn void_bootstrap(connection: &mut PgConnection, launch: LaunchId) -> Result<(), DbError> {
    sqlx::query!(
        "-- launches::void_bootstrap
         update vms.launches set bootstrap_sealed = null
         where id = $1 and state <> 'requested'
           and not exists (select from vms.vms where launch_id = $1 and state in ('requested', 'launching', 'booting'))",
        launch.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
