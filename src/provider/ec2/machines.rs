//! Instances as machines: shared looks, lists and ends, in as few calls as EC2 allows.

use super::refusal::Kind;
use super::{Ec2, tags};
use crate::domain::ids::LaunchId;
use crate::domain::tags::{Origin, Tags};
use crate::domain::task::Executor;
use crate::provider::{Address, Listing, Machine, MachineState, ProviderError};
use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, Reservation};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;
use std::net::IpAddr;
use uuid::Uuid;

/// Values of one filter, at most (AWS, "Filtering and listing resources").
pub(super) const FILTER_VALUES: usize = 200;
/// Ids of one look, at most.
const LOOKED_AT_ONCE: usize = 1000;
/// Entries of one page, at most.
const PAGE: i32 = 1000;
/// Instances of one termination, at most.
const ENDED_AT_ONCE: usize = 1000;
/// Of a console, at most.
const CONSOLE_BYTES: usize = 64 * 1024;

impl Ec2 {
    /// All instances with our tag, page by page.
    pub(super) async fn list(&self) -> Result<Listing, ProviderError> {
        let ours = self.installation.to_string();
        let machines = self.describe(filter(format!("tag:{}", tags::INSTALLATION), [ours])).await?;
        Ok(Listing { machines, complete: true })
    }

    /// Those of these instances that EC2 knows. A few by filter, because one unknown id fails a whole call by id; more by id first, because
    /// that takes five times as many.
    pub(super) async fn find_many(&self, ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        let mut found = Vec::with_capacity(ids.len());
        for many in ids.chunks(LOOKED_AT_ONCE) {
            if many.len() > FILTER_VALUES
                && let Some(all) = self.find_all(many).await?
            {
                found.extend(all);
                continue;
            }
            for few in many.chunks(FILTER_VALUES) {
                found.extend(self.describe(filter("instance-id", few.iter().cloned())).await?);
            }
        }
        Ok(found)
    }

    /// These instances in one call; none when EC2 does not know one of them, or gives no more than a page.
    async fn find_all(&self, ids: &[String]) -> Result<Option<Vec<Machine>>, ProviderError> {
        let call = self.client().await.describe_instances().set_instance_ids(Some(ids.to_vec()));
        match self.budget.read.call(call.send()).await {
            Ok(answer) if answer.next_token.is_some() => Ok(None),
            Ok(answer) => Ok(Some(self.machines(answer.reservations).collect())),
            Err(refusal) if refusal.kind == Kind::NotFound => Ok(None),
            Err(refusal) => Err(refusal.into_error("looking at instances")),
        }
    }

    /// One instance, asked for by its id.
    pub(super) async fn find(&self, id: &str) -> Result<Option<Machine>, ProviderError> {
        let call = self.client().await.describe_instances().instance_ids(id);
        match self.budget.read.call(call.send()).await {
            Ok(answer) => Ok(self.machines(answer.reservations).next()),
            Err(refusal) if refusal.kind == Kind::NotFound || refusal.code == "InvalidInstanceID.Malformed" => Ok(None),
            Err(refusal) => Err(refusal.into_error("looking at an instance")),
        }
    }

    async fn describe(&self, filter: Filter) -> Result<Vec<Machine>, ProviderError> {
        let call = self.client().await.describe_instances().filters(filter).max_results(PAGE);
        let mut pages = call.into_paginator().send();
        let mut machines = Vec::new();
        loop {
            let page = self.budget.read.call(async { pages.next().await.transpose() }).await;
            let Some(page) = page.map_err(|refusal| refusal.into_error("listing instances"))? else { return Ok(machines) };
            machines.extend(self.machines(page.reservations));
            if page.next_token.is_none() {
                return Ok(machines);
            }
        }
    }

