//! Where a replica can be cut: every time it takes a database connection, and both sides of every call to the cloud or a guest. A fuse
//! counts these points down; when it blows, what runs stands still there, for its driver to drop (killed) or to go on with later (frozen).
//!
//! A transaction takes one connection and calls nobody, so a cut is never inside one: an open transaction dies with its process, which
//! is the same as being cut before it.

use async_trait::async_trait;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use vm_service::sim::Gate;

/// One replica's fuse.
#[derive(Debug, Default)]
pub(super) struct Fuse(Mutex<State>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Whole,
    /// Blows after so many more points.
    Armed(u32),
    Blown,
}

impl Fuse {
    /// Lets it blow after `points` more points, 0: at the next one.
    pub(super) fn arm(&self, points: u32) {
        *self.state() = State::Armed(points);
    }

    /// Lets everything through.
    pub(super) fn mend(&self) {
        *self.state() = State::Whole;
    }

    fn is_blown(&self) -> bool {
        *self.state() == State::Blown
    }

    /// One point; returns when it may be passed.
    pub(super) async fn point(&self) {
        poll_fn(|_| self.try_point()).await;
    }

    fn try_point(&self) -> Poll<()> {
        let mut state = self.state();
        *state = match *state {
            State::Whole => return Poll::Ready(()),
            State::Armed(0) | State::Blown => State::Blown,
            State::Armed(points) => {
                *state = State::Armed(points - 1);
                return Poll::Ready(());
            }
        };
        Poll::Pending
    }

    /// Drives `work` to its end, or to the point where the fuse blew: then none.
    pub(super) async fn drive<T>(&self, work: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Option<T> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_blown() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Gate for Fuse {
    async fn pass(&self, _point: &'static str) {
        self.point().await;
    }
}
