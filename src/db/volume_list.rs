//! Cache volumes as people see them: lists, one volume, holds, and the wish to delete one.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::volume_ends::begin_deletion;
use super::{Db, DbError};
use crate::domain::api::{CacheUse, Hold, VolumeView};
use crate::domain::ids::{GenerationId, VmId, VolumeId};
use crate::domain::lifecycle::VolumeState;
use crate::domain::lineage::{Engine, Lineage, Store, Trust};
use chrono::{DateTime, Utc};

/// Which volumes to list.
#[derive(Clone, Debug, Default)]
pub struct VolumeFilter {
    /// Only in this state; none: in any but deleted.
    pub state: Option<VolumeState>,
    /// Only of this project.
    pub project: Option<String>,
    /// Only of projects whose id has this in it, in any case; empty: any.
    pub named: String,
    /// Only this one, in any state.
    pub id: Option<VolumeId>,
    /// Only older than this volume.
    pub before: Option<(DateTime<Utc>, VolumeId)>,
    /// At most this many.
    pub limit: i64,
}

impl Db {
    /// Lists volumes, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_volume_views(&self, filter: &VolumeFilter) -> Result<Vec<VolumeView>, DbError> {
        let rows = sqlx::query!(
            r#"-- volume_list::list_volume_views
               with uses as (
                   select project_id, count(*) as jobs, count(*) filter (where hit) as hits from vms.cache_uses
                   where ($2::text is null or project_id = $2)
                     and ($3::uuid is null or project_id = (select project_id from vms.volumes where id = $3))
                   group by project_id
               )
               select u.id as "id: VolumeId", u.project_id, u.cache_trust as "trust: Trust", u.architecture, u.store as "store: Store",
                      u.engine_major, u.state as "state: VolumeState", u.reason, u.provider, u.provider_id, u.zone, u.size_gib, u.used_bytes,
                      coalesce((select g.id from vms.generations g where g.volume_id = u.id and g.state in ('creating', 'good')
                                order by g.created_at desc limit 1), u.parent_id) as "generation: GenerationId",
                      u.jobs, u.vm_id as "vm_id: VmId", u.created_at, u.last_used_at, u.hold_reason, u.hold_until,
                      coalesce(c.jobs, 0) as "uses!", coalesce(c.hits, 0) as "hits!"
               from vms.volumes u left join uses c on c.project_id = u.project_id
               where ($1::text is null and ($3::uuid is not null or u.state <> 'deleted') or u.state = $1)
                 and ($2::text is null or u.project_id = $2) and ($3::uuid is null or u.id = $3)
                 and ($4::timestamptz is null or (u.created_at, u.id) < ($4, $5))
                 and ($7 = '' or strpos(lower(u.project_id), lower($7)) > 0)
               order by u.created_at desc, u.id desc
               limit $6"#,
            filter.state.map(VolumeState::as_str),
            filter.project,
            filter.id.map(|id| id.0),
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
            filter.named,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| VolumeView {
                id: row.id,
                lineage: Lineage {
                    project_id: row.project_id,
                    trust: row.trust,
                    engine: Engine { architecture: row.architecture, store: row.store, major: row.engine_major },
                },
                state: row.state,
                reason: row.reason,
                provider: row.provider,
                provider_id: row.provider_id,
                zone: row.zone,
                size_gib: u32::try_from(row.size_gib).unwrap_or(0),
                used_bytes: row.used_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
                generation: row.generation,
                jobs: u32::try_from(row.jobs).unwrap_or(0),
                vm_id: row.vm_id,
                created_at: row.created_at,
                last_used_at: row.last_used_at,
                project: CacheUse { jobs: u64::try_from(row.uses).unwrap_or(0), hits: u64::try_from(row.hits).unwrap_or(0) },
                hold: row.hold_reason.zip(row.hold_until).map(|(reason, until)| Hold { reason, until }),
            })
            .collect())
    }

    /// Holds the volume, or lets go with `None`; false when it is being deleted or was never there.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn set_volume_hold(
        &self,
        volume: VolumeId,
        hold: Option<&Hold>,
        principal: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- volume_list::set_volume_hold
             update vms.volumes set hold_reason = $2, hold_until = $3 where id = $1 and state not in ('deleting', 'deleted')",
            volume.0,
            hold.map(|h| h.reason.as_str()),
            hold.map(|h| h.until),
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            let message = match hold {
                Some(hold) => format!("Volume {volume} is held by {principal} until {}: {}", hold.until, hold.reason),
                None => format!("Volume {volume} is no longer held, says {principal}."),
            };
            events::insert(&mut tx, now, Event { kind: "volume.hold", task: None, vm: None, message }).await?;
            audit::note(&mut tx, now, Deed::hold("volume", volume.to_string(), hold)).await?;
        }
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// An operator wants the volume gone; false when it is in use, held, or going already.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn delete_volume(&self, volume: VolumeId, principal: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let begun = begin_deletion(&mut tx, volume, &format!("the operator {principal} wants it so"), now).await?;
        if begun {
            audit::note(&mut tx, now, Deed::to("volume.delete", "volume", volume.to_string(), serde_json::json!({}))).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(begun)
    }
}
