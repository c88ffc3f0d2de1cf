//! The only reader of wall time: what it says is Postgres' time, so that every replica agrees, and it never runs backwards.
//!
//! The offset between Postgres and this host is measured at start and every minute and advanced by the monotonic clock.
//!
//! Reads: Postgres' clock, through the caller. Runs: everywhere `now` is an argument.

use chrono::{DateTime, TimeDelta, Utc};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A host that is further off than this shows in `/health`.
pub const SKEW_MAX: TimeDelta = TimeDelta::seconds(2);

/// Tells the service's time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> DateTime<Utc>;
}

/// Postgres' time, advanced monotonically between measurements.
#[derive(Debug)]
pub struct ServiceClock {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    base: DateTime<Utc>,
    measured: Instant,
    last: DateTime<Utc>,
    skew: TimeDelta,
}

impl ServiceClock {
    /// Starts with this host's own time, until the first measurement.
    pub fn new() -> Self {
        let base = host_time();
        Self { state: Mutex::new(State { base, measured: Instant::now(), last: base, skew: TimeDelta::zero() }) }
    }

    /// Takes over a measurement: `server` was Postgres' time when the monotonic clock was at `at`.
    pub fn measured(&self, server: DateTime<Utc>, at: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = TimeDelta::from_std(at.elapsed()).unwrap_or_default();
        state.base = server;
        state.measured = at;
        state.skew = host_time() - (server + since);
    }

    /// How far this host's clock is from Postgres'.
    pub fn skew(&self) -> TimeDelta {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).skew
    }
}

impl Default for ServiceClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ServiceClock {
    fn now(&self) -> DateTime<Utc> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.base + TimeDelta::from_std(state.measured.elapsed()).unwrap_or_default();
        state.last = state.last.max(now);
        state.last
    }
}

/// A clock that is moved by hand; it stands still otherwise.
#[derive(Clone, Debug)]
pub struct HandClock(Arc<Mutex<DateTime<Utc>>>);

impl HandClock {
    /// Stands at `now`.
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Moves on.
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one reader of the host's wall time")]
fn host_time() -> DateTime<Utc> {
    Utc::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_measured_time_and_never_runs_backwards() {
        let clock = ServiceClock::new();
        let ahead = clock.now() + TimeDelta::hours(1);
        clock.measured(ahead, Instant::now());
        assert!(clock.now() >= ahead);
        assert!(clock.skew() < TimeDelta::minutes(-59));
        let seen = clock.now();
        clock.measured(ahead - TimeDelta::minutes(30), Instant::now());
        assert_eq!(clock.now(), seen);
    }
}
