//! The cloud's own call budgets: token buckets on virtual time that let a call through whole or not at all.
//!
//! Not here: our side of it, which keeps below these budgets (`db::call_rates`).

use crate::domain::rate::Rate;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A budget of calls, per account and region (EC2.md, "Call budgets").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// `RunInstances`, one per call.
    LaunchCalls,
    /// `RunInstances`, one per machine asked for.
    LaunchMachines,
    /// `TerminateInstances`, one per call.
    Terminate,
    /// `CreateTags`: full for ever, because tags go in the creating call.
    CreateTags,
    /// Every other call that changes something, volumes too.
    Mutating,
    /// Every call that reads, one per page or look-up.
    Describe,
}

/// What went through a bucket since the world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens taken.
    pub taken: u64,
    /// Calls that were refused because this bucket was empty, or by a fault.
    pub throttled: u64,
}

/// All buckets; one without a rate is never empty.
#[derive(Debug)]
pub(super) struct Buckets {
    levels: BTreeMap<Bucket, Level>,
    totals: BTreeMap<Bucket, Totals>,
}

#[derive(Debug)]
struct Level {
    rate: Rate,
    held: f64,
    at: DateTime<Utc>,
}

/// Sums of fractions fall short of a whole token by less than this.
const ROUNDING: f64 = 1e-6;

impl Buckets {
    /// Full buckets.
    pub(super) fn full(rates: &BTreeMap<Bucket, Rate>, now: DateTime<Utc>) -> Self {
        let level = |rate: &Rate| Level { rate: *rate, held: f64::from(rate.burst), at: now };
        Self { levels: rates.iter().map(|(bucket, rate)| (*bucket, level(rate))).collect(), totals: BTreeMap::new() }
    }

    /// Takes the whole cost, or nothing: then it names the bucket that was empty.
    pub(super) fn take(&mut self, cost: &[(Bucket, u32)], now: DateTime<Utc>) -> Result<(), Bucket> {
        for (bucket, tokens) in cost {
            if let Some(level) = self.levels.get_mut(bucket)
                && level.refill(now) + ROUNDING < f64::from(*tokens)
            {
                return Err(*bucket);
            }
        }
        for (bucket, tokens) in cost {
            if let Some(level) = self.levels.get_mut(bucket) {
                level.held -= f64::from(*tokens);
            }
            self.totals.entry(*bucket).or_default().taken += u64::from(*tokens);
        }
        Ok(())
    }

    /// Counts a refused call.
    pub(super) fn refused(&mut self, bucket: Bucket) {
        self.totals.entry(bucket).or_default().throttled += 1;
    }

    /// The most that a call may ever take from this bucket.
    pub(super) fn burst(&self, bucket: Bucket) -> u32 {
        self.levels.get(&bucket).map_or(u32::MAX, |level| level.rate.burst)
    }

    /// What went through each bucket that was used.
    pub(super) fn totals(&self) -> BTreeMap<Bucket, Totals> {
        self.totals.clone()
    }
}

impl Level {
    fn refill(&mut self, now: DateTime<Utc>) -> f64 {
        let passed = (now - self.at).to_std().unwrap_or_default().as_secs_f64();
        self.held = (self.held + passed * self.rate.per_second).min(f64::from(self.rate.burst));
        self.at = now;
        self.held
    }
}
