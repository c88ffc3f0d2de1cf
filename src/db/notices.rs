//! `vms.vms`: what the provider announces about a machine, told once to the VM's timeline and to that of the task that has it.

use super::events::{self, Event};
use super::{Db, DbError};
use crate::domain::ids::{TaskId, VmId};
use crate::domain::lifecycle::VmState;
use chrono::{DateTime, Utc};

impl Db {
    /// Keeps the notice about this machine. Returns its VM and the VM's state when it is news; none for the machines of others.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn note_notice(
        &self,
        place: (&str, &str),
        machine: &str,
        notice: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<(VmId, VmState)>, DbError> {
        let mut tx = self.pool.begin().await?;
        let news = sqlx::query!(
            r#"-- notices::note_notice
               update vms.vms set notice = $4
               where provider_id = $3 and provider = $1 and place = $2 and state not in ('terminating', 'terminated')
                 and notice is distinct from $4
               returning id as "id: VmId", state as "state: VmState",
                         (select t.id from vms.tasks t where t.vm_id = vms.vms.id and t.state in ('preparing', 'ready')) as "task: TaskId""#,
            place.0,
            place.1,
            machine,
            notice,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = &news {
            let message = format!("The provider gives notice: {notice}");
            events::insert(&mut tx, now, Event { kind: "vm.notice", task: row.task, vm: Some(row.id), message }).await?;
        }
        tx.commit().await?;
        self.wake.send();
        Ok(news.map(|row| (row.id, row.state)))
    }
}
