//! How fast a provider may be asked: token buckets, described; who counts is elsewhere (`db::call_rates`, and the clouds themselves).

/// A bucket that holds `burst` at most and gains `per_second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// What a full bucket holds, at least 1.
    pub burst: u32,
    /// What it gains, greater than 0.
    pub per_second: f64,
}

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
