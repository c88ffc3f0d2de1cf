//! Who wants a cache volume, and what there is of its lineage. A task that goes without is told why, once.
//!
//! Not here: the intent to bring one (`cache_gifts`); how it moves (`volume_moves`); what is kept of it afterwards (`generations`).

use super::events::{self, Event};
use super::volume_ends::begin_deletion;
use super::{Db, DbError};
use crate::domain::ids::{GenerationId, TaskId, VmId, VolumeId};
use crate::domain::lineage::{Engine, Lineage, Store, Trust};
use crate::domain::plan::assign::Owner;
use crate::domain::plan::cache::{FreeVolume, Generation};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// A volume that does not come, or is not fit, is followed by one other.
const TRIES: i32 = 2;

/// A VM that is to have a volume.
#[derive(Clone, Debug)]
pub struct Want {
    /// The VM.
    pub vm: VmId,
    /// Its task; none: it starts for one.
    pub task: Option<TaskId>,
    /// Whose volumes.
    pub owner: Owner,
    /// Where they must be.
    pub zone: String,
    /// Its engine, or that of other VMs of its image; none: not known.
    pub engine: Option<Engine>,
    /// It has been met: what is not known of its engine now never will be.
    pub met: bool,
    /// As many volumes as may be tried have been.
    pub tried: bool,
}

impl Db {
    /// VMs that are to have a volume and have none.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_cache_wants(&self, place: (&str, &str)) -> Result<Vec<Want>, DbError> {
        let rows = sqlx::query!(
            r#"-- cache::list_cache_wants
               select v.id as "vm: VmId", t.id as "task?: TaskId", v.project_id as "project!", v.cache_trust as "trust!: Trust",
                      coalesce(v.zone, '') as "zone!", coalesce(v.architecture, e.architecture) as architecture,
                      coalesce(v.store, e.store) as "store: Store", coalesce(v.engine_major, e.engine_major) as engine_major,
                      v.state <> 'booting' as "met!", v.cache_tries >= $3 as "tried!"
               from vms.vms v
               left join vms.tasks t on t.vm_id = v.id and t.state = 'preparing' and t.caching and t.cache_reason is null
               left join vms.launches l on l.id = v.launch_id
               left join vms.engines e on e.provider = v.provider and e.place = v.place and e.image = l.image
               where v.provider = $1 and v.place = $2 and v.project_id is not null and v.provider_id is not null
                 and (v.state in ('booting', 'available') and v.cache_tries < $3 or v.state = 'assigned' and t.id is not null)
                 and not exists (select from vms.volumes u where u.vm_id = v.id)
               order by v.id"#,
            place.0,
            place.1,
            TRIES,
        )
        .fetch_all(&self.pool)
        .await?;
        let wants = rows.into_iter().map(|row| Want {
            vm: row.vm,
            task: row.task,
            owner: (row.project, row.trust),
            zone: row.zone,
            engine: match (row.architecture, row.store, row.engine_major) {
                (Some(architecture), Some(store), Some(major)) => Some(Engine { architecture, store, major }),
                _ => None,
            },
            met: row.met,
            tried: row.tried,
        });
        Ok(wants.collect())
    }

    /// The free volumes of a lineage in this place, those that must be checked first among them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_free_volumes(
        &self,
        of: &Lineage,
        place: (&str, &str),
        now: DateTime<Utc>,
    ) -> Result<Vec<FreeVolume>, DbError> {
        let mut connection = self.pool.acquire().await?;
        list_free_volumes(&mut connection, of, place, now).await
    }

    /// The good states of a project's trusted lineage for this engine in this place, with their worth.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_good_generations(&self, of: &Lineage, place: (&str, &str)) -> Result<Vec<Generation>, DbError> {
        let mut connection = self.pool.acquire().await?;
        list_good_generations(&mut connection, of, place).await
    }

    /// The task goes on without a cache, and is told why. False when that was decided already.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn go_without(&self, task: TaskId, reason: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let told = sqlx::query!(
            "-- cache::go_without
             update vms.tasks set cache_hit = false, cache_reason = $2, due_at = $3
             where id = $1 and state = 'preparing' and caching and cache_reason is null",
            task.0,
            reason,
            now,
        )
        .execute(&mut *tx)
        .await?;
        if told.rows_affected() == 1 {
            note_use(&mut tx, task, None, false, now).await?;
            let message = format!("It goes on without a cache: {reason}");
            events::insert(&mut tx, now, Event { kind: "task.uncached", task: Some(task), vm: None, message }).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(told.rows_affected() == 1)
    }

    /// Whether a volume is being deleted: there is room for another soon.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn is_volume_leaving(&self, place: (&str, &str)) -> Result<bool, DbError> {
        let leaving = sqlx::query_scalar!(
            r#"-- cache::is_volume_leaving
               select exists (select from vms.volumes where state = 'deleting' and provider = $1 and place = $2) as "leaving!""#,
            place.0,
            place.1,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(leaving)
    }

    /// The free volume that was used least recently, of any project, is to be deleted, so that another can be made; what is in quarantine
    /// goes first. False when none can go.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn drop_least_recently_used(&self, place: (&str, &str), reason: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let last = sqlx::query_scalar!(
            r#"-- cache::drop_least_recently_used
               select id as "id: VolumeId" from vms.volumes
               where state in ('available', 'quarantined') and provider = $1 and place = $2 and (hold_until is null or hold_until <= $3)
               order by state = 'available', last_used_at, id limit 1 for update skip locked"#,
            place.0,
            place.1,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let begun = match last {
            Some(volume) => begin_deletion(&mut tx, volume, reason, now).await?,
            None => false,
        };
        tx.commit().await?;
        self.wake.send();
        Ok(begun)
    }
}

