//! `vms.call_rates`: what all replicas together may ask of a provider. Taken in the transaction that writes a launch.

use super::{Db, DbError};
use crate::domain::rate::{Allowance, LaunchRate};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

const CALLS: &str = "launch_calls";
const MACHINES: &str = "launch_machines";

impl Db {
    /// What launches may take now. A plan made of it can be late; the insert of the launch looks again.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn launch_allowance(
        &self,
        place: (&str, &str),
        rate: Option<LaunchRate>,
        now: DateTime<Utc>,
    ) -> Result<Allowance, DbError> {
        let Some(rate) = rate else { return Ok(Allowance::UNLIMITED) };
        let mut connection = self.pool.acquire().await?;
        let calls = full_at(&mut connection, place, CALLS, now).await?;
        let machines = full_at(&mut connection, place, MACHINES, now).await?;
        Ok(Allowance { calls: rate.calls.held(calls, now), machines: rate.machines.held(machines, now) })
    }

    /// Takes a further call of a launch that was written: the same again, or its next attempt. Its machines were taken when it was written;
    /// they are counted again, and not waited for. False: no call is left now.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn take_further_call(
        &self,
        place: (&str, &str),
        rate: Option<LaunchRate>,
        machines: u32,
        now: DateTime<Utc>,
    ) -> Result<bool, DbError> {
        let Some(rate) = rate else { return Ok(true) };
        let mut tx = self.begin().await?;
        sqlx::query!("-- call_rates::take_further_call\n select only_row from vms.budget for update").fetch_one(&mut *tx).await?;
        let held = rate.calls.held(full_at(&mut tx, place, CALLS, now).await?, now) >= 1;
        if held {
            put(&mut tx, place, rate, machines, now).await?;
        }
        tx.commit().await?;
        Ok(held)
    }
}

/// Takes a launch of so many machines from the buckets; false: they do not hold it. The caller has the budget's lock.
pub(super) async fn take(
    connection: &mut PgConnection,
    place: (&str, &str),
    rate: Option<LaunchRate>,
    machines: u32,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let Some(rate) = rate else { return Ok(true) };
    let calls_held = rate.calls.held(full_at(connection, place, CALLS, now).await?, now);
    let machines_held = rate.machines.held(full_at(connection, place, MACHINES, now).await?, now);
    if calls_held < 1 || machines_held < machines {
        return Ok(false);
    }
    put(connection, place, rate, machines, now).await?;
    Ok(true)
}

async fn put(
    connection: &mut PgConnection,
    place: (&str, &str),
    rate: LaunchRate,
    machines: u32,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    for (bucket, rate, taken) in [(CALLS, rate.calls, 1), (MACHINES, rate.machines, machines)] {
        let full_at = rate.full_after(full_at(connection, place, bucket, now).await?, now, taken);
        sqlx::query!(
            "-- call_rates::put
             insert into vms.call_rates (provider, place, bucket, full_at) values ($1, $2, $3, $4)
             on conflict (provider, place, bucket) do update set full_at = $4",
            place.0,
            place.1,
            bucket,
            full_at,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn full_at(
    connection: &mut PgConnection,
    place: (&str, &str),
    bucket: &str,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, DbError> {
    let at = sqlx::query_scalar!(
        "-- call_rates::full_at
         select full_at from vms.call_rates where provider = $1 and place = $2 and bucket = $3",
        place.0,
        place.1,
        bucket
    )
    .fetch_optional(connection)
    .await?;
    Ok(at.unwrap_or(now))
}
