//! The TCP stream under a session, with an off switch: nothing that a server does keeps it open once its session is dropped.
//!
//! The SSH library runs each session in a task of its own, which waits for the server and not for us: without the switch, a
//! server that never finishes a key exchange would hold that task and its socket for ever. A write that makes no progress for
//! [`STALL`] fails, so that a machine that has stopped reading is found even while we have data to send.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// As long as three missed keepalives.
pub(super) const STALL: Duration = Duration::from_secs(45);

pub(super) struct Wire {
    tcp: TcpStream,
    /// What was read to see that the server is up; read again first.
    ahead: Vec<u8>,
    /// Bytes of our banner that were sent already: the library writes it first, and it is not sent again.
    said: usize,
    off: Pin<Box<WaitForCancellationFutureOwned>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// `ahead` is what was read from `tcp` already, `said` how many bytes of ours were written; cancelling `off` ends both
    /// directions.
    pub(super) fn new(tcp: TcpStream, ahead: Vec<u8>, said: usize, off: CancellationToken) -> Self {
        Self { tcp, ahead, said, off: Box::pin(off.cancelled_owned()), stalled: None }
    }

    fn is_off(&mut self, context: &mut Context<'_>) -> bool {
        self.off.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_off(context) {
            return Poll::Ready(Ok(()));
        }
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_off(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.said > 0 {
            let count = self.said.min(buffer.len());
            self.said -= count;
            return Poll::Ready(Ok(count));
        }
        if let Poll::Ready(written) = Pin::new(&mut self.tcp).poll_write(context, buffer) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
