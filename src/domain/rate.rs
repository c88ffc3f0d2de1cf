//! How fast a provider may be asked: token buckets, kept as the time at which each is full again, so that all replicas can share one
//! row (`db::call_rates`). A library's bucket lives in one process and would be three times too large for three replicas.

use chrono::{DateTime, TimeDelta, Utc};

/// A bucket that holds `burst` at most and gains `per_second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// What a full bucket holds, at least 1.
    pub burst: u32,
    /// What it gains, greater than 0.
    pub per_second: f64,
}

impl Rate {
    /// Whole tokens in a bucket that is full again at `full_at`.
    pub fn held(&self, full_at: DateTime<Utc>, now: DateTime<Utc>) -> u32 {
        let missing = (full_at - now).max(TimeDelta::zero()).as_seconds_f64() * self.per_second;
        let held = (f64::from(self.burst) - missing + ROUNDING).floor().max(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and burst, a u32")]
        let held = held as u32;
        held.min(self.burst)
    }

    /// When the bucket is full again after `taken` more are taken.
    pub fn full_after(&self, full_at: DateTime<Utc>, now: DateTime<Utc>, taken: u32) -> DateTime<Utc> {
        #[allow(clippy::cast_possible_truncation, reason = "days, in microseconds")]
        let micros = (f64::from(taken) / self.per_second * 1e6).ceil() as i64;
        full_at.max(now) + TimeDelta::microseconds(micros)
    }
}

/// Postgres keeps microseconds: a token is not held back for a rounded one.
const ROUNDING: f64 = 1e-4;

/// What a launch takes from: one for the call, and one for each machine asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaunchRate {
    /// Calls.
    pub calls: Rate,
    /// Machines.
    pub machines: Rate,
}

/// What the buckets hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Calls.
    pub calls: u32,
    /// Machines, in all of them.
    pub machines: u32,
}

impl Allowance {
    /// Of a provider that may be asked as fast as one likes.
    pub const UNLIMITED: Self = Self { calls: u32::MAX, machines: u32::MAX };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_gains() {
        let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let after = |ms: i64| start + TimeDelta::milliseconds(ms);
        let rate = Rate { burst: 5, per_second: 2.0 };
        assert_eq!(rate.held(start, start), 5);
        let full_at = rate.full_after(start, start, 5);
        assert_eq!([0, 499, 500, 1000, 2500, 99_000].map(|ms| rate.held(full_at, after(ms))), [0, 0, 1, 2, 5, 5]);
        assert_eq!(rate.full_after(full_at, after(99_000), 1), after(99_500), "a full bucket gains no more");
    }
}
