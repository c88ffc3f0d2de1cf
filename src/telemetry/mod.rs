//! What the service says about itself: numbers, log lines and traces. Nothing secret goes through here, and no id is ever a label.
//!
//!     loops, http, provider ── metrics macros, names of `names` ──▶ recorder ─┬─▶ text for Prometheus ([`recorder::render`])
//!                                                                            └─▶ DogStatsD ─▶ relay ─▶ the host of the settings
//!     everywhere ── tracing macros ──▶ `logs` ─┬─▶ standard error, a line an event
//!                                             └─▶ `otlp` ─▶ a collector (feature `otlp`)
//!
//! Reads: nothing of ours. Writes: standard error; UDP; a collector. Runs: in every role.

pub mod logs;
pub mod names;
#[cfg(feature = "otlp")]
mod otlp;
pub mod recorder;
pub mod statsd;
pub mod tell;
