//! The replicas as processes: started, killed, frozen and thawed. One that ends without having been killed here gave up.

use super::replica::Role;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

/// Where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Up,
    /// Killed; started again then.
    Dead(Instant),
    /// Stopped; thawed then.
    Frozen(Instant),
}

pub(super) struct Replica {
    pub(super) role: Role,
    pub(super) is: Is,
    log: PathBuf,
    child: Child,
    /// Its end is the replica's.
    _input: ChildStdin,
}

impl Replica {
    pub(super) fn start(role: Role, folder: &Path) -> Self {
        let log = folder.join(format!("{}.log", role.name));
        let (child, input) = spawn(&role, &log);
        Self { role, is: Is::Up, log, child, _input: input }
    }

    pub(super) fn kill(&mut self, again_at: Instant) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.is = Is::Dead(again_at);
    }

    pub(super) fn freeze(&mut self, until: Instant) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        self.is = Is::Frozen(until);
    }

    pub(super) fn thaw(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
        self.is = Is::Up;
    }

    /// Does what is due by now; says so when the process has ended by itself.
    pub(super) fn turn(&mut self, now: Instant) -> Option<String> {
        match self.is {
            Is::Dead(again_at) if again_at <= now => {
                (self.child, self._input) = spawn(&self.role, &self.log);
                self.is = Is::Up;
            }
            Is::Frozen(until) if until <= now => self.thaw(),
            Is::Dead(_) => return None,
            Is::Frozen(_) | Is::Up => {}
        }
        let status = self.child.try_wait().unwrap()?;
        (self.child, self._input) = spawn(&self.role, &self.log);
        Some(format!("{} gave up ({status}):\n{}", self.role.name, self.log_end()))
    }

    /// Its log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn spawn(role: &Role, log: &Path) -> (Child, ChildStdin) {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "kills::replica::a_replica", "--nocapture", "--test-threads", "1"])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", serde_json::to_string(role).unwrap()).unwrap();
    (child, input)
}

impl Drop for Replica {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