    /// Asks instances to end. Unknown ones fail the whole call, so it is made again without those that it names.
    pub(super) async fn end(&self, ids: &[String]) -> Result<(), ProviderError> {
        for some in ids.chunks(ENDED_AT_ONCE) {
            let mut wanted = some.to_vec();
            while !wanted.is_empty() {
                let call = self.client().await.terminate_instances().set_instance_ids(Some(wanted.clone()));
                let Err(refusal) = self.budget.terminate.call(call.send()).await else { break };
                let before = wanted.len();
                // "The instance IDs 'i-1, i-2' do not exist": quoted, in any wording.
                wanted.retain(|id| !refusal.message.contains(id.as_str()));
                if refusal.kind != Kind::NotFound || wanted.len() == before {
                    return Err(refusal.into_error("terminating instances"));
                }
            }
        }
        Ok(())
    }

    /// The end of an instance's console.
    pub(super) async fn console_of(&self, id: &str) -> Result<String, ProviderError> {
        let call = self.client().await.get_console_output().instance_id(id).latest(true);
        let text = match self.budget.read.call(call.send()).await {
            Ok(answer) => answer.output.unwrap_or_default(),
            Err(refusal) if refusal.kind == Kind::NotFound || refusal.kind == Kind::Invalid => String::new(),
            Err(refusal) => return Err(refusal.into_error("reading a console")),
        };
        let bytes = BASE64.decode(text).unwrap_or_default();
        let end = &bytes[bytes.len().saturating_sub(CONSOLE_BYTES)..];
        Ok(String::from_utf8_lossy(end).into_owned())
    }

    /// Those of an answer that may be ours.
    fn machines(&self, reservations: Option<Vec<Reservation>>) -> impl Iterator<Item = Machine> {
        let instances = reservations.unwrap_or_default().into_iter().flat_map(|it| it.instances.unwrap_or_default());
        instances.filter(|it| self.may_be_ours(it)).map(|it| self.machine(&it))
    }

    /// One whose tags name another installation is not ours; one without tags may have lost them.
    fn may_be_ours(&self, instance: &Instance) -> bool {
        tags::installation(instance.tags()).is_none_or(|id| id == self.installation.to_string())
    }

    /// What the contract says of an instance.
    pub(super) fn machine(&self, instance: &Instance) -> Machine {
        let launched_at = instance.launch_time().and_then(|at| DateTime::from_timestamp(at.secs(), 0)).unwrap_or_default();
        let lost = || Tags {
            installation: self.installation,
            launch: LaunchId(Uuid::nil()),
            executor: Executor::Machine,
            resource_class: String::new(),
            origin: Origin::OnDemand,
            created_at: launched_at,
        };
        let (public, ssh_port) = {
            let settings = &self.connection().settings;
            (settings.public_ip, settings.ssh_port)
        };
        let ip = if public { instance.public_ip_address() } else { instance.private_ip_address() };
        let address = |ip: IpAddr| Address { ip, ssh_port, docker_port: 2376 };
        Machine {
            provider_id: instance.instance_id().unwrap_or_default().to_owned(),
            tags: tags::read(instance.tags()).unwrap_or_else(lost),
            state: state(instance.state().and_then(|state| state.name())),
            address: ip.and_then(|ip| ip.parse().ok()).map(address),
            zone: instance.placement().and_then(|it| it.availability_zone()).map(str::to_owned),
            why_ended: instance.state_reason().and_then(|reason| reason.message()).filter(|why| !why.is_empty()).map(str::to_owned),
        }
    }
}

pub(super) fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

fn state(name: Option<&InstanceStateName>) -> MachineState {
    match name {
        Some(InstanceStateName::Running) => MachineState::Running,
        Some(InstanceStateName::ShuttingDown | InstanceStateName::Stopping) => MachineState::Stopping,
        Some(InstanceStateName::Stopped) => MachineState::Stopped,
        Some(InstanceStateName::Terminated) => MachineState::Terminated,
        _ => MachineState::Pending,
    }
}
