//! A command in the VM: its arguments arrive as they were given, its outputs apart, its exit code is ours; only the VM's pinned host
//! key is talked to.
//!
//! Reads: standard input, unless it is a terminal. Writes: both outputs. Calls: the VM. Runs: in `run`, for `machine`.
//!
//! Not here: terminals. A command gets none, so that its two outputs stay apart.

use super::outcome::{Outcome, Stop};
use super::{Io, signals};
use crate::domain::api::SshConnection;
use crate::domain::secret::Secret;
use crate::ssh::{ExitStatus, Session, SshError, Target};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// For a VM that is ready to log in, emulated ones too.
const CONNECT: Duration = Duration::from_secs(30);
/// What a local shell says of a command whose reader went away: SIGPIPE.
const BROKEN_PIPE: u8 = 128 + 13;

/// Runs the command until it ends or `stop` does; then the connection is closed.
pub(super) async fn run(
    command: &[String],
    ssh: &SshConnection,
    io: &mut Io,
    stop: Pin<&mut impl Future<Output = Stop>>,
) -> Outcome {
    let stdin = io.take_stdin();
    let streamed = async {
        let target = target(ssh).await?;
        let session = Session::connect_when_up(&target, Instant::now() + CONNECT).await?;
        session.stream(&command_line(command), stdin, &mut io.out, &mut io.err).await
    };
    let ended = tokio::select! {
        biased;
        stopped = stop => return stopped.into(),
        ended = streamed => ended,
    };
    match ended {
        Ok(ExitStatus::Code(code)) => Outcome::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        Ok(ExitStatus::Signal(name)) => Outcome::Code(signals::exit_code_of(&name)),
        Err(SshError::Local(e)) if e.kind() == ErrorKind::BrokenPipe => Outcome::Code(BROKEN_PIPE),
        Err(SshError::Local(e)) => Outcome::Failed(format!("The output of the command cannot be written: {e}.")),
        Err(e) => Outcome::Failed(format!("The VM at {}:{} cannot be used: {e}.", ssh.host, ssh.port)),
    }
}

async fn target(ssh: &SshConnection) -> Result<Target, SshError> {
    let mut found = tokio::net::lookup_host((ssh.host.as_str(), ssh.port)).await.map_err(|_| SshError::NotReachable)?;
    let addr: SocketAddr = found.next().ok_or(SshError::NotReachable)?;
    let login = Secret::new(ssh.private_key.as_str());
    Ok(Target { addr, user: ssh.user.clone(), host_key: ssh.host_key.trim().to_owned(), login })
}

/// What a POSIX shell takes for exactly these words; the command replaces the shell, so that a signal's end is its own.
pub fn command_line(words: &[String]) -> String {
    words.iter().fold("exec".to_owned(), |line, word| line + " '" + &word.replace('\'', r"'\''") + "'")
}
