//! Takes the newest settings over in this process, within a second of their saving: the loops and the API see them, providers are
//! told, and the limits are put in force.
//!
//! Reads: `settings`. Writes: `budget`, `pulse`; the settings channel of this process. Calls: `Provider::configure`. Runs: in every role.

use super::{Act, Loop, Providers};
use crate::db::settings::Versioned;
use crate::db::{Db, DbError};
use crate::domain::ec2::Authentication;
use crate::domain::secret::Secret;
use crate::domain::settings::Settings;
use crate::provider::Provider;
use crate::seal::{Sealer, settings_row};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Makes the provider that settings name; none where this build has it not.
pub type Open = Arc<dyn Fn(&Settings) -> Option<Arc<dyn Provider>> + Send + Sync>;

/// See the module.
pub struct TakeSettings {
    /// Where they are.
    pub db: Db,
    /// Who is told.
    pub providers: Providers,
    /// Makes the provider that the settings name and that is not there yet; none where that is not possible.
    pub open: Open,
    /// Opens the secret half of an access key.
    pub sealer: Arc<Sealer>,
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
            Err(unreadable @ DbError::UnreadableSettings { .. }) => {
                let sentence = unreadable.to_string();
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
        if self.providers.chosen(&newest.settings).is_none()
            && let Some(provider) = (self.open)(&newest.settings)
        {
            tracing::info!(provider = provider.name(), place = provider.place(), "a provider joins");
            self.providers.add(provider);
        }
        let secret = access_secret(&self.sealer, &newest.settings);
        self.limit(&newest, true).await?;
        for provider in self.providers.all() {
            provider.configure(&newest.settings, secret.as_ref());
        }
        tracing::info!(version = newest.version, "settings in force");
        self.problem.send_if_modified(|problem| problem.take().is_some());
        self.settings.send_replace(newest);
        Ok(())
    }

    /// A process without the provider does not know what it carries, and leaves the limits to one that does.
    async fn limit(&self, known: &Versioned, again: bool) -> Result<(), DbError> {
        match self.providers.chosen(&known.settings) {
            Some(provider) => self.db.apply_limits(known, provider.capacity(), again).await,
            None => Ok(()),
        }
    }
}

/// The secret half of the access key in these settings: sealed where they were saved, plain where they are a seed of the configuration.
/// One that cannot be opened is told, and nobody signs in with it.
pub fn access_secret(sealer: &Sealer, settings: &Settings) -> Option<Secret> {
    let Authentication::AccessKey(key) = &settings.ec2.authentication else { return None };
    if let Some(plain) = &key.secret {
        return Some(Secret::new(plain));
    }
    let opened = BASE64.decode(key.sealed.as_deref()?).ok().and_then(|sealed| sealer.open(settings_row(), &sealed).ok());
    let secret = opened.and_then(|plain| String::from_utf8(plain.to_vec()).ok()).map(Secret::new);
    if secret.is_none() {
        tracing::error!(
            access_key = key.id,
            "the secret half of the access key cannot be opened: save the settings with it once more"
        );
    }
    secret
}
