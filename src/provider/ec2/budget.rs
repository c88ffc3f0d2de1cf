//! How fast each class of calls may be made by this process. Who finds a bucket empty puts the call back: nothing waits in here.
//!
//! Launches have buckets in the database that all replicas share (`db::call_rates`); lists, shared looks and terminations go by turns
//! that they share (`db::turns`). What is left to each process, with Amazon's own figures (EC2.md, call budgets): direct looks, consoles,
//! starts and stops, volumes. The account's budget has other users too, so AWS has the last word: a class that was throttled rests,
//! longer each time, and its calls come back one at a time.

use super::refusal::{Kind, Refusal};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After the first throttled call of a class.
const REST: Duration = Duration::from_millis(500);
/// It doubles so often: 32 s.
const LONGEST: u32 = 6;

/// One bucket a class of calls.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) read: Bucket,
    pub(super) terminate: Bucket,
    /// Volumes and snapshots.
    pub(super) change: Bucket,
    /// EBS direct: half of the account's 1000 a second, and 250 MiB of them.
    pub(super) blocks: Bucket,
}

/// One token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    limiter: DefaultDirectRateLimiter,
    rest: Mutex<Rest>,
}

/// What AWS's last refusals ask for.
#[derive(Debug, Default)]
struct Rest {
    times: u32,
    /// When the last refusal was heard: what is heard later about calls that were made before says nothing new.
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { read: Bucket::of(100, 20), terminate: Bucket::of(100, 5), change: Bucket::of(50, 5), blocks: Bucket::of(100, 500) }
    }
}

impl Bucket {
    fn of(burst: u32, per_second: u32) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self { limiter: RateLimiter::direct(quota), rest: Mutex::default() }
    }

    /// Makes one call, when there is one to make, and hears what AWS says.
    pub(super) async fn call<T, E, R>(&self, call: impl Future<Output = Result<T, SdkError<E, R>>>) -> Result<T, Refusal>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let asked_at = Instant::now();
        if !self.take_at(asked_at) {
            let message = "this process asks EC2 as fast as it may";
            return Err(Refusal { kind: Kind::Throttled, code: String::new(), message: message.to_owned() });
        }
        let answer = call.await.map_err(Refusal::of);
        match &answer {
            Err(Refusal { kind: Kind::Throttled, .. }) => self.throttled_at(asked_at, Instant::now()),
            _ => self.answered(asked_at),
        }
        answer
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut rest = self.rest();
        match rest.until {
            Some(until) if now < until => return false,
            // The rest is over: one call tries, and the others wait for what it hears.
            Some(_) => rest.until = Some(now + REST),
            None => {}
        }
        self.limiter.check().is_ok()
    }

    fn throttled_at(&self, asked_at: Instant, now: Instant) {
        let mut rest = self.rest();
        if rest.since.is_some_and(|since| asked_at < since) {
            return;
        }
        rest.since = Some(now);
        rest.until = Some(now + REST * 2_u32.pow(rest.times.min(LONGEST)));
        rest.times += 1;
    }

    fn answered(&self, asked_at: Instant) {
        let mut rest = self.rest();
        if rest.since.is_none_or(|since| asked_at >= since) {
            *rest = Rest::default();
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_was_throttled_comes_back_one_call_at_a_time() {
        let (bucket, now) = (Bucket::of(100, 20), Instant::now());
        let may = |after: Duration| bucket.take_at(now + after);
        assert!(may(Duration::ZERO) && may(Duration::ZERO));
        bucket.throttled_at(now, now);
        assert!(!may(REST / 2));
        assert!(may(REST) && !may(REST), "one tries");
        bucket.throttled_at(now + REST, now + REST);
        assert!(!may(REST * 2) && may(REST * 3), "longer each time");
        *bucket.rest() = Rest::default();
        assert!(may(REST * 3) && may(REST * 3));
    }

    #[test]
    fn many_calls_that_are_throttled_at_once_are_one_refusal() {
        let (bucket, now) = (Bucket::of(100, 20), Instant::now());
        let heard = now + REST / 10;
        for _ in 0..16 {
            bucket.throttled_at(now, heard);
        }
        bucket.answered(now);
        assert!(!bucket.take_at(heard + REST / 2), "an answer to an earlier call ends no rest");
        assert!(bucket.take_at(heard + REST));
        bucket.answered(heard + REST);
        assert!(bucket.take_at(heard + REST) && bucket.take_at(heard + REST), "the one that tried was answered");
    }

    #[test]
    fn a_bucket_is_empty_after_its_burst() {
        let bucket = Bucket::of(3, 1);
        let now = Instant::now();
        assert_eq!((0..5).filter(|_| bucket.take_at(now)).count(), 3);
    }
}
