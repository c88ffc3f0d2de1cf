//! What needs time to settle of caches.
//!
//! | check | bound, virtual time | why |
//! | --- | --- | --- |
//! | in a calm stretch a task with a cache is ready | its wait, a boot and a margin | a cache never holds a job up for longer |
//! | the next one of its project finds what it left | – | where there is one zone and copies are cheap |
//! | at the end no volume moves and no state is being made | [`RESTS_IN`] | a snapshot that never completes is given up after six hours |
//! | rows and truth agree; nobody calls for a volume any more | – | – |

use super::caches::is_cheap;
use super::calm::{step, until};
use super::history::History;
use super::operations::Wish;
use super::report::Violation;
use chrono::TimeDelta;
use std::collections::BTreeMap;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::Executor;
use vm_service::sim::VolumeLink;

/// After everything was given back.
const RESTS_IN: TimeDelta = TimeDelta::hours(8);
/// A boot and what lies around it.
const MARGIN: TimeDelta = TimeDelta::seconds(120);
/// Rounds in which nothing may be asked of the cloud any more for volumes.
const REST: usize = 30;

/// Jobs with a cache, one after the other.
pub(super) async fn serves(history: &mut History) -> Result<(), Violation> {
    let mut left = false;
    for trust in [Trust::Trusted, Trust::Untrusted, Trust::Trusted] {
        let wish = Wish {
            executor: Executor::Machine,
            class: "medium",
            project: 1,
            priority: 2,
            keys: false,
            lease_seconds: None,
            max_run_seconds: 3600,
            cache: Some(trust),
        };
        let Some(job) = history.request(&wish).await? else { return Ok(()) };
        let bound = history.model.settings.settings.cache.wait() + MARGIN;
        let ready = move |history: &History| history.model.jobs[&job].state == TaskState::Ready;
        until(history, "calm: a task with a cache is ready in time", bound, ready).await?;
        let cache = history.db.find_task(job).await.unwrap().unwrap().view.cache;
        let Some(cache) = cache else { return Ok(()) };
        if left && !cache.hit {
            let detail = format!("{} for {trust}", cache.reason);
            return Err(Violation::new("calm: the next job finds what the last one left", detail).task(job));
        }
        history.build_in(job);
        history.release_job(job).await;
        gone(history, job).await?;
        left |= trust == Trust::Trusted && cache.volume_id.is_some() && is_cheap(history.seed);
    }
    Ok(())
}

/// Until the job's machine, and its volume's way off it, are over.
async fn gone(history: &mut History, job: TaskId) -> Result<(), Violation> {
    let machine = history.model.jobs[&job].machine.clone().unwrap_or_default();
    let over = move |history: &History| !history.cluster.sim.live().contains_key(&machine);
    until(history, "calm: a machine ends when its job is over", TimeDelta::minutes(5), over).await
}

/// The end of a history.
pub(super) async fn rest(history: &mut History) -> Result<(), Violation> {
    for held in std::mem::take(&mut history.model.held_volumes).into_values() {
        history.db.set_volume_hold(held.volume, None, "op", history.now()).await.unwrap();
    }
    let end = history.now() + RESTS_IN;
    for nth in 0.. {
        step(history).await?;
        let moving = moving(history).await;
        if moving.is_empty() && nth > 40 {
            break;
        }
        if history.now() > end {
            return Err(Violation::new("no volume and no good state is on its way for ever", moving.join("; ")));
        }
        if nth > 100 {
            history.cluster.clock.advance(TimeDelta::minutes(10));
        }
    }
    agree(history).await?;
    let from = history.cluster.sim.journal().len();
    for _ in 0..REST {
        step(history).await?;
    }
    let asks =
        ["create_volume", "attach_volume", "detach_volume", "snapshot_volume", "find_snapshot", "mount_cache", "unmount_cache"];
    let calls = history.cluster.sim.journal_from(from);
    match calls.iter().find(|call| asks.contains(&call.op)) {
        Some(call) => Err(Violation::new("the service comes to rest", call.to_string())),
        None => Ok(()),
    }
}

/// Rows that are not where they can stay.
async fn moving(history: &History) -> Vec<String> {
    let sql = "select concat_ws(' ', 'volume', id, state, provider_id, reason, due_at) from vms.volumes
               where state in ('creating', 'attaching', 'attached', 'detaching', 'deleting')
               union all
               select concat_ws(' ', 'generation', id, state, provider_id, reason, due_at) from vms.generations
               where state in ('creating', 'deleting')";
    sqlx::query_scalar(sql).fetch_all(&history.db.pool).await.unwrap()
}

/// Every volume and snapshot has its row, and every row its volume or snapshot, of the same project and trust.
async fn agree(history: &History) -> Result<(), Violation> {
    let rows = async |sql: &'static str| -> BTreeMap<String, String> {
        let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&history.db.pool).await.unwrap();
        rows.into_iter().collect()
    };
    let known = rows(
        "select coalesce(provider_id, id::text), concat_ws(' ', cache_trust, project_id) from vms.volumes where state <> 'deleted'",
    )
    .await;
    let sim = &history.cluster.sim;
    let made: BTreeMap<String, String> = sim
        .volumes_truth()
        .into_iter()
        .filter(|it| it.link != VolumeLink::Deleted)
        .map(|it| (it.provider_id, format!("{} {}", it.tags.lineage.trust, it.tags.lineage.project_id)))
        .collect();
    if known != made {
        return Err(Violation::new(
            "every volume has its row, and every row its volume",
            format!("made: {made:?}, rows: {known:?}"),
        ));
    }
    let known = rows("select coalesce(provider_id, id::text), project_id from vms.generations where state <> 'deleted'").await;
    let made: BTreeMap<String, String> =
        sim.snapshots_truth().into_iter().map(|it| (it.provider_id, it.tags.lineage.project_id)).collect();
    if known != made {
        return Err(Violation::new(
            "every snapshot has its row, and every row its snapshot",
            format!("made: {made:?}, rows: {known:?}"),
        ));
    }
    Ok(())
}
