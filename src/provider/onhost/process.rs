//! Commands with deadlines, and signals that can only meet the process that was meant.
//!
//! A process is meant by number *and* start time, since numbers are used again; the signal goes through a pidfd that was opened
//! before the start time was compared, so that no other process can slip in between.
//! Reads: `/proc`. Calls: programs. Not here: the VM's own processes (`keeper`).

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Names a process for as long as this host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: u32,
    /// In clock ticks since the host started (proc(5), field 22 of `stat`).
    start_ticks: u64,
}

impl Identity {
    /// Of a process that exists.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may hold anything, these too; the third field comes after the last one.
        let start_ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Kills it if it still exists. A process of the same number that started at another time is left alone.
    pub(super) fn kill(self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if Self::of(self.pid) == Some(self)
            && let Err(error) = pidfd_send_signal(handle, Signal::KILL)
        {
            tracing::debug!(pid = self.pid, %error, "could not kill");
        }
    }
}

/// Runs a program to its end and returns what it wrote; it is killed at the deadline.
///
/// # Errors
/// It is not there, took too long or failed; the text says what it wrote.
pub(super) async fn run(program: &str, arguments: &[&str], deadline: Duration) -> anyhow::Result<String> {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(deadline, child).await.with_context(|| format!("{program} took longer than {deadline:?}"))?;
    let output = output.with_context(|| format!("could not run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_was_meant_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        Identity { start_ticks: identity.start_ticks + 1, ..identity }.kill();
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "another start time is another process");
        identity.kill();
        assert!(!child.wait().unwrap().success());
        identity.kill();
    }

    #[tokio::test]
    async fn a_command_ends_at_its_deadline_and_says_what_went_wrong() {
        let error = run("sleep", &["60"], Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        let error = run("sh", &["-c", "echo no such luck >&2; exit 3"], Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("no such luck"), "{error}");
        assert_eq!(run("echo", &["well"], Duration::from_secs(5)).await.unwrap(), "well\n");
    }
}
