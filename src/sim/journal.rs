//! Every call with what became of it, in the order of its effects: two worlds with the same seed and the same calls have the
//! same journal, to the byte.

use super::buckets::Bucket;
use crate::guest::GuestError;
use crate::provider::volumes::{ProviderSnapshot, SnapshotListing};
use crate::provider::{Listing, Machine, ProviderError, ProviderVolume, VolumeListing};
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeMap;
use std::fmt;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it had its effect.
    pub at: DateTime<Utc>,
    /// What was asked for, such as `launch`.
    pub op: &'static str,
    /// The budget it takes from first; none for contact with a guest.
    pub bucket: Option<Bucket>,
    /// Ids, token and counts that were asked for, and after `->` those that came of it, answered or not.
    pub detail: String,
    /// What the caller was told.
    pub outcome: Outcome,
}

/// What the caller of a call was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened.
    Done,
    /// It was not let through; nothing happened.
    Throttled,
    /// There was no room; nothing happened.
    NoCapacity,
    /// It broke a rule; nothing happened.
    Refused,
    /// An error; nothing happened.
    CallLost,
    /// An error; it happened.
    AnswerLost,
    /// No guest answered.
    NotReachable,
    /// Another guest answered.
    WrongHostKey,
    /// The guest did not let the caller in.
    LoginRefused,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(f, "{at} {} {} => {:?}", self.op, self.detail, self.outcome)
    }
}

impl Outcome {
    /// What an error of the cloud itself means.
    pub(super) const fn of_provider(error: &ProviderError) -> Self {
        match error {
            ProviderError::NoCapacity(_) => Self::NoCapacity,
            ProviderError::Throttled => Self::Throttled,
            ProviderError::Invalid(_) => Self::Refused,
            ProviderError::Transient { .. } => Self::CallLost,
        }
    }

    /// What the end of a contact means.
    pub(super) const fn of_guest(answer: &Result<(), GuestError>) -> Self {
        match answer {
            Ok(()) => Self::Done,
            Err(GuestError::NotReachable(_)) => Self::NotReachable,
            Err(GuestError::WrongHostKey) => Self::WrongHostKey,
            Err(GuestError::LoginRefused) => Self::LoginRefused,
            Err(GuestError::Misbehaved(_)) => Self::Refused,
        }
    }
}

/// All calls, and how often each was made; the calls themselves only while it is switched on.
#[derive(Debug)]
pub(super) struct Journal {
    calls: Vec<Call>,
    counts: BTreeMap<&'static str, u32>,
    on: bool,
}

impl Journal {
    /// Empty, and switched on.
    pub(super) const fn new() -> Self {
        Self { calls: Vec::new(), counts: BTreeMap::new(), on: true }
    }

    pub(super) const fn switch(&mut self, on: bool) {
        self.on = on;
    }

    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn count(&mut self, op: &'static str) {
        *self.counts.entry(op).or_default() += 1;
    }

    pub(super) fn write(&mut self, call: Call) {
        self.calls.push(call);
    }

    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    pub(super) fn times(&self, op: &str) -> u32 {
        self.counts.get(op).copied().unwrap_or_default()
    }

    /// FNV-1a, 64 bits, over the lines.
    pub(super) fn digest(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for call in &self.calls {
            for byte in format!("{call}\n").bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash
    }
}

/// What an answer looks like in the journal.
pub(super) trait Told {
    /// One line.
    fn told(&self) -> String;
}

impl Told for () {
    fn told(&self) -> String {
        "ok".to_owned()
    }
}

impl Told for String {
    fn told(&self) -> String {
        self.clone()
    }
}

impl Told for Machine {
    fn told(&self) -> String {
        format!("{}:{:?}", self.provider_id, self.state)
    }
}

impl Told for Vec<Machine> {
    fn told(&self) -> String {
        self.iter().map(Told::told).collect::<Vec<_>>().join(",")
    }
}

impl Told for Listing {
    fn told(&self) -> String {
        format!("{} machines, complete: {}", self.machines.len(), self.complete)
    }
}

impl Told for ProviderVolume {
    fn told(&self) -> String {
        format!("{} on {}", self.provider_id, self.machine.as_deref().unwrap_or("nothing"))
    }
}

impl Told for VolumeListing {
    fn told(&self) -> String {
        format!("{} volumes, complete: {}", self.volumes.len(), self.complete)
    }
}

impl Told for ProviderSnapshot {
    fn told(&self) -> String {
        format!("{} {:?}", self.provider_id, self.state)
    }
}

impl Told for SnapshotListing {
    fn told(&self) -> String {
        format!("{} snapshots", self.snapshots.len())
    }
}

impl<T: Told> Told for Option<T> {
    fn told(&self) -> String {
        self.as_ref().map_or_else(|| "unknown".to_owned(), Told::told)
    }
}
