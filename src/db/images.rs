//! `vms.images` as launches and people see them: what is registered at a place, and each image with its figures.
//!
//! Not here: what is asked to be registered (`image_orders`); moves (`image_moves`).

use super::{Db, DbError};
use crate::domain::ids::ImageId;
use crate::domain::image::{ImageFacts, ImageFigures, ImageKind, ImageView, JUDGED_BY};
use crate::domain::lifecycle::ImageState;
use crate::domain::plan::images::Registered;
use chrono::{DateTime, Utc};
use sqlx::types::Json;

/// Which images to list.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter {
    /// Only in this state; none: in any but deleted.
    pub state: Option<ImageState>,
    /// Only of this region or host.
    pub place: Option<String>,
    /// Only these, in any state.
    pub ids: Option<Vec<ImageId>>,
    /// Only older than this image.
    pub before: Option<(DateTime<Utc>, ImageId)>,
    /// At most this many.
    pub limit: i64,
}

impl Db {
    /// What launches at a place may take, and what they may not any more; oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_registered(&self, place: (&str, &str)) -> Result<Vec<Registered>, DbError> {
        let rows = sqlx::query!(
            r#"-- images::list_registered
               select id as "id: ImageId", provider_id, architecture, kind as "kind: ImageKind", state as "state: ImageState", share,
                      missing_at is not null as "missing!"
               from vms.images where provider = $1 and place = $2 and state <> 'deleted'
               order by registered_at, id"#,
            place.0,
            place.1,
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| Registered {
            id: row.id,
            provider_id: row.provider_id,
            architecture: row.architecture.parse().unwrap_or_default(),
            kind: row.kind,
            state: row.state,
            share: u32::try_from(row.share).unwrap_or(0),
            missing: row.missing,
        });
        Ok(read.collect())
    }

    /// Lists images with their figures, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_image_views(&self, filter: &ImageFilter) -> Result<Vec<ImageView>, DbError> {
        let ids: Option<Vec<_>> = filter.ids.as_ref().map(|ids| ids.iter().map(|id| id.0).collect());
        let rows = sqlx::query!(
            r#"-- images::list_image_views
               select i.id as "id: ImageId", i.name, i.provider, i.place, i.architecture, i.kind as "kind: ImageKind", i.provider_id,
                      i.facts as "facts: Json<ImageFacts>", i.state as "state: ImageState", i.share, i.reason, i.registered_at,
                      i.registered_by, i.changed_at, i.changed_by, i.missing_at,
                      (select p.id from vms.images p
                       where p.state = 'promoted' and p.id <> i.id
                         and (p.provider, p.place, p.architecture, p.kind) = (i.provider, i.place, i.architecture, i.kind))
                          as "promoted: ImageId"
               from vms.images i
               where ($1::text is null and ($3::uuid[] is not null or i.state <> 'deleted') or i.state = $1)
                 and ($2::text is null or i.place = $2) and ($3::uuid[] is null or i.id = any($3))
                 and ($4::timestamptz is null or (i.registered_at, i.id) < ($4, $5))
               order by i.registered_at desc, i.id desc
               limit $6"#,
            filter.state.map(ImageState::as_str),
            filter.place,
            ids.as_deref(),
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        let asked: Vec<ImageId> = rows.iter().map(|row| row.id).chain(rows.iter().filter_map(|row| row.promoted)).collect();
        let figures = self.image_figures(&asked).await?;
        let of = |id: ImageId| figures.iter().find(|(image, _)| *image == id).map(|(_, figures)| *figures).unwrap_or_default();
        Ok(rows
            .into_iter()
            .map(|row| ImageView {
                id: row.id,
                name: row.name,
                provider: row.provider,
                place: row.place,
                architecture: row.architecture.parse().unwrap_or_default(),
                kind: row.kind,
                provider_id: row.provider_id,
                facts: row.facts.0,
                state: row.state,
                share: u32::try_from(row.share).unwrap_or(0),
                reason: row.reason,
                registered_at: row.registered_at,
                registered_by: row.registered_by,
                changed_at: row.changed_at,
                changed_by: row.changed_by,
                missing_at: row.missing_at,
                figures: of(row.id),
                promoted: row.promoted.map(of),
            })
            .collect())
    }

    /// What became of the last machines of these images; an image without any is missing.
    async fn image_figures(&self, images: &[ImageId]) -> Result<Vec<(ImageId, ImageFigures)>, DbError> {
        let ids: Vec<_> = images.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            r#"-- images::image_figures
               select image_id as "image: ImageId", count(*) as "vms!", count(ready_at) as "ready!", count(failed_at) as "failed!",
                      count(*) filter (where task_ended) as "tasks!", count(task_failure) as "tasks_failed!",
                      percentile_disc(0.5) within group (order by extract(epoch from ready_at - asked_at)::float8)
                          filter (where ready_at is not null) as median,
                      percentile_disc(0.9) within group (order by extract(epoch from ready_at - asked_at)::float8)
                          filter (where ready_at is not null) as p90
               from unnest($1::uuid[]) asked (image)
                    cross join lateral (select * from vms.image_boots where image_id = asked.image order by asked_at desc limit $2) boots
               group by image_id"#,
            &ids,
            i64::from(JUDGED_BY),
        )
        .fetch_all(&self.pool)
        .await?;
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let read = rows.into_iter().map(|row| {
            let figures = ImageFigures {
                vms: number(row.vms),
                ready: number(row.ready),
                failed: number(row.failed),
                median_ms: row.median.map(milliseconds),
                p90_ms: row.p90.map(milliseconds),
                tasks: number(row.tasks),
                tasks_failed: number(row.tasks_failed),
            };
            (row.image, figures)
        });
        Ok(read.collect())
    }
}

fn milliseconds(seconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(seconds).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
