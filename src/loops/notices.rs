//! Tells what the provider announces about machines, a host that is retired or a spot machine that is taken back: on the task that has
//! the VM. A VM that waits for a task leaves the pool; no task is put on a machine that ends soon.
//!
//! Reads: `Provider::list_notices`, `vms`. Writes: `vms`, `events`. Runs: in `serve`.
//!
//! Not here: machines that have ended (`watch`, `collect`).

use super::{About, Act, Loop, World, told};
use crate::domain::lifecycle::VmState;
use crate::provider::Provider;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

const REASON: &str = "its machine is about to end";

/// See the module.
pub struct Notices(pub World);

#[async_trait]
impl Loop for Notices {
    fn name(&self) -> &'static str {
        "notices"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        for provider in self.0.providers.all() {
            let Some(every) = provider.pace().notices else { continue };
            let place = (provider.name(), provider.place());
            if self.0.db.take_turn("notices", place, every, now).await? {
                told(tell(&self.0, provider.as_ref(), now).await, About::what(provider.name()));
            }
        }
        Ok(Vec::new())
    }
}

async fn tell(world: &World, provider: &dyn Provider, now: DateTime<Utc>) -> anyhow::Result<()> {
    let db = &world.db;
    for notice in provider.list_notices().await? {
        let place = (provider.name(), provider.place());
        let Some((vm, state, news)) = db.note_notice(place, &notice.provider_id, &notice.what, now).await? else { continue };
        if news {
            tracing::warn!(%vm, machine = notice.provider_id, notice.what, "the provider gives notice");
        }
        // Also when it is no news: whoever told it may have been killed before this.
        match state {
            VmState::Available => drop(db.drain_vms(&[(vm, REASON)], now).await?),
            VmState::Stopping | VmState::Stopped => db.drop_reserved(&[(vm, REASON)], now).await?,
            _ => {}
        }
    }
    Ok(())
}
