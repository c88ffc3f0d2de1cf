//! The process that stays by one VM for its whole life: it holds the VM's lock, keeps its console and guards its network.
//!
//! It outlives the service, so that a restart of the service is not noticed in a VM. A VM is *alive* while `alive` is locked: by the
//! keeper, or by QEMU, which has the same lock as its standard input, so that no number of a process has to be trusted.
//! When QEMU ends, the keeper ends passt and then itself; when the keeper is killed, passt ends and QEMU is left without network.
//! Reads: `keeper.json` in the folder it is started in. Writes: `started`, `process.json`, `console`, `qemu.log`, `passt.log`.
//! Calls: QEMU, passt. Runs: as a child of the service in a session of its own. Not here: who starts and ends it (`launch`, `end`).

pub(super) mod filter;
pub(super) mod local;
pub(super) mod log;
mod pump;

use super::process::Identity;
use filter::Filter;
use local::LocalAddresses;
use log::BoundedLog;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What the keeper is told; a file, since command lines are public.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// QEMU and its arguments.
    pub(super) qemu: Vec<String>,
    /// passt and its arguments but for the socket; none: the network is closed, and QEMU's own.
    pub(super) passt: Option<Vec<String>>,
    /// See [`Filter`].
    pub(super) resolver: Option<Ipv4Addr>,
}

/// File names in a machine's folder.
pub(super) const PLAN: &str = "keeper.json";
pub(super) const ALIVE: &str = "alive";
pub(super) const STARTED: &str = "started";
pub(super) const PROCESS: &str = "process.json";
pub(super) const CONSOLE: &str = "console";
pub(super) const QEMU_LOG: &str = "qemu.log";
pub(super) const PASST_LOG: &str = "passt.log";
pub(super) const NET_SOCKET: &str = "net.sock";

/// What `console()` may ask for.
pub(super) const CONSOLE_BYTES: u64 = 64 * 1024;
const LOG_BYTES: u64 = 16 * 1024;

/// The hidden command of the binary; never returns while the VM lives. Call it before any thread or runtime is made.
pub fn main() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is a file in the machine's folder.
            eprintln!("keeper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn keep() -> anyhow::Result<()> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(PLAN)?)?;
    let alive = lock_alive()?;
    File::create(STARTED)?;
    let (program, arguments) = plan.qemu.split_first().ok_or_else(|| anyhow::anyhow!("no program in {PLAN}"))?;
    let network = plan.passt.as_deref().map(Network::start).transpose()?;
    let (console_read, console_write) = io::pipe()?;
    let (log_read, log_write) = io::pipe()?;
    let mut qemu =
        Command::new(program).args(arguments).stdin(alive.try_clone()?).stdout(console_write).stderr(log_write).spawn()?;
    if let Some(identity) = Identity::of(qemu.id()) {
        std::fs::write(PROCESS, serde_json::to_vec(&identity)?)?;
    }
    let console = BoundedLog::create(CONSOLE.into(), CONSOLE_BYTES)?;
    let log = BoundedLog::create(QEMU_LOG.into(), LOG_BYTES)?;
    thread::spawn(move || console.drain(console_read));
    let errors = thread::spawn(move || log.drain(log_read));
    let network = network.map(|network| network.join(plan.resolver));
    let status = qemu.wait()?;
    drop(errors.join());
    if let Some(network) = network {
        network.end();
    }
    anyhow::ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

/// Whoever lists machines holds the lock for a moment, so this tries for a while.
fn lock_alive() -> anyhow::Result<File> {
    let alive = File::create(ALIVE)?;
    let began = Instant::now();
    while alive.try_lock().is_err() {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(2), "another keeper is here");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(alive)
}

/// passt and the two sockets around the filter.
struct Network {
    passt: Child,
    passt_side: UnixStream,
    qemu: UnixListener,
}

/// A network at work.
struct Joined {
    passt: Child,
    passt_side: UnixStream,
}

impl Network {
    fn start(command: &[String]) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().ok_or_else(|| anyhow::anyhow!("no passt in {PLAN}"))?;
        let (passt_side, theirs) = UnixStream::pair()?;
        drop(std::fs::remove_file(NET_SOCKET));
        let qemu = UnixListener::bind(NET_SOCKET)?;
        let (read, write) = io::pipe()?;
        let log = BoundedLog::create(PASST_LOG.into(), LOG_BYTES)?;
        let passt =
            Command::new(program).args(arguments).stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(write).spawn()?;
        thread::spawn(move || log.drain(read));
        Ok(Self { passt, passt_side, qemu })
    }

    /// Waits for QEMU aside, since it may end before it calls.
    fn join(self, resolver: Option<Ipv4Addr>) -> Joined {
        let ours = self.passt_side.try_clone();
        let listener = self.qemu;
        thread::spawn(move || {
            let Ok(passt_side) = ours else { return };
            match listener.accept() {
                Ok((qemu_side, _)) => {
                    drop(guard(&qemu_side, &passt_side, resolver).inspect_err(|error| eprintln!("keeper: network: {error}")))
                }
                Err(error) => eprintln!("keeper: network: {error}"),
            }
        });
        Joined { passt: self.passt, passt_side: self.passt_side }
    }
}

/// Copies both ways through the filter until one side ends, and then ends the other.
fn guard(qemu: &UnixStream, passt: &UnixStream, resolver: Option<Ipv4Addr>) -> io::Result<()> {
    let filter = Arc::new(Mutex::new(Filter::new(resolver)));
    let inward = {
        let (filter, qemu, passt) = (Arc::clone(&filter), qemu.try_clone()?, passt.try_clone()?);
        thread::spawn(move || {
            let result = pump::copy(&passt, &qemu, |frame| {
                filter.lock().unwrap_or_else(PoisonError::into_inner).note_arrival(frame);
                true
            });
            drop((qemu.shutdown(Shutdown::Both), passt.shutdown(Shutdown::Both)));
            result
        })
    };
    let mut local = LocalAddresses::default();
    let outward = pump::copy(qemu, passt, |frame| {
        filter.lock().unwrap_or_else(PoisonError::into_inner).may_leave(frame, |address| local.contains(address))
    });
    drop((qemu.shutdown(Shutdown::Both), passt.shutdown(Shutdown::Both)));
    drop(inward.join());
    outward
}

impl Joined {
    /// passt ends when its socket does; a passt that hangs is killed.
    fn end(mut self) {
        drop(self.passt_side.shutdown(Shutdown::Both));
        let began = Instant::now();
        while matches!(self.passt.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(2));
        }
        drop(self.passt.kill());
        drop(self.passt.wait());
    }
}

/// Whether the VM of this folder lives.
///
/// # Errors
/// It cannot be told.
pub(super) fn is_alive(folder: &Path) -> io::Result<bool> {
    match File::open(folder.join(ALIVE)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(std::fs::TryLockError::WouldBlock) => Ok(true),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
