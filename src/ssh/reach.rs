//! Waits until a server is up: polls cheaply, and hands over the connection on which it said so.
//!
//! A connection that is refused, reset or closed before the banner means "not yet"; it is tried again after [`POLL`]. One that
//! neither fails nor speaks gets company after [`COMPANY`]: a packet lost while the machine had no network yet would cost
//! seconds, while a slow machine still wins with the connection it has been working on.

use super::SshError;
use super::wire::Wire;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Between two tries that fail at once.
const POLL: Duration = Duration::from_millis(40);
/// A try that is silent for this long gets company.
const COMPANY: Duration = Duration::from_secs(1);
/// At most this many tries at a time; every third is patient.
const TRIES: usize = 3;
/// How long a try may be silent: a patient one (an emulated CPU that boots several machines), and the others.
const PATIENT: Duration = Duration::from_secs(12);
const IMPATIENT: Duration = Duration::from_secs(2);
/// Our own banner (RFC 4253 §4.2: both sides may speak at once). Sent before the server's is awaited: a port forwarder may complete
/// its connection to the machine only when it has something to carry (passt of 2023 does so).
pub(super) const BANNER: &str = concat!("SSH-2.0-vm-service_", env!("CARGO_PKG_VERSION"), "\r\n");
/// Lines before the banner are allowed (RFC 4253 §4.2); no honest server sends this many bytes of them.
const PREAMBLE: usize = 4096;

/// A connection on which a server has said that it is up.
#[derive(Debug)]
pub(super) struct Reached {
    tcp: TcpStream,
    ahead: Vec<u8>,
}

impl Reached {
    /// The connection as the session reads it: from its first byte.
    pub(super) fn into_wire(self, off: CancellationToken) -> Wire {
        Wire::new(self.tcp, self.ahead, BANNER.len(), off)
    }
}

#[derive(Debug)]
enum NotReached {
    NotYet,
    NotSsh,
}

/// Waits until a server at `addr` sends its banner.
///
/// # Errors
/// `NotReachable` at the deadline; `Misbehaved` when something that is not SSH answers.
pub async fn wait_for_server(addr: SocketAddr, deadline: Instant) -> Result<(), SshError> {
    when_up(addr, deadline).await.map(drop)
}

/// Tries until the deadline.
pub(super) async fn when_up(addr: SocketAddr, deadline: Instant) -> Result<Reached, SshError> {
    timeout_at(deadline, poll(addr)).await.unwrap_or(Err(SshError::NotReachable))
}

/// Tries once.
pub(super) async fn once(addr: SocketAddr, deadline: Instant) -> Result<Reached, SshError> {
    match timeout_at(deadline, attempt(addr)).await {
        Ok(Ok(reached)) => Ok(reached),
        Ok(Err(NotReached::NotSsh)) => Err(not_ssh()),
        Ok(Err(NotReached::NotYet)) | Err(_) => Err(SshError::NotReachable),
    }
}

async fn poll(addr: SocketAddr) -> Result<Reached, SshError> {
    let mut tries = FuturesUnordered::new();
    let mut started = 0_usize;
    let mut last_at = Instant::now();
    let mut next_at = last_at;
    loop {
        tokio::select! {
            Some(result) = tries.next(), if !tries.is_empty() => match result {
                Ok(Ok(reached)) => return Ok(reached),
                Ok(Err(NotReached::NotSsh)) => return Err(not_ssh()),
                Ok(Err(NotReached::NotYet)) | Err(_) => next_at = next_at.min(last_at + POLL),
            },
            () = sleep_until(next_at), if tries.len() < TRIES => {
                let patience = if started.is_multiple_of(TRIES) { PATIENT } else { IMPATIENT };
                tries.push(timeout(patience, attempt(addr)));
                started += 1;
                last_at = Instant::now();
                next_at = last_at + COMPANY;
            }
        }
    }
}

async fn attempt(addr: SocketAddr) -> Result<Reached, NotReached> {
    let mut tcp = TcpStream::connect(addr).await.map_err(|_| NotReached::NotYet)?;
    tcp.set_nodelay(true).map_err(|_| NotReached::NotYet)?;
    tcp.write_all(BANNER.as_bytes()).await.map_err(|_| NotReached::NotYet)?;
    let mut ahead = Vec::with_capacity(256);
    loop {
        let mut some = [0; 256];
        match tcp.read(&mut some).await {
            Ok(count @ 1..) => ahead.extend_from_slice(&some[..count]),
            Ok(0) | Err(_) => return Err(NotReached::NotYet),
        }
        if ahead.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"SSH-2.0-")) {
            return Ok(Reached { tcp, ahead });
        }
        if ahead.len() > PREAMBLE {
            return Err(NotReached::NotSsh);
        }
    }
}

fn not_ssh() -> SshError {
    SshError::Misbehaved("it speaks something else than SSH".to_owned())
}
