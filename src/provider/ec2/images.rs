//! Which image a launch starts from, and what must be known of it: the name of its root disk, and how large that is at least.

use super::Ec2;
use super::refusal::{Kind, Refusal};
use crate::domain::resource_class::ResourceClass;
use crate::provider::ProviderError;

/// What is known of an image; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) root_device: String,
    pub(super) disk_gib: u32,
}

impl Image {
    /// From an answer.
    pub(super) fn of(id: String, found: &aws_sdk_ec2::types::Image) -> Self {
        let root_device = found.root_device_name().unwrap_or("/dev/sda1").to_owned();
        let root = found.block_device_mappings().iter().find(|disk| disk.device_name() == Some(&root_device));
        let disk_gib = root.and_then(|disk| disk.ebs()?.volume_size()).and_then(|size| u32::try_from(size).ok()).unwrap_or(0);
        Self { id, root_device, disk_gib }
    }
}

impl Ec2 {
    /// The image of this class in this region, as the settings say.
    pub(super) fn image_of(&self, class: &ResourceClass) -> Option<String> {
        let own = class.ec2.images.get(&self.region).cloned();
        own.or_else(|| self.connection().settings.images.get(&self.region).cloned())
    }

    /// The same with what must be known of it.
    pub(super) async fn find_image(&self, class: &ResourceClass) -> Result<Image, ProviderError> {
        let Some(id) = self.image_of(class) else {
            let region = &self.region;
            return Err(ProviderError::Invalid(format!(
                "no image is set for {region}: build one with the scripts in ami/, and set it as ec2.images.{region} in the settings"
            )));
        };
        if let Some(known) = self.images.get(&id) {
            return Ok(known);
        }
        self.budget.read.take()?;
        let asked = self.client().await.describe_images().image_ids(&id).send().await;
        let found = match asked.map_err(Refusal::of) {
            Ok(answer) => answer.images.unwrap_or_default().into_iter().next(),
            Err(refusal) if refusal.kind == Kind::NotFound || refusal.code.starts_with("InvalidAMIID") => None,
            Err(refusal) => return Err(refusal.into_error("looking at the image")),
        };
        let Some(found) = found else {
            return Err(ProviderError::Invalid(format!(
                "there is no image {id} in {}, or this account may not use it: set another as ec2.images.{}",
                self.region, self.region
            )));
        };
        let image = Image::of(id, &found);
        self.images.keep(&image);
        Ok(image)
    }
}

/// Images that were looked at.
#[derive(Debug, Default)]
pub(super) struct Images(std::sync::RwLock<std::collections::BTreeMap<String, Image>>);

impl Images {
    fn get(&self, id: &str) -> Option<Image> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
    }

    fn keep(&self, image: &Image) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(image.id.clone(), image.clone());
    }
}
