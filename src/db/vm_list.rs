//! VMs as people see them: lists, one VM, holds. No secret is in them, except [`Db::find_way_in`] for an operator's way in.

use super::audit::{self, Deed};
use super::events::{self, Event};
use super::rows::{WayIn, way_in};
use super::{Db, DbError};
use crate::domain::api::{Hold, VmView};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::VmState;
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};

/// Which VMs to list.
#[derive(Clone, Debug, Default)]
pub struct VmFilter {
    /// Only in this state.
    pub state: Option<VmState>,
    /// Only this one.
    pub id: Option<VmId>,
    /// Only older than this VM.
    pub before: Option<(DateTime<Utc>, VmId)>,
    /// At most this many.
    pub limit: i64,
}

impl Db {
    /// Lists VMs, newest first.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn list_vms(&self, filter: &VmFilter) -> Result<Vec<VmView>, DbError> {
        let rows = sqlx::query!(
            r#"-- vm_list::list_vms
               select v.id as "id: VmId", v.state as "state: VmState", v.reason, v.executor as "executor: Executor", v.resource_class,
                      v.origin as "origin: Origin", v.provider, v.provider_id, v.address, t.id as "task_id?: TaskId", v.created_at,
                      v.available_at, v.absolute_end_at, v.hold_reason, v.hold_until
               from vms.vms v left join vms.tasks t on t.vm_id = v.id
               where ($1::text is null or v.state = $1) and ($2::uuid is null or v.id = $2)
                 and ($3::timestamptz is null or (v.created_at, v.id) < ($3, $4))
               order by v.created_at desc, v.id desc
               limit $5"#,
            filter.state.map(VmState::as_str),
            filter.id.map(|id| id.0),
            filter.before.map(|(at, _)| at),
            filter.before.map(|(_, id)| id.0),
            filter.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| VmView {
                id: row.id,
                state: row.state,
                reason: row.reason,
                executor: row.executor,
                resource_class: row.resource_class,
                origin: row.origin,
                provider: row.provider,
                provider_id: row.provider_id,
                address: row.address,
                task_id: row.task_id,
                created_at: row.created_at,
                available_at: row.available_at,
                absolute_end_at: row.absolute_end_at,
                hold: row.hold_reason.zip(row.hold_until).map(|(reason, until)| Hold { reason, until }),
            })
            .collect())
    }

    /// Holds the VM, which also moves its own end, or lets go with `None`; false when it has ended or was never there.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn set_vm_hold(&self, vm: VmId, hold: Option<&Hold>, principal: &str, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "-- vm_list::set_vm_hold
             update vms.vms
             set hold_reason = $2, hold_until = $3, due_at = $4,
                 absolute_end_at = greatest(absolute_end_at, $3::timestamptz + interval '10 minutes')
             where id = $1 and state not in ('terminating', 'terminated')",
            vm.0,
            hold.map(|h| h.reason.as_str()),
            hold.map(|h| h.until),
            now,
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            let message = match hold {
                Some(hold) => format!("Held by {principal} until {}: {}", hold.until, hold.reason),
                None => format!("No longer held, says {principal}."),
            };
            events::insert(&mut tx, now, Event { kind: "vm.hold", task: None, vm: Some(vm), message }).await?;
            audit::note(&mut tx, now, Deed::hold("vm", vm.to_string(), hold)).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(done.rows_affected() == 1)
    }

    /// What an operator's way into a VM is made of, and notes who asked; none when the VM cannot be entered.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn find_way_in(&self, vm: VmId, principal: &str, now: DateTime<Utc>) -> Result<Option<WayIn>, DbError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query!(
            r#"-- vm_list::find_way_in
               select identity_sealed, address, ssh_port, docker_port from vms.vms where id = $1 and host_key is not null"#,
            vm.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let found = row.and_then(|row| way_in(Some(vm), row.identity_sealed, row.address, row.ssh_port, row.docker_port));
        if found.is_some() {
            let message = format!("Way in given to {principal}.");
            events::insert(&mut tx, now, Event { kind: "vm.entered", task: None, vm: Some(vm), message }).await?;
            audit::note(&mut tx, now, Deed::to("vm.connection.view", "vm", vm.to_string(), serde_json::json!({}))).await?;
        }
        tx.commit().await?;
        Ok(found)
    }
}
