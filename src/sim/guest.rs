//! The simulated guest: whoever has an address answers there, with the keys it was given, and changes them at first contact.
//!
//! It never waits: where nobody answers *yet*, it says so at once, and the caller tries again later. A caller that goes to an
//! address that now belongs to another machine meets that machine's keys.

use super::Sim;
use super::faults::Fault;
use super::machines::{GuestKeys, SimMachine};
use super::ops;
use super::world::World;
use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::lineage::Engine;
use crate::guest::cache::{CacheDisk, Mounted, Unmounted};
use crate::guest::{Endpoint, Guest, GuestError, Personality};
use crate::telemetry::tell;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a simulated machine reads in its user data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FirstWords {
    pub(super) host: String,
    pub(super) login: String,
    silent_seconds: u64,
}

impl FirstWords {
    pub(super) fn read(user_data: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(user_data)
    }

    /// How long the machine runs without first contact.
    pub(super) fn silent_for(&self) -> TimeDelta {
        i64::try_from(self.silent_seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or(TimeDelta::MAX)
    }
}

#[async_trait]
impl Guest for Sim {
    fn user_data(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        let words = FirstWords {
            host: bootstrap.host_public.clone(),
            login: bootstrap.login_public.clone(),
            silent_seconds: silent_for.as_secs(),
        };
        serde_json::json!(words).to_string()
    }

    async fn personalise(
        &self,
        at: &Endpoint,
        bootstrap: Option<&Bootstrap>,
        identity: &Identity,
        personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        let first = bootstrap.map(|bootstrap| keys(&bootstrap.host_public, &bootstrap.login_public));
        let own = keys_of(identity);
        self.through(&ops::PERSONALISE, |world| {
            world.contact(
                &ops::PERSONALISE,
                || format!("{} as {}", at.ssh, own.host),
                |world| {
                    if world.strikes(&Fault::NeverAnswers) {
                        return Err(GuestError::NotReachable(deadline));
                    }
                    if world.strikes(&Fault::WrongHostKey) {
                        return Err(GuestError::WrongHostKey);
                    }
                    let (no, machine) = world.met(at.ssh, deadline)?;
                    tell::answered();
                    let is_first = first.as_ref().filter(|_| machine.keys.host != own.host);
                    log_in(machine, is_first.unwrap_or(&own))?;
                    if is_first.is_some() {
                        machine.personalised_as = Some(own.host.clone());
                        machine.keys = own.clone();
                    }
                    if personality.gpus > 0 && world.strikes(&Fault::GpusMissing) {
                        return Err(GuestError::Misbehaved(format!("GPUs: nvidia-smi shows 0 GPUs of {}", personality.gpus)));
                    }
                    world.end_at(no, personality.absolute_end_at);
                    Ok(())
                },
            )?;
            Ok(Some(world.rules.engine.clone()))
        })
        .await
    }

    async fn authorise(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        public_keys: &[String],
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let own = keys_of(identity);
        self.through(&ops::AUTHORISE, |world| {
            world.contact(
                &ops::AUTHORISE,
                || format!("{ssh} as {} for {} keys", own.host, public_keys.len()),
                |world| {
                    if world.strikes(&Fault::RefusesKeys) {
                        return Err(GuestError::NotReachable(deadline));
                    }
                    let (_, machine) = world.met(ssh, deadline)?;
                    log_in(machine, &own)?;
                    for key in public_keys {
                        if !machine.keys.logins.contains(key) {
                            machine.keys.logins.push(key.clone());
                        }
                    }
                    Ok(())
                },
            )
        })
        .await
    }

    async fn set_end(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        end_at: DateTime<Utc>,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let own = keys_of(identity);
        self.through(&ops::SET_END, |world| {
            world.contact(
                &ops::SET_END,
                || format!("{ssh} as {} at {end_at}", own.host),
                |world| {
                    let (no, machine) = world.met(ssh, deadline)?;
                    log_in(machine, &own)?;
                    world.end_at(no, end_at);
                    Ok(())
                },
            )
        })
        .await
    }

    async fn mount_cache(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        disk: &CacheDisk,
        deadline: Duration,
    ) -> Result<Mounted, GuestError> {
        self.mount(ssh, identity, disk, deadline).await
    }

    async fn unmount_cache(&self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError> {
        self.unmount(ssh, identity, deadline).await
    }
}

impl World {
    /// Whoever answers at this address now.
    fn met(&mut self, ssh: SocketAddr, deadline: Duration) -> Result<(usize, &mut SimMachine), GuestError> {
        let now = self.now;
        let IpAddr::V4(ip) = ssh.ip() else { return Err(GuestError::NotReachable(deadline)) };
        let met = self.fleet.at_address(ip).filter(|(_, machine)| machine.answers(now));
        met.ok_or(GuestError::NotReachable(deadline))
    }

    /// Logs in with the keys of `identity`, and says into which machine.
    pub(super) fn logged_in(&mut self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<String, GuestError> {
        let (_, machine) = self.met(ssh, deadline)?;
        log_in(machine, &keys_of(identity))?;
        Ok(machine.provider_id.clone())
    }

    /// Moves the end of a machine; one in the past is now.
    fn end_at(&mut self, no: usize, at: DateTime<Utc>) {
        self.fleet.set_end(no, at.max(self.now));
    }
}

/// Nothing is sent before the host key has been seen to be the pinned one; then the login must be let in.
fn log_in(machine: &SimMachine, pinned: &GuestKeys) -> Result<(), GuestError> {
    if machine.keys.host != pinned.host {
        return Err(GuestError::WrongHostKey);
    }
    let let_in = pinned.logins.iter().all(|login| machine.keys.logins.contains(login));
    if let_in { Ok(()) } else { Err(GuestError::LoginRefused) }
}

fn keys_of(identity: &Identity) -> GuestKeys {
    keys(&identity.host_public, &identity.login_public)
}

fn keys(host: &str, login: &str) -> GuestKeys {
    GuestKeys { host: host.to_owned(), logins: vec![login.to_owned()] }
}
