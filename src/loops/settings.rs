//! Takes the newest settings over in this process, within a second of their saving: the loops and the API see them, providers are
//! told, and the limits are put in force.
//!
//! Reads: `settings`. Writes: `budget`, `pulse`; the settings channel of this process. Calls: `Provider::configure`. Runs: in every role.

use super::{Act, Loop};
use crate::db::settings::Versioned;
use crate::db::{Db, DbError};
use crate::provider::Provider;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// See the module.
pub struct TakeSettings {
    /// Where they are.
    pub db: Db,
    /// Who is told.
    pub providers: Vec<Arc<dyn Provider>>,
    /// Who follows them.
    pub settings: watch::Sender<Versioned>,
    /// One sentence while they cannot be read.
    pub problem: watch::Sender<Option<String>>,
}

#[async_trait]
impl Loop for TakeSettings {
    fn name(&self) -> &'static str {
        "settings"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
        // Every role looks here each second: what follows is also the service's sign of life.
        self.db.beat(now).await?;
        self.db.close_losses(now).await?;
        match self.db.find_settings().await {
            Ok(Some(newest)) if newest != *self.settings.borrow() => self.take(newest).await?,
            Ok(saved) => {
                // A database that is new, or an older copy, has other limits than those in force here.
                let known = self.settings.borrow().clone();
                let version = saved.map_or(0, |newest| newest.version);
                self.limit(&Versioned { version, ..known }, false).await?;
                self.problem.send_if_modified(|problem| problem.take().is_some());
            }
            Err(DbError::Refused(error)) => {
                let sentence = format!(
                    "the saved settings cannot be read by this version: {error}; save valid ones with PUT /api/v1/settings"
                );
                self.problem.send_if_modified(|problem| problem.replace(sentence.clone()).as_ref() != Some(&sentence));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Vec::new())
    }
}

impl TakeSettings {
    /// Takes these settings over.
    ///
    /// # Errors
    /// The database's; nothing was taken over then.
    pub async fn take(&self, newest: Versioned) -> Result<(), DbError> {
        self.limit(&newest, true).await?;
        for provider in &self.providers {
            provider.configure(&newest.settings);
        }
        tracing::info!(version = newest.version, "settings in force");
        self.problem.send_if_modified(|problem| problem.take().is_some());
        self.settings.send_replace(newest);
        Ok(())
    }

    /// A process without the provider does not know what it carries, and leaves the limits to one that does.
    async fn limit(&self, known: &Versioned, again: bool) -> Result<(), DbError> {
        match super::chosen(&self.providers, &known.settings) {
            Some(provider) => self.db.apply_limits(known, provider.capacity(), again).await,
            None => Ok(()),
        }
    }
}
