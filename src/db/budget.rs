//! `vms.budget`: the limits in force, checked by triggers in every transaction that creates or claims.

use super::{Db, DbError};
use crate::domain::settings::{Budget, Settings};
use serde_json::{Map, Value};

impl Db {
    /// Puts the limits of `settings` in force where they are not, where `capacity` is what the provider carries when they name none.
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
             insert into vms.budget as b (max_vms, max_in_flight, max_volumes, max_vms_per_project, max_vms_per_class)
             values ($1, $2, $3, $4, $5)
             on conflict (only_row) do update
             set max_vms = $1, max_in_flight = $2, max_volumes = $3, max_vms_per_project = $4, max_vms_per_class = $5
             where (b.max_vms, b.max_in_flight, b.max_volumes, b.max_vms_per_project, b.max_vms_per_class)
                   is distinct from ($1, $2, $3, $4, $5)",
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
