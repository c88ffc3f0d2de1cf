//! `vms.settings`: live settings, one row a version; the newest is in force, and nobody overwrites what he has not seen.

use super::audit::{self, Deed};
use super::{Db, DbError};
use crate::domain::settings::Settings;
use crate::domain::settings_diff;
use crate::domain::settings_history::SettingsVersion;
use chrono::{DateTime, Utc};
use serde_json::json;

/// A version of the settings; 0 when none was ever saved and the seed is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Grows with every save.
    pub version: i64,
    /// The settings.
    pub settings: Settings,
}

impl Db {
    /// The newest settings; none when none was ever saved.
    ///
    /// # Errors
    /// `UnreadableSettings` when another binary saved them.
    pub async fn find_settings(&self) -> Result<Option<Versioned>, DbError> {
        let row = sqlx::query!(
            "-- settings::find_settings
             select version, body from vms.settings order by version desc limit 1"
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let version = row.version;
            let settings =
                serde_json::from_value(row.body).map_err(|e| DbError::UnreadableSettings { version, why: e.to_string() })?;
            Ok(Versioned { version, settings })
        })
        .transpose()
    }

    /// The newest settings that were made for this region of EC2; none: there never were any that this binary can read.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_settings_of_region(&self, region: &str) -> Result<Option<Settings>, DbError> {
        let body = sqlx::query_scalar!(
            "-- settings::find_settings_of_region
             select body from vms.settings where body ->> 'provider' = 'ec2' and body -> 'ec2' ->> 'region' = $1
             order by version desc limit 1",
            region
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(body.and_then(|body| serde_json::from_value(body).ok()))
    }

    /// Versions older than `before`, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_settings_versions(&self, before: Option<i64>, limit: i64) -> Result<Vec<SettingsVersion>, DbError> {
        let rows = sqlx::query_as!(
            SettingsVersion,
            "-- settings::list_settings_versions
             select version, created_at, created_by from vms.settings where version < $1 order by version desc limit $2",
            before.unwrap_or(i64::MAX),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// One version, with its settings as they were saved: another binary may have known other fields.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_settings_version(&self, version: i64) -> Result<Option<(SettingsVersion, serde_json::Value)>, DbError> {
        let row = sqlx::query!(
            "-- settings::find_settings_version
             select version, created_at, created_by, body from vms.settings where version = $1",
            version
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| {
            (SettingsVersion { version: row.version, created_at: row.created_at, created_by: row.created_by }, row.body)
        }))
    }

    /// Saves a new version on top of `seen`.
    ///
    /// # Errors
    /// `Conflict` when somebody saved since `seen` was read.
    pub async fn insert_settings(
        &self,
        seen: i64,
        settings: &Settings,
        now: DateTime<Utc>,
        principal: &str,
    ) -> Result<i64, DbError> {
        let body = serde_json::to_value(settings).map_err(|e| DbError::Refused(sqlx::Error::Encode(Box::new(e))))?;
        let mut tx = self.begin().await?;
        // One saver at a time: without the lock two could both see `seen` as the newest.
        sqlx::query!("-- settings::insert_settings (lock)\n lock table vms.settings in share row exclusive mode")
            .execute(&mut *tx)
            .await?;
        let before =
            sqlx::query_scalar!("-- settings::insert_settings (before)\n select body from vms.settings where version = $1", seen)
                .fetch_optional(&mut *tx)
                .await?;
        let version = sqlx::query_scalar!(
            "-- settings::insert_settings
             insert into vms.settings (body, created_at, created_by)
             select $1, $2, $3
             where coalesce((select max(version) from vms.settings), 0) = $4
             returning version",
            body,
            now,
            principal,
            seen,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| DbError::Conflict("the settings were changed by somebody else".to_owned()))?;
        // What another binary saved may not be readable: then every field is told.
        let before = before.and_then(|body| serde_json::from_value(body).ok()).unwrap_or_default();
        let payload = json!({ "version": version, "on_top_of": seen, "changes": settings_diff::diff(&before, settings) });
        audit::note(&mut tx, now, Deed::to("settings.update", "settings", version.to_string(), payload)).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(version)
    }
}
