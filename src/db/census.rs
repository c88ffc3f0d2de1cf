//! What there is, counted and listed for the planners; reads only.

use super::{Db, DbError};
use crate::domain::ids::{LaunchId, VmId};
use crate::domain::lineage::Trust;
use crate::domain::plan::assign::{Available, Booting, Owner};
use crate::domain::plan::gc::BoundVm;
use crate::domain::plan::images::Fit;
use crate::domain::plan::queue::{LaneKey, priority};
use crate::domain::plan::room::{Kind, Room, Supply};
use crate::domain::plan::save::Taken;
use crate::domain::plan::scale::{Idle, Pool};
use crate::domain::resource_class::ResourceClass;
use crate::domain::settings::Settings;
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::types::Json;
use std::collections::{BTreeMap, BTreeSet};

impl Db {
    /// VMs that a task may take, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_available(&self, now: DateTime<Utc>) -> Result<Vec<Available>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::list_available
               select id as "id: VmId", executor as "executor: Executor", resource_class, absolute_end_at, project_id,
                      cache_trust as "trust: Trust", zone
               from vms.vms
               where state = 'available' and (hold_until is null or hold_until <= $1)
               order by available_at, id"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let available = rows.into_iter().map(|row| Available {
            id: row.id,
            executor: row.executor,
            resource_class: row.resource_class,
            absolute_end_at: row.absolute_end_at,
            owner: row.project_id.zip(row.trust),
            zone: row.zone,
        });
        Ok(available.collect())
    }

    /// VMs that run and do not answer yet, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_booting(&self, now: DateTime<Utc>) -> Result<Vec<Booting>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::list_booting
               select id as "id: VmId", executor as "executor: Executor", resource_class, project_id, cache_trust as "trust: Trust", zone
               from vms.vms
               where state = 'booting' and (hold_until is null or hold_until <= $1)
               order by booted_at, id"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let booting = rows.into_iter().map(|row| Booting {
            id: row.id,
            kind: (row.executor, row.resource_class),
            owner: row.project_id.zip(row.trust),
            zone: row.zone,
        });
        Ok(booting.collect())
    }

    /// Zones of the free volumes of projects that wait for a VM; where their newest state is comes first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_volume_zones(&self) -> Result<BTreeMap<Owner, Vec<String>>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::list_volume_zones
               select project_id, cache_trust as "trust: Trust", zone
               from vms.volumes u
               where state = 'available'
                 and exists (select from vms.tasks t where t.state = 'queued' and t.caching
                               and (t.project_id, t.cache_trust) = (u.project_id, u.cache_trust))
               group by project_id, cache_trust, zone
               order by max(good_at) desc nulls last, zone"#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut zones = BTreeMap::<Owner, Vec<String>>::new();
        for row in rows {
            zones.entry((row.project_id, row.trust)).or_default().push(row.zone);
        }
        Ok(zones)
    }

    /// Free VMs, and those in the reserve; `classes` says what a new VM would be, and what it may be made of.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_idle(
        &self,
        classes: &BTreeMap<String, (ResourceClass, Fit)>,
        now: DateTime<Utc>,
    ) -> Result<(Pool, Pool), DbError> {
        let rows = sqlx::query!(
            r#"-- census::list_idle
               select v.id as "id: VmId", v.executor as "executor: Executor", v.resource_class, v.available_at as "since!", v.created_at,
                      l.class_spec as "class?: Json<ResourceClass>", l.image as "image?", v.state <> 'available' as "reserved!"
               from vms.vms v left join vms.launches l on l.id = v.launch_id
               where v.state in ('available', 'stopping', 'stopped') and (v.hold_until is null or v.hold_until <= $1)
                 and v.available_at is not null and v.project_id is null
               order by v.available_at, v.id"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut idle, mut reserve) = (Pool::new(), Pool::new());
        for row in rows {
            let outdated = classes.get(&row.resource_class).is_none_or(|(class, fit)| {
                let same_size = row.class.as_ref().is_none_or(|made| made.0.makes_the_same(class));
                !same_size || fit.is_outdated(row.image.as_deref())
            });
            let vm = Idle { id: row.id, since: row.since, made_at: row.created_at, outdated };
            let pool = if row.reserved { &mut reserve } else { &mut idle };
            pool.entry((row.executor, row.resource_class)).or_default().push(vm);
        }
        Ok((idle, reserve))
    }

    /// What there is of each kind of VM.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn supply(&self, now: DateTime<Utc>) -> Result<BTreeMap<Kind, Supply>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::supply
               select executor as "executor!: Executor", resource_class as "resource_class!",
                      sum(in_flight)::bigint as "in_flight!", sum(available)::bigint as "available!", sum(live)::bigint as "live!"
               from (select executor, resource_class,
                            count(*) filter (where state in ('requested', 'launching', 'booting') and project_id is null
                                               and (hold_until is null or hold_until <= $1)) as in_flight,
                            count(*) filter (where state = 'available' and project_id is null
                                               and (hold_until is null or hold_until <= $1)) as available,
                            count(*) as live
                     from vms.vms where state <> 'terminated' group by executor, resource_class
                     union all
                     select executor, resource_class, 0, 0, count(*) from vms.orphans
                     where executor is not null and resource_class is not null group by executor, resource_class) s
               group by executor, resource_class"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(rows
            .into_iter()
            .map(|row| {
                let supply = Supply { in_flight: number(row.in_flight), available: number(row.available), live: number(row.live) };
                ((row.executor, row.resource_class), supply)
            })
            .collect())
    }

    /// VMs that have a task, by project.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn at_work(&self) -> Result<BTreeMap<String, u32>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::at_work
               select project_id, count(*) as "count!" from vms.tasks where state in ('preparing', 'ready') group by project_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.project_id, u32::try_from(row.count).unwrap_or(u32::MAX))).collect())
    }

    /// When each lane of the queue was last given a VM, as far back as `within`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lanes_served(
        &self,
        settings: &Settings,
        within: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<LaneKey, DateTime<Utc>>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::lanes_served
               select project_id, priority, executor as "executor: Executor", resource_class, max(claimed_at) as "at!"
               from vms.tasks where claimed_at > $1 group by project_id, priority, executor, resource_class"#,
            now - within
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let priority = priority(settings, &row.project_id, row.priority);
                ((row.project_id, priority, row.executor, row.resource_class), row.at)
            })
            .collect())
    }

    /// Tasks that wait, by kind and project.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn count_waiting(&self) -> Result<Vec<(Kind, String, u32)>, DbError> {
        let rows = sqlx::query!(
            r#"-- census::count_waiting
               select executor as "executor: Executor", resource_class, project_id, count(*) as "count!"
               from vms.tasks where state = 'queued' group by executor, resource_class, project_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(rows.into_iter().map(|row| ((row.executor, row.resource_class), row.project_id, number(row.count))).collect())
    }

    /// How many more VMs the limits in force allow. A plan made of it can be late; the insert checks again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn room(&self) -> Result<Room, DbError> {
        let row = sqlx::query!(
            r#"-- census::room
               select greatest(b.max_vms - count(v.id) - (select count(*) from vms.orphans), 0) as "vms!",
                      greatest(b.max_in_flight - count(v.id) filter (where v.state in ('requested', 'launching', 'booting')), 0) as "in_flight!",
                      case when b.max_gpus is not null then greatest(b.max_gpus - vms.gpus_taken(), 0) end as gpus
               from vms.budget b left join vms.vms v on v.state <> 'terminated'
               group by b.max_vms, b.max_in_flight, b.max_gpus"#
        )
        .fetch_one(&self.pool)
        .await?;
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Room { vms: number(row.vms), in_flight: number(row.in_flight), gpus: row.gpus.map(number) })
    }

    /// What there is now, whatever the limits.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn taken(&self) -> Result<Taken, DbError> {
        let row = sqlx::query!(
            r#"-- census::taken
               select (select count(*) from vms.vms where state <> 'terminated') + (select count(*) from vms.orphans) as "vms!",
                      (select count(*) from vms.vms where state in ('requested', 'launching', 'booting')) as "in_flight!",
                      (select count(*) from vms.volumes where state <> 'deleted') as "volumes!",
                      vms.gpus_taken() as "gpus!",
                      (select coalesce(max(n), 0) from (select count(*) as n from vms.tasks where state in ('preparing', 'ready')
                                                        group by project_id) p) as "busiest_project!""#
        )
        .fetch_one(&self.pool)
        .await?;
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Taken {
            vms: number(row.vms),
            in_flight: number(row.in_flight),
            volumes: number(row.volumes),
            gpus: number(row.gpus),
            busiest_project: number(row.busiest_project),
        })
    }

    /// Every row of this provider and place that is bound to a machine and not terminated. What the provider shows may be as old as
    /// `settles`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_bound(&self, place: (&str, &str), settles: TimeDelta, now: DateTime<Utc>) -> Result<Vec<BoundVm>, DbError> {
        let rows = sqlx::query_as!(
            BoundVm,
            r#"-- census::list_bound
               select id as "id: VmId", provider_id as "provider_id!", missing_at, state = 'terminating' as "ending!",
                      (state in ('stopping', 'stopped') or state = 'launching' and available_at is not null
                       or coalesce(power_asked_at > $3, false)) as "reserved!",
                      (state = 'stopped') as "asleep!", coalesce(launched_at, created_at) as "launched_at!"
               from vms.vms
               where state <> 'terminated' and provider_id is not null and provider = $1 and place = $2"#,
            place.0,
            place.1,
            now - settles
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Rows that wait for a machine, by launch, and the launches whose call is still to be made.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn launch_census(&self, place: (&str, &str)) -> Result<(BTreeMap<LaunchId, u32>, BTreeSet<LaunchId>), DbError> {
        let free = sqlx::query!(
            r#"-- census::launch_census (free rows)
               select launch_id as "launch: LaunchId", count(*) as "count!" from vms.vms
               where provider_id is null and state in ('requested', 'terminating') and provider = $1 and place = $2
               group by launch_id"#,
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        let open = sqlx::query_scalar!(
            r#"-- census::launch_census (open launches)
               select id as "id: LaunchId" from vms.launches where state = 'requested' and provider = $1 and place = $2"#,
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        let free = free.into_iter().map(|row| (row.launch, u32::try_from(row.count).unwrap_or(u32::MAX))).collect();
        Ok((free, open.into_iter().collect()))
    }

    /// Every machine that a row is bound to, of any provider and place: what is named here is nobody's orphan, even when this
    /// host has another name than it had.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_bound_machines(&self) -> Result<BTreeSet<String>, DbError> {
        let ids = sqlx::query_scalar!(
            r#"-- census::list_bound_machines
               select provider_id as "provider_id!" from vms.vms where provider_id is not null and state <> 'terminated'"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().collect())
    }

    /// Notes which VMs a complete list did not show, and which it shows again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_missing(&self, missing: &[VmId], seen_again: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
        if missing.is_empty() && seen_again.is_empty() {
            return Ok(());
        }
        let ids = |vms: &[VmId]| vms.iter().map(|vm| vm.0).collect::<Vec<_>>();
        sqlx::query!(
            "-- census::note_missing
             update vms.vms set missing_at = case when id = any($1) then $3::timestamptz end where id = any($1) or id = any($2)",
            &ids(missing),
            &ids(seen_again),
            now
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
