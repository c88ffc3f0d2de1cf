//! Ends what is past its time: jobs that run too long, tasks whose dispatcher fell silent, VMs past their absolute end or idle
//! maximum, and VMs that a hold kept after their job.
//!
//! Reads, writes: `tasks`, `vms`. Calls: nothing outside. Runs: in `gc`.

use super::{About, Act, Loop, World, told};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// A launch is ended by whoever serves its place when a VM's time to start has passed; this much later by anybody.
const ABANDONED: TimeDelta = TimeDelta::seconds(60);

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
            told(db.expire_task(task, &failure, now).await.map_err(anyhow::Error::from), About::task(task));
        }
        for (vm, _) in db.list_overdue_vms(now).await? {
            told(db.end_overdue_vm(vm, now).await.map_err(anyhow::Error::from), About::vm(vm));
        }
        let abandoned = db.end_abandoned_launches(now - self.0.settings().timeouts.vm_start() - ABANDONED, now).await?;
        if abandoned > 0 {
            tracing::warn!(abandoned, "launches that nobody served were ended");
        }
        Ok(Vec::new())
    }
}
