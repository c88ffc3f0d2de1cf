//! No principal keeps others from the service with streams that it opens and does not close: it has at most [`MOST`] of them, of
//! events and of the console's pages together.
//!
//! Writes: the gauge of open streams. Not here: the streams (`events_stream`, `console::live`).

use super::problem::Problem;
use crate::telemetry::names;
use metrics::gauge;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than the pages that the people behind one principal look at; too few to fill the database's pool.
const MOST: usize = 64;

/// The places of each principal.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<String, Arc<Semaphore>>>);

/// One more stream is open, until this is dropped.
pub(super) struct Open {
    _place: OwnedSemaphorePermit,
}

impl Streams {
    /// Opens one.
    ///
    /// # Errors
    /// `TooManyStreams`.
    pub(super) fn open(&self, principal: &str) -> Result<Open, Problem> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = all.entry(principal.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(MOST)));
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
        gauge!(names::EVENT_STREAMS).increment(1.0);
        Ok(Open { _place: place })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(names::EVENT_STREAMS).decrement(1.0);
    }
}
