//! `vms.images`, one move at a time: shares, promotion, retirement, what is taken back by itself, and the two steps of a deletion.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::ImageId;
use crate::domain::image::ImageFacts;
use crate::domain::lifecycle::ImageState;
use crate::domain::plan::gc_images::RetiredImage;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

/// A candidate whose first boots all failed, so many of them, gets no more launches.
pub const TAKEN_BACK_AFTER: i32 = 3;

impl Db {
    /// Gives a candidate this share of the launches; false when it is none.
    ///
    /// # Errors
    /// `LimitReached`: the candidates would have more than all launches.
    pub async fn set_image_share(&self, image: ImageId, share: u32, principal: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query_scalar!(
            "-- image_moves::set_image_share
             update vms.images set share = $2, reason = null, changed_at = $3, changed_by = $4 where id = $1 and state = 'candidate'
             returning provider_id",
            image.0,
            i32::try_from(share).unwrap_or(0),
            now,
            principal,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = done else { return Ok(false) };
        tell(&mut tx, now, "image.share", format!("Image {name} gets {share} % of the launches, says {principal}.")).await?;
        audit::note(&mut tx, now, Deed::to("image.share", "image", image.to_string(), json!({ "image": name, "share": share })))
            .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(true)
    }

    /// Promotes a candidate, or one that was retired; the one before it is retired. False when it is neither, or gone at its provider.
    ///
    /// # Errors
    /// `Conflict`: another was promoted at the same moment.
    pub async fn promote_image(&self, image: ImageId, forced: bool, principal: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let found = sqlx::query_scalar!(
            "-- image_moves::promote_image (look)
             select provider_id from vms.images where id = $1 and state in ('candidate', 'retired') and missing_at is null for update",
            image.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = found else { return Ok(false) };
        sqlx::query!(
            "-- image_moves::promote_image (the one before)
             update vms.images o set state = 'retired', retired_at = $2, changed_at = $2, changed_by = $3, reason = $4, due_at = $2
             from vms.images i
             where i.id = $1 and o.id <> i.id and o.state = 'promoted'
               and (o.provider, o.place, o.architecture, o.kind) = (i.provider, i.place, i.architecture, i.kind)",
            image.0,
            now,
            principal,
            format!("{name} was promoted"),
        )
        .execute(&mut *tx)
        .await?;
        let reason = forced.then_some("promoted whatever was measured");
        sqlx::query!(
            "-- image_moves::promote_image
             update vms.images set state = 'promoted', share = 0, promoted_at = $2, retired_at = null, changed_at = $2, changed_by = $3,
                                   reason = $4
             where id = $1",
            image.0,
            now,
            principal,
            reason,
        )
        .execute(&mut *tx)
        .await?;
        let message = format!("Image {name} is promoted by {principal}: launches take it, and free VMs move over to it.");
        tell(&mut tx, now, "image.promoted", message).await?;
        audit::note(
            &mut tx,
            now,
            Deed::to("image.promote", "image", image.to_string(), json!({ "image": name, "forced": forced })),
        )
        .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(true)
    }

    /// No launch takes it any more; false when it is neither a candidate nor promoted.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn retire_image(&self, image: ImageId, reason: &str, principal: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query_scalar!(
            "-- image_moves::retire_image
             update vms.images set state = 'retired', share = 0, retired_at = $2, changed_at = $2, changed_by = $3, reason = $4, due_at = $2
             where id = $1 and state in ('candidate', 'promoted') returning provider_id",
            image.0,
            now,
            principal,
            reason,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = done else { return Ok(false) };
        tell(&mut tx, now, "image.retired", format!("Image {name} is retired by {principal}: {reason}")).await?;
        audit::note(&mut tx, now, Deed::to("image.retire", "image", image.to_string(), json!({ "image": name, "reason": reason })))
            .await?;
        tx.commit().await?;
        self.wake.send();
        Ok(true)
    }

    /// Takes the share from candidates none of whose machines became ready since it was given, while the first of them failed. Says which.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn take_back_images(&self, now: DateTime<Utc>) -> Result<Vec<String>, DbError> {
        let mut tx = self.begin().await?;
        let taken = sqlx::query!(
            r#"-- image_moves::take_back_images
               update vms.images i
               set share = 0, changed_at = $1, changed_by = 'vm-service',
                   reason = format('taken back: its first %s boots failed, the last because %s', b.failed, coalesce(b.why, 'of an unknown reason'))
               from (select image_id, count(failed_at) as failed, count(ready_at) as ready,
                            (array_agg(o.reason order by o.failed_at desc) filter (where o.failed_at is not null))[1] as why
                     from vms.image_boots o join vms.images c on c.id = o.image_id
                     where c.state = 'candidate' and c.share > 0 and o.asked_at >= c.changed_at
                     group by image_id) b
               where b.image_id = i.id and b.failed >= $2 and b.ready = 0 and i.state = 'candidate' and i.share > 0
               returning i.provider_id, i.reason as "reason!""#,
            now,
            i64::from(TAKEN_BACK_AFTER),
        )
        .fetch_all(&mut *tx)
        .await?;
        for image in &taken {
            let message = format!("Image {} gets no more launches: {}.", image.provider_id, image.reason.trim_end_matches('.'));
            tell(&mut tx, now, "image.taken_back", message).await?;
        }
        tx.commit().await?;
        Ok(taken.into_iter().map(|image| image.provider_id).collect())
    }

