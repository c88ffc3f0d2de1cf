//! `vms.budget`: the limits in force, checked by triggers in every transaction that creates or claims.

use super::{Db, DbError};
use crate::domain::settings::{Budget, Settings};
use serde_json::{Map, Value};

impl Db {
    /// Puts the limits of `settings` in force, where `capacity` is what the provider carries when they name none.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn apply_limits(&self, settings: &Settings, capacity: Budget) -> Result<(), DbError> {
        let budget = settings.budget(capacity);
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let per_class: Map<String, Value> =
            settings.resource_classes.iter().filter_map(|(name, class)| Some((name.clone(), Value::from(class.limit?)))).collect();
        sqlx::query!(
            "-- budget::apply_limits
             update vms.budget
             set max_vms = $1, max_in_flight = $2, max_volumes = $3, max_vms_per_project = $4, max_vms_per_class = $5",
            number(budget.vms),
            number(budget.in_flight),
            number(budget.volumes),
            settings.limits.vms_per_project.map(number),
            Value::Object(per_class),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
