//! Commands on the server itself, for whoever installs it.
//!
//! Reads, writes: Postgres, this host. Calls: `db`, `loops`, `provider`, `seal`. Runs: once, by hand or by an installer.

pub mod cache;
pub mod doctor;
pub mod dry_run;
#[cfg(feature = "ec2")]
pub mod iam_policy;
pub mod migrate;
pub mod tokens;
