//! Where a command reads and writes: a reader that went away (`| head`) is not an error, and reading never delays the end of the process.
//!
//! Reads: standard input. Writes: standard output and standard error. Calls: nothing. Runs: in every client command.
//!
//! Not here: the local child of `run`, which inherits the process's own files (`with_docker`).

use std::io::{ErrorKind, IsTerminal, Read};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_util::io::StreamReader;

/// How much is read from standard input at a time, bytes.
const CHUNK: usize = 32 * 1024;
/// How many chunks wait for a slow VM.
const AHEAD: usize = 4;

/// Where a forwarded input comes from.
pub enum Stdin {
    /// The process's own, unless it is a terminal; nothing is read before a command wants it.
    Process,
    /// This one; nothing: an empty input.
    Given(Option<Box<dyn AsyncRead + Send + Unpin>>),
}

/// The three files of a command.
pub struct Io {
    /// What is forwarded to a command in a VM.
    pub stdin: Stdin,
    /// Answers, and the output of a command in a VM.
    pub out: Box<dyn AsyncWrite + Send + Unpin>,
    /// Messages, and the errors of a command in a VM.
    pub err: Box<dyn AsyncWrite + Send + Unpin>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Io")
    }
}

impl Io {
    /// The process's own.
    pub fn process() -> Self {
        Self { stdin: Stdin::Process, out: Box::new(tokio::io::stdout()), err: Box::new(tokio::io::stderr()) }
    }

    /// Writes an answer.
    pub(super) async fn print(&mut self, text: &str) -> std::io::Result<()> {
        let written = async {
            self.out.write_all(text.as_bytes()).await?;
            self.out.flush().await
        };
        match written.await {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Writes a part of an answer; a reader that went away is an error here.
    pub(super) async fn write(&mut self, part: &[u8]) -> std::io::Result<()> {
        self.out.write_all(part).await?;
        self.out.flush().await
    }

    /// The output is a terminal: what was written can be drawn over.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.stdin, Stdin::Process) && std::io::stdout().is_terminal()
    }

    /// Asks a person; none: there is nobody to ask.
    pub(super) async fn confirm(&mut self, question: &str) -> Option<bool> {
        let asked = match &self.stdin {
            Stdin::Process => std::io::stdin().is_terminal(),
            Stdin::Given(given) => given.is_some(),
        };
        if !asked {
            return None;
        }
        self.say(&format!("{question} [y/N]")).await;
        let mut answer = String::new();
        match std::mem::replace(&mut self.stdin, Stdin::Given(None)) {
            Stdin::Given(given) => drop(BufReader::new(given?).read_line(&mut answer).await.ok()?),
            Stdin::Process => drop(BufReader::new(follow_stdin()).read_line(&mut answer).await.ok()?),
        }
        Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Writes a message for a person. When nobody can read it, nobody is told.
    pub(super) async fn say(&mut self, sentence: &str) {
        let line = format!("vm-service: {sentence}\n");
        if self.err.write_all(line.as_bytes()).await.is_ok() {
            self.err.flush().await.ok();
        }
    }

    /// The input to forward, once.
    pub(super) fn take_stdin(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        match std::mem::replace(&mut self.stdin, Stdin::Given(None)) {
            Stdin::Given(given) => given,
            Stdin::Process if std::io::stdin().is_terminal() => None,
            Stdin::Process => Some(Box::new(follow_stdin())),
        }
    }
}

/// Standard input, read by a thread of its own: the runtime would wait for a blocked read at its end, a plain thread just ends.
fn follow_stdin() -> impl AsyncRead + Send + Unpin {
    let (to, from) = tokio::sync::mpsc::channel::<std::io::Result<tokio_util::bytes::Bytes>>(AHEAD);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            let some = match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => Ok(tokio_util::bytes::Bytes::copy_from_slice(&chunk[..count])),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let last = some.is_err();
            if to.blocking_send(some).is_err() || last {
                return;
            }
        }
    });
    StreamReader::new(tokio_stream::wrappers::ReceiverStream::new(from))
}
