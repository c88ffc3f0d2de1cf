//! What the console needs beside the rest of the service: how it is reached, and how often somebody may try to sign in.

use super::hosts::Hosts;
use super::live::Hub;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

/// Attempts to sign in that are counted together, at once; then one in each [`ATTEMPT_EVERY`].
const ATTEMPTS: u32 = 10;
const ATTEMPT_EVERY: Duration = Duration::from_secs(3);
/// More than this are not remembered at a time, where they have waited long enough.
const REMEMBERED: usize = 10_000;

/// Whose attempts are counted together. An address may be that of a proxy, and so everybody's: it counts only for wrong tokens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum By {
    /// The token is his.
    Principal(String),
    /// Nobody has the token.
    Address(Option<IpAddr>),
}

/// How the console is reached.
pub(in crate::http) struct Console {
    /// Names that it answers to.
    pub(super) hosts: Hosts,
    /// Browsers reach it over TLS, ours or a proxy's.
    pub(super) secure: bool,
    /// Those who follow a page.
    pub(super) hub: Hub,
    attempts: DefaultKeyedRateLimiter<By>,
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
    pub(super) fn attempt(&self, by: By) -> Result<(), Duration> {
        use governor::clock::{Clock as _, DefaultClock};
        if self.attempts.len() > REMEMBERED {
            self.attempts.retain_recent();
        }
        let by = match by {
            By::Address(address) => By::Address(address.map(network)),
            principal @ By::Principal(_) => principal,
        };
        self.attempts.check_key(&by).map_err(|not| not.wait_time_from(DefaultClock::default().now()))
    }
}

/// One subscriber has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}