/// See [`Db::list_free_volumes`].
pub(super) async fn list_free_volumes(
    connection: &mut PgConnection,
    of: &Lineage,
    place: (&str, &str),
    now: DateTime<Utc>,
) -> Result<Vec<FreeVolume>, DbError> {
    let rows = sqlx::query!(
        r#"-- cache::list_free_volumes
           select id as "id: VolumeId", zone, vms.worth(layers, vms.lately_used($1, $3, $4, $5)) as "worth!", good_at,
                  content = 'unchecked' as "unchecked!"
           from vms.volumes
           where project_id = $1 and cache_trust = $2 and architecture = $3 and store = $4 and engine_major = $5
             and provider = $6 and place = $7 and provider_id is not null and not unwanted
             and (state = 'available' or state = 'quarantined' and content = 'unchecked' and not mounted)
             and (hold_until is null or hold_until <= $8)
           order by id"#,
        of.project_id,
        of.trust.as_str(),
        of.engine.architecture,
        of.engine.store.as_str(),
        of.engine.major,
        place.0,
        place.1,
        now,
    )
    .fetch_all(connection)
    .await?;
    let free = rows.into_iter().map(|row| FreeVolume {
        id: row.id,
        zone: row.zone,
        worth: u64::try_from(row.worth).unwrap_or(0),
        good_at: row.good_at,
        unchecked: row.unchecked,
    });
    Ok(free.collect())
}

/// See [`Db::list_good_generations`].
pub(super) async fn list_good_generations(
    connection: &mut PgConnection,
    of: &Lineage,
    place: (&str, &str),
) -> Result<Vec<Generation>, DbError> {
    let rows = sqlx::query!(
        r#"-- cache::list_good_generations
           select id as "id: GenerationId", vms.worth(layers, vms.lately_used($1, $2, $3, $4)) as "worth!", created_at,
                  state = 'good' as "completed!"
           from vms.generations
           where project_id = $1 and architecture = $2 and store = $3 and engine_major = $4 and provider = $5 and place = $6
             and state in ('creating', 'good')
           order by id"#,
        of.project_id,
        of.engine.architecture,
        of.engine.store.as_str(),
        of.engine.major,
        place.0,
        place.1,
    )
    .fetch_all(connection)
    .await?;
    let good = rows.into_iter().map(|row| Generation {
        id: row.id,
        worth: u64::try_from(row.worth).unwrap_or(0),
        made_at: row.created_at,
        completed: row.completed,
    });
    Ok(good.collect())
}

/// What became of a task's cache, for its project's rate of hits.
pub(super) async fn note_use(
    connection: &mut PgConnection,
    task: TaskId,
    engine: Option<&Engine>,
    hit: bool,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    sqlx::query!(
        "-- cache::note_use
         insert into vms.cache_uses (task_id, at, project_id, cache_trust, architecture, store, engine_major, hit)
         select id, $2, project_id, cache_trust, $3, $4, $5, $6 from vms.tasks where id = $1
         on conflict (task_id) do update
         set hit = excluded.hit, at = excluded.at, architecture = excluded.architecture, store = excluded.store,
             engine_major = excluded.engine_major",
        task.0,
        now,
        engine.map(|it| it.architecture.as_str()),
        engine.map(|it| it.store.as_str()),
        engine.map(|it| it.major),
        hit,
    )
    .execute(connection)
    .await?;
    Ok(())
}
