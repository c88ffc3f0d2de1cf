//! Ends what is past its time: jobs that run too long, tasks whose dispatcher fell silent, VMs past their absolute end or idle
//! maximum, and VMs that a hold kept after their job.
//!
//! Reads, writes: `tasks`, `vms`. Calls: nothing outside. Runs: in `gc`.

use super::{Act, Loop, World};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// See the module.
pub struct Expire(pub World);

#[async_trait]
impl Loop for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let db = &self.0.db;
        for (task, failure) in db.list_expired_tasks(now).await? {
            db.expire_task(task, &failure, now).await?;
        }
        for (vm, _) in db.list_overdue_vms(now).await? {
            db.end_overdue_vm(vm, now).await?;
        }
        Ok(Vec::new())
    }
}
