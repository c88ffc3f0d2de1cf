//! The engine alone: the real loops over a real Postgres and the strict simulated cloud, in virtual time. `make bench` runs it first.
//!
//! *Asking* is over when the cloud has accepted the last launch call; its *optimum* is what the cloud's own budgets allow to anybody.
//! *Calls* are all that the cloud counts, a page of a list and an unknown id each as one. Times of this machine are told as ratios.
//!
//! ```text
//! jobs at virtual times ─▶ Engine (loops, Postgres, sim) ─▶ sim's own counters ─▶ figure lines
//! ```
//!
//! Reads: DATABASE_URL, a server on which it may make databases. Writes: the report.

mod bursts;
mod cache;
mod claims;
mod many;
mod steady;
mod world;

use crate::report::Report;

/// Measures everything.
pub(crate) async fn run(report: &mut Report) -> anyhow::Result<()> {
    claims::measure(report).await?;
    many::measure(report).await?;
    steady::measure(report).await?;
    bursts::measure(report).await?;
    cache::measure(report).await
}
