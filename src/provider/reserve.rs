//! Machines that are stopped and started again: they keep name, tags and disk, and may come back at another address.
//!
//! Not here: which machines, and when (`loops`).

use super::ProviderError;
use async_trait::async_trait;

/// Stops and starts machines.
#[async_trait]
pub trait Reserve: Send + Sync {
    /// Asks a running machine to stop; one that has stopped, or is about to, is fine. [`super::Provider::find_machines`] says when it has.
    /// `hibernate`: it keeps its memory too; only for machines that were launched for it.
    ///
    /// # Errors
    /// `Invalid` where it cannot be stopped.
    async fn stop(&self, provider_id: &str, hibernate: bool) -> Result<(), ProviderError>;

    /// Asks a stopped machine to run; one that runs, or is about to, is fine.
    ///
    /// # Errors
    /// `NoCapacity`: it stays stopped. `Invalid` where it cannot be started.
    async fn start(&self, provider_id: &str) -> Result<(), ProviderError>;
}
