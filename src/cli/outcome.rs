//! How a job of `run` ends, and what can end it from outside.

use super::Interrupt;

/// How a job ended.
pub(super) enum Outcome {
    /// With the command's exit code.
    Code(u8),
    /// Without the command's exit code; the sentence says why.
    Failed(String),
    /// By a signal to us.
    Stopped(Interrupt),
}

/// What ends a command from outside.
pub(super) enum Stop {
    /// A signal to us.
    Interrupt(Interrupt),
    /// The task is over without our release; the sentence says why.
    Over(String),
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Interrupt(interrupt) => Self::Stopped(interrupt),
            Stop::Over(why) => Self::Failed(why),
        }
    }
}
