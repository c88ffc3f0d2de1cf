//! Keeps the hot tables small: what has ended moves to the history, and what is too old goes.
//!
//! Reads, writes: `tasks`, `vms`, `launches`, `history`, `events`, `sessions`,
//! `settings_checks`. Runs: in `gc`; the cron library wakes it each quarter of an hour.

use super::{Act, Loop, World};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Longer than any machine lives: the longest job and the longest wait that the settings allow.
const LOSSES_STAY: TimeDelta = TimeDelta::days(30);

/// Who had settings checked saves them soon, or has them checked again.
const CHECKS_STAY: TimeDelta = TimeDelta::days(1);

/// See the module.
pub struct History(pub World);

#[async_trait]
impl Loop for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        let db = &self.0.db;
        while db.move_to_history(now).await? > 0 {}
        db.trim_history(now - TimeDelta::days(self.0.settings().history_days.into())).await?;
        db.trim_losses(now - LOSSES_STAY).await?;
        db.trim_settings_checks(now - CHECKS_STAY).await?;
        db.trim_sessions(now).await?;
        db.note_schedule("history", now).await?;
        Ok(Vec::new())
    }
}
