//! Every call stops at a gate before its effect and again before its answer, so that a test can kill or freeze a replica there.
//!
//! A replica that never comes out of a gate is one that was frozen; a call whose future is dropped inside one is one that was
//! killed. Between the two gates of a call lies its whole effect, and nothing else waits.

use async_trait::async_trait;

/// Lets calls through when it likes to.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Returns when the call may go on. `point` is an operation and a side of its effect, such as `launch:before`.
    async fn pass(&self, point: &'static str);
}

/// Lets everything through at once.
pub(super) struct Open;

#[async_trait]
impl Gate for Open {
    async fn pass(&self, _point: &'static str) {}
}
