//! No connection is held by a client that does nothing: one that has no request in flight for longer than the header timeout, or
//! that does not take its answer, is cut off; and there are never more than so many.
//!
//! A request is *in flight* from its last header byte until its answer, or the stream that it became, is over ([`InFlight`]). So
//! trickled headers, of HTTP/1 and HTTP/2 alike, do not count as life.
//!
//! Runs: on every connection, above TLS. Not here: the deadline of a body (`extract`), of a request (`envelope`).

use axum::http::Request;
use axum_server::accept::Accept;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Debug)]
struct Activity {
    in_flight: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// Shows that a connection is at work; a handler whose answer is a stream keeps it.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Clone for InFlight {
    fn clone(&self) -> Self {
        Self::begin(&self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Guards what another acceptor accepts.
#[derive(Clone, Debug)]
pub(super) struct Guard<A> {
    pub(super) inner: A,
    pub(super) slots: Arc<Semaphore>,
    /// Without a request in flight.
    pub(super) idle: Duration,
    /// Without the client taking a byte that waits for it.
    pub(super) stall: Duration,
}

impl<A, S> Accept<TcpStream, S> for Guard<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
    A::Stream: Send,
    A::Service: Send,
{
    type Stream = Guarded<A::Stream>;
    type Service = Counted<A::Service>;
    type Future = Pending<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        // A peer that is gone already shows at the first read.
        drop(stream.set_nodelay(true));
        let accepted = self.inner.accept(stream, service);
        let (idle, stall) = (self.idle, self.stall);
        Box::pin(async move {
            let slot = slot.map_err(|_| io::Error::other("too many connections"))?;
            let (stream, service) = accepted.await?;
            let now = Instant::now();
            let activity = Arc::new(Activity { in_flight: AtomicUsize::new(0), idle_since: Mutex::new(now) });
            let timer = Box::pin(sleep_until(now + idle));
            let stream = Guarded { stream, activity: Arc::clone(&activity), idle, timer, stall, stalled: None, _slot: slot };
            Ok((stream, Counted { inner: service, activity }))
        })
    }
}

/// A connection under guard.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    activity: Arc<Activity>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl<S> Guarded<S> {
    /// Ready when the connection was without a request for too long; else the task is woken when that may be so.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let since = match self.activity.in_flight.load(Ordering::Acquire) {
                0 => *self.activity.idle_since.lock().unwrap_or_else(PoisonError::into_inner),
                _ => Instant::now(),
            };
            let deadline = since + self.idle;
            if Instant::now() >= deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            if self.timer.deadline() < Instant::now() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    /// An error when the client took nothing for too long.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + stall)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_idle(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_write(cx, write)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch_write(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch_write(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch_write(cx, shutdown)
    }
}

/// Counts the requests in flight.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pending<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let token = InFlight::begin(&self.activity);
        request.extensions_mut().insert(token.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(token);
            answer
        })
    }
}
