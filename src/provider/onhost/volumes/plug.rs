//! Brings a volume to a machine and off it again; `attached.json` says where it is, for every process.
//!
//! The wish is written before QEMU is told. A volume is *free* when there is no such file; whoever looks removes it once QEMU has let go
//! of the disk, or is gone. Nobody takes a disk from a guest: it is asked, and may take its time.
//! Calls: QMP. Writes: `attached.json`. Not here: what QEMU is told (`qmp`).

use super::freeze;
use super::store::{Link, Stage, refused};
use crate::domain::lineage::Lineage;
use crate::provider::MachineState;
use crate::provider::onhost::qmp::Qmp;
use crate::provider::onhost::{OnHost, keeper};
use std::fs::File;
use std::time::Duration;

/// For a QEMU that has another client, or a guest that keeps it busy.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
const LOOK_DEADLINE: Duration = Duration::from_millis(500);

/// By which serial a machine finds the disk; QEMU knows disk and device by the same word. virtio-blk cuts at 20 characters.
pub(super) fn serial(volume: &str) -> String {
    volume.replace('-', "")
}

pub(super) async fn attach(on_host: &OnHost, volume: &str, machine: &str, owner: &Lineage) -> anyhow::Result<()> {
    let (store, ours) = (&on_host.store, on_host.config.installation);
    let Some((lock, record)) = store.lock_volume(volume, ours).await? else {
        return refused(format!("InvalidVolume.NotFound: {volume}"));
    };
    let of = &record.tags.lineage;
    if (&of.project_id, of.trust) != (&owner.project_id, owner.trust) {
        return refused(format!("WrongOwner: {volume} belongs to {} project {}", of.trust, of.project_id));
    }
    match settle(on_host, volume, &lock).await? {
        Some(Link { machine: holder, stage: Stage::Attached }) if holder == machine => return Ok(()),
        // An earlier call stopped on its way.
        Some(Link { machine: holder, stage: Stage::Attaching }) if holder == machine => {}
        Some(link) => return refused(format!("VolumeInUse: {volume} is on {}", link.machine)),
        None => {
            let state = on_host.folders.find(machine, ours)?.map(|machine| machine.state);
            if state != Some(MachineState::Running) {
                return refused(format!("IncorrectState: {machine} does not run"));
            }
            freeze::finish(store, &record).await?;
            let _held = store.lock().await?;
            // One that was not fit may still be there; nothing of another owner ever is.
            for other in store.volume_names()? {
                if store.link(&other)?.is_none_or(|link| link.machine != machine) {
                    continue;
                }
                let theirs = store.our_volume(&other, ours)?.map(|other| other.tags.lineage);
                if theirs.is_none_or(|it| (&it.project_id, it.trust) != (&owner.project_id, owner.trust)) {
                    return refused(format!("WrongOwner: {machine} has {other} of another owner"));
                }
            }
            store.set_link(volume, &Link { machine: machine.to_owned(), stage: Stage::Attaching })?;
        }
    }
    let qmp = Qmp::connect(&on_host.folders.machine(machine), ASK_DEADLINE).await?;
    qmp.plug(&serial(volume), &store.disk(volume), ASK_DEADLINE).await?;
    store.set_link(volume, &Link { machine: machine.to_owned(), stage: Stage::Attached })
}

pub(super) async fn detach(on_host: &OnHost, volume: &str, machine: &str) -> anyhow::Result<()> {
    let store = &on_host.store;
    let Some((lock, _)) = store.lock_volume(volume, on_host.config.installation).await? else {
        return refused(format!("InvalidVolume.NotFound: {volume}"));
    };
    let Some(link) = settle(on_host, volume, &lock).await?.filter(|link| link.machine == machine) else { return Ok(()) };
    let folder = on_host.folders.machine(&link.machine);
    store.set_link(volume, &Link { stage: Stage::Detaching, ..link })?;
    let qmp = Qmp::connect(&folder, ASK_DEADLINE).await?;
    if qmp.has_device(&serial(volume), ASK_DEADLINE).await? {
        return qmp.unplug(&serial(volume), ASK_DEADLINE).await;
    }
    qmp.forget_disk(&serial(volume), ASK_DEADLINE).await?;
    store.remove_link(volume)
}

/// Where a volume is now; lets it arrive. The lock is only there to be held.
pub(super) async fn settle(on_host: &OnHost, volume: &str, _held: &File) -> anyhow::Result<Option<Link>> {
    let store = &on_host.store;
    let Some(link) = store.link(volume)? else { return Ok(None) };
    let folder = on_host.folders.machine(&link.machine);
    if !keeper::is_alive(&folder)? {
        store.remove_link(volume)?;
        return Ok(None);
    }
    if link.stage == Stage::Attached {
        return Ok(Some(link));
    }
    let serial = serial(volume);
    let look = async {
        let qmp = Qmp::connect(&folder, LOOK_DEADLINE).await?;
        let is_there = qmp.has_device(&serial, LOOK_DEADLINE).await?;
        if link.stage == Stage::Detaching && !is_there {
            qmp.forget_disk(&serial, LOOK_DEADLINE).await?;
        }
        anyhow::Ok(is_there)
    };
    match (look.await, link.stage) {
        (Ok(true), Stage::Attaching) => {
            let link = Link { stage: Stage::Attached, ..link };
            store.set_link(volume, &link)?;
            Ok(Some(link))
        }
        (Ok(false), Stage::Detaching) => {
            store.remove_link(volume)?;
            Ok(None)
        }
        (Err(error), _) => {
            tracing::debug!(volume, machine = link.machine, error = format!("{error:#}"), "QEMU does not say where a disk is");
            Ok(Some(link))
        }
        _ => Ok(Some(link)),
    }
}
