//! Brings machines from their launch to `available`: waits until they run, meets them once under the pinned bootstrap key, and
//! gives each its own identity. What does not come up in time is given up, with its console.
//!
//! Reads: `vms`, `launches`. Writes: `vms`. Calls: `Provider::find_machine`, `Guest::personalise`. Runs: in `serve`.

use super::{Act, Loop, World, lease};
use crate::db::release::Evidence;
use crate::db::vms::{LeasedVm, Place};
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::identity::Identity;
use crate::domain::lifecycle::VmState;
use crate::guest::{Endpoint, GuestError, Personality};
use crate::provider::{Address, MachineState, Provider};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::net::SocketAddr;
use std::time::Duration;

/// Between looks at a machine that does not run yet.
const LOOK_AGAIN: TimeDelta = TimeDelta::milliseconds(500);
/// Between looks at a machine whose guest does not answer yet: it may have died.
const WATCH_EVERY: Duration = Duration::from_secs(3);

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
        for provider in &self.0.providers {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            let place = (provider.name(), provider.place());
            for vm in self.0.db.lease_vms(&[VmState::Launching, VmState::Booting], place, now, limit).await? {
                let (world, provider) = (self.0.clone(), provider.clone());
                acts.push(Act::new(format!("reaching VM {}", vm.id), async move {
                    let renew = || world.db.renew_vm_lease(vm.id, vm.lease, world.clock.now());
                    lease::hold(renew, step(&world, provider.as_ref(), vm.clone())).await?
                }));
            }
        }
        Ok(acts)
    }
}

async fn step(world: &World, provider: &dyn Provider, mut vm: LeasedVm) -> anyhow::Result<()> {
    let provider_id = vm.provider_id.clone().context("a VM without a machine is not reached")?;
    if vm.state == VmState::Launching {
        let machine = provider.find_machine(&provider_id).await?;
        let now = world.clock.now();
        let address = match machine.map(|m| (m.state, m.address)) {
            Some((MachineState::Running, Some(address))) => address,
            Some((MachineState::Stopping | MachineState::Stopped | MachineState::Terminated, _)) => {
                return give_up(world, provider, &vm, "its machine ended before it ran").await;
            }
            // Just after a launch "not known" means "not yet".
            Some(_) | None if vm.deadline_at.is_none_or(|deadline| now < deadline) => {
                return Ok(world.db.postpone_vm(vm.id, vm.lease, now + LOOK_AGAIN).await?);
            }
            Some(_) | None => return give_up(world, provider, &vm, "its machine did not run in time").await,
        };
        boot(world, &mut vm, address).await?;
    }
    contact(world, provider, &vm, &provider_id).await
}

/// Keeps the identity before anything of it is sent: a crash after first contact then finds the VM under it.
async fn boot(world: &World, vm: &mut LeasedVm, address: Address) -> anyhow::Result<()> {
    let now = world.clock.now();
    let settings = world.settings();
    let valid_until = now + settings.timeouts.ssh_connect() + settings.timeouts.life();
    let identity = Identity::generate(vm.executor, &[address.ip], now, valid_until).context("making an identity")?;
    let sealed = world.seal(vm.id.0, &identity)?;
    let deadline_at = now + settings.timeouts.ssh_connect();
    let place = Place { ip: address.ip, ssh_port: address.ssh_port, docker_port: address.docker_port };
    world.db.boot_vm(vm.id, vm.lease, place, &sealed, deadline_at, now).await?;
    vm.deadline_at = Some(deadline_at);
    vm.address = Some(address.ip.to_string());
    vm.ssh_port = Some(address.ssh_port.into());
    vm.docker_port = Some(address.docker_port.into());
    vm.identity_sealed = Some(sealed);
    Ok(())
}

async fn contact(world: &World, provider: &dyn Provider, vm: &LeasedVm, provider_id: &str) -> anyhow::Result<()> {
    let Some(bootstrap) = world.db.find_bootstrap(vm.launch).await? else {
        return give_up(world, provider, vm, "its bootstrap identity is void").await;
    };
    let bootstrap = world.open_bootstrap(vm.launch, &bootstrap)?;
    let identity = world.open_identity(vm.id, vm.identity_sealed.as_deref().context("a booting VM has an identity")?)?;
    let settings = world.settings();
    let now = world.clock.now();
    let absolute_end_at = now + settings.timeouts.life();
    let personality = Personality { settings: settings.guest.clone(), absolute_end_at, now };
    let deadline = (vm.deadline_at.unwrap_or(now) - now).to_std().unwrap_or_default();
    let endpoint = endpoint(vm)?;
    let met = tokio::select! {
        met = world.guest.personalise(&endpoint, &bootstrap, &identity, &personality, deadline) => met,
        () = until_dead(provider, provider_id) => {
            return give_up(world, provider, vm, "its machine died while it booted").await;
        }
    };
    match met {
        Ok(()) => {
            let now = world.clock.now();
            let idle_end_at = now + settings.timeouts.vm_idle();
            Ok(world.db.make_available(vm, &identity.host_public, absolute_end_at, idle_end_at, now).await?)
        }
        Err(error) => {
            if matches!(error, GuestError::WrongHostKey) {
                tracing::error!(vm = %vm.id, "something else than this VM answers at its address");
            }
            give_up(world, provider, vm, &error.to_string()).await
        }
    }
}

/// Where the VM answers.
pub(super) fn endpoint(vm: &LeasedVm) -> anyhow::Result<Endpoint> {
    let ip = vm.address.as_deref().context("the VM has an address")?.parse().context("reading a VM's address")?;
    let at = |port: Option<i32>| -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::new(ip, u16::try_from(port.context("the VM has ports")?)?))
    };
    Ok(Endpoint { ssh: at(vm.ssh_port)?, docker: at(vm.docker_port)? })
}

/// Ends when the provider says that the machine is dead; unknown is not dead.
async fn until_dead(provider: &dyn Provider, provider_id: &str) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        if let Ok(Some(machine)) = provider.find_machine(provider_id).await
            && machine.state == MachineState::Terminated
        {
            return;
        }
    }
}

async fn give_up(world: &World, provider: &dyn Provider, vm: &LeasedVm, reason: &str) -> anyhow::Result<()> {
    let console = match &vm.provider_id {
        Some(id) => provider.console(id).await.unwrap_or_default(),
        None => String::new(),
    };
    tracing::warn!(vm = %vm.id, reason, console = last_lines(&console), "a VM did not start");
    let failure = Failure::new(FailureCode::VmStartFailed, reason);
    let evidence = Evidence::NotStarted { lease: vm.lease };
    Ok(world.db.give_up_vm(vm.id, evidence, &failure, &console, world.clock.now()).await?)
}

/// The end of a console, for a log line.
fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
