//! EBS volumes as cache volumes: encrypted, tagged in the call that makes them, on one machine of their own zone.
//!
//! The name of a device that is asked for is not the one that the guest sees: it finds the disk by its serial, the volume's id without
//! the dash.

use super::refusal::Kind;
use super::{Ec2, machines, tags};
use crate::domain::lineage::Lineage;
use crate::provider::volumes::{Copies, ProviderSnapshot, SnapshotListing, SnapshotSpec, VolumeSpec, Volumes};
use crate::provider::{ProviderError, ProviderVolume, VolumeListing};
use async_trait::async_trait;
use aws_sdk_ec2::types::{
    ResourceType, TagSpecification, Volume, VolumeAttachment, VolumeAttachmentState, VolumeState, VolumeType,
};
use std::time::Duration;

/// Asked for; each machine has one cache volume.
const DEVICE: &str = "/dev/sdf";
/// Between two snapshots of a lineage (DESIGN.md §11).
const SNAPSHOT_EVERY: Duration = Duration::from_secs(3600);
/// Entries of one page, at most.
const PAGE: i32 = 500;

impl Ec2 {
    /// Our cache volumes; root disks carry no volume tag.
    pub(super) async fn list_cache_volumes(&self) -> Result<VolumeListing, ProviderError> {
        let ours = machines::filter(format!("tag:{}", tags::INSTALLATION), [self.installation.to_string()]);
        let cache = machines::filter("tag-key", [tags::VOLUME.to_owned()]);
        let call = self.client().await.describe_volumes().filters(ours).filters(cache).max_results(PAGE);
        let mut pages = call.into_paginator().send();
        let mut volumes = Vec::new();
        loop {
            let page = self.budget.read.call(async { pages.next().await.transpose() }).await;
            let Some(page) = page.map_err(|refusal| refusal.into_error("listing volumes"))? else { break };
            volumes.extend(page.volumes().iter().filter_map(shown));
            if page.next_token().is_none() {
                break;
            }
        }
        Ok(VolumeListing { volumes, complete: true })
    }

    /// One volume, asked for by its id.
    pub(super) async fn find_cache_volume(&self, id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        let call = self.client().await.describe_volumes().volume_ids(id);
        match self.budget.read.call(call.send()).await {
            Ok(answer) => Ok(answer.volumes().iter().find_map(shown).filter(|it| it.tags.installation == self.installation)),
            Err(refusal) if refusal.kind == Kind::NotFound => Ok(None),
            Err(refusal) => Err(refusal.into_error("looking at a volume")),
        }
    }
}

#[async_trait]
impl Volumes for Ec2 {
    fn copies(&self) -> Copies {
        Copies::EachAfter(SNAPSHOT_EVERY)
    }

    /// NVMe: the id without its dash.
    fn serial(&self, volume: &str) -> String {
        volume.replace('-', "")
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        let call = self
            .client()
            .await
            .create_volume()
            .client_token(&spec.client_token)
            .availability_zone(&spec.zone)
            .size(i32::try_from(spec.size_gib).unwrap_or(i32::MAX))
            .set_snapshot_id(spec.snapshot.clone())
            .volume_type(VolumeType::Gp3)
            .encrypted(true)
            .tag_specifications(tagged(ResourceType::Volume, tags::write_volume(&spec.tags)));
        let made = self.budget.change.call(call.send()).await.map_err(|refusal| refusal.into_error("making a volume"))?;
        let provider_id = made.volume_id.unwrap_or_default();
        Ok(ProviderVolume { provider_id, tags: spec.tags.clone(), zone: spec.zone.clone(), machine: None, moving: false })
    }

    async fn attach_volume(&self, volume: &str, machine: &str, _owner: &Lineage) -> Result<(), ProviderError> {
        let call = self.client().await.attach_volume().volume_id(volume).instance_id(machine).device(DEVICE);
        let Err(refusal) = self.budget.change.call(call.send()).await else { return Ok(()) };
        if refusal.code != "VolumeInUse" {
            return Err(refusal.into_error("attaching a volume"));
        }
        let found = self.find_cache_volume(volume).await?;
        let Some((holder, moving)) = found.and_then(|it| Some((it.machine?, it.moving))) else {
            return Err(refusal.into_error("attaching a volume"));
        };
        // The answer to an earlier call may have been lost.
        if holder == machine {
            return Ok(());
        }
        let whereabouts = if moving { "on its way to or from" } else { "on" };
        Err(ProviderError::Invalid(format!(
            "attaching a volume: {volume} is {whereabouts} {holder}: detach it there, or go on with a copy or without it"
        )))
    }

    async fn detach_volume(&self, volume: &str) -> Result<(), ProviderError> {
        let call = self.client().await.detach_volume().volume_id(volume);
        match self.budget.change.call(call.send()).await {
            Err(refusal) if refusal.code == "IncorrectState" => Ok(()),
            Err(refusal) => Err(refusal.into_error("detaching a volume")),
            Ok(_) => Ok(()),
        }
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError> {
        let call = self.client().await.delete_volume().volume_id(volume);
        match self.budget.change.call(call.send()).await {
            Err(refusal) if refusal.kind == Kind::NotFound => Ok(()),
            Err(refusal) => Err(refusal.into_error("deleting a volume")),
            Ok(_) => Ok(()),
        }
    }

    /// CreateSnapshot takes no token: the token is a tag, and looked for first.
    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        let made_by = machines::filter(format!("tag:{}", tags::TOKEN), [spec.client_token.clone()]);
        let call = self.client().await.describe_snapshots().owner_ids("self").filters(made_by);
        let known = self.budget.read.call(call.send()).await.map_err(|refusal| refusal.into_error("looking for a snapshot"))?;
        if let Some(id) = known.snapshots().iter().find_map(|it| it.snapshot_id()) {
            return Ok(id.to_owned());
        }
        let marks = tags::write_snapshot(&spec.tags, &spec.client_token);
        let call = self.client().await.create_snapshot().volume_id(volume);
        let call = call.tag_specifications(tagged(ResourceType::Snapshot, marks));
        let made = self.budget.change.call(call.send()).await.map_err(|refusal| refusal.into_error("making a snapshot"))?;
        Ok(made.snapshot_id.unwrap_or_default())
    }

    async fn find_snapshot(&self, _snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        todo!()
    }

    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        todo!()
    }

    async fn delete_snapshot(&self, _snapshot: &str) -> Result<(), ProviderError> {
        todo!()
    }
}

fn tagged(of: ResourceType, tags: Vec<aws_sdk_ec2::types::Tag>) -> TagSpecification {
    TagSpecification::builder().resource_type(of).set_tags(Some(tags)).build()
}

/// What the contract says of a volume; one that is being deleted, or lost its tags, is none of ours any more.
fn shown(volume: &Volume) -> Option<ProviderVolume> {
    if matches!(volume.state(), Some(VolumeState::Deleting | VolumeState::Deleted)) {
        return None;
    }
    let attachment = volume.attachments().iter().find(|it| it.instance_id().is_some());
    let machine = attachment.and_then(VolumeAttachment::instance_id);
    let moving = attachment.is_some_and(|it| it.state() != Some(&VolumeAttachmentState::Attached));
    Some(ProviderVolume {
        provider_id: volume.volume_id()?.to_owned(),
        tags: tags::read_volume(volume.tags())?,
        zone: volume.availability_zone().unwrap_or_default().to_owned(),
        machine: machine.map(str::to_owned),
        moving,
    })
}
