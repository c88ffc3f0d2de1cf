//! One simulated machine: where it is in its life is a function of what was asked of it and of the time, and of nothing else.
//!
//! Every duration is drawn when the machine is launched or started, so that when somebody looks changes nothing.
//! `pending → running → shutting down → terminated`; `running → stopping → stopped → pending`; death comes without shutting down.
//!
//! Not here: addresses, room and what is due next over all machines (`fleet`); contact (`guest`).

use crate::domain::tags::Tags;
use crate::provider::{Address, Machine, MachineState};
use chrono::{DateTime, TimeDelta, Utc};
use std::net::{IpAddr, Ipv4Addr};

/// Why a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// Through the provider.
    AskedByUs,
    /// It shut itself down at its end.
    OwnEnd,
    /// A fault.
    Died,
    /// The test did it.
    Killed,
}

/// Which keys a simulated guest has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestKeys {
    /// Its public host key.
    pub host: String,
    /// Public keys that may log in.
    pub logins: Vec<String>,
}

/// The truth about a machine, whatever the provider would say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTruth {
    /// The provider's name for it.
    pub provider_id: String,
    /// What it was made with.
    pub tags: Tags,
    /// It lost them.
    pub tags_lost: bool,
    /// Where it is.
    pub state: MachineState,
    /// Its availability zone.
    pub zone: String,
    /// Held from launch or start until it has ended or stopped.
    pub address: Option<Ipv4Addr>,
    /// When it was made.
    pub launched_at: DateTime<Utc>,
    /// When it ran or will run, since its last start.
    pub runs_at: DateTime<Utc>,
    /// When it was gone.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it ends or ended.
    pub end: Option<EndCause>,
    /// What it was made of, where its launch said so.
    pub image: Option<String>,
    /// Public keys it answers with and lets in, the job's own among them.
    pub keys: GuestKeys,
    /// The host key that first contact gave it.
    pub personalised_as: Option<String>,
    /// When it shuts itself down.
    pub ends_itself_at: Option<DateTime<Utc>>,
}

/// When one start leads where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub(super) runs_at: DateTime<Utc>,
    /// None: never.
    pub(super) answers_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Pending(Boot),
    Running(Boot),
    Stopping {
        until: DateTime<Utc>,
    },
    Stopped,
    ShuttingDown {
        until: DateTime<Utc>,
        cause: EndCause,
    },
    Terminated {
        at: DateTime<Utc>,
        cause: EndCause,
        /// None: it is not shown any more.
        shown_until: Option<DateTime<Utc>>,
    },
}

/// What was drawn for a machine at its launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) found_from: DateTime<Utc>,
    pub(super) listed_from: DateTime<Utc>,
    pub(super) shuts_down_in: TimeDelta,
    pub(super) loses_tags_at: Option<DateTime<Utc>>,
    pub(super) dies_at: Option<DateTime<Utc>>,
    pub(super) unknown_while_ending: bool,
}

impl Fate {
    /// Nothing special.
    pub(super) const fn plain(now: DateTime<Utc>) -> Self {
        Self {
            found_from: now,
            listed_from: now,
            shuts_down_in: TimeDelta::zero(),
            loses_tags_at: None,
            dies_at: None,
            unknown_while_ending: false,
        }
    }
}

/// A simulated machine.
#[derive(Debug)]
pub(super) struct SimMachine {
    pub(super) provider_id: String,
    pub(super) tags: Tags,
    pub(super) zone: String,
    pub(super) launched_at: DateTime<Utc>,
    pub(super) runs_at: DateTime<Utc>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) phase: Phase,
    pub(super) fate: Fate,
    pub(super) image: Option<String>,
    pub(super) gpus: u32,
    pub(super) keys: GuestKeys,
    pub(super) personalised_as: Option<String>,
    /// From the first running to the end without first contact; none: for ever.
    pub(super) silent_for: Option<TimeDelta>,
    pub(super) ends_itself_at: Option<DateTime<Utc>>,
}

impl SimMachine {
    pub(super) const fn state(&self) -> MachineState {
        match self.phase {
            Phase::Pending(_) => MachineState::Pending,
            Phase::Running(_) => MachineState::Running,
            Phase::Stopping { .. } | Phase::ShuttingDown { .. } => MachineState::Stopping,
            Phase::Stopped => MachineState::Stopped,
            Phase::Terminated { .. } => MachineState::Terminated,
        }
    }

    /// When it moves on by itself, if nothing is asked of it before.
    pub(super) fn next_change(&self) -> Option<DateTime<Utc>> {
        match self.phase {
            Phase::Pending(boot) => Some(boot.runs_at),
            Phase::Running(boot) => {
                let first = [self.ends_itself_at, self.fate.dies_at].into_iter().flatten().min()?;
                Some(first.max(boot.runs_at))
            }
            Phase::Stopping { until } | Phase::ShuttingDown { until, .. } => Some(until),
            Phase::Stopped => None,
            Phase::Terminated { shown_until, .. } => shown_until,
        }
    }

    /// Somebody answers at its SSH port.
    pub(super) fn answers(&self, now: DateTime<Utc>) -> bool {
        matches!(self.phase, Phase::Running(Boot { answers_at: Some(at), .. }) if at <= now)
    }

    /// Still or again with a machine behind it that runs.
    pub(super) const fn holds_room(&self) -> bool {
        !matches!(self.phase, Phase::Stopped | Phase::Terminated { .. })
    }

    /// A direct look knows it.
    pub(super) fn is_found(&self, now: DateTime<Utc>) -> bool {
        self.fate.found_from <= now && !self.is_hidden()
    }

    /// A list holds it.
    pub(super) fn is_listed(&self, now: DateTime<Utc>) -> bool {
        self.fate.listed_from <= now && !self.is_hidden() && !self.has_lost_tags(now)
    }

    fn is_hidden(&self) -> bool {
        match self.phase {
            Phase::Terminated { shown_until, .. } => shown_until.is_none(),
            Phase::ShuttingDown { .. } => self.fate.unknown_while_ending,
            Phase::Pending(_) | Phase::Running(_) | Phase::Stopping { .. } | Phase::Stopped => false,
        }
    }

    fn has_lost_tags(&self, now: DateTime<Utc>) -> bool {
        self.fate.loses_tags_at.is_some_and(|at| at <= now)
    }

    /// What the provider says of it.
    pub(super) fn shown(&self) -> Machine {
        let running = matches!(self.phase, Phase::Running(_));
        let address = self.address.filter(|_| running).map(|ip| Address { ip: IpAddr::V4(ip), ssh_port: 22, docker_port: 2376 });
        Machine {
            provider_id: self.provider_id.clone(),
            tags: self.tags.clone(),
            state: self.state(),
            address,
            zone: Some(self.zone.clone()),
            why_ended: None,
        }
    }

    pub(super) fn truth(&self, now: DateTime<Utc>) -> MachineTruth {
        let (end, ended_at) = match self.phase {
            Phase::ShuttingDown { cause, .. } => (Some(cause), None),
            Phase::Terminated { at, cause, .. } => (Some(cause), Some(at)),
            _ => (None, None),
        };
        MachineTruth {
            provider_id: self.provider_id.clone(),
            tags: self.tags.clone(),
            tags_lost: self.has_lost_tags(now),
            state: self.state(),
            zone: self.zone.clone(),
            address: self.address,
            launched_at: self.launched_at,
            runs_at: self.runs_at,
            ended_at,
            end,
            image: self.image.clone(),
            keys: self.keys.clone(),
            personalised_as: self.personalised_as.clone(),
            ends_itself_at: self.ends_itself_at,
        }
    }
}
