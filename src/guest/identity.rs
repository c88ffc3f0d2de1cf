//! Makes who a VM is: the keys it is first met with, and the keys it has afterwards. Made here, never inside the VM.

use crate::domain::identity::{Bootstrap, DockerIdentity, Identity};
use crate::domain::secret::Secret;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// The system has no randomness, or the cryptographic library refused: nothing that another try mends at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotGenerate(String);

impl Bootstrap {
    /// New keys for one launch.
    ///
    /// # Errors
    /// [`CannotGenerate`].
    pub fn generate() -> Result<Self, CannotGenerate> {
        let (host_private, host_public) = key_pair()?;
        let (login_private, login_public) = key_pair()?;
        Ok(Self { host_private, host_public, login_private, login_public })
    }
}

impl Identity {
    /// New keys for one VM and, for `remote_docker`, certificates for an engine that is called by any of `addresses` until
    /// `valid_until` (the VM's absolute end).
    ///
    /// # Errors
    /// [`CannotGenerate`].
    pub fn generate(
        executor: Executor,
        addresses: &[IpAddr],
        now: DateTime<Utc>,
        valid_until: DateTime<Utc>,
    ) -> Result<Self, CannotGenerate> {
        let (host_private, host_public) = key_pair()?;
        let (login_private, login_public) = key_pair()?;
        let docker = match executor {
            Executor::Machine => None,
            Executor::RemoteDocker => Some(DockerIdentity::generate(addresses, now, valid_until).map_err(CannotGenerate)?),
        };
        Ok(Self { host_private, host_public, login_private, login_public, docker })
    }

    /// New certificates for an engine that moved to one of `addresses` or lives longer; keys of SSH stay.
    ///
    /// # Errors
    /// [`CannotGenerate`].
    pub fn renew_docker(
        &mut self,
        addresses: &[IpAddr],
        now: DateTime<Utc>,
        valid_until: DateTime<Utc>,
    ) -> Result<(), CannotGenerate> {
        if let Some(docker) = &mut self.docker {
            *docker = DockerIdentity::generate(addresses, now, valid_until).map_err(CannotGenerate)?;
        }
        Ok(())
    }
}

/// A new Ed25519 key in OpenSSH's formats, without a comment: nothing in it names this service or its host.
fn key_pair() -> Result<(Secret, String), CannotGenerate> {
    let refused = |what: &dyn std::fmt::Display| CannotGenerate(format!("a key cannot be made: {what}"));
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|e| refused(&e))?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let private = key.to_openssh(LineEnding::LF).map_err(|e| refused(&e))?;
    let public = key.public_key().to_openssh().map_err(|e| refused(&e))?;
    Ok((Secret::new(private.as_str()), public.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn ssh_keygen_reads_the_private_key_and_finds_the_same_public_key() {
        let bootstrap = Bootstrap::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, bootstrap.host_private.expose().as_bytes()).unwrap();
        let output = std::process::Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), bootstrap.host_public);
        assert_eq!(bootstrap.host_public.split(' ').count(), 2, "a comment: {}", bootstrap.host_public);
    }

    #[test]
    fn no_two_keys_are_equal_and_only_remote_docker_has_certificates() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let end = now + chrono::TimeDelta::hours(30);
        let bootstrap = Bootstrap::generate().unwrap();
        let machine = Identity::generate(Executor::Machine, &[], now, end).unwrap();
        let docker = Identity::generate(Executor::RemoteDocker, &[], now, end).unwrap();
        let mut keys = vec![&bootstrap.host_public, &bootstrap.login_public, &machine.host_public, &machine.login_public];
        keys.extend([&docker.host_public, &docker.login_public]);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        assert!(machine.docker.is_none() && docker.docker.is_some());
        assert!(!format!("{machine:?}{docker:?}{bootstrap:?}").contains("PRIVATE KEY"));
    }
}
