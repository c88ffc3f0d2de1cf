//! What a provider can do with cache volumes. A volume outlives its machines; it is in one zone, and on one machine at a time.
//!
//! Not here: which volume goes where (`loops`); what happens with it inside a VM (`guest`).

use super::{ProviderError, ProviderVolume};
use crate::domain::tags::VolumeTags;
use async_trait::async_trait;

/// One call that makes a volume.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Names this attempt: the same token and parameters make nothing twice. At most 64 ASCII letters, digits and dashes.
    pub client_token: String,
    /// Put on the volume in the call that makes it.
    pub tags: VolumeTags,
    /// Where its machines are.
    pub zone: String,
    /// In GiB, at least as large as the snapshot.
    pub size_gib: u32,
    /// Whose content it begins with; none: empty.
    pub snapshot: Option<String>,
}

/// Makes, moves and deletes cache volumes.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Makes a volume, once per token.
    ///
    /// # Errors
    /// After `Transient` the call is repeated with the same token; after the others with a new one or not at all.
    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError>;

    /// Wishes a free volume onto a running machine of its zone; one that is on it already is fine. [`super::Provider::find_volume`] says when
    /// it has come.
    ///
    /// # Errors
    /// `Invalid` where the volume is elsewhere, in another zone, or the machine does not run.
    async fn attach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError>;

    /// Wishes a volume off its machine, never by force: a writer that is torn off damages it. One that is off, or on its way, is fine.
    ///
    /// # Errors
    /// `Invalid` where there is no such volume.
    async fn detach_volume(&self, volume: &str) -> Result<(), ProviderError>;

    /// Deletes a free volume; one that is unknown or deleted is fine.
    ///
    /// # Errors
    /// `Invalid` where it is on a machine, or on its way.
    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError>;

    /// Makes a snapshot, once per token, and answers its name.
    ///
    /// # Errors
    /// `Invalid` where there is no such volume.
    async fn snapshot_volume(&self, volume: &str, client_token: &str) -> Result<String, ProviderError>;
}
