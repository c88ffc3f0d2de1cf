//! What a provider can do with cache volumes. A volume outlives its machines; it is in one zone, and on one machine at a time. A
//! *snapshot* is what was on a volume when it was made; it is never changed, and outlives its volume.
//!
//! Not here: which volume goes where, and what is kept (`loops`, `domain::plan::cache`); what happens with it inside a VM (`guest`).

use super::{ProviderError, ProviderVolume};
pub use crate::domain::lineage::Copies;
use crate::domain::lineage::Lineage;
use crate::domain::tags::{SnapshotTags, VolumeTags};
use async_trait::async_trait;

/// One call that makes a volume.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Names this attempt: the same token and parameters make nothing twice. At most 64 ASCII letters, digits and dashes.
    pub client_token: String,
    /// Put on the volume in the call that makes it.
    pub tags: VolumeTags,
    /// Where its machines are: [`super::Machine::zone`] of them.
    pub zone: String,
    /// In GiB, at least as large as the snapshot.
    pub size_gib: u32,
    /// Whose content it begins with; none: empty.
    pub snapshot: Option<String>,
}

/// One call that makes a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotSpec {
    /// Names this attempt, as in [`VolumeSpec::client_token`].
    pub client_token: String,
    /// Put on the snapshot in the call that makes it.
    pub tags: SnapshotTags,
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Not to be copied yet.
    Pending,
    /// Volumes can be made of it.
    Completed,
    /// It never will be.
    Failed,
}

/// A snapshot of this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSnapshot {
    /// The provider's name for it; never used twice.
    pub provider_id: String,
    /// What it carries.
    pub tags: SnapshotTags,
    /// Size of the volume it was made of.
    pub size_gib: u32,
    /// How far it is.
    pub state: SnapshotState,
}

/// All snapshots of this installation that the provider would name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotListing {
    /// In no order. Those of images are never in it.
    pub snapshots: Vec<ProviderSnapshot>,
    /// False when a part could not be read: then absence proves nothing.
    pub complete: bool,
}

/// Room for volumes, where it is this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// See [`Space::is_plenty`].
const PLENTY: u64 = 20 << 30;

impl Space {
    /// Whether there is room enough, on however large a disk.
    pub fn is_plenty(&self) -> bool {
        self.free_bytes >= PLENTY
    }

    /// The part of it that is free, 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "of disks of less than 2^53 bytes")]
    pub fn free_part(&self) -> f64 {
        self.free_bytes as f64 / self.total_bytes.max(1) as f64
    }
}

/// Makes, moves, copies and deletes cache volumes.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// What a snapshot and a copy cost.
    fn copies(&self) -> Copies;

    /// The room that is left; none: it is not ours to watch.
    ///
    /// # Errors
    /// It could not be read this time.
    async fn space(&self) -> Result<Option<Space>, ProviderError> {
        Ok(None)
    }

    /// By which serial a machine finds the disk; at most 20 characters.
    fn serial(&self, volume: &str) -> String;

    /// Makes a volume, once per token.
    ///
    /// # Errors
    /// After `Transient` the call is repeated with the same token; after the others with a new one or not at all.
    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError>;

    /// Wishes a free volume onto a running machine of its zone that works for `owner`; one that is on it already, or on its way there, is
    /// fine. [`super::Provider::find_volume`] says when it has come.
    ///
    /// # Errors
    /// `Invalid` where the volume is elsewhere, in another zone, of another project or trust than `owner`, or the machine does not run.
    async fn attach_volume(&self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError>;

    /// Wishes a volume off this machine, never by force: a writer that is torn off damages it. One that is not on it, or on its way
    /// off, is fine: a wish that comes late never takes a volume off the next machine.
    ///
    /// # Errors
    /// `Invalid` where there is no such volume.
    async fn detach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError>;

    /// Deletes a free volume; one that is unknown or deleted is fine. Snapshots of it stay.
    ///
    /// # Errors
    /// `Invalid` where it is on a machine, or on its way.
    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError>;

    /// Makes a snapshot of a free volume, once per token, and answers its name. What is written to the volume later is not in it.
    ///
    /// # Errors
    /// `Invalid` where there is no such volume.
    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError>;

    /// A direct look at one snapshot. `None`: the provider does not know it.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn find_snapshot(&self, snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError>;

    /// All snapshots of cache volumes of this installation in this place.
    ///
    /// # Errors
    /// Nothing can be concluded.
    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError>;

    /// Deletes a snapshot; one that is unknown or deleted is fine. Volumes that were made of it stay as they are.
    ///
    /// # Errors
    /// Ask again.
    async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ProviderError>;
}
