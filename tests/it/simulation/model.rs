//! What the driver itself knows: what it asked for and did, and what it was told by the API. Nothing here is read from our tables.
//!
//! A job *runs* from the answer `ready` until the driver releases it, lets its time or its heartbeat run out, or ends its VM as an
//! operator. A job is *bereft* when its rows were deleted under it: it runs on, and nobody knows of it any more.

use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use vm_service::db::settings::Versioned;
use vm_service::domain::ids::{TaskId, VmId, VolumeId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::settings::Settings;
use vm_service::domain::task::TaskRequest;

/// Why a job was let go: the driver released it.
pub(super) const RELEASED: &str = "released";
/// Why a job was let go: the driver ended its VM.
pub(super) const BY_OPERATOR: &str = "its VM was ended by an operator";

/// A task that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: TaskId,
    pub(super) request: TaskRequest,
    pub(super) max_run_seconds: i32,
    pub(super) beat_at: DateTime<Utc>,
    /// As the API answered last.
    pub(super) state: TaskState,
    pub(super) ready_at: Option<DateTime<Utc>>,
    pub(super) vm: Option<VmId>,
    pub(super) machine: Option<String>,
    /// Why the driver expects its end.
    pub(super) let_go: Option<&'static str>,
    pub(super) bereft: bool,
    /// Checks in a row in which it should have ended, and since when.
    pub(super) overdue: Option<(u32, DateTime<Utc>)>,
}

impl Job {
    /// Its VM may be ended.
    pub(super) fn may_end(&self, now: DateTime<Utc>) -> bool {
        self.let_go.is_some() || self.is_past_its_time(now)
    }

    /// It has run as long as it may, or its dispatcher has been silent for too long.
    pub(super) fn is_past_its_time(&self, now: DateTime<Utc>) -> bool {
        self.has_run_out(now) || self.is_silent(now)
    }

    /// It has run as long as it may.
    pub(super) fn has_run_out(&self, now: DateTime<Utc>) -> bool {
        self.ready_at.is_some_and(|at| at + TimeDelta::seconds(self.max_run_seconds.into()) <= now)
    }

    /// Its dispatcher has been silent for too long.
    pub(super) fn is_silent(&self, now: DateTime<Utc>) -> bool {
        self.beat_at + self.may_be_silent() <= now
    }

    /// How long its dispatcher may be silent while it can be heard.
    pub(super) fn may_be_silent(&self) -> TimeDelta {
        self.request.lease_seconds.map_or(TimeDelta::days(1000), |lease| TimeDelta::seconds(lease.into()))
    }

    /// The API has not given a final answer.
    pub(super) fn is_open(&self) -> bool {
        !self.bereft && !self.state.is_terminal()
    }
}

/// A hold that an operator set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) vm: VmId,
    pub(super) until: DateTime<Utc>,
    /// The operation that set it.
    pub(super) set: usize,
}

/// A hold of a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldVolume {
    pub(super) volume: VolumeId,
    pub(super) until: DateTime<Utc>,
}

/// Settings, and since which operation they may be in force.
#[derive(Clone, Debug)]
struct Saved {
    operation: usize,
    settings: Settings,
}

/// Operations until saved settings are in force for certain: each runs one look at them, which may be cut.
const IN_FORCE_AFTER: usize = 6;

/// An operation that takes longer may be a pause in which nobody is heard.
const HEARD_WITHIN: TimeDelta = TimeDelta::seconds(7);

