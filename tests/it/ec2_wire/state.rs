//! What the proxy knows and moto does not: tokens, lags, stuck attachments, open snapshots.

use super::answer::Answer;
use super::notices::Announced;
use super::params::Params;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

#[derive(Default)]
pub(super) struct State {
    /// What each token of each action first did.
    pub(super) tokens: BTreeMap<(String, String), First>,
    /// When things that were made are known to calls that name them; what is not here is known.
    pub(super) known_at: BTreeMap<String, Duration>,
    /// When lists hold them.
    pub(super) listed_at: BTreeMap<String, Duration>,
    /// When machines are shown as running.
    pub(super) runs_at: BTreeMap<String, Duration>,
    /// Where machines answer that have something behind them.
    pub(super) addresses: BTreeMap<String, IpAddr>,
    /// Volumes that a guest was asked to let go and has not yet.
    pub(super) leaving: BTreeSet<String>,
    /// Volumes whose attachment does not end, and what it is shown as: `attaching` or `detaching`.
    pub(super) stuck: BTreeMap<String, &'static str>,
    /// What is announced about machines.
    pub(super) announced: BTreeMap<String, Announced>,
    /// Volumes that moto made up for snapshots of EBS direct; AWS shows none.
    pub(super) phantoms: BTreeSet<String>,
    /// When snapshots of volumes are completed; what is not here is.
    pub(super) completed_at: BTreeMap<String, Duration>,
    /// Snapshots of EBS direct.
    pub(super) snapshots: BTreeMap<String, Blocks>,
}

/// What was written to a snapshot of EBS direct.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    pub(super) complete: bool,
    /// Checksums by index.
    pub(super) written: BTreeMap<u32, String>,
    pub(super) volume_gib: u32,
    /// Snapshots of one line can be compared.
    pub(super) line: String,
}

/// The first call with a token.
#[derive(Clone)]
pub(super) struct First {
    pub(super) params: Params,
    pub(super) ids: Vec<String>,
    pub(super) answer: Answer,
}

impl State {
    /// Whether a snapshot is still being made or written.
    pub(super) fn is_open(&self, snapshot: &str, now: Duration) -> bool {
        self.snapshots.get(snapshot).is_some_and(|blocks| !blocks.complete) || Self::is_later(&self.completed_at, snapshot, now)
    }

    /// Whether a time that is noted for an id is still to come.
    pub(super) fn is_later(times: &BTreeMap<String, Duration>, id: &str, now: Duration) -> bool {
        times.get(id).is_some_and(|at| *at > now)
    }
}
