//! What the console needs beside the rest of the service: how it is reached, and how often somebody may try to sign in.

use super::hosts::Hosts;
use super::live::Hub;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

/// Attempts to sign in from one address at once; then one in each [`ATTEMPT_EVERY`].
const ATTEMPTS: u32 = 10;
const ATTEMPT_EVERY: Duration = Duration::from_secs(3);
/// More addresses than this are not remembered at a time, where they have waited long enough.
const ADDRESSES: usize = 10_000;

/// How the console is reached.
pub(in crate::http) struct Console {
    /// Names that it answers to.
    pub(super) hosts: Hosts,
    /// Browsers reach it over TLS, ours or a proxy's.
    pub(super) secure: bool,
    /// Those who follow a page.
    pub(super) hub: Hub,
    attempts: DefaultKeyedRateLimiter<Option<IpAddr>>,
}

impl Console {
    pub(in crate::http) fn new(hosts: Hosts, secure: bool) -> Self {
        let burst = NonZeroU32::new(ATTEMPTS).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(ATTEMPT_EVERY).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
        Self { hosts, secure, hub: Hub::default(), attempts: RateLimiter::keyed(quota) }
    }

    /// Counts an attempt to sign in.
    ///
    /// # Errors
    /// How long to wait before the next.
    pub(super) fn attempt(&self, from: Option<IpAddr>) -> Result<(), Duration> {
        use governor::clock::{Clock as _, DefaultClock};
        if self.attempts.len() > ADDRESSES {
            self.attempts.retain_recent();
        }
        self.attempts.check_key(&from.map(network)).map_err(|not| not.wait_time_from(DefaultClock::default().now()))
    }
}

/// One subscriber has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}
