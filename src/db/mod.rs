//! Every SQL statement of the service, one file a table; callers see verbs and rows, never SQL.
//!
//! Reads, writes: Postgres, schema `vms`. Calls: nothing else. Runs: from `http`, `loops` and `admin`.
//!
//! `now` is an argument of every statement that needs it. A write on a leased row carries its fencing token.

pub mod audit;
pub mod audit_log;
pub mod breakers;
pub mod budget;
pub mod cache;
pub mod cache_gc;
pub mod cache_gifts;
pub mod cache_mounts;
pub mod call_rates;
pub mod census;
pub mod claims;
pub mod connect;
pub mod console_events;
pub mod console_overview;
pub mod console_tasks;
pub mod console_vms;
pub mod console_volumes;
pub mod events;
pub mod gauges;
pub mod generations;
pub mod history;
pub mod image_moves;
pub mod image_orders;
pub mod images;
pub mod installation;
pub mod launch_attempts;
pub mod launches;
pub mod leases;
pub mod listening;
pub mod losses;
pub mod notices;
pub mod orphans;
pub mod overdue;
pub mod release;
pub mod reserve;
pub mod rows;
pub mod seeds;
pub mod sessions;
pub mod settings;
pub mod settings_checks;
pub mod tasks;
pub mod tokens;
pub mod transaction;
pub mod turns;
pub mod vm_ends;
pub mod vm_list;
pub mod vms;
pub mod volume_ends;
pub mod volume_list;
pub mod volume_moves;
pub mod volumes;
pub mod wake;

use sqlx::PgPool;
use sqlx::migrate::Migrator;

/// Every migration; forward only.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// The pool and the wake-ups that follow its commits.
#[derive(Clone, Debug)]
pub struct Db {
    /// Connections for short statements.
    pub pool: PgPool,
    /// Tells the loops of every process that there is work.
    pub wake: wake::Wake,
}

/// Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Postgres cannot be asked now: answer 503, or tick again.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// A limit stands in the way: wait until something has ended.
    #[error("{0}")]
    LimitReached(String),
    /// Somebody else was there first, or the row is not where the caller believed: look again.
    #[error("{0}")]
    Conflict(String),
    /// The lease is gone, and with it the right to write.
    #[error("the lease on this row is lost")]
    LostLease,
    /// The newest settings are another binary's: save readable ones on top of this version.
    #[error(
        "Version {version} of the settings was saved by another vm-service and cannot be read by this one ({why}): go back to an earlier \
         one, with `vm-service settings revert VERSION` or in the console under /console/settings/history."
    )]
    UnreadableSettings {
        /// Theirs.
        version: i64,
        /// What this binary does not know.
        why: String,
    },
    /// A check of settings was asked for, or is of settings, by another binary: ask for one of one's own.
    #[error("This check is of another vm-service, and this one cannot read it: check the settings again.")]
    UnreadableCheck(#[source] serde_json::Error),
    /// Text that Postgres cannot hold, the character U+0000: leave it out.
    #[error("there is text that the database cannot hold")]
    Unstorable(#[source] sqlx::Error),
    /// A defect: log it.
    #[error("the database refused a statement")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code().map(|c| c.into_owned()));
        let message = || error.as_database_error().map(|e| e.message().to_owned()).unwrap_or_default();
        match code.as_deref() {
            // Raised by the triggers of migrations/0002_rules.sql.
            Some("VM001") => Self::Conflict(message()),
            Some("VM002") => Self::LimitReached(message()),
            // Unique and foreign keys; serialization failure and deadlock.
            Some("23505" | "23503" | "40001" | "40P01") => Self::Conflict(message()),
            // Untranslatable character (jsonb), character not in repertoire (text).
            Some("22P05" | "22021") => Self::Unstorable(error),
            // A statement or lock that waited too long, or a transaction that stood still for too long, may do better next time.
            Some("57014" | "55P03" | "25P03") => Self::Unavailable(error),
            // Classes 08 (connection), 57P (operator intervention), 53 (resources).
            Some(code) if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") => Self::Unavailable(error),
            Some(_) => Self::Refused(error),
            None => match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_) => Self::Unavailable(error),
                other => Self::Refused(other),
            },
        }
    }
}

/// One row changed; none means that the lease was lost.
fn leased(changed: u64) -> Result<(), DbError> {
    if changed == 1 { Ok(()) } else { Err(DbError::LostLease) }
}

/// How long a lease lasts without renewal, seconds. Who is killed is taken over within ten: a lease of nine, and a look each second.
pub const LEASE_SECONDS: f64 = 9.0;
