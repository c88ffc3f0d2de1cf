//! How fast each class of calls may be made by this process. Who finds a bucket empty puts the call back: nothing waits in here.
//!
//! Launches have buckets in the database that all replicas share (`db::call_rates`). These are the others, with Amazon's own figures
//! (EC2.md, call budgets), so terminations never wait for launches.

use crate::provider::ProviderError;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;

/// One bucket a class of calls.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) read: Bucket,
    pub(super) terminate: Bucket,
    /// Volumes and snapshots.
    pub(super) change: Bucket,
}

/// One token bucket.
#[derive(Debug)]
pub(super) struct Bucket(DefaultDirectRateLimiter);

impl Default for Budget {
    fn default() -> Self {
        Self { read: Bucket::of(100, 20), terminate: Bucket::of(100, 5), change: Bucket::of(50, 5) }
    }
}

impl Bucket {
    fn of(burst: u32, per_second: u32) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::direct(Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst))))
    }

    /// Takes one call.
    ///
    /// # Errors
    /// `Throttled`: there is none; later.
    pub(super) fn take(&self) -> Result<(), ProviderError> {
        self.0.check().map_err(|_| ProviderError::Throttled)
    }
}
