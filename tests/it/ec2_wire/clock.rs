//! The clock of budgets and lags: real time at a speed, and a hand that moves it further.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time since the cloud began.
pub(super) struct Clock {
    began: Instant,
    speed: f64,
    moved: Mutex<Duration>,
}

impl Clock {
    /// `speed` is in seconds per real second, from 0; at 0 only [`Clock::pass`] moves it.
    pub(super) fn at(speed: f64) -> Self {
        Self { began: Instant::now(), speed, moved: Mutex::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed().mul_f64(self.speed) + *self.moved.lock().unwrap()
    }

    pub(super) fn pass(&self, time: Duration) {
        *self.moved.lock().unwrap() += time;
    }
}
