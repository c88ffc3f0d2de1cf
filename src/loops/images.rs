//! Registers the images that somebody wants to have registered, after a look at each, and takes candidates back that do not boot.
//!
//! Reads: `image_orders`, `images`, `image_boots`. Writes: `image_orders`, `images`. Calls: `Images::find_image`. Runs: in `serve`.
//!
//! Not here: which image a launch takes (`domain::plan::images`, `launch`); deleting them (`collect_images`).

use super::{About, Act, Loop, World};
use crate::db::DbError;
use crate::db::image_orders::{ImageOrder, SeenImage};
use crate::domain::image::WantedImage;
use crate::provider::{Provider, ProviderError};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;

/// Between looks at candidates that do not boot.
const TAKE_BACK_EVERY: Duration = Duration::from_secs(2);
/// Another process may have the provider that this one has not.
const OTHERS_FIRST: TimeDelta = TimeDelta::seconds(5);
/// Who asked does not wait for longer.
const ANSWER_WITHIN: TimeDelta = TimeDelta::seconds(60);

/// See the module.
pub struct Images(pub World);

#[async_trait]
impl Loop for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let world = &self.0;
        if world.db.take_turn("take back images", ("", ""), TAKE_BACK_EVERY, now).await? {
            for image in world.db.take_back_images(now).await? {
                tracing::warn!(image, "a candidate does not boot: it gets no more launches");
            }
        }
        let orders = world.db.list_image_orders().await?;
        let act = |order: ImageOrder| {
            let world = world.clone();
            Act::new(format!("registering images for {}", order.principal), About::default(), async move {
                carry_out(&world, &order).await
            })
        };
        Ok(orders.into_iter().map(act).collect())
    }
}

/// Any number of replicas may do it at once: they only look, and the first answer counts.
async fn carry_out(world: &World, order: &ImageOrder) -> anyhow::Result<()> {
    let now = world.clock.now();
    let refuse =
        async |sentence: &str| world.db.refuse_image_order(order.id, sentence, world.clock.now()).await.map_err(Into::into);
    let mut placed = Vec::new();
    for wanted in &order.wanted {
        let provider = world.providers.all().into_iter().find_map(|provider| {
            let place = provider.images()?.place_of(&wanted.source)?;
            Some((provider, place))
        });
        match provider {
            Some((provider, place)) => placed.push((provider, place, wanted)),
            None if now - order.created_at < OTHERS_FIRST => return Ok(()),
            None => {
                let id = wanted.source.provider_id();
                return refuse(&format!(
                    "No provider of this service could have {id}: set the provider that it is for, and register it again."
                ))
                .await;
            }
        }
    }
    let looks = placed.iter().map(|(provider, place, wanted)| look(provider, place, wanted));
    let mut seen = Vec::new();
    for found in join_all(looks).await {
        match found {
            Ok(image) => seen.push(image),
            Err(Refused::ByUs(sentence)) => return refuse(&sentence).await,
            Err(Refused::Unclear(error)) if now - order.created_at < ANSWER_WITHIN => return Err(error),
            Err(Refused::Unclear(error)) => return refuse(&format!("The provider could not be asked: {error:#}.")).await,
        }
    }
    match world.db.register_images(order, &seen, world.fresh_id.as_ref(), now).await {
        Ok(()) => Ok(()),
        Err(DbError::LimitReached(_)) => {
            refuse("The candidates would get more than all launches: give this one, or others, a smaller share.").await
        }
        // The database's own words are of another kind.
        Err(DbError::Conflict(why)) if why.ends_with("stays that") => refuse(&format!("{why}.")).await,
        Err(error) => Err(error).context("registering images"),
    }
}

enum Refused {
    /// One sentence.
    ByUs(String),
    /// The next tick asks again.
    Unclear(anyhow::Error),
}

async fn look(provider: &Arc<dyn Provider>, place: &str, wanted: &WantedImage) -> Result<SeenImage, Refused> {
    let images = provider.images().ok_or_else(|| Refused::Unclear(anyhow::anyhow!("the provider has no images")))?;
    let id = wanted.source.provider_id();
    let found = match images.find_image(place, id).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Err(Refused::ByUs(format!("There is no image {id} in {place}, or it may not be used: check the manifest.")));
        }
        Err(ProviderError::Invalid(why)) => return Err(Refused::ByUs(format!("{}.", why.trim_end_matches('.')))),
        Err(error) => return Err(Refused::Unclear(error.into())),
    };
    if let Some(why) = found.unusable {
        return Err(Refused::ByUs(format!("No machine can be made of {id} in {place}: {why}.")));
    }
    if let Some(has) = found.architecture.filter(|has| *has != wanted.architecture) {
        let (has, said) = (has.as_str(), wanted.architecture.as_str());
        return Err(Refused::ByUs(format!("{id} in {place} is for {has}, and its manifest says {said}: correct the manifest.")));
    }
    let mut wanted = wanted.clone();
    wanted.facts.snapshots = found.snapshots;
    wanted.facts.warnings = found.warnings;
    Ok(SeenImage { provider: provider.name().to_owned(), place: place.to_owned(), wanted })
}

/// Whether an error comes of a registered image that is not there any more; then it is noted, and no launch takes it.
pub(super) async fn is_gone(
    world: &World,
    provider: &dyn Provider,
    error: &ProviderError,
    image: Option<&str>,
) -> anyhow::Result<bool> {
    let (ProviderError::Invalid(_), Some(image), Some(images)) = (error, image, provider.images()) else { return Ok(false) };
    let place = (provider.name(), provider.place());
    let registered = world.db.list_registered(place).await?.into_iter().find(|it| it.provider_id == image && !it.missing);
    let Some(registered) = registered else { return Ok(false) };
    match images.find_image(place.1, image).await {
        Ok(found) if found.as_ref().is_none_or(|it| it.unusable.is_some()) => {
            tracing::error!(image, "a registered image is gone, or cannot be used: launches go on without it");
            world.db.note_image(registered.id, true, world.clock.now()).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
