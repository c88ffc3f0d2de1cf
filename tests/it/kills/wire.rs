//! What a replica asks of the cloud and what it is told, as one JSON line each.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vm_service::domain::identity::{Bootstrap, Identity};
use vm_service::domain::lineage::Engine;
use vm_service::domain::resource_class::ResourceClass;
use vm_service::domain::settings::GuestSettings;
use vm_service::domain::tags::Tags;
use vm_service::guest::GuestError;
use vm_service::provider::{Address, Machine, MachineState, ProviderError};

/// A call, and the replica that makes it.
#[derive(Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) from: String,
    pub(super) call: Call,
}

/// The calls of both traits that leave the process.
#[derive(Serialize, Deserialize)]
pub(super) enum Call {
    Launch { token: String, tags: Tags, class: ResourceClass, count: u32, user_data: String },
    ListMachines,
    FindMachine { id: String },
    FindMachines { ids: Vec<String> },
    Terminate { ids: Vec<String> },
    Console { id: String },
    Personalise(Box<Personalise>),
    Authorise { ssh: SocketAddr, identity: Box<Identity>, keys: Vec<String> },
    SetEnd { ssh: SocketAddr, identity: Box<Identity>, end_at: DateTime<Utc> },
}

/// First contact.
#[derive(Serialize, Deserialize)]
pub(super) struct Personalise {
    pub(super) ssh: SocketAddr,
    pub(super) docker: SocketAddr,
    pub(super) bootstrap: Option<Bootstrap>,
    pub(super) identity: Identity,
    pub(super) settings: GuestSettings,
    pub(super) end_at: DateTime<Utc>,
    pub(super) now: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Machines { machines: Vec<WireMachine>, complete: bool },
    Text(String),
    Engine(Option<Engine>),
    Done,
    Refused(Refusal),
}

/// Errors of both traits.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    NoCapacity(String),
    Throttled,
    Invalid(String),
    Transient(String),
    NotReachable,
    WrongHostKey,
    LoginRefused,
    Misbehaved(String),
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireMachine {
    id: String,
    tags: Tags,
    state: u8,
    address: Option<(IpAddr, u16, u16)>,
    zone: Option<String>,
}

const STATES: [MachineState; 5] =
    [MachineState::Pending, MachineState::Running, MachineState::Stopping, MachineState::Stopped, MachineState::Terminated];

impl From<Machine> for WireMachine {
    fn from(machine: Machine) -> Self {
        let state = STATES.iter().position(|state| *state == machine.state).unwrap();
        Self {
            id: machine.provider_id,
            tags: machine.tags,
            state: u8::try_from(state).unwrap(),
            address: machine.address.map(|at| (at.ip, at.ssh_port, at.docker_port)),
            zone: machine.zone,
        }
    }
}

impl From<WireMachine> for Machine {
    fn from(wire: WireMachine) -> Self {
        Self {
            provider_id: wire.id,
            tags: wire.tags,
            state: STATES[usize::from(wire.state)],
            address: wire.address.map(|(ip, ssh_port, docker_port)| Address { ip, ssh_port, docker_port }),
            zone: wire.zone,
            why_ended: None,
        }
    }
}

impl From<ProviderError> for Refusal {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::NoCapacity(why) => Self::NoCapacity(why),
            ProviderError::Throttled => Self::Throttled,
            ProviderError::Invalid(why) => Self::Invalid(why),
            ProviderError::Transient { what, source } => Self::Transient(format!("{what}: {source}")),
        }
    }
}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::NotReachable(_) => Self::NotReachable,
            GuestError::WrongHostKey => Self::WrongHostKey,
            GuestError::LoginRefused => Self::LoginRefused,
            GuestError::Misbehaved(why) => Self::Misbehaved(why),
        }
    }
}

impl Refusal {
    pub(super) fn of_provider(self) -> ProviderError {
        match self {
            Self::NoCapacity(why) => ProviderError::NoCapacity(why),
            Self::Throttled => ProviderError::Throttled,
            Self::Invalid(why) => ProviderError::Invalid(why),
            other => ProviderError::transient("asking the cloud", anyhow::anyhow!("{other:?}")),
        }
    }

    pub(super) fn of_guest(self, deadline: Duration) -> GuestError {
        match self {
            Self::WrongHostKey => GuestError::WrongHostKey,
            Self::LoginRefused => GuestError::LoginRefused,
            Self::Misbehaved(why) => GuestError::Misbehaved(why),
            _ => GuestError::NotReachable(deadline),
        }
    }
}
