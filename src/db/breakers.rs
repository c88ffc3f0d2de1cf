//! `vms.breakers`: how the starts of each kind of VM went lately. Written in the transaction that ends or finishes a start.

use super::{Db, DbError};
use crate::domain::ids::VmId;
use crate::domain::plan::breaker::{Breaker, CLOSED_AT, OPENS_AFTER};
use crate::domain::plan::room::Kind;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use std::collections::BTreeMap;

impl Db {
    /// The breakers of a provider and place that say something.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_breakers(&self, place: (&str, &str)) -> Result<BTreeMap<Kind, Breaker>, DbError> {
        let rows = sqlx::query!(
            r#"-- breakers::list_breakers
               select executor as "executor: Executor", resource_class, failed_at, reason, allowance from vms.breakers
               where provider = $1 and place = $2 and (cardinality(failed_at) > 0 or allowance is not null)"#,
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        let breaker = |failed_at, reason, allowance: Option<i32>| Breaker {
            failed_at,
            reason,
            allowance: allowance.and_then(|most| u32::try_from(most).ok()),
        };
        Ok(rows
            .into_iter()
            .map(|row| ((row.executor, row.resource_class), breaker(row.failed_at, row.reason, row.allowance)))
            .collect())
    }
}

/// These VMs were given up before they were available; `reason` of each is in its row.
pub(super) async fn note_failed_starts(connection: &mut PgConnection, vms: &[VmId], now: DateTime<Utc>) -> Result<(), DbError> {
    let ids: Vec<_> = vms.iter().map(|vm| vm.0).collect();
    sqlx::query!(
        "-- breakers::note_failed_starts
         update vms.vms set start_failed_at = $2 where id = any($1)",
        &ids,
        now
    )
    .execute(&mut *connection)
    .await?;
    // One of a kind speaks for all of them: the one that was begun last. An image that is only tried, and was never seen to boot, says
    // nothing of the kind: it loses its share instead (`image_moves::take_back_images`).
    sqlx::query!(
        "-- breakers::note_failed_starts (breaker)
         insert into vms.breakers as b (provider, place, executor, resource_class, failed_at, reason)
         select distinct on (v.provider, v.place, v.executor, v.resource_class)
                v.provider, v.place, v.executor, v.resource_class, array[$2::timestamptz], v.reason
         from vms.vms v
         where v.id = any($1)
           and not exists (select from vms.launches l
                           join vms.images i on (i.provider, i.place, i.provider_id) = (l.provider, l.place, l.image)
                           where l.id = v.launch_id and i.state = 'candidate'
                             and not exists (select from vms.image_boots b where b.image_id = i.id and b.ready_at is not null))
         order by v.provider, v.place, v.executor, v.resource_class, v.created_at desc
         on conflict (provider, place, executor, resource_class) do update
         set reason = excluded.reason, allowance = null,
             failed_at = case
                 when cardinality(b.failed_at) > 0 and not exists
                     (select from vms.vms v where v.id = any($1) and v.created_at > b.failed_at[cardinality(b.failed_at)]
                        and (v.executor, v.resource_class) = (b.executor, b.resource_class))
                 then b.failed_at
                 else b.failed_at[greatest(1, cardinality(b.failed_at) - 18):] || excluded.failed_at end",
        &ids,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A start of this VM's kind succeeded. Those that began before the last success was known are one round, as failures are: fifty VMs
/// of one good launch raise the allowance once.
pub(super) async fn note_good_start(connection: &mut PgConnection, vm: VmId) -> Result<(), DbError> {
    sqlx::query!(
        "-- breakers::note_good_start
         update vms.breakers b
         set failed_at = '{}', reason = null,
             allowance = case when cardinality(b.failed_at) >= $2 then 1
                              when exists (select from vms.vms o
                                           where o.available_at > v.created_at and o.id <> v.id
                                             and (o.provider, o.place, o.executor, o.resource_class)
                                                 = (v.provider, v.place, v.executor, v.resource_class)) then b.allowance
                              when b.allowance * 2 >= $3 then null
                              else b.allowance * 2 end
         from vms.vms v
         where v.id = $1 and (b.provider, b.place, b.executor, b.resource_class) = (v.provider, v.place, v.executor, v.resource_class)
           and (cardinality(b.failed_at) > 0 or b.allowance is not null)",
        vm.0,
        i32::try_from(OPENS_AFTER).unwrap_or(i32::MAX),
        CLOSED_AT,
    )
    .execute(connection)
    .await?;
    Ok(())
}
