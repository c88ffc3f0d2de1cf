//! Starts that keep failing are not tried in a storm: each round of failures doubles the pause, after it one VM at a time is tried, and
//! when starts succeed again the number that may start at a time doubles from one.
//!
//! A *round* is all the failures of starts that began before the last failure was known: fifty VMs of one bad launch are one round.

use chrono::{DateTime, TimeDelta, Utc};

/// After this many rounds in a row the way back is slow.
pub const OPENS_AFTER: usize = 3;

/// When this many may start at a time, there is no limit any more.
pub const CLOSED_AT: i32 = 512;

/// What is known about late starts of a kind of VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Rounds of failed starts since the last that succeeded, oldest first.
    pub failed_at: Vec<DateTime<Utc>>,
    /// What the last of them said.
    pub reason: Option<String>,
    /// How many may start at a time while it opens again.
    pub allowance: Option<u32>,
}

impl Breaker {
    /// Whether one more may start when `in_flight` are.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub fn allows(&self, in_flight: u32, now: DateTime<Utc>) -> Result<(), String> {
        let failures = self.failed_at.len();
        if let Some(last) = self.failed_at.last() {
            let resume_at = *last + pause_after(failures);
            let failed = if failures == 1 { "A start failed".to_owned() } else { format!("{failures} starts failed in a row") };
            let said = self.reason.as_ref().map_or_else(String::new, |reason| format!(" The last said: {reason}"));
            if now < resume_at {
                let resume_at = resume_at.format("%H:%M:%S UTC");
                return Err(format!("{failed}; the next is tried at {resume_at}.{said}"));
            }
            if in_flight > 0 {
                return Err(format!("{failed}; one is tried now, the others after it.{said}"));
            }
        }
        match self.allowance {
            Some(most) if in_flight >= most => Err(format!("Starts failed until a moment ago; {most} at a time are tried now.")),
            _ => Ok(()),
        }
    }

    /// Rounds that failed since then.
    pub fn failed_since(&self, since: DateTime<Utc>) -> usize {
        self.failed_at.iter().filter(|at| **at >= since).count()
    }
}

/// How long no launch is made after `rounds` of failures in a row: 5 s, doubled each time, at most 5 min.
pub fn pause_after(rounds: usize) -> TimeDelta {
    let Some(doublings) = rounds.checked_sub(1) else { return TimeDelta::zero() };
    let seconds = 5_i64 << doublings.min(6);
    TimeDelta::seconds(seconds.min(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn pauses_then_tries_one_then_opens_step_by_step() {
        let mut breaker = Breaker { failed_at: vec![at(0), at(10)], ..Breaker::default() };
        assert!(breaker.allows(0, at(19)).unwrap_err().contains("2 starts failed in a row; the next is tried at"));
        assert_eq!(breaker.allows(0, at(20)), Ok(()));
        assert!(breaker.allows(1, at(20)).unwrap_err().contains("one is tried now"));
        breaker.reason = Some("there is no image".to_owned());
        for in_flight in [0, 1] {
            let told = breaker.allows(in_flight, at(if in_flight == 0 { 19 } else { 20 })).unwrap_err();
            assert!(told.ends_with(". The last said: there is no image"), "who waits is told what is to be mended: {told}");
        }
        breaker = Breaker { allowance: Some(4), ..Breaker::default() };
        assert_eq!(breaker.allows(3, at(20)), Ok(()));
        assert!(breaker.allows(4, at(20)).unwrap_err().contains("4 at a time"));
        assert_eq!(Breaker::default().allows(1000, at(0)), Ok(()));
    }

    #[test]
    fn the_pause_doubles_up_to_five_minutes() {
        assert_eq!([0, 1, 2, 3, 7, 50].map(|n| pause_after(n).num_seconds()), [0, 5, 10, 20, 300, 300]);
    }
}
