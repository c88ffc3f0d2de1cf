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

use crate::db::audit::Behind;
use crate::domain::audit::Party;
use std::sync::Arc;

/// Whoever runs a command here, for the audit log.
pub fn local_user() -> Arc<Behind> {
    Behind::new(Party::new("local_user", rustix::process::getuid().as_raw().to_string()), None)
}
