//! `vms.budget`: the limits in force, checked by triggers in every transaction that creates or claims.

use super::settings::Versioned;
use super::{Db, DbError};
use crate::domain::settings::Budget;
use serde_json::{Map, Value};

impl Db {
    /// Puts the limits of these settings in force, unless those of newer ones are; `capacity` is what the provider carries when they
    /// name none. Without `again` those of the same version stay too: another process, with another capacity, may have set them.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn apply_limits(&self, newest: &Versioned, capacity: Budget, again: bool) -> Result<(), DbError> {
        let settings = &newest.settings;
        let budget = settings.budget(capacity);
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let per_class: Map<String, Value> =
            settings.resource_classes.iter().filter_map(|(name, class)| Some((name.clone(), Value::from(class.limit?)))).collect();
        let with_gpus = settings.resource_classes.iter().filter(|(_, class)| class.gpus > 0);
        let gpus: Map<String, Value> = with_gpus.map(|(name, class)| (name.clone(), Value::from(class.gpus))).collect();
        sqlx::query!(
            "-- budget::apply_limits
             insert into vms.budget as b (max_vms, max_in_flight, max_volumes, max_vms_per_project, max_vms_per_class,
                                          settings_version, max_gpus, gpus_per_class)
             select $1::int, $2::int, $3::int, $4::int, $5::jsonb, $6::bigint, $8::int, $9::jsonb
             where not exists (select from vms.budget where settings_version > $6 or (settings_version = $6 and not $7::bool))
             on conflict (only_row) do update
             set max_vms = $1, max_in_flight = $2, max_volumes = $3, max_vms_per_project = $4, max_vms_per_class = $5,
                 settings_version = $6, max_gpus = $8, gpus_per_class = $9
             where b.settings_version <= $6
               and (b.max_vms, b.max_in_flight, b.max_volumes, b.max_vms_per_project, b.max_vms_per_class, b.settings_version,
                    b.max_gpus, b.gpus_per_class)
                   is distinct from ($1, $2, $3, $4, $5, $6, $8, $9)",
            number(budget.vms),
            number(budget.in_flight),
            number(budget.volumes),
            settings.limits.vms_per_project.map(number),
            Value::Object(per_class),
            newest.version,
            again,
            settings.limits.gpus.map(number),
            Value::Object(gpus),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
