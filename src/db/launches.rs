//! `vms.launches`: intent before effect. The row, its token and its VMs are there before the provider is called; whatever
//! happens to the caller, the same call is made again with the same token, or its machines are found by their tags.
//!
//! Not here: its attempts (`launch_attempts`).

use super::events;
use super::{Db, DbError, LEASE_SECONDS, breakers, call_rates, leased};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::rate::LaunchRate;
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
    /// VMs of its kind that were free or on their way when it was decided.
    pub seen: u32,
    /// What its machines are going to be made of.
    pub image: Option<String>,
    /// How fast the provider may be asked.
    pub rate: Option<LaunchRate>,
    /// A zone that is better than others.
    pub near: Option<String>,
}

/// How a launch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// The provider answered.
    Answered,
    /// It was not sent: nobody waits for it any more.
    NotNeeded,
    /// The provider had no room: nothing was made, and no VM failed.
    NoRoom,
    /// Refused for good, or never answered: a failed start.
    Failed(&'a str),
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
    /// Whether a call of this attempt may have gone out already.
    pub attempted: bool,
    /// Whether any call has gone out: the first one was taken from the call budget when the launch was written.
    pub tried: bool,
    /// Rows that still want a machine.
    pub wanted: i64,
    /// What its present attempt asks for; none: not chosen yet.
    pub candidate: Option<String>,
    /// What its machines are made of, as far as it is known.
    pub image: Option<String>,
    /// Its machines end themselves when nobody called by then, seconds. The same in every attempt: a token goes with its parameters.
    pub silent_seconds: i32,
    /// A zone that is better than others.
    pub near: Option<String>,
}

