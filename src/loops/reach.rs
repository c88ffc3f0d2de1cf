//! Meets each machine that runs once, under the pinned bootstrap key, and gives it its own identity: then it is `available`. One out of
//! the reserve is met under the identity that it has, one that waits on a channel of its provider there. What does not answer in time is given up, with its console.
//!
//! Reads: `vms`, `launches`. Writes: `vms`. Calls: `Guest::personalise`. Runs: in `serve`.
//!
//! Not here: whether a machine runs, or has died (`watch`).

use super::{About, Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::release::Evidence;
use crate::db::vms::{LeasedVm, Met, StartedVm};
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::identity::Identity;
use crate::domain::ids::VmId;
use crate::domain::lifecycle::VmState;
use crate::guest::{Endpoint, GuestError, Personality};
use crate::provider::Provider;
use crate::telemetry::{names, tell};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Between contacts with a machine that does not answer yet.
const CALL_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// See the module.
pub struct Reach(pub World);

#[async_trait]
impl Loop for Reach {
    fn name(&self) -> &'static str {
        "reach"
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            let place = (provider.name(), provider.place());
            for vm in self.0.db.lease_vms(&[VmState::Booting], place, now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                acts.push(Act::new(
                    format!("reaching VM {}", vm.id),
                    About { launch: Some(vm.launch), ..About::vm(vm.id) },
                    async move {
                        let lease = Lease::Vms(vec![(vm.id, vm.lease)]);
                        lease::hold(&world, lease, contact(&world, provider.as_ref(), &vm)).await
                    },
                ));
            }
        }
        Ok(acts)
    }
}

async fn contact(world: &World, provider: &dyn Provider, vm: &LeasedVm) -> anyhow::Result<()> {
    let now = world.clock.now();
    let evidence = Evidence::NotStarted { lease: vm.lease };
    let provider_id = vm.provider_id.as_deref().context("a VM that boots has a machine")?;
    let settings = world.settings();
    // A machine out of the reserve has its identity already: it is met under that, and gets certificates for its new end and address.
    let bootstrap = match (vm.met, world.db.find_bootstrap(vm.launch).await?) {
        (true, _) => None,
        (false, Some(sealed)) => Some(world.open_bootstrap(vm.launch, &sealed)?),
        (false, None) => {
            return give_up(world, provider, vm.id, provider_id, evidence, "its bootstrap identity is void", now).await;
        }
    };
    let identity = match &vm.identity_sealed {
        Some(sealed) if vm.met => renew_identity(world, vm, world.open_identity(vm.id, sealed)?, now).await?,
        Some(sealed) => world.open_identity(vm.id, sealed)?,
        None => make_identity(world, vm, now).await?,
    };
    let absolute_end_at = now + settings.timeouts.life();
    let personality =
        Personality { settings: settings.guest.clone(), gpus: u32::try_from(vm.gpus).unwrap_or(0), absolute_end_at, now };
    let deadline_at = vm.deadline_at.unwrap_or(now);
    let deadline = (deadline_at - now).to_std().unwrap_or_default();
    let at = endpoint(vm)?;
    let meeting = async {
        match provider.channel(provider_id).await {
            Ok(Some(channel)) => world.guest.personalise_over(channel, &at, &identity, &personality, deadline).await,
            Ok(None) => world.guest.personalise(&at, bootstrap.as_ref(), &identity, &personality, deadline).await,
            Err(error) => {
                tracing::debug!(vm = %vm.id, %error, "nobody to be met yet");
                Err(GuestError::NotReachable(deadline))
            }
        }
    };
    let (met, answered) = tell::contact(meeting).await;
    match met {
        Ok(engine) => {
            let now = world.clock.now();
            let idle_end_at = now + settings.timeouts.vm_idle();
            let met = Met { host_key: &identity.host_public, absolute_end_at, idle_end_at, engine: engine.as_ref() };
            let started = world.db.make_available(vm, &met, now).await?;
            if !vm.met {
                tell_phases(&started, answered, now);
            }
            Ok(())
        }
        Err(GuestError::NotReachable(_)) if world.clock.now() < deadline_at => {
            Ok(world.db.postpone_vms(&[(vm.id, vm.lease)], world.clock.now() + CALL_AGAIN).await?)
        }
        Err(error) => {
            if matches!(error, GuestError::WrongHostKey) {
                tracing::error!(vm = %vm.id, "something else than this VM answers at its address");
            }
            give_up(world, provider, vm.id, provider_id, evidence, &error.to_string(), world.clock.now()).await
        }
    }
}

