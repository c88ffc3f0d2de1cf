//! SSH to a pinned host key: whatever the other side does costs at most the deadline and a few MiB.
//!
//! A *target* is an address with the one host key that may answer there. A server is *up* once it has sent a line that begins with
//! `SSH-2.0-`: an accepted TCP connection proves nothing, because port forwarders accept for machines that do not answer yet.
//!
//! Reads: nothing. Writes: nothing. Calls: the network. Runs: from `guest` and `cli`.
//!
//! ```text
//! reach (poll until a banner) ─▶ session (key exchange, pin, login) ─▶ run (exec, stream)
//!                                     └─ wire: the TCP stream, with an off switch
//! ```
//!
//! Not here: keys and what is run (`guest`), terminals (`cli`).

mod reach;
mod run;
mod session;
mod wire;

pub use reach::wait_for_server;
pub use session::Session;

use crate::domain::secret::Secret;
use std::net::SocketAddr;

/// Where to log in, as whom, and who must answer.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub addr: SocketAddr,
    /// The user.
    pub user: String,
    /// The one host key that may answer: an Ed25519 public key, OpenSSH format, one line.
    pub host_key: String,
    /// The private key of the login, OpenSSH format.
    pub login: Secret,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited; 0 is success.
    Code(u32),
    /// A signal ended it; its name without `SIG`.
    Signal(String),
}

impl ExitStatus {
    /// Exit code 0.
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// What a command left behind. The texts are the machine's: [`printable`] before they go anywhere.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Named by what the caller does next. Texts that come from the machine have been made [`printable`].
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// No server was up before the deadline: wait, or give the machine up.
    #[error("no SSH server answered")]
    NotReachable,
    /// Somebody else answers there, and was sent nothing: do not use the machine.
    #[error("the SSH server did not prove the pinned host key")]
    WrongHostKey,
    /// The right server, but this key may not log in (or not yet, while it boots).
    #[error("the SSH server refused the login")]
    LoginRefused,
    /// A server is up and did not finish before the deadline: give the machine up.
    #[error("the SSH server did not finish in time")]
    TimedOut,
    /// It breaks the protocol or does what no honest machine does: give it up.
    #[error("the SSH server misbehaved: {0}")]
    Misbehaved(String),
    /// The connection broke after the login: the machine may be gone.
    #[error("the SSH connection was lost: {0}")]
    Lost(String),
    /// The caller's side: its output could not be written.
    #[error("could not write the output")]
    Local(#[source] std::io::Error),
    /// The caller's side: a key of the target is not an Ed25519 key in OpenSSH format.
    #[error("the {0} of the target cannot be read")]
    InvalidKey(&'static str),
}

/// Makes a machine's text fit for a log or an error: ASCII without control characters, one line, at most 400 characters.
pub fn printable(text: &[u8]) -> String {
    const MOST: usize = 400;
    let text = text.trim_ascii();
    let mut line: String = text
        .iter()
        .take(MOST)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            b'\n' | b'\r' | b'\t' => ' ',
            _ => '?',
        })
        .collect();
    if text.len() > MOST {
        line.push_str(" [cut]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_machines_text_cannot_draw_on_a_terminal_or_start_a_line() {
        assert_eq!(printable(b"\x1b[31mno\nspace left\x07 \xe2\x80\xae\r\n"), "?[31mno space left? ???");
        assert_eq!(printable(&[b'x'; 5000]).len(), 406);
    }
}
