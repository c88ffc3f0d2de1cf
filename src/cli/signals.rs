//! The three ways in which a person or a job runner stops `run`: once caught, a signal no longer ends the process by itself.
//!
//! Reads: signals. Writes: nothing. Calls: nothing. Runs: once, at the start of `run`. A second signal is swallowed: the release at
//! the end has a deadline of its own and is not skipped.

use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// Why `run` was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C, SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// The terminal was closed, SIGHUP.
    HungUp,
}

impl Interrupt {
    /// 128 and the signal's number, as a shell says it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::HungUp => 129,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// As `kill` takes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HungUp => "HUP",
            Self::Interrupted => "INT",
            Self::Terminated => "TERM",
        }
    }
}

/// Catches the signals from now on; the answer is the first that comes.
pub(super) fn catch() -> std::io::Result<impl Future<Output = Interrupt>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            Some(()) = interrupt.recv() => Interrupt::Interrupted,
            Some(()) = terminate.recv() => Interrupt::Terminated,
            Some(()) = hangup.recv() => Interrupt::HungUp,
            else => std::future::pending().await,
        }
    })
}

/// The exit code of a command that a signal ended: 128 and its number; 255 for a name that we do not know.
pub(super) fn exit_code_of(name: &str) -> u8 {
    // The numbers of Linux (signal(7), x86 and ARM).
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "XCPU" => 24,
        "XFSZ" => 25,
        "SYS" => 31,
        _ => 127,
    };
    128 + number
}
