//! How long a step takes whose worker was killed or frozen in the middle of it: from that moment until another has done it; where that one
//! was struck too before he was through, until he had begun.

use super::cloud::Subject;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What somebody was in the middle of.
#[derive(Clone, Debug)]
enum Held {
    /// A launch under lease: done when it was answered.
    Launch(Uuid),
    /// A VM under lease that boots: done when it is met.
    Vm(Uuid),
    /// A task under lease that is prepared: done when it is ready.
    Task(Uuid),
    /// The locks of an open transaction: done when Postgres has taken them away.
    Locks(i32),
}

#[derive(Clone, Debug)]
pub(super) struct Takeover {
    pub(super) from: Instant,
    pub(super) about: String,
    held: Held,
    /// Fencing number of the lease.
    lease: i64,
    /// When another was first seen to have begun.
    begun_after: Option<Duration>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Open,
    /// Another worker leased it and did it.
    TakenOver,
    /// Nobody needed it any more, or its work had been done before the end.
    Gone,
    /// No lock is held any more.
    Freed,
}

impl Takeover {
    /// The leased row that this act is on; none when it was over already.
    pub(super) async fn of(subject: &Subject, from: Instant, about: String, pool: &PgPool) -> Option<Self> {
        let found: Option<(Uuid, i64)> =
            match subject {
                Subject::Launch(id) => sqlx::query_as(
                    "select id, lease_token from vms.launches where id = $1 and state = 'requested' and lease_until is not null",
                )
                .bind(id)
                .fetch_optional(pool)
                .await,
                Subject::FirstContact(ip) => {
                    sqlx::query_as(
                        "select id, lease_token from vms.vms where address = $1 and state = 'booting' and lease_until is not null",
                    )
                    .bind(ip.to_string())
                    .fetch_optional(pool)
                    .await
                }
                Subject::Keys(ip) => {
                    sqlx::query_as(
                        "select t.id, t.lease_token from vms.tasks t join vms.vms v on v.id = t.vm_id
                     where v.address = $1 and t.state = 'preparing' and t.lease_until is not null",
                    )
                    .bind(ip.to_string())
                    .fetch_optional(pool)
                    .await
                }
            }
            .unwrap();
        let (id, lease) = found?;
        let held = match subject {
            Subject::Launch(_) => Held::Launch(id),
            Subject::FirstContact(_) => Held::Vm(id),
            Subject::Keys(_) => Held::Task(id),
        };
        Some(Self { from, about, held, lease, begun_after: None })
    }

    /// A transaction of this (frozen) replica that has written something and is open.
    pub(super) async fn of_transaction(replica: &str, from: Instant, pool: &PgPool) -> Option<Self> {
        let found: Option<(i32, String)> = sqlx::query_as(
            "select pid, query from pg_stat_activity
             where application_name = $1 and state = 'idle in transaction' and backend_xid is not null limit 1",
        )
        .bind(replica)
        .fetch_optional(pool)
        .await
        .unwrap();
        let (pid, query) = found?;
        let about = format!("{replica} frozen after {:?}", query.lines().next().unwrap_or_default());
        Some(Self { from, about, held: Held::Locks(pid), lease: 0, begun_after: None })
    }

    /// Where the step is now, and how long it has taken.
    pub(super) async fn look(&mut self, pool: &PgPool) -> (Step, Duration) {
        let (step, lease) = self.look_up(pool).await;
        let took = self.from.elapsed();
        if lease > self.lease {
            self.begun_after.get_or_insert(took);
        }
        let again = step == Step::TakenOver && lease > self.lease + 1;
        (step, self.begun_after.filter(|_| again).unwrap_or(took))
    }

    /// The step, and the fencing number that it has.
    async fn look_up(&self, pool: &PgPool) -> (Step, i64) {
        let (is_open, id) = match &self.held {
            Held::Launch(id) => ("select state = 'requested', lease_token from vms.launches where id = $1", *id),
            Held::Vm(id) => ("select state = 'booting', lease_token from vms.vms where id = $1", *id),
            Held::Task(id) => ("select state = 'preparing', lease_token from vms.tasks where id = $1", *id),
            Held::Locks(pid) => {
                let held: bool =
                    sqlx::query_scalar("select exists (select from pg_stat_activity where pid = $1 and backend_xid is not null)")
                        .bind(pid)
                        .fetch_one(pool)
                        .await
                        .unwrap();
                return (if held { Step::Open } else { Step::Freed }, self.lease);
            }
        };
        match sqlx::query_as::<_, (bool, i64)>(is_open).bind(id).fetch_optional(pool).await.unwrap() {
            Some((true, lease)) => (Step::Open, lease),
            Some((false, lease)) if lease > self.lease => (Step::TakenOver, lease),
            _ => (Step::Gone, self.lease),
        }
    }
}
