//! What is done inside a VM, and the user data that prepares it. A VM is hostile until it shows the pinned key.
//!
//! Reads: nothing. Writes: the inside of one VM. Calls: `ssh`. Runs: from `loops`, each call with a deadline.
//!
//! A contact that fails costs its VM, never the service: answers are capped in size and time, and nothing is sent before the
//! host key has been seen to be the pinned one.
//!
//! Not here: rows and sealing (`loops`), machines (`provider`).

mod bundle;
pub mod docker_tls;
mod engine;
pub mod identity;
pub mod linux;
pub mod user_data;

use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::settings::GuestSettings;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::time::Duration;

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

    /// First contact: waits until the machine answers, pins `bootstrap`, and gives it `identity` and `personality`;
    /// afterwards the bootstrap login is gone, the engine answers (for `remote_docker`), and the new host key has been seen.
    /// Idempotent: a machine that has `identity` already is only completed. Without `bootstrap` it must have its SSH keys already: a
    /// machine out of the reserve.
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
    ) -> Result<(), GuestError>;

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
}