/// Everything that the driver knows.
pub(super) struct Model {
    pub(super) jobs: BTreeMap<TaskId, Job>,
    /// Which task each machine served, for ever.
    pub(super) served: BTreeMap<String, TaskId>,
    pub(super) holds: BTreeMap<String, Held>,
    pub(super) planted: BTreeMap<String, DateTime<Utc>>,
    /// Volumes that an operator holds, by the provider's name.
    pub(super) held_volumes: BTreeMap<String, HeldVolume>,
    /// Volumes that were planted, by the provider's name.
    pub(super) planted_volumes: BTreeSet<String>,
    /// Images that were retired, by the provider's name, and since when.
    pub(super) retired_images: BTreeMap<String, DateTime<Utc>>,
    /// Machines whose end we asked for, as far as their volumes were looked at.
    pub(super) asked_with_volumes: BTreeSet<String>,
    /// Volumes that were looked at.
    pub(super) volumes_seen: usize,
    pub(super) settings: Versioned,
    saved: Vec<Saved>,
    /// When rows were deleted, and at which operation.
    pub(super) losses: Vec<(DateTime<Utc>, usize)>,
    /// Machines whose end we asked for, as far as it was looked at.
    pub(super) asked: BTreeSet<String>,
    /// Machines that have ended by themselves, as far as it was looked at.
    pub(super) ended: BTreeSet<String>,
    /// Machines, and calls, that were looked at.
    pub(super) machines_seen: usize,
    pub(super) calls_seen: usize,
    /// Tasks with a VM, by project, at the last look.
    pub(super) at_work: BTreeMap<String, usize>,
    /// When each operation began.
    began: Vec<DateTime<Utc>>,
    /// Since when the service has listened for heartbeats without a pause, at the latest: it may listen anew after a jump of the clock.
    pub(super) heard_since: DateTime<Utc>,
}

impl Model {
    pub(super) fn new(settings: Versioned) -> Self {
        Self {
            jobs: BTreeMap::new(),
            served: BTreeMap::new(),
            holds: BTreeMap::new(),
            planted: BTreeMap::new(),
            held_volumes: BTreeMap::new(),
            planted_volumes: BTreeSet::new(),
            retired_images: BTreeMap::new(),
            asked_with_volumes: BTreeSet::new(),
            volumes_seen: 0,
            saved: vec![Saved { operation: 0, settings: settings.settings.clone() }],
            settings,
            losses: Vec::new(),
            asked: BTreeSet::new(),
            ended: BTreeSet::new(),
            machines_seen: 0,
            calls_seen: 0,
            at_work: BTreeMap::new(),
            began: Vec::new(),
            heard_since: DateTime::UNIX_EPOCH,
        }
    }

    /// The next operation begins.
    pub(super) fn begin(&mut self, now: DateTime<Utc>) {
        self.began.push(now);
    }

    /// What was to be done in this operation is done.
    pub(super) fn end(&mut self, now: DateTime<Utc>) {
        if self.began.last().is_none_or(|began| now - *began > HEARD_WITHIN) {
            self.heard_since = now;
        }
    }

    /// The operation that runs.
    pub(super) fn operation(&self) -> usize {
        self.began.len().saturating_sub(1)
    }

    /// When the operation so many before this one began.
    pub(super) fn began_before(&self, operations: usize) -> DateTime<Utc> {
        self.began[self.operation().saturating_sub(operations)]
    }

    /// These settings were saved.
    pub(super) fn saved(&mut self, newest: Versioned) {
        self.saved.push(Saved { operation: self.operation(), settings: newest.settings.clone() });
        self.settings = newest;
    }

    /// The highest of a limit that may have been in force at any time since `decided`; none: there was no such limit then.
    pub(super) fn highest(&self, decided: DateTime<Utc>, limit: impl Fn(&Settings) -> Option<u32>) -> Option<u32> {
        let first = self.began.partition_point(|began| *began <= decided).saturating_sub(1);
        let mut highest = 0;
        for (nth, saved) in self.saved.iter().enumerate() {
            let until = self.saved.get(nth + 1).map_or(usize::MAX, |next| next.operation + IN_FORCE_AFTER);
            if until >= first {
                highest = highest.max(limit(&saved.settings)?);
            }
        }
        Some(highest)
    }

    /// Open jobs, oldest first.
    pub(super) fn open(&self) -> Vec<TaskId> {
        self.jobs.values().filter(|job| job.is_open()).map(|job| job.id).collect()
    }

    /// All rows of tasks and VMs are gone.
    pub(super) fn bereave(&mut self, now: DateTime<Utc>) {
        for job in self.jobs.values_mut() {
            job.bereft = true;
        }
        self.holds.clear();
        self.held_volumes.clear();
        self.losses.push((now, self.operation()));
    }
}
