//! The layer cache when something comes at the wrong time: what the histories of the simulation found, and replicas that stand still.

use crate::cache_scenes::small;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::api::Hold;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::TaskRequest;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_held_in_use_is_not_deleted_when_its_job_is_over(pool: PgPool) {
    let bench = small(pool).await;
    let outside = TaskRequest { cache_trust: Trust::Untrusted, ..bench.cached("p") };
    let (task, _) = bench.cached_job(&outside).await;
    let volume = bench.volume_of("p").await;
    let hold = Hold { reason: "a look".to_owned(), until: bench.now() + TimeDelta::days(3) };
    assert!(bench.db.set_volume_hold(volume, Some(&hold), "op", bench.now()).await.unwrap());
    bench.over(task).await;
    bench.turn_by(3, TimeDelta::hours(20)).await;
    assert_eq!(bench.volumes().len(), 1);
    assert_eq!(bench.count("select count(*) from vms.volumes where state = 'quarantined'").await, 1, "and nobody gets it");
    bench.turn_by(5, TimeDelta::hours(20)).await;
    assert_eq!(bench.volumes().len(), 0, "after its hold");
}
