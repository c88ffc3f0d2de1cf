//! AWS's call budgets: token buckets that let a call through whole or not at all (EC2.md, "Call budgets").

use super::params::Params;
use std::collections::BTreeMap;
use std::time::Duration;

/// A budget, per account and region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bucket {
    /// `RunInstances`, one a call.
    LaunchCalls,
    /// `RunInstances`, one for each machine asked for.
    LaunchMachines,
    /// `TerminateInstances`, one a call.
    Terminate,
    /// `CreateTags`, one a call.
    CreateTags,
    /// Every other call that changes something.
    Mutating,
    /// Every call that reads, one a page.
    Reading,
    /// EBS direct.
    Blocks,
}

impl Bucket {
    /// How many it holds, and how many come back in a second.
    fn rate(self) -> (f64, f64) {
        match self {
            Self::LaunchCalls => (5.0, 2.0),
            Self::LaunchMachines => (1000.0, 2.0),
            Self::Terminate => (100.0, 5.0),
            Self::CreateTags => (100.0, 10.0),
            Self::Mutating => (50.0, 5.0),
            Self::Reading => (100.0, 20.0),
            Self::Blocks => (1000.0, 1000.0),
        }
    }
}

/// What a call costs.
pub(super) fn cost(action: &str, params: &Params) -> Vec<(Bucket, u32)> {
    let reads = ["Describe", "Get", "List"].iter().any(|verb| action.starts_with(verb));
    match action {
        "RunInstances" => vec![(Bucket::LaunchCalls, 1), (Bucket::LaunchMachines, params.number("MaxCount"))],
        "TerminateInstances" => vec![(Bucket::Terminate, 1)],
        "CreateTags" => vec![(Bucket::CreateTags, 1)],
        _ if reads => vec![(Bucket::Reading, 1)],
        _ => vec![(Bucket::Mutating, 1)],
    }
}

/// All buckets; they begin full.
#[derive(Default)]
pub(super) struct Budgets(BTreeMap<Bucket, Level>);

struct Level {
    held: f64,
    at: Duration,
}

impl Budgets {
    /// Takes the whole cost, or nothing: then it names the bucket that was empty.
    pub(super) fn take(&mut self, cost: &[(Bucket, u32)], now: Duration) -> Result<(), Bucket> {
        for (bucket, tokens) in cost {
            // Sums of fractions fall short of a whole token by less than this.
            if self.level(*bucket, now).held + 1e-6 < f64::from(*tokens) {
                return Err(*bucket);
            }
        }
        for (bucket, tokens) in cost {
            self.level(*bucket, now).held -= f64::from(*tokens);
        }
        Ok(())
    }

    fn level(&mut self, bucket: Bucket, now: Duration) -> &mut Level {
        let (burst, per_second) = bucket.rate();
        let level = self.0.entry(bucket).or_insert(Level { held: burst, at: now });
        level.held = now.saturating_sub(level.at).as_secs_f64().mul_add(per_second, level.held).min(burst);
        level.at = now;
        level
    }
}
