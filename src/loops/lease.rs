//! Work under a lease: renewed while it lasts, dropped when the lease is lost.
//!
//! Who is dropped has changed nothing since: every write carries the fencing token, and every call it may still have sent is
//! harmless (same client token, idempotent, or refused by state).

use super::World;
use crate::db::DbError;
use crate::db::leases::Lease;
use std::time::{Duration, Instant};

/// Between renewals (DESIGN.md §12).
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Without a renewal for this long, somebody else may soon hold the lease.
const LOST_AFTER: Duration = Duration::from_secs(8);

/// Runs `work` and renews its lease meanwhile.
///
/// # Errors
/// Its own, or `LostLease`: `work` was dropped where it stood.
pub(super) async fn hold(world: &World, lease: Lease, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        done = work => done,
        () = until_lost(world, &lease) => Err(DbError::LostLease.into()),
    }
}

async fn until_lost(world: &World, lease: &Lease) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let asked = Instant::now();
        match tokio::time::timeout(RENEW_EVERY, world.db.renew_lease(lease, world.clock.now())).await {
            Ok(Ok(())) => renewed = asked,
            Ok(Err(DbError::LostLease)) => return,
            // The database is away or slow: the lease is ours until it runs out.
            Ok(Err(_)) | Err(_) if renewed.elapsed() + RENEW_EVERY < LOST_AFTER => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
