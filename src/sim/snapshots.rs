//! Snapshots of cache volumes: what was on one when it was asked for, usable once it is completed, and never changed.

use super::Sim;
use super::cache::Content;
use super::faults::Fault;
use super::ops;
use super::world::{World, broken, check_token};
use crate::domain::lineage::Lineage;
use crate::domain::tags::SnapshotTags;
use crate::provider::ProviderError;
use crate::provider::volumes::{ProviderSnapshot, SnapshotListing, SnapshotSpec, SnapshotState};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// The truth about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTruth {
    /// The provider's name for it.
    pub provider_id: String,
    /// What it carries.
    pub tags: SnapshotTags,
    /// The volume that it was made of.
    pub volume: String,
    /// What is in it.
    pub content: Content,
    /// When it is completed; none: never.
    pub done_at: Option<DateTime<Utc>>,
    /// When it was asked for.
    pub made_at: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Those that are not deleted.
    all: BTreeMap<String, SnapshotTruth>,
    /// Volume and snapshot by client token.
    made: BTreeMap<String, (String, String)>,
}

impl Sim {
    /// All snapshots that are not deleted.
    pub fn snapshots_truth(&self) -> Vec<SnapshotTruth> {
        self.world().volumes.snapshots.all.values().cloned().collect()
    }
}

impl World {
    pub(super) fn snapshot(&mut self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        check_token(&spec.client_token)?;
        if let Some((first, snapshot)) = self.volumes.snapshots.made.get(&spec.client_token) {
            if first != volume {
                return Err(broken("IdempotentParameterMismatch", "this client token was used with another volume"));
            }
            return Ok(snapshot.clone());
        }
        let mut content = self.volume(volume)?.truth.content.clone();
        // Of a disk that an engine writes on: as if it had been torn off.
        content.torn |= std::mem::take(&mut content.mounted);
        let is_stuck = self.strikes(&Fault::StuckSnapshot);
        let done_at = (!is_stuck).then(|| self.now + self.rules.snapshot_takes.draw(&mut self.rng));
        let provider_id = format!("snap-{:08x}", self.volumes.snapshots.made.len());
        let (tags, made_at) = (spec.tags.clone(), self.now);
        let truth = SnapshotTruth { provider_id: provider_id.clone(), tags, volume: volume.to_owned(), content, done_at, made_at };
        let snapshots = &mut self.volumes.snapshots;
        snapshots.all.insert(provider_id.clone(), truth);
        snapshots.made.insert(spec.client_token.clone(), (volume.to_owned(), provider_id.clone()));
        Ok(provider_id)
    }

    /// What a copy begins with. A snapshot of another project is never copied; of the same, an untrusted copy may be made of a trusted one.
    pub(super) fn content_of_snapshot(&mut self, snapshot: &str, wanted: &Lineage) -> Result<Content, ProviderError> {
        let now = self.now;
        let found = self.volumes.snapshots.all.get(snapshot).ok_or_else(|| broken("InvalidSnapshot.NotFound", snapshot))?;
        if found.done_at.is_none_or(|at| at > now) {
            return Err(broken("IncorrectState", &format!("{snapshot} is not completed")));
        }
        if found.tags.lineage.project_id != wanted.project_id {
            return Err(broken("WrongOwner", &format!("{snapshot} belongs to another project")));
        }
        Ok(found.content.clone())
    }

    pub(super) fn look_at_snapshot(&self, snapshot: &str) -> Option<ProviderSnapshot> {
        self.volumes.snapshots.all.get(snapshot).map(|truth| self.shown_snapshot(truth))
    }

    pub(super) fn list_snapshots(&mut self) -> Result<SnapshotListing, ProviderError> {
        let entries = self.volumes.snapshots.all.len();
        self.call(&ops::LIST_SNAPSHOTS, self.pages(entries), String::new, |world| {
            let snapshots = world.volumes.snapshots.all.values().map(|truth| world.shown_snapshot(truth)).collect();
            Ok(SnapshotListing { snapshots, complete: true })
        })
    }

    pub(super) fn delete_snapshot(&mut self, snapshot: &str) -> Result<(), ProviderError> {
        self.volumes.snapshots.all.remove(snapshot);
        Ok(())
    }

    fn shown_snapshot(&self, truth: &SnapshotTruth) -> ProviderSnapshot {
        let completed = truth.done_at.is_some_and(|at| at <= self.now);
        let state = if completed { SnapshotState::Completed } else { SnapshotState::Pending };
        ProviderSnapshot { provider_id: truth.provider_id.clone(), tags: truth.tags.clone(), size_gib: 100, state }
    }
}
