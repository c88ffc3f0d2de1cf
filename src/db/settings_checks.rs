//! `vms.settings_checks`: settings that somebody wants to have checked. The wish is a row, a loop that can ask the provider leases it, and
//! writes one result before its deadline; what is later counts for nothing.

use super::audit::{self, Deed};
use super::leases::Lease;
use super::settings::Versioned;
use super::{Db, DbError, LEASE_SECONDS, leased};
use crate::domain::ids::SettingsCheckId;
use crate::domain::settings::Settings;
use crate::domain::settings_check::{CheckResult, CheckState, CheckView};
use crate::domain::settings_diff::diff;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::types::Json;

/// A wish to have settings checked.
#[derive(Clone, Debug)]
pub struct NewCheck<'a> {
    /// Its id.
    pub id: SettingsCheckId,
    /// Who asks.
    pub principal: &'a str,
    /// What the proposed settings are made on top of.
    pub base: &'a Versioned,
    /// Secrets in it are sealed.
    pub proposed: &'a Settings,
    /// There is a result before, or none.
    pub deadline_at: DateTime<Utc>,
}

/// A check as it stands.
#[derive(Clone, Debug)]
pub struct CheckRow {
    /// As an operator sees it.
    pub view: CheckView,
    /// What the proposed settings were made on top of.
    pub base: Settings,
    /// What is checked.
    pub proposed: Settings,
}

/// A check that is ours to do.
#[derive(Clone, Debug)]
pub struct LeasedCheck {
    /// Its id.
    pub id: SettingsCheckId,
    /// The fencing number.
    pub lease: i64,
    /// What is to be checked.
    pub proposed: Settings,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// There is a result before, or none.
    pub deadline_at: DateTime<Utc>,
}

impl LeasedCheck {
    /// For whoever renews it.
    pub const fn lease(&self) -> Lease {
        Lease::SettingsCheck(self.id, self.lease)
    }
}

impl Db {
    /// Writes the wish.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn insert_settings_check(&self, new: &NewCheck<'_>, now: DateTime<Utc>) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "-- settings_checks::insert_settings_check
             insert into vms.settings_checks (id, principal, version, base, body, created_at, deadline_at, due_at)
             values ($1, $2, $3, $4, $5, $6, $7, $6)",
            new.id.0,
            new.principal,
            new.base.version,
            Json(&new.base.settings) as _,
            Json(new.proposed) as _,
            now,
            new.deadline_at,
        )
        .execute(&mut *tx)
        .await?;
        let payload = json!({ "on_top_of": new.base.version, "changes": diff(&new.base.settings, new.proposed) });
        audit::note(&mut tx, now, Deed::to("settings.check", "settings", new.id.to_string(), payload)).await?;
        tx.commit().await?;
        self.wake.send();
        Ok(())
    }

    /// A check as it stands.
    ///
    /// # Errors
    /// `UnreadableCheck` when another binary wrote it.
    pub async fn find_settings_check(&self, id: SettingsCheckId, now: DateTime<Utc>) -> Result<Option<CheckRow>, DbError> {
        let row = sqlx::query!(
            r#"-- settings_checks::find_settings_check
               select principal, version, base, body, created_at, deadline_at, lease_token > 0 as "begun!",
                      result as "result: Json<CheckResult>"
               from vms.settings_checks where id = $1"#,
            id.0
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let base: Settings = serde_json::from_value(row.base).map_err(DbError::UnreadableCheck)?;
        let proposed: Settings = serde_json::from_value(row.body).map_err(DbError::UnreadableCheck)?;
        let state = match &row.result {
            Some(_) => CheckState::Done,
            None if row.deadline_at <= now => CheckState::Expired,
            None if row.begun => CheckState::Running,
            None => CheckState::Queued,
        };
        let view = CheckView {
            id,
            state,
            principal: row.principal,
            version: row.version,
            created_at: row.created_at,
            deadline_at: row.deadline_at,
            changes: diff(&base, &proposed),
            result: row.result.map(|result| result.0),
        };
        Ok(Some(CheckRow { view, base, proposed }))
    }

    /// Takes open checks up that nobody works on, oldest first. One that this binary cannot read is left to another for a second.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn lease_settings_checks(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<LeasedCheck>, DbError> {
        let rows = sqlx::query!(
            r#"-- settings_checks::lease_settings_checks
               update vms.settings_checks c
               set lease_token = lease_token + 1, lease_until = $1::timestamptz + make_interval(secs => $3)
               from (select id from vms.settings_checks
                     where finished_at is null and deadline_at > $1 and due_at <= $1 and (lease_until is null or lease_until <= $1)
                     order by created_at, id limit $2 for update skip locked) open
               where c.id = open.id
               returning c.id as "id: SettingsCheckId", c.lease_token, c.body, c.created_at, c.deadline_at"#,
            now,
            limit,
            LEASE_SECONDS,
        )
        .fetch_all(&self.pool)
        .await?;
        let mut ours = Vec::new();
        for row in rows {
            match serde_json::from_value(row.body) {
                Ok(proposed) => {
                    let (lease, created_at, deadline_at) = (row.lease_token, row.created_at, row.deadline_at);
                    ours.push(LeasedCheck { id: row.id, lease, proposed, created_at, deadline_at });
                }
                Err(_) => self.give_back(row.id, row.lease_token, now + TimeDelta::seconds(1)).await?,
            }
        }
        Ok(ours)
    }

    /// Gives a check back: another process may be able to do it, or this one later.
    ///
    /// # Errors
    /// `LostLease`: it is not ours any more.
    pub async fn release_settings_check(&self, check: &LeasedCheck, due_at: DateTime<Utc>) -> Result<(), DbError> {
        self.give_back(check.id, check.lease, due_at).await
    }

    async fn give_back(&self, id: SettingsCheckId, lease: i64, due_at: DateTime<Utc>) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- settings_checks::release_settings_check
             update vms.settings_checks set lease_until = null, due_at = $3 where id = $1 and lease_token = $2 and finished_at is null",
            id.0,
            lease,
            due_at,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())
    }

    /// Writes the one result.
    ///
    /// # Errors
    /// `LostLease`: it is not ours any more, or its deadline has passed; nothing was written.
    pub async fn finish_settings_check(
        &self,
        check: &LeasedCheck,
        result: &CheckResult,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        let done = sqlx::query!(
            "-- settings_checks::finish_settings_check
             update vms.settings_checks set result = $3, finished_at = $4, lease_until = null
             where id = $1 and lease_token = $2 and finished_at is null and deadline_at > $4",
            check.id.0,
            check.lease,
            Json(result) as _,
            now,
        )
        .execute(&self.pool)
        .await?;
        leased(done.rows_affected())?;
        self.wake.send();
        Ok(())
    }

    /// Forgets checks that were asked for before.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn trim_settings_checks(&self, before: DateTime<Utc>) -> Result<(), DbError> {
        sqlx::query!("-- settings_checks::trim_settings_checks\n delete from vms.settings_checks where created_at <= $1", before)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
