//! Work under a lease: renewed while it lasts, dropped when the lease is lost.
//!
//! Who is dropped has changed nothing since: every write carries the fencing token, and every call it may still have sent is
//! harmless (same client token, idempotent, or refused by state).

use crate::db::DbError;
use std::time::{Duration, Instant};

/// Between renewals (DESIGN.md §12).
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Without a renewal for this long, somebody else may hold the lease.
const LOST_AFTER: Duration = Duration::from_secs(9);

/// Runs `work` and renews the lease meanwhile.
///
/// # Errors
/// `LostLease`: `work` was dropped where it stood.
pub async fn hold<T, R, F>(renew: R, work: impl Future<Output = T>) -> Result<T, DbError>
where
    R: Fn() -> F,
    F: Future<Output = Result<(), DbError>>,
{
    let keep = async {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match tokio::time::timeout(RENEW_EVERY, renew()).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(DbError::LostLease)) => return,
                // The database is away or slow: the lease is ours until it runs out.
                Ok(Err(_)) | Err(_) if renewed.elapsed() + RENEW_EVERY < LOST_AFTER => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        done = work => Ok(done),
        () = keep => Err(DbError::LostLease),
    }
}
