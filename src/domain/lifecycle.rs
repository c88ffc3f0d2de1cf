//! The one table of legal moves of VMs, tasks, volumes and images; whatever is not listed here is refused.
//!
//! The database holds the same table (`vms.legal_moves`) and refuses by trigger; a test holds the two equal.
//! A move to the state that a row is already in is an error too: whoever asks for it has lost track.

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[sqlx(type_name = "text", rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every state, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in the database, the API, logs and pages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text)
                    .ok_or_else(|| format!("\"{text}\" is not one of {}", Self::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")))
            }
        }
    };
}

states!(
    /// Where a VM is in its life.
    VmState {
        /// The row exists; the provider has not been asked yet, or has not answered.
        Requested = "requested",
        /// The provider has a machine; it is not running yet.
        Launching = "launching",
        /// The machine runs; its guest has not been personalised yet.
        Booting = "booting",
        /// Personalised and waiting for a task.
        Available = "available",
        /// Belongs to one task.
        Assigned = "assigned",
        /// Not claimable any more; about to be terminated.
        Draining = "draining",
        /// Being stopped for the reserve.
        Stopping = "stopping",
        /// In the reserve.
        Stopped = "stopped",
        /// Kept aside for a look; never given to a task.
        Quarantined = "quarantined",
        /// Asked to die.
        Terminating = "terminating",
        /// The provider confirmed that it is gone.
        Terminated = "terminated",
    }
);

states!(
    /// Where a task is in its life.
    TaskState {
        /// Waits for a VM.
        Queued = "queued",
        /// Has a VM; its keys or cache are being put in.
        Preparing = "preparing",
        /// The job may use the VM.
        Ready = "ready",
        /// The dispatcher said that the job is over.
        Released = "released",
        /// No VM could be given, or it was lost; `failure` says why.
        Failed = "failed",
        /// Ended at its own deadline.
        Expired = "expired",
        /// Released before it was ready.
        Cancelled = "cancelled",
    }
);

states!(
    /// Where a cache volume is in its life.
    VolumeState {
        /// Being made.
        Creating = "creating",
        /// Free.
        Available = "available",
        /// On its way into a VM.
        Attaching = "attaching",
        /// In use by one VM.
        Attached = "attached",
        /// On its way out of a VM.
        Detaching = "detaching",
        /// Not trusted: never a parent, never attached.
        Quarantined = "quarantined",
        /// Being deleted.
        Deleting = "deleting",
        /// Gone.
        Deleted = "deleted",
    }
);

states!(
    /// Where an image is in its life.
    ImageState {
        /// Known; it gets the share of the launches that it was given.
        Candidate = "candidate",
        /// What launches take.
        Promoted = "promoted",
        /// No launch takes it any more.
        Retired = "retired",
        /// Being deleted.
        Deleting = "deleting",
        /// Gone.
        Deleted = "deleted",
    }
);

impl VmState {
    /// No machine is left that costs money, and nothing will happen to the row any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated)
    }

    /// Asked for and not usable yet: what the limit on launches in flight counts.
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Requested | Self::Launching | Self::Booting)
    }
}

impl TaskState {
    /// The task has had its last answer.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Released | Self::Failed | Self::Expired | Self::Cancelled)
    }
}

/// What a row may do in one step: `None` stands for "no row yet".
pub type Move<S> = (Option<S>, S);

/// Every legal move of a VM.
pub fn vm_moves() -> Vec<Move<VmState>> {
    use VmState::{
        Assigned, Available, Booting, Draining, Launching, Quarantined, Requested, Stopped, Stopping, Terminated, Terminating,
    };
    let mut moves = vec![
        (None, Requested),
        (Some(Requested), Launching),
        (Some(Launching), Booting),
        (Some(Booting), Available),
        (Some(Available), Assigned),
        (Some(Assigned), Terminating),
        (Some(Terminating), Terminated),
        (Some(Available), Draining),
        (Some(Draining), Terminating),
        (Some(Available), Stopping),
        (Some(Stopping), Stopped),
        (Some(Stopped), Launching),
        // There was no capacity to start it.
        (Some(Launching), Stopped),
        (Some(Requested), Terminated),
    ];
    for live in [Requested, Launching, Booting, Available, Assigned, Draining, Stopping, Stopped] {
        moves.push((Some(live), Quarantined));
        moves.push((Some(live), Terminating));
    }
    moves.push((Some(Quarantined), Terminating));
    moves.sort();
    moves.dedup();
    moves
}

/// Every legal move of a task.
pub fn task_moves() -> Vec<Move<TaskState>> {
    use TaskState::{Cancelled, Expired, Failed, Preparing, Queued, Ready, Released};
    let mut moves = vec![
        (None, Queued),
        (Some(Queued), Preparing),
        (Some(Queued), Ready),
        (Some(Preparing), Ready),
        (Some(Preparing), Queued),
        (Some(Ready), Released),
    ];
    for open in [Queued, Preparing, Ready] {
        for end in [Failed, Expired, Cancelled] {
            moves.push((Some(open), end));
        }
    }
    moves.sort();
    moves
}

/// Every legal move of a volume.
pub fn volume_moves() -> Vec<Move<VolumeState>> {
    use VolumeState::{Attached, Attaching, Available, Creating, Deleted, Deleting, Detaching, Quarantined};
    let mut moves = vec![
        (None, Creating),
        // Adopted from the provider after the loss of the database: trusted only after a check.
        (None, Quarantined),
        (Some(Creating), Available),
        (Some(Available), Attaching),
        (Some(Attaching), Attached),
        (Some(Attached), Detaching),
        (Some(Detaching), Available),
        (Some(Attaching), Available),
        (Some(Quarantined), Available),
        (Some(Quarantined), Deleting),
        (Some(Available), Deleting),
        (Some(Deleting), Deleted),
    ];
    for any in [Creating, Available, Attaching, Attached, Detaching] {
        moves.push((Some(any), Quarantined));
    }
    moves.sort();
    moves
}

/// Every legal move of an image.
pub fn image_moves() -> Vec<Move<ImageState>> {
    use ImageState::{Candidate, Deleted, Deleting, Promoted, Retired};
    vec![
        (None, Candidate),
        (Some(Candidate), Promoted),
        (Some(Candidate), Retired),
        (Some(Promoted), Retired),
        // Back to the one before.
        (Some(Retired), Promoted),
        (Some(Retired), Deleting),
        // The provider found it in use.
        (Some(Deleting), Retired),
        (Some(Deleting), Deleted),
    ]
}
