//! What must hold of caches after every operation, judged by the cloud's truth.
//!
//! | check | what it says |
//! | --- | --- |
//! | content | a volume is only on machines of its project and trust; nobody else's layers are on it; nothing untrusted is in what is kept |
//! | torn | what was torn off a running engine is never mounted again, and never kept |
//! | ends | no machine is ended by us while its disk is mounted and its guest answers, unless its end began long ago |
//! | holds, limit | a held volume is not deleted; no volume is made beyond the limit |
//! | ready | a task that asked for a cache is told what became of it, and works on it |

use super::caches::poison;
use super::history::History;
use super::model::Job;
use super::report::Violation;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use vm_service::db::rows::TaskRow;
use vm_service::domain::lineage::Trust;
use vm_service::sim::{Call, Content, EndCause, MachineTruth, Outcome, VolumeLink, VolumeTruth};

/// From the begin of a machine's end: by then its disk should be off.
const UNMOUNTED_IN: TimeDelta = TimeDelta::seconds(90);
/// Settings and decisions from so many operations ago may still be at work in a volume that is made.
const DECIDED_BEFORE: usize = 25;

/// Everything.
pub(super) async fn all(history: &mut History, machines: &[MachineTruth]) -> Result<(), Violation> {
    let volumes = history.cluster.sim.volumes_truth();
    for volume in &volumes {
        of_volume(history, volume)?;
    }
    for snapshot in history.cluster.sim.snapshots_truth() {
        let content = &snapshot.content;
        let lineage = &snapshot.tags.lineage;
        let detail = format!("{snapshot:?}");
        if lineage.trust != Trust::Trusted || content.written_by.iter().any(|by| by.trust == Trust::Untrusted) {
            return Err(Violation::new("nothing untrusted is ever kept", detail));
        }
        if content.torn || content.mounted {
            return Err(Violation::new("nothing torn is ever kept", detail));
        }
        written(content, &lineage.project_id, None, || detail.clone())?;
    }
    ends(history, machines, &volumes).await?;
    limit(history, &volumes)
}

fn of_volume(history: &History, volume: &VolumeTruth) -> Result<(), Violation> {
    let (content, lineage) = (&volume.content, &volume.tags.lineage);
    let detail = || format!("{volume:?}");
    let wrong = |rule| Err(Violation::new(rule, detail()).machine(volume.machine().map_or("", String::as_str)));
    let job: Option<&Job> = volume.machine().and_then(|it| history.model.served.get(it)).and_then(|it| history.model.jobs.get(it));
    if let Some(job) = job {
        let request = &job.request;
        if !request.docker_layer_caching || (&request.project_id, request.cache_trust) != (&lineage.project_id, lineage.trust) {
            return wrong("a volume is only on a machine of its project and trust");
        }
    }
    if lineage.trust == Trust::Trusted && content.written_by.iter().any(|by| by.trust == Trust::Untrusted) {
        return wrong("no trusted volume holds what an untrusted job wrote");
    }
    if content.mounted && content.torn {
        return wrong("what was torn off is never mounted again");
    }
    if content.mounted {
        written(content, &lineage.project_id, job, detail)?;
    }
    if volume.link == VolumeLink::Deleted
        && let Some(held) = history.model.held_volumes.get(&volume.provider_id)
        && held.until > history.now()
    {
        return Err(Violation::new("a held volume is not deleted", format!("held until {}: {volume:?}", held.until)));
    }
    Ok(())
}

/// Layers and writers are the project's own, or of this job.
fn written(content: &Content, project: &str, job: Option<&Job>, detail: impl Fn() -> String) -> Result<(), Violation> {
    let own = format!("{project}:");
    let poison = job.map(|job| poison(job.id));
    let may = |name: &String| name.starts_with(&own) || poison.as_ref().is_some_and(|poison| name.starts_with(poison));
    if content.written_by.iter().any(|by| by.project_id != project) || !content.layers.keys().all(may) {
        return Err(Violation::new("no job sees what another project or an untrusted job wrote", detail()));
    }
    Ok(())
}

