//! Commands on the server itself, for whoever installs it.
//!
//! Reads, writes: Postgres, this host. Calls: `db`, `loops`, `provider`, `seal`. Runs: once, by hand or by an installer.

pub mod doctor;
pub mod dry_run;
pub mod migrate;
pub mod tokens;
