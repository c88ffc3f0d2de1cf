//! EBS volumes as cache volumes: encrypted, tagged in the call that makes them, on one machine of their own zone.
//!
//! The name of a device that is asked for is not the one that the guest sees: it finds the disk by its serial, the volume's id without
//! the dash.

use super::refusal::Kind;
use super::{Ec2, machines, tags};
use crate::domain::ec2::DiskType;
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

    /// One volume that is to be attached; a stranger's is refused.
    async fn whereabouts(&self, id: &str) -> Result<Whereabouts, ProviderError> {
        let call = self.client().await.describe_volumes().volume_ids(id);
        let answer = self.budget.read.call(call.send()).await.map_err(|refusal| refusal.into_error("attaching a volume"))?;
        let ours = |it: &&Volume| shown(it).is_some_and(|volume| volume.tags.installation == self.installation);
        let found = answer.volumes().iter().find(ours);
        let lineage = found.and_then(|it| tags::read_volume(it.tags())).map(|tags| tags.lineage);
        let Some((volume, lineage)) = found.zip(lineage) else {
            return Err(ProviderError::Invalid(format!("attaching a volume: {id} is no cache volume of this installation")));
        };
        let held = |it: &VolumeAttachment| Some((it.instance_id()?.to_owned(), it.state()?.clone()));
        Ok(Whereabouts { lineage, on: volume.attachments().iter().find_map(held) })
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
        if let Some(snapshot) = &spec.snapshot {
            self.check_copy(snapshot, &spec.tags.lineage).await?;
        }
        let kind = match self.connection().settings.volume_type {
            DiskType::Gp3 => VolumeType::Gp3,
            DiskType::Gp2 => VolumeType::Gp2,
            DiskType::St1 => VolumeType::St1,
        };
        let call = self
            .client()
            .await
            .create_volume()
            .client_token(&spec.client_token)
            .availability_zone(&spec.zone)
            .size(i32::try_from(spec.size_gib).unwrap_or(i32::MAX))
            .set_snapshot_id(spec.snapshot.clone())
            .volume_type(kind)
            .encrypted(true)
            .tag_specifications(tagged(ResourceType::Volume, tags::write_volume(&spec.tags)));
        let made = self.budget.change.call(call.send()).await.map_err(|refusal| refusal.into_error("making a volume"))?;
        let provider_id = made.volume_id.unwrap_or_default();
        Ok(ProviderVolume { provider_id, tags: spec.tags.clone(), zone: spec.zone.clone(), machine: None, moving: false })
    }

    /// One look first: whose it is, and whether an earlier call, whose answer was lost, has put it there already.
    async fn attach_volume(&self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError> {
        let seen = self.whereabouts(volume).await?;
        let of = &seen.lineage;
        if (&of.project_id, of.trust) != (&owner.project_id, owner.trust) {
            return refused(&format!(
                "{volume} belongs to {} project {} and {machine} works for {} project {}",
                of.trust, of.project_id, owner.trust, owner.project_id
            ));
        }
        if seen.on.is_some() {
            return seen.expect_on(volume, machine);
        }
        let call = self.client().await.attach_volume().volume_id(volume).instance_id(machine).device(DEVICE);
        match self.budget.change.call(call.send()).await {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(refusal) if refusal.code == "VolumeInUse" => match self.whereabouts(volume).await? {
                seen if seen.on.is_some() => seen.expect_on(volume, machine),
                _ => Err(refusal.into_error("attaching a volume")),
            },
            Err(refusal) => Err(refusal.into_error("attaching a volume")),
        }
    }

    async fn detach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        let call = self.client().await.detach_volume().volume_id(volume).instance_id(machine);
        match self.budget.change.call(call.send()).await {
            // It is free, moves, or is on another machine.
            Err(refusal) if ["IncorrectState", "InvalidAttachment.NotFound"].contains(&refusal.code.as_str()) => Ok(()),
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

    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        self.ensure_snapshot(volume, spec).await
    }

    async fn find_snapshot(&self, snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        self.look_at_snapshot(snapshot).await
    }

    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        self.list_cache_snapshots().await
    }

    async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ProviderError> {
        self.end_snapshot(snapshot).await
    }
}

/// Whose a volume is, and where.
struct Whereabouts {
    lineage: Lineage,
    /// The machine that it is on, or on its way to or from, and how.
    on: Option<(String, VolumeAttachmentState)>,
}

impl Whereabouts {
    /// A volume that is not free must be where it is wished, or come there.
    fn expect_on(self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        let Some((holder, how)) = self.on else { return Ok(()) };
        let comes = matches!(how, VolumeAttachmentState::Attached | VolumeAttachmentState::Attaching);
        if comes && holder == machine {
            return Ok(());
        }
        let whereabouts = if how == VolumeAttachmentState::Attached { "on" } else { "on its way to or from" };
        refused(&format!("{volume} is {whereabouts} {holder}: detach it there, or go on with a copy or without it"))
    }
}

fn refused(why: &str) -> Result<(), ProviderError> {
    Err(ProviderError::Invalid(format!("attaching a volume: {why}")))
}

pub(super) fn tagged(of: ResourceType, tags: Vec<aws_sdk_ec2::types::Tag>) -> TagSpecification {
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
