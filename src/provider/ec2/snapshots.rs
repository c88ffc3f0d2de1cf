//! Snapshots of cache volumes: once per token, found by their tags, deleted by name.
//!
//! CreateSnapshot takes no client token: the token is a tag, and looked for first. Snapshots of images, and those that were made by
//! hand, carry no generation and are none of ours.
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Snapshot.html> (states).

use super::refusal::Kind;
use super::volumes::tagged;
use super::{Ec2, machines, tags};
use crate::domain::lineage::Lineage;
use crate::provider::ProviderError;
use crate::provider::volumes::{ProviderSnapshot, SnapshotListing, SnapshotSpec, SnapshotState};
use aws_sdk_ec2::types::{ResourceType, Snapshot, SnapshotState as Ec2State};

/// Entries of one page, at most.
const PAGE: i32 = 1000;

impl Ec2 {
    /// The snapshot that this token made of this volume, made now if it is the first time.
    pub(super) async fn ensure_snapshot(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        let made_by = machines::filter(format!("tag:{}", tags::TOKEN), [spec.client_token.clone()]);
        let ours = machines::filter(format!("tag:{}", tags::INSTALLATION), [self.installation.to_string()]);
        let call = self.client().await.describe_snapshots().owner_ids("self").filters(made_by).filters(ours);
        let known = self.budget.read.call(call.send()).await.map_err(|refusal| refusal.into_error("looking for a snapshot"))?;
        if let Some((id, of)) = known.snapshots().iter().find_map(|it| Some((it.snapshot_id()?, it.volume_id()?))) {
            if of != volume {
                let why = format!("making a snapshot of {volume}: its token made {id} of {of}: take another token");
                return Err(ProviderError::Invalid(why));
            }
            return Ok(id.to_owned());
        }
        let marks = tags::write_snapshot(&spec.tags, &spec.client_token);
        let call = self.client().await.create_snapshot().volume_id(volume);
        let call = call.tag_specifications(tagged(ResourceType::Snapshot, marks));
        let made = self.budget.change.call(call.send()).await.map_err(|refusal| refusal.into_error("making a snapshot"))?;
        Ok(made.snapshot_id.unwrap_or_default())
    }

    /// One snapshot, asked for by its id.
    pub(super) async fn look_at_snapshot(&self, id: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        let call = self.client().await.describe_snapshots().snapshot_ids(id);
        match self.budget.read.call(call.send()).await {
            Ok(answer) => Ok(answer.snapshots().iter().find_map(shown).filter(|it| it.tags.installation == self.installation)),
            Err(refusal) if refusal.kind == Kind::NotFound || refusal.code == "InvalidSnapshotID.Malformed" => Ok(None),
            Err(refusal) => Err(refusal.into_error("looking at a snapshot")),
        }
    }

    /// Our snapshots of cache volumes, page by page.
    pub(super) async fn list_cache_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        let ours = machines::filter(format!("tag:{}", tags::INSTALLATION), [self.installation.to_string()]);
        let cache = machines::filter("tag-key", [tags::GENERATION.to_owned()]);
        let call = self.client().await.describe_snapshots().owner_ids("self").filters(ours).filters(cache).max_results(PAGE);
        let mut pages = call.into_paginator().send();
        let mut snapshots = Vec::new();
        loop {
            let page = self.budget.read.call(async { pages.next().await.transpose() }).await;
            let Some(page) = page.map_err(|refusal| refusal.into_error("listing snapshots"))? else { break };
            snapshots.extend(page.snapshots().iter().filter_map(shown));
            if page.next_token().is_none() {
                break;
            }
        }
        Ok(SnapshotListing { snapshots, complete: true })
    }

    /// Deletes one; unknown ones are fine.
    pub(super) async fn end_snapshot(&self, id: &str) -> Result<(), ProviderError> {
        let call = self.client().await.delete_snapshot().snapshot_id(id);
        match self.budget.change.call(call.send()).await {
            Err(refusal) if refusal.kind == Kind::NotFound => Ok(()),
            Err(refusal) => Err(refusal.into_error("deleting a snapshot")),
            Ok(_) => Ok(()),
        }
    }

    /// Whether a volume of this lineage may begin with it. A snapshot of another project is never copied; of the same, an untrusted copy
    /// may be made of a trusted one, and never the other way round.
    pub(super) async fn check_copy(&self, snapshot: &str, wanted: &Lineage) -> Result<(), ProviderError> {
        let refused = |why: &str| Err(ProviderError::Invalid(format!("making a volume of {snapshot}: {why}")));
        let Some(found) = self.look_at_snapshot(snapshot).await? else {
            return refused(
                "there is no such snapshot of this installation: go on with another generation, or with an empty volume",
            );
        };
        let of = &found.tags.lineage;
        if of.project_id != wanted.project_id || of.trust > wanted.trust {
            return refused(&format!("it belongs to {} project {}", of.trust, of.project_id));
        }
        match found.state {
            SnapshotState::Completed => Ok(()),
            SnapshotState::Pending => refused("it is not completed yet: wait, or go on with an older generation"),
            SnapshotState::Failed => refused("it failed and never completes: delete it, and go on with an older generation"),
        }
    }
}

/// What the contract says of a snapshot; one that lost its tags is none of ours any more.
fn shown(snapshot: &Snapshot) -> Option<ProviderSnapshot> {
    let state = match snapshot.state()? {
        Ec2State::Completed => SnapshotState::Completed,
        // What is in the recycle bin is recovered by hand or never.
        Ec2State::Error | Ec2State::Recoverable => SnapshotState::Failed,
        _ => SnapshotState::Pending,
    };
    let size_gib = snapshot.volume_size().and_then(|gib| u32::try_from(gib).ok()).unwrap_or(0);
    Some(ProviderSnapshot {
        provider_id: snapshot.snapshot_id()?.to_owned(),
        tags: tags::read_snapshot(snapshot.tags())?,
        size_gib,
        state,
    })
}