impl Db {
    /// Writes the launch and its VMs in one transaction, within the limits and the call budget, and only while there are no more VMs of
    /// its kind than the planner saw: two planners of the same shortage cannot both launch for it.
    ///
    /// # Errors
    /// `LimitReached`, `Conflict` (decided on old news): nothing was written.
    pub async fn insert_launch(&self, new: &NewLaunch, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query!("-- launches::insert_launch (lock)\n select only_row from vms.budget for update").fetch_one(&mut *tx).await?;
        let count = u32::try_from(new.vms.len()).unwrap_or(u32::MAX);
        if free_supply(&mut tx, new.executor, &new.resource_class, now).await? > i64::from(new.seen) {
            return Err(DbError::Conflict("somebody else has launched for it".to_owned()));
        }
        if !call_rates::take(&mut tx, (&new.provider, &new.place), new.rate, count, now).await? {
            return Err(DbError::Conflict("the provider is asked as fast as it may be".to_owned()));
        }
        sqlx::query!(
            "-- launches::insert_launch
             insert into vms.launches (id, executor, resource_class, class_spec, origin, provider, place, machines,
                                       bootstrap_sealed, created_at, due_at, image, silent_seconds, near)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13)",
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
            new.image,
            i32::try_from((new.absolute_end_at - now).num_seconds()).unwrap_or(i32::MAX),
            new.near,
        )
        .execute(&mut *tx)
        .await?;
        let ids: Vec<_> = new.vms.iter().map(|vm| vm.0).collect();
        sqlx::query!(
            "-- launches::insert_launch (VMs)
             insert into vms.vms (id, launch_id, executor, resource_class, origin, provider, place, deadline_at,
                                  absolute_end_at, created_at, due_at, gpus)
             select id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11 from unnest($1::uuid[]) as id",
            &ids,
            new.id.0,
            new.executor.as_str(),
            new.resource_class,
            new.origin.as_str(),
            new.provider,
            new.place,
            new.deadline_at,
            new.absolute_end_at,
            now,
            i32::try_from(new.class.gpus).unwrap_or(0),
        )
        .execute(&mut *tx)
        .await?;
        let why = match new.origin {
            Origin::OnDemand => "for a task that waits",
            Origin::Preallocated => "ahead of demand",
        };
        let message = format!(
            "Wanted {why}: one of {count} of class {} from {} at {}, in launch {}.",
            new.resource_class, new.provider, new.place, new.id
        );
        events::insert_about_vms(&mut tx, now, "vm.requested", &new.vms, &message).await?;
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
                   order by due_at, id limit $4 for update skip locked
               )
               update vms.launches l set lease_token = lease_token + 1, lease_until = $3::timestamptz + make_interval(secs => $5)
               from due where l.id = due.id
               returning l.id as "id: LaunchId", l.lease_token, l.attempt, l.executor as "executor: Executor", l.resource_class,
                         l.class_spec as "class: Json<ResourceClass>", l.origin as "origin: Origin", l.provider,
                         l.bootstrap_sealed, l.machines, l.created_at, l.silent_seconds, l.candidate, l.image, l.near, l.attempted_at is not null as "attempted!",
                         (l.attempted_at is not null or l.attempt > 1 or l.error is not null) as "tried!",
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
                tried: row.tried,
                wanted: row.wanted,
                candidate: row.candidate,
                image: row.image,
                near: row.near,
                silent_seconds: row.silent_seconds,
            })
            .collect())
    }

    /// Whether the VMs of this kind that are on their way are still wanted: by tasks that wait, or by pool and reserve, which keep
    /// `kept` between them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_launch_needed(&self, launch: &LeasedLaunch, kept: u32, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut connection = self.pool.acquire().await?;
        let supply = free_supply(&mut connection, launch.executor, &launch.resource_class, now).await?;
        let asked = sqlx::query!(
            r#"-- launches::is_launch_needed
               select (select count(*) from vms.tasks where state = 'queued' and executor = $1 and resource_class = $2) as "queued!",
                      (select count(*) from vms.vms
                       where state in ('stopping', 'stopped') and executor = $1 and resource_class = $2
                         and (hold_until is null or hold_until <= $3)) as "reserved!",
                      (select coalesce(sum(least(m.vms, q.tasks)), 0)::bigint
                       from (select project_id, cache_trust, count(*) as vms from vms.vms
                             where state in ('booting', 'available') and executor = $1 and resource_class = $2
                               and project_id is not null and (hold_until is null or hold_until <= $3)
                             group by project_id, cache_trust) m
                       join (select project_id, cache_trust, count(*) as tasks from vms.tasks
                             where state = 'queued' and caching and executor = $1 and resource_class = $2
                             group by project_id, cache_trust) q using (project_id, cache_trust)) as "marked!""#,
            launch.executor.as_str(),
            launch.resource_class,
            now,
        )
        .fetch_one(&mut *connection)
        .await?;
        // A VM that a volume is brought to is for a task of its owner only.
        // What the whole launch would add is not needed only when the rest is enough by itself.
        Ok(supply + asked.marked + asked.reserved - launch.wanted < asked.queued + i64::from(kept))
    }

    /// The launch is over: rows without a machine are not going to have one.
    ///
    /// # Errors
    /// `LostLease`.
    pub async fn end_launch(&self, launch: LaunchId, lease: i64, end: End<'_>, now: DateTime<Utc>) -> Result<(), DbError> {
        let (state, reason, failure) = match end {
            End::Answered => ("sent", "the provider gave fewer machines than asked for", None),
            End::NotNeeded => ("failed", "it is not needed any more", None),
            End::NoRoom => ("failed", "the provider had no room for it in time", None),
            End::Failed(reason) => ("failed", reason, Some(reason)),
        };
        let mut tx = self.begin().await?;
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
               update vms.vms set state = 'terminated', reason = $2, terminated_at = $3, deadline_at = null
               where launch_id = $1 and provider_id is null and state in ('requested', 'terminating')
               returning id as "id: VmId""#,
            launch.0,
            reason,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        if failure.is_some() {
            breakers::note_failed_starts(&mut tx, &unbound, now).await?;
        }
        events::insert_about_vms(&mut tx, now, "vm.terminated", &unbound, &format!("No machine: {reason}.")).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Ends launches that nobody works on long after their time: whoever served their place is gone. Returns how many.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_abandoned_launches(&self, decided_before: DateTime<Utc>, now: DateTime<Utc>) -> Result<usize, DbError> {
        let abandoned = sqlx::query!(
            r#"-- launches::end_abandoned_launches
               update vms.launches set lease_token = lease_token + 1
               where state = 'requested' and created_at <= $1 and (lease_until is null or lease_until <= $2)
               returning id as "id: LaunchId", lease_token"#,
            decided_before,
            now,
        )
        .fetch_all(&self.pool)
        .await?;
        for launch in &abandoned {
            self.end_launch(launch.id, launch.lease_token, End::Failed("nobody serves its place any more"), now).await?;
        }
        Ok(abandoned.len())
    }

    /// Places of this provider that have a VM or a launch that has not ended.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_places_in_care(&self, provider: &str) -> Result<Vec<String>, DbError> {
        let places = sqlx::query_scalar!(
            r#"-- launches::list_places_in_care
               select place as "place!" from vms.vms where provider = $1 and state <> 'terminated'
               union select place from vms.launches where provider = $1 and state = 'requested'
               union select place from vms.orphans where provider = $1
               order by 1"#,
            provider
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(places)
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

/// VMs of a kind that are free or on their way.
async fn free_supply(connection: &mut PgConnection, executor: Executor, class: &str, now: DateTime<Utc>) -> Result<i64, DbError> {
    let count = sqlx::query_scalar!(
        r#"-- launches::free_supply
           select count(*) as "count!" from vms.vms
           where state in ('requested', 'launching', 'booting', 'available') and executor = $1 and resource_class = $2
             and project_id is null and (hold_until is null or hold_until <= $3)"#,
        executor.as_str(),
        class,
        now,
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// The last VM of each launch has been met, or given up: its bootstrap identity is void.
pub(super) async fn void_bootstrap(connection: &mut PgConnection, launches: &[LaunchId]) -> Result<(), DbError> {
    let ids: Vec<_> = launches.iter().map(|launch| launch.0).collect();
    sqlx::query!(
        "-- launches::void_bootstrap
         update vms.launches l set bootstrap_sealed = null
         where l.id = any($1) and l.state <> 'requested' and l.bootstrap_sealed is not null
           and not exists (select from vms.vms v where v.launch_id = l.id and v.state in ('requested', 'launching', 'booting'))",
        &ids
    )
    .execute(connection)
    .await?;
    Ok(())
}
