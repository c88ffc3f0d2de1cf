//! Commands over a session: `exec` collects a bounded output by a deadline, `stream` connects a command to the caller's pipes.
//!
//! Both end when the server has closed the channel and said how the command ended; output is taken in step with the writer, so
//! that a slow reader slows the command down and nothing piles up here.

use super::{ExitStatus, Output, Session, SshError};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// How much of the caller's input is read at a time, bytes: one packet.
const CHUNK: usize = 32 * 1024;

impl Session {
    /// Runs `command` with `stdin` and returns what it left behind.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; `Misbehaved` when either output exceeds `max_output` bytes, the server refuses or does not say
    /// how the command ended; `Lost` when the connection breaks.
    pub async fn exec(&self, command: &str, stdin: &[u8], max_output: usize, deadline: Instant) -> Result<Output, SshError> {
        let mut stdout = Capped { bytes: Vec::new(), most: max_output };
        let mut stderr = Capped { bytes: Vec::new(), most: max_output };
        let running = self.stream(command, Some(stdin), &mut stdout, &mut stderr);
        let status = match timeout_at(deadline, running).await {
            Err(_) => return Err(SshError::TimedOut),
            Ok(Err(SshError::Local(_))) => return Err(SshError::Misbehaved(format!("more than {max_output} bytes of output"))),
            Ok(status) => status?,
        };
        Ok(Output { status, stdout: stdout.bytes, stderr: stderr.bytes })
    }

    /// Runs `command` with the caller's pipes and returns how it ended. Without `stdin` it reads an empty input. Cancel it by
    /// dropping the future (and the session, to end the connection). A machine that stops answering ends it after 45 s.
    ///
    /// # Errors
    /// `Lost` when the connection breaks; `Local` when an output cannot be written; `Misbehaved` as for `exec`.
    pub async fn stream<I, O, E>(&self, command: &str, stdin: Option<I>, stdout: O, stderr: E) -> Result<ExitStatus, SshError>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let channel = match self.handle.channel_open_session().await {
            Ok(channel) => channel,
            Err(russh::Error::ChannelOpenFailure(_)) => return Err(refused()),
            Err(_) => return Err(self.lost()),
        };
        let (read, write) = channel.split();
        write.exec(true, command).await.map_err(|_| self.lost())?;
        let drain = drain(read, stdout, stderr);
        tokio::pin!(drain);
        let ended = tokio::select! {
            biased;
            ended = &mut drain => ended,
            () = feed(&write, stdin) => drain.await,
        };
        match ended? {
            Ended::Status(status) => Ok(status),
            Ended::Refused => Err(refused()),
            Ended::Silently => Err(SshError::Misbehaved("it did not say how the command ended".to_owned())),
            Ended::Lost => Err(self.lost()),
        }
    }
}

fn refused() -> SshError {
    SshError::Misbehaved("it refused to run a command".to_owned())
}

enum Ended {
    Status(ExitStatus),
    Refused,
    /// The channel was closed without a status.
    Silently,
    /// The channel ended with its connection.
    Lost,
}

/// Sends the input, then its end. Ends early when nobody wants it any more: the other half then says why.
async fn feed<I: AsyncRead + Unpin>(to: &ChannelWriteHalf<client::Msg>, stdin: Option<I>) {
    if let Some(mut stdin) = stdin {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = stdin.read(&mut chunk).await {
            if to.data(&chunk[..count]).await.is_err() {
                return;
            }
        }
    }
    // Fails only when the session is gone, which `drain` reports.
    to.eof().await.ok();
}

async fn drain<O, E>(mut from: ChannelReadHalf, mut stdout: O, mut stderr: E) -> Result<Ended, SshError>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut status = None;
    let ended = loop {
        match from.wait().await {
            Some(ChannelMsg::Data { data }) => put(&mut stdout, &data).await?,
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => put(&mut stderr, &data).await?,
            Some(ChannelMsg::ExitStatus { exit_status }) => status = Some(ExitStatus::Code(exit_status)),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => status = Some(ExitStatus::Signal(name(&signal_name))),
            Some(ChannelMsg::Failure) => break Ended::Refused,
            Some(ChannelMsg::Close) => break status.map_or(Ended::Silently, Ended::Status),
            Some(_) => {}
            None => break status.map_or(Ended::Lost, Ended::Status),
        }
    };
    Ok(ended)
}

async fn put<W: AsyncWrite + Unpin>(to: &mut W, data: &[u8]) -> Result<(), SshError> {
    to.write_all(data).await.map_err(SshError::Local)?;
    to.flush().await.map_err(SshError::Local)
}

fn name(signal: &Sig) -> String {
    match signal {
        Sig::ABRT => "ABRT".to_owned(),
        Sig::ALRM => "ALRM".to_owned(),
        Sig::FPE => "FPE".to_owned(),
        Sig::HUP => "HUP".to_owned(),
        Sig::ILL => "ILL".to_owned(),
        Sig::INT => "INT".to_owned(),
        Sig::KILL => "KILL".to_owned(),
        Sig::PIPE => "PIPE".to_owned(),
        Sig::QUIT => "QUIT".to_owned(),
        Sig::SEGV => "SEGV".to_owned(),
        Sig::TERM => "TERM".to_owned(),
        Sig::USR1 => "USR1".to_owned(),
        Sig::Custom(other) => super::printable(other.as_bytes()),
    }
}

/// Collects up to `most` bytes; one more is an error.
struct Capped {
    bytes: Vec<u8>,
    most: usize,
}

impl AsyncWrite for Capped {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.len() > self.most - self.bytes.len() {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        self.bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
