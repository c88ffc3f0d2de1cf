//! Looks whether registered images are still there, and deletes those that were retired long ago and that nothing needs.
//!
//! Reads: `images`, `Images`. Writes: `images`. Calls: `domain::plan::gc_images`, `Images::delete_image`. Runs: in `gc`.
//!
//! Not here: retiring them (`http`).

use super::{About, Act, Loop, World, told};
use crate::db::DbError;
use crate::domain::plan::gc_images::{Decision, Snapshot, plan_gc_images};
use crate::provider::images::Images;
use crate::provider::{Provider, ProviderError};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Between looks: images change seldom.
const EVERY: Duration = Duration::from_secs(300);
/// One that its provider keeps is looked at again after this.
const KEPT_FOR: TimeDelta = TimeDelta::days(1);
/// What was asked about orders is forgotten after this.
const ORDERS_KEPT: TimeDelta = TimeDelta::days(1);

/// See the module.
pub struct CollectImages(pub World);

#[async_trait]
impl Loop for CollectImages {
    fn name(&self) -> &'static str {
        "collect images"
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in self.0.providers.all() {
            let Some(images) = provider.images() else { continue };
            if self.0.db.take_turn("collect images", (provider.name(), provider.place()), EVERY, now).await? {
                told(look(&self.0, provider.as_ref(), images, now).await, About::what(provider.name()));
                told(delete(&self.0, provider.as_ref(), images, now).await, About::what(provider.name()));
            }
        }
        self.0.db.trim_image_orders(now - ORDERS_KEPT).await?;
        Ok(Vec::new())
    }
}

/// What would be deleted now.
///
/// # Errors
/// The database's: nothing can be said.
pub async fn decide(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<Decision> {
    let settings = world.settings();
    let snapshot = Snapshot {
        retired: world.db.list_retired_images((provider.name(), provider.place()), now).await?,
        named: settings.named_images(),
        keep: settings.images.keep(),
    };
    Ok(plan_gc_images(&snapshot, now))
}

async fn look(world: &World, provider: &dyn Provider, images: &dyn Images, now: DateTime<Utc>) -> anyhow::Result<()> {
    for image in world.db.list_registered((provider.name(), provider.place())).await?.into_iter().filter(|it| it.is_offered()) {
        let found = images.find_image(provider.place(), &image.provider_id).await.context("looking at an image")?;
        world.db.note_image(image.id, found.is_none_or(|it| it.unusable.is_some()), now).await?;
    }
    Ok(())
}

async fn delete(world: &World, provider: &dyn Provider, images: &dyn Images, now: DateTime<Utc>) -> anyhow::Result<()> {
    if world.db.is_blind(now).await? {
        // Rows were lost: what the machines without one are made of is not known.
        return Ok(());
    }
    let before = now - world.settings().images.keep();
    for (image, _) in decide(world, provider, now).await?.delete {
        if !image.deleting {
            match world.db.begin_image_deletion(image.id, before).await {
                // It is needed again since the decision.
                Err(DbError::Conflict(_)) => continue,
                begun => begun?,
            }
        }
        match images.delete_image(&image.provider_id, &image.snapshots).await {
            Ok(()) => world.db.end_image_deletion(image.id, now).await?,
            Err(ProviderError::Invalid(why)) => world.db.keep_image(image.id, &why, KEPT_FOR, now).await?,
            Err(error) => return Err(error).context("deleting an image"),
        }
    }
    Ok(())
}
