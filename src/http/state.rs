//! What every handler may use; cheap to clone.
//!
//! Reads: live settings and the configuration's problem from whoever feeds their channels (`app`).
//! Not here: who calls (`auth`).

use super::audit::Gate;
use super::console::{Console, Hosts};
use super::problem::Problem;
use super::streams::Streams;
use crate::clock::Clock;
use crate::db::Db;
use crate::db::settings::Versioned;
use crate::seal::Sealer;
use chrono::TimeDelta;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How much one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a body to arrive.
    pub body: Duration,
    /// For the whole request; longer than the longest long poll.
    pub request: Duration,
    /// Requests of one principal, per second.
    pub per_second: NonZeroU32,
    /// Requests of one principal, at once.
    pub burst: NonZeroU32,
    /// One event stream; its reader comes back with `Last-Event-ID`, and with a token that must still be good.
    pub stream: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Duration::from_secs(15),
            // A long poll of 60 s, and 10 s for the rest.
            request: Duration::from_secs(70),
            per_second: NonZeroU32::new(200).unwrap_or(NonZeroU32::MIN),
            burst: NonZeroU32::new(400).unwrap_or(NonZeroU32::MIN),
            stream: Duration::from_secs(900),
        }
    }
}

/// What every handler may use.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub db: Db,
    /// Opens identities, hashes tokens.
    pub sealer: Arc<Sealer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The settings in force: the newest version, or the seed as version 0.
    pub settings: watch::Receiver<Versioned>,
    /// What is wrong with the configuration, one sentence.
    pub problem: watch::Receiver<Option<String>>,
    /// How far this host's clock is from Postgres'.
    pub skew: Arc<dyn Fn() -> TimeDelta + Send + Sync>,
    /// Ends long polls and streams.
    pub stop: CancellationToken,
    /// How much one request may take.
    pub limits: Limits,
    pub(super) rate: Arc<DefaultKeyedRateLimiter<String>>,
    pub(super) audit: Arc<Gate>,
    pub(super) console: Arc<Console>,
    pub(super) streams: Arc<Streams>,
}

impl AppState {
    /// With the default limits, no skew, and a console for this machine alone.
    pub fn new(
        db: Db,
        sealer: Arc<Sealer>,
        clock: Arc<dyn Clock>,
        settings: watch::Receiver<Versioned>,
        problem: watch::Receiver<Option<String>>,
        stop: CancellationToken,
    ) -> Self {
        let limits = Limits::default();
        let skew = Arc::new(TimeDelta::zero);
        let console = Arc::new(Console::new(Hosts::default(), false));
        let (audit, streams) = (Arc::new(Gate::new()), Arc::default());
        Self { db, sealer, clock, settings, problem, skew, stop, limits, rate: rate(limits), audit, console, streams }
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.rate = rate(limits);
        self
    }

    /// With a console that answers to these names; `secure`: browsers reach it over TLS.
    #[must_use]
    pub fn with_console(mut self, hosts: Hosts, secure: bool) -> Self {
        self.console = Arc::new(Console::new(hosts, secure));
        self
    }

    /// Counts a request of this principal.
    ///
    /// # Errors
    /// `TooFast`.
    pub(super) fn admit(&self, principal: &str) -> Result<(), Problem> {
        let admitted = self.rate.check_key(&principal.to_owned());
        admitted.map_err(|not| Problem::TooFast(not.wait_time_from(DefaultClock::default().now())))
    }

    /// With a clock whose skew is known.
    #[must_use]
    pub fn with_skew(mut self, skew: impl Fn() -> TimeDelta + Send + Sync + 'static) -> Self {
        self.skew = Arc::new(skew);
        self
    }
}

fn rate(limits: Limits) -> Arc<DefaultKeyedRateLimiter<String>> {
    Arc::new(RateLimiter::keyed(Quota::per_second(limits.per_second).allow_burst(limits.burst)))
}
