//! Images that machines are made of: looked at before they are registered, and deleted when nothing needs them any more.
//!
//! Not here: which one a launch takes (`domain::plan::images`).

use super::{Provider, ProviderError};
use crate::domain::ec2::Architecture;
use crate::domain::image::{ImageKind, ImageSource};
use crate::domain::plan::images::{Offer, Registered};
use crate::domain::resource_class::ResourceClass;
use async_trait::async_trait;

/// What the settings name for a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedImages {
    /// The class itself.
    pub of_class: Option<String>,
    /// For classes that name none.
    pub of_settings: Option<String>,
}

impl NamedImages {
    /// The class' own comes first.
    pub fn first(self) -> Option<String> {
        self.of_class.or(self.of_settings)
    }
}

/// What there is to choose from for a launch of this class.
pub fn offer<'a>(provider: &dyn Provider, class: &ResourceClass, registered: &'a [Registered]) -> Offer<'a> {
    let named = provider.named_images(class);
    Offer {
        of_class: named.of_class,
        of_settings: named.of_settings,
        default: provider.default_image(class),
        kind: ImageKind::of(class),
        architecture: provider.architecture(class),
        registered,
    }
}

/// An image, as its provider shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderImage {
    /// Of its machines; none: not said.
    pub architecture: Option<Architecture>,
    /// Why no machine can be made of it now, such as `it is pending`; none: one can.
    pub unusable: Option<String>,
    /// Snapshots that its disks are made of.
    pub snapshots: Vec<String>,
    /// What an operator should know of it, a sentence each.
    pub warnings: Vec<String>,
}

/// Looks at images, and deletes them.
#[async_trait]
pub trait Images: Send + Sync {
    /// The region or host that an image of this source is in; none: another provider's.
    fn place_of(&self, source: &ImageSource) -> Option<String>;

    /// A direct look. `None`: there is no such image, or it may not be used.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn find_image(&self, place: &str, image: &str) -> Result<Option<ProviderImage>, ProviderError>;

    /// Deletes an image of this provider's own place, and these snapshots of it as far as they are ours; what is gone is fine.
    ///
    /// # Errors
    /// `Invalid`: it is kept, because it is not ours or in use; one sentence without its full stop. After the others ask again.
    async fn delete_image(&self, image: &str, snapshots: &[String]) -> Result<(), ProviderError>;
}
