//! Notes that dispatchers can be heard: `expire` ends no job for a heartbeat that nobody could have taken.
//!
//! Reads: nothing. Writes: `listening`. Calls: nobody. Runs: in `serve`, whose API takes the heartbeats.

use super::{Act, Loop, World};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// See the module.
pub struct Listen(pub World);

#[async_trait]
impl Loop for Listen {
    fn name(&self) -> &'static str {
        "listen"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        self.0.db.note_listening(now).await?;
        Ok(Vec::new())
    }
}