fn tell_phases(vm: &StartedVm, answered: Option<Instant>, now: DateTime<Utc>) {
    let (executor, origin) = (vm.executor.as_str(), vm.origin.as_str());
    let Some(booted_at) = vm.booted_at else { return };
    let personalising = answered.map(|at| at.elapsed()).unwrap_or_default();
    let since_booted = (now - booted_at).to_std().unwrap_or_default();
    tell::phase("launching", executor, origin, (booted_at - vm.created_at).to_std().unwrap_or_default());
    tell::phase("booting", executor, origin, since_booted.saturating_sub(personalising));
    tell::phase("personalising", executor, origin, personalising);
}

async fn make_identity(world: &World, vm: &LeasedVm, now: DateTime<Utc>) -> anyhow::Result<Identity> {
    let identity = Identity::generate(vm.executor, &[ip(vm)?], now, valid_until(world, now)).context("making an identity")?;
    keep_identity(world, vm, identity).await
}

async fn renew_identity(world: &World, vm: &LeasedVm, mut identity: Identity, now: DateTime<Utc>) -> anyhow::Result<Identity> {
    identity.renew_docker(&[ip(vm)?], now, valid_until(world, now)).context("making certificates")?;
    keep_identity(world, vm, identity).await
}

/// Before anything of it is sent: a crash after first contact then finds the VM under it.
async fn keep_identity(world: &World, vm: &LeasedVm, identity: Identity) -> anyhow::Result<Identity> {
    world.db.keep_identity(vm.id, vm.lease, &world.seal(vm.id.0, &identity)?).await?;
    Ok(identity)
}

/// The latest end that the VM can have.
fn valid_until(world: &World, now: DateTime<Utc>) -> DateTime<Utc> {
    let timeouts = world.settings().timeouts;
    now + timeouts.ssh_connect() + timeouts.life()
}

fn ip(vm: &LeasedVm) -> anyhow::Result<IpAddr> {
    vm.address.as_deref().context("the VM has an address")?.parse().context("reading a VM's address")
}

/// Where the VM answers.
fn endpoint(vm: &LeasedVm) -> anyhow::Result<Endpoint> {
    let ip = ip(vm)?;
    let at = |port: Option<i32>| -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::new(ip, u16::try_from(port.context("the VM has ports")?)?))
    };
    Ok(Endpoint { ssh: at(vm.ssh_port)?, docker: at(vm.docker_port)? })
}

/// Gives up a VM that did not start, with the end of its console.
pub(super) async fn give_up(
    world: &World,
    provider: &dyn Provider,
    vm: VmId,
    machine: &str,
    evidence: Evidence,
    reason: &str,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let console = provider.console(machine).await.unwrap_or_default();
    tracing::warn!(%vm, reason, console = last_lines(&console), "a VM did not start");
    let failure = Failure::new(FailureCode::VmStartFailed, reason);
    world.db.give_up_vm(vm, evidence, &failure, &console, now).await?;
    let reason = match evidence {
        Evidence::NeverRan => "never_ran",
        Evidence::MachineDead | Evidence::Lost { .. } => "machine_dead",
        Evidence::NotStarted { .. } | Evidence::Unfit { .. } => "not_reached",
    };
    counter!(names::FAILED_STARTS, "provider" => provider.name(), "reason" => reason).increment(1);
    Ok(())
}

/// The end of a console, for a log line.
fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
