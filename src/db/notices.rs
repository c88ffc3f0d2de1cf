//! `vms.vms`: what the provider announces about a machine, told once to the VM's timeline and to that of the task that has it.

use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::VmState;
use chrono::{DateTime, Utc};

impl Db {
    /// Keeps the notice about this machine, and tells it when it is news. Returns its VM, the VM's state and whether it was news; none for
    /// the machines of others.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_notice(
        &self,
        place: (&str, &str),
        machine: &str,
        notice: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<(VmId, VmState, bool)>, DbError> {
        let mut tx = self.begin().await?;
        let Some(row) = sqlx::query!(
            r#"-- notices::note_notice
               select id as "id: VmId", state as "state: VmState", notice is distinct from $4 as "news!",
                      (select t.id from vms.tasks t where t.vm_id = v.id and t.state in ('preparing', 'ready')) as "task: TaskId"
               from vms.vms v
               where provider_id = $3 and provider = $1 and place = $2 and state not in ('terminating', 'terminated') for update of v"#,
            place.0,
            place.1,
            machine,
            notice,
        )
        .fetch_optional(&mut *tx)
        .await?
        else {
            return Ok(None);
        };
        if row.news {
            sqlx::query!("-- notices::note_notice (keep)\n update vms.vms set notice = $2 where id = $1", row.id.0, notice)
                .execute(&mut *tx)
                .await?;
            let message = format!("The provider gives notice: {notice}");
            events::insert(&mut tx, now, Event { kind: "vm.notice", task: row.task, vm: Some(row.id), message }).await?;
        }
        tx.commit().await?;
        if row.news {
            self.wake.send();
        }
        Ok(Some((row.id, row.state, row.news)))
    }
}
