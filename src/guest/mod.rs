//! What is done inside a VM, and the user data that prepares it. A VM is hostile until it shows the pinned key.
//!
//! Reads: nothing. Writes: the inside of one VM. Calls: `ssh`. Runs: from `loops`, each call with a deadline.
//!
//! A contact that fails costs its VM, never the service: answers are capped in size and time, and nothing is sent before the
//! host key has been seen to be the pinned one.
//!
//! Not here: rows and sealing (`loops`), machines (`provider`).

mod bundle;
pub mod cache;
mod cache_report;
mod channel;
pub mod docker_tls;
mod engine;
mod first_boot;
mod gpu;
pub mod identity;
mod images;
pub mod linux;
mod linux_cache;
pub mod user_data;

use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::lineage::Engine;
use crate::domain::settings::GuestSettings;
use async_trait::async_trait;
use cache::{CacheDisk, Mounted, Unmounted};
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UnixStream;

/// Where a VM answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its SSH server.
    pub ssh: SocketAddr,
    /// Its Docker engine's TLS port; used for `remote_docker` only.
    pub docker: SocketAddr,
}

/// What a VM is told about itself at first contact.
#[derive(Clone, Debug)]
pub struct Personality {
    /// Proxies and root certificates.
    pub settings: GuestSettings,
    /// So many GPUs must be seen to work before it is ready; 0: it has none.
    pub gpus: u32,
    /// When it shuts itself down, whatever happens.
    pub absolute_end_at: DateTime<Utc>,
    /// Service time; a guest whose clock differs by over 2 s is set to it (a restored VM wakes up in the past).
    pub now: DateTime<Utc>,
}

/// Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Nobody answered: when the deadline of the boot has passed, replace it; until then it may still come.
    #[error("no SSH server answered within {0:?}")]
    NotReachable(Duration),
    /// Somebody else answers there: nothing was sent; replace it.
    #[error("the SSH server showed another host key than the pinned one")]
    WrongHostKey,
    /// The key was refused: this VM is not in the state the row says; replace it.
    #[error("the login was refused")]
    LoginRefused,
    /// It answers, but does not do what it must: replace it.
    #[error("{0}")]
    Misbehaved(String),
}

/// Acts inside VMs.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Cloud-init user data that makes a machine answer to `bootstrap`, and end itself after `silent_for` without first contact.
    fn user_data(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String;

    /// The same for a machine whose image knows nothing of us: it is prepared before it answers.
    fn user_data_for_bare(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        self.user_data(bootstrap, silent_for)
    }

    /// First contact: waits until the machine answers, pins `bootstrap`, and gives it `identity` and `personality`;
    /// afterwards the bootstrap login is gone, the engine answers (for `remote_docker`), its GPUs work, and the new host key has been seen.
    /// Idempotent: a machine that has `identity` already is only completed. Without `bootstrap` it must have its SSH keys already: a
    /// machine out of the reserve. Answers which Docker engine the machine has, if it can be known.
    ///
    /// # Errors
    /// See [`GuestError`]; `deadline` covers everything.
    async fn personalise(
        &self,
        at: &Endpoint,
        bootstrap: Option<&Bootstrap>,
        identity: &Identity,
        personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError>;

    /// The same for a machine that waits on `channel` for its identity: it has no keys and no server before. Without such machines
    /// nobody answers.
    ///
    /// # Errors
    /// See [`GuestError`]; `deadline` covers everything.
    async fn personalise_over(
        &self,
        _channel: UnixStream,
        _at: &Endpoint,
        _identity: &Identity,
        _personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        Err(GuestError::NotReachable(deadline))
    }

    /// Lets these public keys (OpenSSH, one line each, checked) log in beside the identity's own. Idempotent.
    ///
    /// # Errors
    /// See [`GuestError`].
    async fn authorise(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        public_keys: &[String],
        deadline: Duration,
    ) -> Result<(), GuestError>;

    /// Tells a personalised VM when it shuts itself down from now on, whatever it was told before. Idempotent.
    ///
    /// # Errors
    /// See [`GuestError`].
    async fn set_end(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        end_at: DateTime<Utc>,
        deadline: Duration,
    ) -> Result<(), GuestError>;

    /// Moves the engine onto a cache disk: checked, formatted where nothing is on it, and cleared of all that an earlier job left beside
    /// images and build cache, before the engine starts on it. Idempotent. Whatever the disk is like, the engine works afterwards, or the
    /// machine is of no use and the error says so.
    ///
    /// # Errors
    /// See [`GuestError`].
    async fn mount_cache(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        disk: &CacheDisk,
        deadline: Duration,
    ) -> Result<Mounted, GuestError>;

    /// Ends the engine, and takes the cache disk off it: tidied, pruned by least recent use where it is nearly full, unmounted and written
    /// out. After it the disk may be detached. Idempotent: one that is off already is fine, with nothing to say.
    ///
    /// # Errors
    /// See [`GuestError`]: whether the disk is whole is not known.
    async fn unmount_cache(&self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError>;
}
