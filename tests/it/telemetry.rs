//! What the service says about itself: metrics, StatsD, the files that operators load, log lines, and no secret in any of them.
//!
//! There is one recorder in a process, and each of these tests runs in one of its own.

mod canaries;
mod day;
mod exported;
mod files;
#[cfg(feature = "otlp")]
mod otlp;
mod promql;
mod speed;
mod statsd;
