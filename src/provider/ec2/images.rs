//! Which image a launch starts from, and what must be known of it: the name of its root disk, and how large that is at least.
//!
//! Where none is set it is the newest that Canonical publishes, found by its owner and never by a name alone: anybody may publish an image
//! of any name. Such an image is *bare*: each machine is prepared at its first boot (`guest::first_boot`).
//!
//! Source: <https://documentation.ubuntu.com/aws/en/latest/aws-how-to/instances/find-ubuntu-images/>.

use super::Ec2;
use super::machines::filter;
use super::refusal::{Kind, Refusal};
use crate::domain::ec2::Architecture;
use crate::provider::ProviderError;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Canonical's account.
const CANONICAL: &str = "099720109477";
/// What it publishes there is looked up again after this.
const NEWEST_FOR: Duration = Duration::from_secs(3600);

/// What is known of an image; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) root_device: String,
    pub(super) disk_gib: u32,
    /// It is the distribution's own.
    pub(super) bare: bool,
}

impl Image {
    /// From an answer.
    pub(super) fn of(id: String, found: &aws_sdk_ec2::types::Image) -> Self {
        let root_device = found.root_device_name().unwrap_or("/dev/sda1").to_owned();
        let root = found.block_device_mappings().iter().find(|disk| disk.device_name() == Some(&root_device));
        let disk_gib = root.and_then(|disk| disk.ebs()?.volume_size()).and_then(|size| u32::try_from(size).ok()).unwrap_or(0);
        Self { id, root_device, disk_gib, bare: found.owner_id() == Some(CANONICAL) }
    }
}

impl Ec2 {
    /// This one, or the newest of Canonical's, with what must be known of it.
    pub(super) async fn image_for(&self, image: Option<&str>, architecture: Architecture) -> Result<Image, ProviderError> {
        let Some(id) = image else { return self.find_newest(architecture).await };
        if let Some(known) = self.images.get(id, None) {
            return Ok(known);
        }
        let call = self.client().await.describe_images().image_ids(id);
        let found = match self.budget.read.call(call.send()).await {
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
        let image = Image::of(id.to_owned(), &found);
        self.images.keep(id.to_owned(), &image);
        Ok(image)
    }

    async fn find_newest(&self, architecture: Architecture) -> Result<Image, ProviderError> {
        let key = format!("the newest for {architecture:?}");
        if let Some(known) = self.images.get(&key, Some(NEWEST_FOR)) {
            return Ok(known);
        }
        let newest = self.newest(architecture).await.map_err(|refusal| refusal.into_error("looking for an image of Canonical"))?;
        let Some((id, found)) = newest else { return Err(ProviderError::Invalid(none_published(&self.region))) };
        let image = Image::of(id, &found);
        tracing::warn!(
            image = image.id,
            region = self.region,
            "no image is set: each VM starts from Canonical's own and is prepared at its first boot, which takes a minute or two; one that \
             is built with the scripts in ami/ is faster"
        );
        self.images.keep(key, &image);
        Ok(image)
    }

    /// The newest Ubuntu 24.04 that Canonical publishes in this region.
    pub(super) async fn newest(&self, architecture: Architecture) -> Result<Option<(String, aws_sdk_ec2::types::Image)>, Refusal> {
        let (ours, theirs) = match architecture {
            Architecture::X86_64 => ("x86_64", "amd64"),
            Architecture::Arm64 => ("arm64", "arm64"),
        };
        let is = |name: &str, value: &str| filter(name, [value.to_owned()]);
        let call = self
            .client()
            .await
            .describe_images()
            .owners(CANONICAL)
            .filters(is("name", &format!("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{theirs}-server-*")))
            .filters(is("architecture", ours))
            .filters(is("state", "available"))
            .filters(is("root-device-type", "ebs"));
        let found = self.budget.read.call(call.send()).await?.images.unwrap_or_default();
        let newest = found.into_iter().filter(|it| it.owner_id() == Some(CANONICAL)).max_by_key(|it| it.creation_date.clone());
        Ok(newest.and_then(|image| Some((image.image_id()?.to_owned(), image))))
    }
}

/// What is told where there is neither an image of one's own nor one of Canonical's.
pub(super) fn none_published(region: &str) -> String {
    format!(
        "no image is set for {region}, and Canonical publishes none there: build one with the scripts in ami/, and set it as \
         ec2.images.{region}"
    )
}

/// Images that were looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Images(Mutex<BTreeMap<String, (Instant, Image)>>);

impl Images {
    fn get(&self, key: &str, fresh_for: Option<Duration>) -> Option<Image> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, image) = known.get(key)?;
        fresh_for.is_none_or(|time| at.elapsed() < time).then(|| image.clone())
    }

    /// It is not there any more.
    pub(super) fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn keep(&self, key: String, image: &Image) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (Instant::now(), image.clone()));
    }
}
