//! `vms.image_orders`: images that somebody wants to have registered. The wish is a row, the provider is asked by a loop, and the answer
//! is written with the images in one transaction: all of them, or none.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::{ImageId, ImageOrderId};
use crate::domain::image::{ImageFacts, ImageKind, WantedImage};
use crate::domain::lifecycle::ImageState;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

/// A wish that was not answered yet.
#[derive(Clone, Debug)]
pub struct ImageOrder {
    /// Its id.
    pub id: ImageOrderId,
    /// Who wants it.
    pub principal: String,
    /// What.
    pub wanted: Vec<WantedImage>,
    /// Percent of the launches that each gets.
    pub share: u32,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// What came of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderAnswer {
    /// They are registered; `fresh`: one of them was not known before.
    Done {
        /// In the order of the wish.
        images: Vec<ImageId>,
        /// One of them was not known before.
        fresh: bool,
    },
    /// None is: one sentence.
    Refused(String),
}

/// An image that its provider has been asked about.
#[derive(Clone, Debug)]
pub struct SeenImage {
    /// Whose it is.
    pub provider: String,
    /// Region or host.
    pub place: String,
    /// What was wanted, with what the provider added.
    pub wanted: WantedImage,
}

impl Db {
    /// Writes the wish.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_image_order(&self, order: &ImageOrder) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- image_orders::insert_image_order
             insert into vms.image_orders (id, principal, wanted, share, created_at) values ($1, $2, $3, $4, $5)",
            order.id.0,
            order.principal,
            Json(&order.wanted) as _,
            i32::try_from(order.share).unwrap_or(0),
            order.created_at,
        )
        .execute(&mut *tx)
        .await?;
        let wanted: Vec<&str> = order.wanted.iter().map(|image| image.source.provider_id()).collect();
        let payload = serde_json::json!({ "images": wanted, "share": order.share });
        audit::note(&mut tx, order.created_at, Deed::to("image.order", "image_order", order.id.to_string(), payload)).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// What came of it; none: nothing yet.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_image_answer(&self, order: ImageOrderId) -> Result<Option<OrderAnswer>, DbError> {
        let row = sqlx::query!(
            r#"-- image_orders::find_image_answer
               select images as "images: Vec<ImageId>", fresh, refusal from vms.image_orders where id = $1 and answered_at is not null"#,
            order.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| match row.refusal {
            Some(sentence) => OrderAnswer::Refused(sentence),
            None => OrderAnswer::Done { images: row.images, fresh: row.fresh },
        }))
    }

    /// Wishes that were not answered yet, oldest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_image_orders(&self) -> Result<Vec<ImageOrder>, DbError> {
        let rows = sqlx::query!(
            r#"-- image_orders::list_image_orders
               select id as "id: ImageOrderId", principal, wanted as "wanted: Json<Vec<WantedImage>>", share, created_at
               from vms.image_orders where answered_at is null order by created_at, id limit 16"#
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| ImageOrder {
            id: row.id,
            principal: row.principal,
            wanted: row.wanted.0,
            share: u32::try_from(row.share).unwrap_or(0),
            created_at: row.created_at,
        });
        Ok(read.collect())
    }

    /// Answers a wish with no, unless it was answered already.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn refuse_image_order(&self, order: ImageOrderId, sentence: &str, now: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!(
            "-- image_orders::refuse_image_order
             update vms.image_orders set answered_at = $2, refusal = $3 where id = $1 and answered_at is null",
            order.0,
            now,
            sentence,
        )
        .execute(&self.pool)
        .await?;
        self.wake.send();
        Ok(())
    }

    /// Registers what was seen, all of it, and answers the wish; what is known already stays as it is. `fresh_id` makes ids.
    ///
    /// # Errors
    /// `LimitReached`: the candidates would have more than all launches. `Conflict`: somebody else has registered one just now, or one is
    /// known as something else. Nothing was written.
    pub async fn register_images(
        &self,
        order: &ImageOrder,
        seen: &[SeenImage],
        fresh_id: &(dyn Fn() -> Uuid + Send + Sync),
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let (mut ids, mut fresh) = (Vec::new(), false);
        for image in seen {
            let (id, is_fresh) = match find_known(&mut tx, image).await? {
                Some(id) => (id, false),
                None => (insert_image(&mut tx, order, image, ImageId(fresh_id()), now).await?, true),
            };
            ids.push(id.0);
            fresh |= is_fresh;
        }
        let done = sqlx::query!(
            "-- image_orders::register_images
             update vms.image_orders set answered_at = $2, images = $3, fresh = $4 where id = $1 and answered_at is null",
            order.id.0,
            now,
            &ids,
            fresh,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            // Another replica has answered it.
            return Ok(tx.rollback().await?);
        }
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// Forgets wishes that were answered before.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn trim_image_orders(&self, before: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!("-- image_orders::trim_image_orders\n delete from vms.image_orders where answered_at <= $1", before)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn find_known(connection: &mut PgConnection, image: &SeenImage) -> Result<Option<ImageId>, DbError> {
    let wanted = &image.wanted;
    let row = sqlx::query!(
        r#"-- image_orders::find_known
           select id as "id: ImageId", kind as "kind: ImageKind", architecture, state as "state: ImageState"
           from vms.images where provider = $1 and place = $2 and provider_id = $3 and state <> 'deleted' for share"#,
        image.provider,
        image.place,
        wanted.source.provider_id(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.kind == wanted.kind && row.architecture == wanted.architecture.as_str() {
        return Ok(Some(row.id));
    }
    Err(DbError::Conflict(format!(
        "{} is registered as an image of the kind {} for {} already, and stays that",
        wanted.source.provider_id(),
        row.kind,
        row.architecture
    )))
}

async fn insert_image(
    connection: &mut PgConnection,
    order: &ImageOrder,
    image: &SeenImage,
    id: ImageId,
    now: DateTime<Utc>,
) -> Result<ImageId, DbError> {
    let wanted = &image.wanted;
    sqlx::query!(
        "-- image_orders::insert_image
         insert into vms.images (id, name, provider, place, architecture, kind, provider_id, facts, share, registered_at, registered_by,
                                 changed_at, changed_by, due_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $10, $11, $10)",
        id.0,
        wanted.name,
        image.provider,
        image.place,
        wanted.architecture.as_str(),
        wanted.kind.as_str(),
        wanted.source.provider_id(),
        Json::<&ImageFacts>(&wanted.facts) as _,
        i32::try_from(order.share).unwrap_or(0),
        now,
        order.principal,
    )
    .execute(&mut *connection)
    .await?;
    let mut message = format!(
        "Image {} ({}, {}) of {} at {} is registered by {}, with {} % of the launches.",
        wanted.source.provider_id(),
        wanted.kind,
        wanted.architecture.as_str(),
        image.provider,
        image.place,
        order.principal,
        order.share
    );
    for warning in &wanted.facts.warnings {
        message.push(' ');
        message.push_str(warning);
    }
    events::insert(connection, now, Event { kind: "image.registered", task: None, vm: None, message }).await?;
    Ok(id)
}
