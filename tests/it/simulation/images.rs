//! What befalls images: builders make them, operators register, promote and retire them; and that none is used after its time.
//!
//! All of them boot: what becomes of those that do not is in `image_scenes`.

use super::history::History;
use super::report::Violation;
use chrono::TimeDelta;
use vm_service::db::image_orders::{ImageOrder, SeenImage};
use vm_service::domain::ids::ImageOrderId;
use vm_service::domain::lifecycle::ImageState;
use vm_service::domain::plan::images::Registered;
use vm_service::sim::{MachineTruth, SimImage};

/// A launch that was sent before is repeated for so long, with the image that it had.
const REPEATED_FOR: TimeDelta = TimeDelta::minutes(10);

impl History {
    pub(super) async fn image(&mut self, pick: usize) {
        let offered = self.registered().await;
        let chosen = offered.get(pick / 3 % offered.len().max(1)).map(|image| image.id);
        let now = self.now();
        match (pick % 3, chosen) {
            (1, Some(image)) => drop(self.db.promote_image(image, true, "op", now).await.unwrap()),
            (2, Some(image)) => drop(self.db.retire_image(image, "a bug", "op", now).await.unwrap()),
            _ => self.build_image(pick).await,
        }
        for image in self.registered().await {
            match image.state {
                ImageState::Retired => drop(self.model.retired_images.entry(image.provider_id).or_insert(now)),
                _ => drop(self.model.retired_images.remove(&image.provider_id)),
            }
        }
    }

    async fn registered(&self) -> Vec<Registered> {
        let all = self.db.list_registered(("sim", "sim")).await.unwrap();
        all.into_iter().filter(|image| image.state != ImageState::Deleting).collect()
    }

    async fn build_image(&mut self, pick: usize) {
        let id = self.cluster.fresh_id();
        let name = format!("image-{id}");
        self.cluster.sim.put_image(&name, SimImage::default());
        let share = u32::try_from(pick % 50).unwrap();
        let order = ImageOrder {
            id: ImageOrderId(id),
            principal: "op".to_owned(),
            wanted: vec![crate::image_scenes::wanted(&name)],
            share,
            created_at: self.now(),
        };
        self.db.insert_image_order(&order).await.unwrap();
        // As the loop does; it finds its order answered.
        let seen = SeenImage { provider: "sim".to_owned(), place: "sim".to_owned(), wanted: order.wanted[0].clone() };
        let fresh = self.cluster.fresh_id();
        if let Err(error) = self.db.register_images(&order, &[seen], &|| fresh, self.now()).await {
            self.cluster.log.push(format!("registering {name}: {error}"));
            self.db.refuse_image_order(order.id, "too much", self.now()).await.unwrap();
        }
    }

    /// No machine is made of an image that was retired before its launch.
    pub(super) fn images_hold(&self, machines: &[MachineTruth]) -> Result<(), Violation> {
        for machine in machines {
            let retired = machine.image.as_ref().and_then(|image| self.model.retired_images.get(image));
            if retired.is_some_and(|at| machine.launched_at > *at + REPEATED_FOR) {
                let detail = format!("{} is made of {:?}", machine.provider_id, machine.image);
                return Err(Violation::new("no machine is made of a retired image", detail));
            }
        }
        Ok(())
    }
}