async fn ends(history: &mut History, machines: &[MachineTruth], volumes: &[VolumeTruth]) -> Result<(), Violation> {
    for truth in machines.iter().filter(|truth| truth.end == Some(EndCause::AskedByUs)) {
        let id = &truth.provider_id;
        if !history.model.asked_with_volumes.insert(id.clone()) {
            continue;
        }
        let Some(volume) = volumes.iter().find(|volume| volume.machine() == Some(id) && volume.content.mounted) else { continue };
        let began: Option<Option<DateTime<Utc>>> = sqlx::query_scalar("select terminating_at from vms.vms where provider_id = $1")
            .bind(id)
            .fetch_optional(&history.db.pool)
            .await
            .unwrap();
        // One that lost its row ends as it must.
        let Some(began) = began.flatten().filter(|_| history.model.losses.iter().all(|(at, _)| *at < truth.launched_at)) else {
            continue;
        };
        let journal = history.cluster.sim.journal();
        let asked = journal.iter().rev().find(|call| call.op == "terminate" && call.detail.contains(id.as_str()));
        let ssh = truth.address.map(|address| format!("{address}:22")).unwrap_or_default();
        let tried = |call: &Call| {
            call.op == "unmount_cache" && call.detail == ssh && call.outcome != Outcome::Done && call.at >= truth.launched_at
        };
        if asked.is_some_and(|call| call.at - began < UNMOUNTED_IN) && !journal.iter().any(tried) {
            let detail = format!("its end began at {began}, it was asked to end at {:?}: {volume:?}", asked.map(|call| call.at));
            return Err(Violation::new("a machine is ended when its volume is unmounted", detail).machine(id));
        }
    }
    Ok(())
}

/// Counted when there are more than before; what was planted, or lost its row, is not.
fn limit(history: &mut History, volumes: &[VolumeTruth]) -> Result<(), Violation> {
    let seen = std::mem::replace(&mut history.model.volumes_seen, volumes.len());
    let model = &history.model;
    let is_planted = |volume: &VolumeTruth| model.planted_volumes.contains(&volume.provider_id);
    if volumes.len() == seen || !model.losses.is_empty() {
        return Ok(());
    }
    let live = volumes.iter().filter(|volume| volume.link != VolumeLink::Deleted && !is_planted(volume)).count();
    match model.highest(model.began_before(DECIDED_BEFORE), |settings| settings.limits.volumes) {
        Some(limit) if live > limit as usize && volumes.iter().skip(seen).any(|volume| !is_planted(volume)) => {
            let left: BTreeMap<&String, &VolumeLink> = volumes.iter().map(|volume| (&volume.provider_id, &volume.link)).collect();
            Err(Violation::new("no volume is made beyond the limit", format!("{live} and not at most {limit}: {left:?}")))
        }
        _ => Ok(()),
    }
}

/// A task is ready for the first time.
pub(super) fn ready(history: &History, row: &TaskRow, machine: &MachineTruth) -> Result<(), Violation> {
    if !row.view.request.docker_layer_caching {
        return Ok(());
    }
    let wrong = |rule, detail: String| Err(Violation::new(rule, detail).task(row.view.id).machine(&machine.provider_id));
    let Some(cache) = &row.view.cache else {
        return wrong("a ready task is told what became of its cache", format!("{:?}", row.view));
    };
    let ends = machine.end.is_some();
    if cache.volume_id.is_none() || ends {
        return Ok(());
    }
    let volumes = history.cluster.sim.volumes_truth();
    // One that was not fit may be there beside it.
    let on: Vec<&VolumeTruth> = volumes.iter().filter(|volume| volume.machine() == Some(&machine.provider_id)).collect();
    match on.iter().any(|volume| volume.content.mounted) {
        true => Ok(()),
        false => wrong("a ready task works on its cache", format!("{cache:?}: {on:?}")),
    }
}

/// A refusal that only says that something came late: its machine has ended, its snapshot is gone, or it is still in use.
pub(super) fn is_by_state(call: &Call) -> bool {
    let codes: &[&str] = match call.op {
        "attach_volume" => &["IncorrectState", "VolumeInUse", "InvalidVolume.NotFound", "InvalidInstanceID.NotFound"],
        "delete_volume" => &["VolumeInUse"],
        "create_volume" => &["InvalidSnapshot.NotFound"],
        "detach_volume" | "snapshot_volume" => &["InvalidVolume.NotFound"],
        "unmount_cache" | "mount_cache" => return true,
        _ => &[],
    };
    codes.iter().any(|code| call.detail.contains(code))
}
