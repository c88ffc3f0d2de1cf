//! `vms.orphans`: machines without a row, from their first sighting to their end. They count against the limits.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::audit::Party;
use crate::domain::plan::gc::{Orphan, OrphanState, Rowless};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A machine whose end is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueOrphan {
    /// The machine.
    pub provider_id: String,
    /// Why it ends.
    pub reason: String,
}

impl Db {
    /// Notes the machines without a row that a list shows, and forgets those that a complete list does not show any more. Returns those
    /// that were not known: when each was made, and whether its row may have been lost.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_rowless(
        &self,
        place: (&str, &str),
        rowless: &[Rowless],
        complete: bool,
        now: DateTime<Utc>,
    ) -> Result<Vec<(DateTime<Utc>, bool)>, DbError> {
        let ids: Vec<_> = rowless.iter().map(|r| r.machine.provider_id.clone()).collect();
        let executors: Vec<_> = rowless.iter().map(|r| r.machine.executor.as_str().to_owned()).collect();
        let classes: Vec<_> = rowless.iter().map(|r| r.machine.resource_class.clone()).collect();
        let made: Vec<_> = rowless.iter().map(|r| r.machine.made_at).collect();
        let ends: Vec<_> = rowless.iter().map(|r| r.ends_at).collect();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- orphans::note_rowless (forget)
             delete from vms.orphans where provider = $1 and place = $2 and provider_id <> all($3) and $4",
            place.0,
            place.1,
            &ids,
            complete,
        )
        .execute(&mut *tx)
        .await?;
        let fresh = sqlx::query!(
            r#"-- orphans::note_rowless
               insert into vms.orphans as o (provider, place, provider_id, executor, resource_class, made_at, ends_at, unknown,
                                             first_seen_at, last_seen_at)
               select $1, $2, m.id, m.executor, m.class, m.made_at, m.ends_at, m.ends_at is not null, $8, $8
               from unnest($3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[])
                    as m (id, executor, class, made_at, ends_at)
               on conflict (provider, place, provider_id) do update
               set last_seen_at = $8, sightings = o.sightings + 1, unknown = excluded.unknown,
                   ends_at = greatest(o.ends_at, excluded.ends_at)
               returning o.provider_id, o.unknown, coalesce(o.made_at, $8) as "made_at!", o.sightings = 1 as "fresh!""#,
            place.0,
            place.1,
            &ids,
            &executors,
            &classes,
            &made,
            &ends as &[Option<DateTime<Utc>>],
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut found = Vec::new();
        for row in fresh.into_iter().filter(|row| row.fresh) {
            found.push((row.made_at, row.unknown));
            let machine = row.provider_id;
            let (kind, message) = if row.unknown {
                let left = "a job may run on it, so it is left until its own end";
                ("machine.unknown", format!("Machine {machine} has no row, which may have been lost: {left}."))
            } else {
                ("machine.orphan", format!("Machine {machine} has no row: it is looked at again."))
            };
            events::insert(&mut tx, now, Event { kind, task: None, vm: None, message }).await?;
        }
        tx.commit().await?;
        Ok(found)
    }

    /// The machines without a row that are known.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_orphans(&self, place: (&str, &str)) -> Result<BTreeMap<String, Orphan>, DbError> {
        let rows = sqlx::query!(
            r#"-- orphans::list_orphans
               select provider_id, first_seen_at, state as "state: OrphanState" from vms.orphans where provider = $1 and place = $2"#,
            place.0,
            place.1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.provider_id, Orphan { first_seen_at: row.first_seen_at, state: row.state })).collect())
    }

    /// Believed to be an orphan: it is looked at once more, and then ended.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn quarantine_orphan(&self, place: (&str, &str), machine: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- orphans::quarantine_orphan
             update vms.orphans set state = 'quarantined', state_at = $4
             where provider = $1 and place = $2 and provider_id = $3 and state = 'seen' and not unknown",
            place.0,
            place.1,
            machine,
            now,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            let message =
                format!("Machine {machine} has no row for the second time, and the provider says that it lives: it ends next.");
            events::insert(&mut tx, now, Event { kind: "machine.quarantined", task: None, vm: None, message }).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Machines without a row whose end is due: orphans in quarantine since `believed_before`, those whose termination was asked for
    /// before `asked_before` and that are still there, unknown ones past their end, and those that an operator wants gone.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_due_orphans(
        &self,
        place: (&str, &str),
        believed_before: DateTime<Utc>,
        asked_before: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<DueOrphan>, DbError> {
        let rows = sqlx::query_as!(
            DueOrphan,
            r#"-- orphans::list_due_orphans
               select provider_id,
                      case when end_asked_by is not null then 'ended by the operator ' || end_asked_by
                           when unknown then 'it is past its absolute end' else 'no row knows it' end as "reason!"
               from vms.orphans
               where provider = $1 and place = $2
                 and case state when 'terminating' then state_at <= $4
                                when 'quarantined' then state_at <= $3 or end_asked_by is not null
                                else end_asked_by is not null or (unknown and ends_at <= $5) end
               order by provider_id limit 1000"#,
            place.0,
            place.1,
            believed_before,
            asked_before,
            now,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Whether no live row is bound to this machine.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_without_row(&self, machine: &str) -> Result<bool, DbError> {
        let known = sqlx::query_scalar!(
            r#"-- orphans::is_without_row
               select not exists (select from vms.vms where provider_id = $1 and state <> 'terminated') as "without!""#,
            machine
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(known)
    }

    /// The provider was asked to end these.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn mark_orphans_terminating(
        &self,
        place: (&str, &str),
        ended: &[DueOrphan],
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let ids: Vec<_> = ended.iter().map(|orphan| orphan.provider_id.clone()).collect();
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- orphans::mark_orphans_terminating
             update vms.orphans set state = 'terminating', state_at = $4 where provider = $1 and place = $2 and provider_id = any($3)",
            place.0,
            place.1,
            &ids,
            now
        )
        .execute(&mut *tx)
        .await?;
        for DueOrphan { provider_id, reason } in ended {
            let message = format!("Machine {provider_id} had no row and was terminated: {reason}.");
            events::insert(&mut tx, now, Event { kind: "machine.terminated", task: None, vm: None, message }).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The direct look found nothing.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn forget_orphan(&self, place: (&str, &str), machine: &str) -> Result<(), DbError> {
        sqlx::query!(
            "-- orphans::forget_orphan\n delete from vms.orphans where provider = $1 and place = $2 and provider_id = $3",
            place.0,
            place.1,
            machine
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// An operator wants all unknown machines gone; returns them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_unknown(&self, principal: &str, now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
        let mut tx = self.begin().await?;
        let ids = sqlx::query_scalar!(
            "-- orphans::end_unknown
             update vms.orphans set end_asked_by = $1 where unknown and end_asked_by is null returning provider_id",
            principal
        )
        .fetch_all(&mut *tx)
        .await?;
        for machine in &ids {
            let message = format!("Machine {machine} is unknown and is to be ended, says {principal}.");
            events::insert(&mut tx, now, Event { kind: "machine.end_asked", task: None, vm: None, message }).await?;
        }
        let targets = ids.iter().map(|machine| Party::new("machine", machine.clone())).collect();
        let payload = serde_json::json!({ "unknown": true });
        audit::note(&mut tx, now, Deed { targets, ..Deed::to("vm.terminate", "machine", String::new(), payload) }).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(ids)
    }
}
