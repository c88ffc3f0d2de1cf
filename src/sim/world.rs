//! The state of the world behind its one lock, and the door that every call to the cloud goes through.
//!
//! The door: a call is counted, then it may be throttled (nothing happened), then lost (nothing happened), then it has its
//! effect, then its answer may be lost (it happened). Whatever became of it stands in the journal.

use super::buckets::{Bucket, Buckets};
use super::faults::{Fault, FaultRates, Faults};
use super::fleet::Fleet;
use super::images::SimImage;
use super::journal::{Call, Journal, Outcome, Told};
use super::ops::Op;
use super::rules::Rules;
use super::volumes::SimVolumes;
use crate::guest::GuestError;
use crate::provider::{LaunchSpec, ProviderError};
use chrono::{DateTime, Utc};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Client tokens have at most this many characters.
const TOKEN_MAX: usize = 64;

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) faults: Faults,
    pub(super) rng: StdRng,
    pub(super) buckets: Buckets,
    pub(super) journal: Journal,
    pub(super) fleet: Fleet,
    pub(super) volumes: SimVolumes,
    /// Beside the default.
    pub(super) images: BTreeMap<String, SimImage>,
    /// Each launch by its token, with the numbers of its machines.
    pub(super) launches: BTreeMap<String, (LaunchSpec, Vec<usize>)>,
    pub(super) now: DateTime<Utc>,
}

impl World {
    pub(super) fn new(rules: Rules, faults: FaultRates, seed: u64, now: DateTime<Utc>) -> Self {
        Self {
            faults: Faults::at(faults),
            rng: StdRng::seed_from_u64(seed),
            buckets: Buckets::full(&rules.rates, now),
            journal: Journal::new(),
            fleet: Fleet::new(rules.addresses, rules.terminated_shown_for),
            volumes: SimVolumes::default(),
            images: BTreeMap::new(),
            launches: BTreeMap::new(),
            rules,
            now,
        }
    }

    /// Lets everything happen that is due by `now`.
    pub(super) fn settle(&mut self, now: DateTime<Utc>) {
        self.now = now;
        self.fleet.settle(now);
    }

    /// Whether this fault strikes here.
    pub(super) fn strikes(&mut self, fault: &Fault) -> bool {
        self.faults.strikes(fault, &mut self.rng)
    }

    /// Lets one call to the cloud through its door; `units` is what it costs, see [`super::ops::Kind::cost`].
    pub(super) fn call<T: Told>(
        &mut self,
        op: &Op,
        units: u32,
        asked: impl FnOnce() -> String,
        effect: impl FnOnce(&mut Self) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        self.journal.count(op.name);
        let asked = if self.journal.is_on() { asked() } else { String::new() };
        let (told, outcome, answer) = self.pass(op, units, effect);
        if self.journal.is_on() {
            let bucket = op.kind.cost(units).first().map(|(bucket, _)| *bucket);
            let detail = told.map_or_else(|| asked.clone(), |told| format!("{asked} -> {told}"));
            self.journal.write(Call { at: self.now, op: op.name, bucket, detail, outcome });
        }
        answer
    }

    fn pass<T: Told>(
        &mut self,
        op: &Op,
        units: u32,
        effect: impl FnOnce(&mut Self) -> Result<T, ProviderError>,
    ) -> (Option<String>, Outcome, Result<T, ProviderError>) {
        if let Err(bucket) = self.admit(&op.kind.cost(units)) {
            self.buckets.refused(bucket);
            return (None, Outcome::Throttled, Err(ProviderError::Throttled));
        }
        if op.kind.lost_call().is_some_and(|fault| self.strikes(&fault)) {
            return (None, Outcome::CallLost, Err(lost(op, "the call was lost")));
        }
        let answer = match effect(self) {
            Ok(answer) => answer,
            Err(error) => return (Some(error.to_string()), Outcome::of_provider(&error), Err(error)),
        };
        // What takes no time is visible in the answer already.
        self.fleet.settle(self.now);
        let told = self.journal.is_on().then(|| answer.told());
        if op.kind.lost_answer().is_some_and(|fault| self.strikes(&fault)) {
            return (told, Outcome::AnswerLost, Err(lost(op, "the answer was lost")));
        }
        (told, Outcome::Done, Ok(answer))
    }

    fn admit(&mut self, cost: &[(Bucket, u32)]) -> Result<(), Bucket> {
        match cost.first() {
            Some((bucket, _)) if self.strikes(&Fault::Throttle) => Err(*bucket),
            _ => self.buckets.take(cost, self.now),
        }
    }

    /// The same for contact with a guest: no budget, and nothing is lost.
    pub(super) fn contact(
        &mut self,
        op: &Op,
        asked: impl FnOnce() -> String,
        effect: impl FnOnce(&mut Self) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        self.journal.count(op.name);
        let answer = effect(self);
        if self.journal.is_on() {
            let outcome = Outcome::of_guest(&answer);
            self.journal.write(Call { at: self.now, op: op.name, bucket: None, detail: asked(), outcome });
        }
        answer
    }
}

fn lost(op: &Op, how: &'static str) -> ProviderError {
    ProviderError::transient(op.name, anyhow::anyhow!(how))
}

/// The error for a broken rule, by AWS's name for it.
pub(super) fn broken(code: &str, detail: &str) -> ProviderError {
    ProviderError::Invalid(format!("{code}: {detail}"))
}

/// The rule for client tokens.
pub(super) fn check_token(token: &str) -> Result<(), ProviderError> {
    if token.is_empty() || token.len() > TOKEN_MAX || !token.is_ascii() {
        return Err(broken("InvalidParameterValue", "a client token has 1 to 64 ASCII characters"));
    }
    Ok(())
}

/// `ids` in a line of the journal.
pub(super) fn line_of(ids: &[String]) -> String {
    ids.join(",")
}
