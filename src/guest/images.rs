//! Puts images into the engine of a personalised VM: what a project's first cache volume begins with.
//!
//! Not here: the volume under the engine (`cache`).

use super::GuestError;
use super::linux::{LinuxGuest, failed, target};
use crate::domain::identity::Identity;
use crate::ssh::{ExitStatus, Session, printable};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};

impl LinuxGuest {
    /// Loads an archive as `docker save` makes them, compressed or not.
    ///
    /// # Errors
    /// See [`GuestError`]; `Misbehaved` has the engine's words.
    pub async fn load_archive(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        archive: impl AsyncRead + Unpin,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        docker(ssh, identity, "load --quiet", Some(archive), deadline).await
    }

    /// Pulls an image by its name.
    ///
    /// # Errors
    /// See [`GuestError`]; `Misbehaved` has the engine's words, or says that it is no name.
    pub async fn pull_image(&self, ssh: SocketAddr, identity: &Identity, name: &str, deadline: Duration) -> Result<(), GuestError> {
        // None of the shell's own characters, and no option.
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"./:@_-".contains(&b))
            && name.starts_with(|c: char| c.is_alphanumeric());
        if !plain {
            let sentence = format!("\"{}\" is not the name of an image, such as docker.io/library/debian:12", name.escape_debug());
            return Err(GuestError::Misbehaved(sentence));
        }
        docker(ssh, identity, &format!("pull --quiet {name}"), None::<&[u8]>, deadline).await
    }
}

async fn docker(
    ssh: SocketAddr,
    identity: &Identity,
    what: &str,
    input: Option<impl AsyncRead + Unpin>,
    deadline: Duration,
) -> Result<(), GuestError> {
    let until = Instant::now() + deadline;
    let mut said = Vec::new();
    let act = async {
        let session = Session::connect_when_up(&target(ssh, &identity.host_public, &identity.login_private), until).await?;
        session.stream(&format!("sudo -n docker {what}"), input, tokio::io::sink(), &mut said).await
    };
    match timeout_at(until, act).await {
        Err(_) => Err(GuestError::NotReachable(deadline)),
        Ok(Err(error)) => Err(failed(error, deadline)),
        Ok(Ok(ExitStatus::Code(0))) => Ok(()),
        Ok(Ok(_)) => Err(GuestError::Misbehaved(format!("the engine said: {}", printable(&said)))),
    }
}