    /// Notes what the provider does not have any more, or has again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_image(&self, image: ImageId, missing: bool, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let name = sqlx::query_scalar!(
            "-- image_moves::note_image
             update vms.images set missing_at = case when $2 then $3::timestamptz end where id = $1 and (missing_at is not null) <> $2
             returning provider_id",
            image.0,
            missing,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(name) = name {
            let (kind, how) = match missing {
                true => ("image.missing", "is gone, or cannot be used any more: no launch takes it"),
                false => ("image.back", "can be used again"),
            };
            tell(&mut tx, now, kind, format!("Image {name} {how}.")).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Retired images of a place that no launch and no machine needs, and those whose deletion has begun and is to be tried again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_retired_images(&self, place: (&str, &str), now: DateTime<Utc>) -> Result<Vec<RetiredImage>, DbError> {
        let rows = sqlx::query!(
            r#"-- image_moves::list_retired_images
               select id as "id: ImageId", provider_id, facts as "facts: Json<ImageFacts>", retired_at as "retired_at!",
                      state as "state: ImageState"
               from vms.images i
               where provider = $1 and place = $2 and due_at <= $3
                 and (state = 'deleting' or state = 'retired' and not exists
                     (select from vms.launches l
                      where (l.provider, l.place, l.image) = (i.provider, i.place, i.provider_id)
                        and (l.state = 'requested' or exists (select from vms.vms v where v.launch_id = l.id and v.state <> 'terminated')))
                   and not exists (select from vms.orphans o where (o.provider, o.place) = (i.provider, i.place)))
               order by retired_at, id"#,
            place.0,
            place.1,
            now,
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| RetiredImage {
            id: row.id,
            provider_id: row.provider_id,
            snapshots: row.facts.0.snapshots,
            retired_at: row.retired_at,
            deleting: row.state == ImageState::Deleting,
        });
        Ok(read.collect())
    }

    /// Its deletion begins: from now on it can only go, or be kept by its provider.
    ///
    /// # Errors
    /// `Conflict`: it is in use, or was promoted meanwhile.
    pub async fn begin_image_deletion(&self, image: ImageId, retired_before: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- image_moves::begin_image_deletion
             update vms.images set state = 'deleting' where id = $1 and state = 'retired' and retired_at <= $2",
            image.0,
            retired_before,
        )
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(DbError::Conflict("it is not retired any more".to_owned())) }
    }

    /// The provider has deleted it.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn end_image_deletion(&self, image: ImageId, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let name = sqlx::query_scalar!(
            "-- image_moves::end_image_deletion
             update vms.images set state = 'deleted', deleted_at = $2, reason = null where id = $1 and state = 'deleting' returning provider_id",
            image.0,
            now,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(name) = name {
            tell(&mut tx, now, "image.deleted", format!("Image {name} is deleted.")).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The provider keeps it, and says why: it is looked at again after `pause`.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn keep_image(&self, image: ImageId, why: &str, pause: TimeDelta, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- image_moves::keep_image
             update vms.images set state = 'retired', reason = $2, due_at = $3 where id = $1 and state = 'deleting'",
            image.0,
            format!("not deleted: {why}"),
            now + pause,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

async fn tell(connection: &mut PgConnection, now: DateTime<Utc>, kind: &str, message: String) -> Result<(), DbError> {
    events::insert(connection, now, Event { kind, task: None, vm: None, message }).await
}
