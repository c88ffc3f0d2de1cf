//! Every operation that the world can be asked for, once: its name, its two gates, and which budget it takes from.

use super::buckets::Bucket;
use super::faults::Fault;

/// One operation.
#[derive(Debug)]
pub(super) struct Op {
    /// As in the journal and in [`super::Sim::calls`].
    pub(super) name: &'static str,
    /// Its gate before the effect.
    pub(super) before: &'static str,
    /// Its gate between the effect and the answer.
    pub(super) after: &'static str,
    /// What it costs and how it is lost.
    pub(super) kind: Kind,
}

/// What an operation takes from, and how its call or its answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Makes machines.
    Launch,
    /// Ends machines.
    Terminate,
    /// Changes anything else.
    Change,
    /// Reads.
    Look,
    /// Goes to a guest and not to the cloud: no budget.
    Contact,
}

impl Kind {
    /// What `units` of it take: machines of a launch, pages and look-ups of a look.
    pub(super) fn cost(self, units: u32) -> Vec<(Bucket, u32)> {
        match self {
            Self::Launch => vec![(Bucket::LaunchCalls, 1), (Bucket::LaunchMachines, units)],
            Self::Terminate => vec![(Bucket::Terminate, units)],
            Self::Change => vec![(Bucket::Mutating, units)],
            Self::Look => vec![(Bucket::Describe, units)],
            Self::Contact => Vec::new(),
        }
    }

    /// The fault that loses the call before its effect.
    pub(super) const fn lost_call(self) -> Option<Fault> {
        match self {
            Self::Launch => Some(Fault::LoseLaunch),
            Self::Terminate => Some(Fault::LoseTerminate),
            Self::Change => Some(Fault::LoseChange),
            Self::Look => Some(Fault::LoseLook),
            Self::Contact => None,
        }
    }

    /// The fault that loses the answer after the effect.
    pub(super) const fn lost_answer(self) -> Option<Fault> {
        match self {
            Self::Launch => Some(Fault::LoseLaunchAnswer),
            Self::Terminate => Some(Fault::LoseTerminateAnswer),
            Self::Change => Some(Fault::LoseChangeAnswer),
            Self::Look | Self::Contact => None,
        }
    }
}

macro_rules! op {
    ($constant:ident, $name:literal, $kind:ident) => {
        pub(super) const $constant: Op =
            Op { name: $name, before: concat!($name, ":before"), after: concat!($name, ":after"), kind: Kind::$kind };
    };
}

op!(LAUNCH, "launch", Launch);
op!(LIST_MACHINES, "list_machines", Look);
op!(FIND_MACHINE, "find_machine", Look);
op!(FIND_MACHINES, "find_machines", Look);
op!(TERMINATE, "terminate", Terminate);
op!(LIST_NOTICES, "list_notices", Look);
op!(CONSOLE, "console", Look);
op!(CHECK, "check", Look);
op!(STOP_MACHINE, "stop_machine", Change);
op!(START_MACHINE, "start_machine", Change);
op!(LIST_VOLUMES, "list_volumes", Look);
op!(FIND_VOLUME, "find_volume", Look);
op!(CREATE_VOLUME, "create_volume", Change);
op!(ATTACH_VOLUME, "attach_volume", Change);
op!(DETACH_VOLUME, "detach_volume", Change);
op!(DELETE_VOLUME, "delete_volume", Change);
op!(SNAPSHOT_VOLUME, "snapshot_volume", Change);
op!(FIND_SNAPSHOT, "find_snapshot", Look);
op!(LIST_SNAPSHOTS, "list_snapshots", Look);
op!(DELETE_SNAPSHOT, "delete_snapshot", Change);
op!(FIND_IMAGE, "find_image", Look);
op!(DELETE_IMAGE, "delete_image", Change);
op!(PERSONALISE, "personalise", Contact);
op!(AUTHORISE, "authorise", Contact);
op!(SET_END, "set_end", Contact);
op!(MOUNT_CACHE, "mount_cache", Contact);
op!(UNMOUNT_CACHE, "unmount_cache", Contact);
