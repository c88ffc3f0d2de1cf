//! AMIs that are registered: looked at in any region, and deleted in this one with their snapshots, if and only if they carry the tag of
//! this installation.
//!
//! Sources: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeImages.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/deregister-ami.html> (the snapshots stay and are deleted after it).

use super::machines::filter;
use super::refusal::{Kind, Refusal};
use super::{Ec2, connection, tags};
use crate::domain::image::ImageSource;
use crate::provider::ProviderError;
use crate::provider::images::{Images, ProviderImage};
use async_trait::async_trait;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{DeviceType, Image, ImageState, Tag};
use std::collections::BTreeSet;

impl Ec2 {
    /// The client of another region has the same credentials; it is made for these calls alone.
    async fn client_in(&self, region: &str) -> Client {
        if region == self.region {
            return self.client().await;
        }
        let surroundings = connection::surroundings(region, &self.outbound).await;
        self.connection().fresh_client(&surroundings, &self.outbound)
    }

    /// `None`: there is none, or it may not be used.
    async fn describe_image(&self, client: &Client, image: &str) -> Result<Option<Image>, Refusal> {
        match self.budget.read.call(client.describe_images().image_ids(image).send()).await {
            Ok(answer) => Ok(answer.images.unwrap_or_default().into_iter().next()),
            Err(refusal) if is_unknown(&refusal) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether it belongs to the account that we are.
    async fn is_own(&self, client: &Client, image: &str) -> Result<bool, Refusal> {
        let call = client.describe_images().owners("self").filters(filter("image-id", [image.to_owned()]));
        Ok(!self.budget.read.call(call.send()).await?.images().is_empty())
    }

    fn is_tagged(&self, tags: &[Tag]) -> bool {
        let ours = self.installation.to_string();
        tags.iter().any(|tag| tag.key() == Some(tags::INSTALLATION) && tag.value() == Some(&ours))
    }

    /// Deletes those of these snapshots that carry our tag; one that another image needs stays.
    async fn delete_image_snapshots(&self, snapshots: BTreeSet<String>) -> Result<(), Refusal> {
        let client = self.client().await;
        for snapshot in snapshots {
            let found =
                match self.budget.read.call(client.describe_snapshots().owner_ids("self").snapshot_ids(&snapshot).send()).await {
                    Ok(answer) => answer.snapshots.unwrap_or_default().into_iter().next(),
                    Err(refusal) if refusal.kind == Kind::NotFound => None,
                    Err(refusal) => return Err(refusal),
                };
            if !found.is_some_and(|it| self.is_tagged(it.tags())) {
                continue;
            }
            match self.budget.change.call(client.delete_snapshot().snapshot_id(&snapshot).send()).await {
                Err(refusal) if refusal.code == "InvalidSnapshot.InUse" => {
                    tracing::info!(snapshot, "another image needs it: it stays")
                }
                Err(refusal) if refusal.kind != Kind::NotFound => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Images for Ec2 {
    fn place_of(&self, source: &ImageSource) -> Option<String> {
        match source {
            // Any region: the account is the same.
            ImageSource::Ami { region, .. } => Some(region.clone()),
            ImageSource::Folder { .. } => None,
        }
    }

    async fn find_image(&self, place: &str, image: &str) -> Result<Option<ProviderImage>, ProviderError> {
        let client = self.client_in(place).await;
        let failed = |refusal: Refusal| refusal.into_error(&format!("looking at {image} in {place}"));
        let found = self.describe_image(&client, image).await.map_err(failed)?;
        let Some(found) = found else {
            self.images.forget(image);
            return Ok(None);
        };
        let own = self.is_own(&client, image).await.map_err(failed)?;
        let mut warnings = Vec::new();
        if !own {
            let owner = found.owner_id().unwrap_or("another account");
            warnings.push(format!("It belongs to {owner}, which may change or delete it; it is never deleted by us."));
        } else if !self.is_tagged(found.tags()) {
            warnings.push(format!("It has no tag {} of this installation: it is never deleted by us.", tags::INSTALLATION));
        }
        if own && found.public() == Some(true) {
            warnings.push("It is public: everybody can start it and read all that is on it.".to_owned());
        }
        Ok(Some(ProviderImage {
            architecture: found.architecture().and_then(|it| it.as_str().parse().ok()),
            unusable: unusable(&found),
            snapshots: snapshots(&found).into_iter().collect(),
            warnings,
        }))
    }

    async fn delete_image(&self, image: &str, known: &[String]) -> Result<(), ProviderError> {
        let client = self.client().await;
        let failed = |refusal: Refusal| refusal.into_error(&format!("deleting {image}"));
        let mut all: BTreeSet<String> = known.iter().cloned().collect();
        if let Some(found) = self.describe_image(&client, image).await.map_err(failed)? {
            if !self.is_tagged(found.tags()) {
                let tag = tags::INSTALLATION;
                return Err(ProviderError::Invalid(format!(
                    "it has no tag {tag} of this installation: delete it by hand, with its snapshots"
                )));
            }
            all.extend(snapshots(&found));
            match self.budget.change.call(client.deregister_image().image_id(image).send()).await {
                Err(refusal) if !is_unknown(&refusal) => return Err(failed(refusal)),
                _ => self.images.forget(image),
            }
        }
        self.delete_image_snapshots(all).await.map_err(failed)
    }
}

fn is_unknown(refusal: &Refusal) -> bool {
    refusal.kind == Kind::NotFound || refusal.code.starts_with("InvalidAMIID")
}

/// Why no machine can be made of it.
fn unusable(image: &Image) -> Option<String> {
    let state = image.state().map_or("in no state", ImageState::as_str);
    if state != ImageState::Available.as_str() {
        return Some(format!("it is {state}: register it when it is available"));
    }
    let of_instance = image.root_device_type() == Some(&DeviceType::InstanceStore);
    of_instance.then(|| "its root disk is not on EBS".to_owned())
}

fn snapshots(image: &Image) -> BTreeSet<String> {
    image.block_device_mappings().iter().filter_map(|disk| disk.ebs()?.snapshot_id().map(str::to_owned)).collect()
}
