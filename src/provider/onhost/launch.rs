//! Makes one machine: folder first, then disk and seed, then the keeper; repeated at any line, it goes on where it stopped.
//!
//! Until `started` is in the folder nothing runs, and every step may be done again. From then on there is a machine, alive or dead, and a
//! repetition only looks. A QEMU that does not come up is removed within the call, so that a repetition starts from nothing.
//! Where there is a snapshot, the machine goes on from it, and else boots.
//! Reads: the image, the snapshot. Writes: the machine's folder. Calls: `qemu-img`, the keeper. Not here: ending it (`end`).

use super::folder::{Place, Record, provider_id, write_whole};
use super::image::Image;
use super::keeper::{self, Plan, log};
use super::passt::{self, Dns};
use super::qemu::{self, Accelerator, Begin, Link};
use super::qmp::Qmp;
use super::snapshot::{Snapshot, restore};
use super::{OnHost, blocking, end, host, seed};
use crate::domain::settings::VmNetwork;
use crate::provider::{LaunchSpec, Machine, MachineState, ProviderError};
use anyhow::Context;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// From the keeper's start to QEMU's greeting; a QEMU that lives and did not greet by then is left to the timeout of a VM's start.
const START_DEADLINE: Duration = Duration::from_secs(3);
/// The call must return within 7 s, a probe may take 15; the launch is then repeated.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn launch(on_host: &OnHost, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
    if spec.count != 1 {
        return Err(ProviderError::Invalid(format!("on-host launches make one machine each, not {}", spec.count)));
    }
    if spec.class.gpus > 0 {
        return Err(ProviderError::Invalid(
            "the class has GPUs, and VMs on this host have none: set its gpus to 0, or use EC2".into(),
        ));
    }
    let id = provider_id(&spec.client_token)?;
    let doors = on_host.doors().map_err(|error| ProviderError::transient("looking for addresses", error))?;
    let ports = doors.ports.map_err(ProviderError::Invalid)?;
    let (folders, tags, pool) = (on_host.folders.clone(), spec.tags.clone(), doors.pool);
    let placed = {
        let id = id.clone();
        blocking(move || folders.ensure(&id, &tags, &pool, ports)).await
    };
    let record = match placed.map_err(|error| ProviderError::transient(format!("making the folder of {id}"), error))? {
        Place::Machine(record) => record,
        Place::Spent(record) => return Ok(vec![record.machine(MachineState::Terminated)]),
    };
    let failed = |error| ProviderError::transient(format!("starting {id}"), error);
    let Some(lock) = on_host.folders.try_lock_launch(&id).map_err(failed)? else {
        return Ok(vec![record.machine(MachineState::Pending)]);
    };
    let found = on_host.folders.find(&id, on_host.config.installation).map_err(failed)?;
    if let Some(machine) = found.filter(|machine| machine.state != MachineState::Pending) {
        if !restore::is_half(&on_host.folders.machine(&id)) {
            return Ok(vec![machine]);
        }
        // Whoever brought it there ended in the middle, and nobody would ever wake it.
        end::end(on_host, &id, &lock, false).await.map_err(failed)?;
        return Err(failed(anyhow::anyhow!("it was left half restored; the next try starts it anew")));
    }
    let started = start(on_host, spec, &record).await;
    if started.is_err()
        && let Err(error) = end::end(on_host, &id, &lock, false).await
    {
        tracing::warn!(provider_id = %id, error = format!("{error:#}"), "what a failed start left cannot be removed");
    }
    started.map(|()| vec![record.machine(MachineState::Running)])
}

/// A machine; whatever goes wrong with one that goes on from a snapshot, the repetition boots.
async fn start(on_host: &OnHost, spec: &LaunchSpec, record: &Record) -> Result<(), ProviderError> {
    let image = on_host.open_image(spec.image.as_deref()).map_err(ProviderError::Invalid)?;
    let link = match on_host.network() {
        VmNetwork::Open if !host::has_program(passt::PROGRAM) => return Err(ProviderError::Invalid(NO_PASST.into())),
        VmNetwork::Open => Link::Guarded,
        VmNetwork::Closed => Link::Closed,
    };
    let accelerator = on_host.accelerator(&image, PROBE_PATIENCE).await?.accelerator;
    let dns = if link == Link::Guarded { Dns::of_host() } else { Dns::None };
    let words = qemu::words(link, &dns);
    let snapshot = on_host.snapshot_for(&spec.class, &image, accelerator, &words);
    let begun = begin(on_host, spec, record, (&image, accelerator, link), (&dns, &words), snapshot.as_ref()).await;
    let failed = |error| ProviderError::transient(format!("starting {}", record.provider_id), error);
    match (&snapshot, begun) {
        (None, begun) => begun.map_err(failed),
        (Some(snapshot), Ok(())) => {
            on_host.snapshots.note_success(snapshot);
            Ok(())
        }
        (Some(snapshot), Err(error)) => {
            on_host.snapshots.note_failure(snapshot);
            Err(failed(error.context("going on from a snapshot; the next try boots")))
        }
    }
}

async fn begin(
    on_host: &OnHost,
    spec: &LaunchSpec,
    record: &Record,
    (image, accelerator, link): (&Image, Accelerator, Link),
    (dns, words): (&Dns, &str),
    snapshot: Option<&Snapshot>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let id = &record.provider_id;
    let folder = on_host.folders.machine(id);
    match snapshot {
        Some(snapshot) => snapshot.create_overlay(&folder).await,
        None => image.create_overlay(&folder, spec.class.disk_gib).await,
    }?;
    let memory = snapshot.map(Snapshot::memory);
    let machine = qemu::Machine {
        provider_id: id,
        class: &spec.class,
        image,
        accelerator,
        link,
        ip: record.ip,
        ports: record.ports(),
        begin: memory.as_deref().map_or(Begin::Boot, |memory| Begin::Restore { memory, words }),
    };
    let passt = (link == Link::Guarded).then(|| passt::command(record.ip, record.ports(), dns));
    let plan = Plan { qemu: qemu::command(&machine), passt, resolver: dns.resolver() };
    let (seed_id, user_data, seeded, restores) = (id.clone(), spec.user_data.clone(), folder.clone(), snapshot.is_some());
    let written = blocking(move || {
        if restores {
            restore::mark(&seeded)?;
        } else {
            // Of a try that ended before anything ran.
            drop(std::fs::remove_file(seeded.join(restore::RESTORED)));
            seed::write_seed(&seeded.join(qemu::SEED), &seed_id, &user_data).context("writing the seed disk")?;
        }
        write_whole(&seeded.join(keeper::PLAN), &serde_json::to_vec(&plan)?)
    });
    written.await?;
    let keeper = spawn_keeper(&on_host.config.keeper, id, &folder)?;
    wait_for_qemu(keeper, &folder).await?;
    if let Some(snapshot) = snapshot {
        restore::restore(&folder, snapshot).await.with_context(|| last_words(&folder))?;
    }
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(provider_id = %id, address = %record.ip, ?accelerator, ?link, restored = restores, milliseconds, "machine started");
    Ok(())
}

pub(super) const NO_PASST: &str = "passt is not installed, and without it VMs cannot have an open network: install it (apt-get install passt), or set the on-host network to closed.";

/// What passt, QEMU and the keeper said last.
fn last_words(folder: &Path) -> String {
    let said = [keeper::PASST_LOG, keeper::QEMU_LOG, "keeper.log"]
        .map(|name| log::read_end(&folder.join(name), 1000).unwrap_or_default().trim().replace('\n', "; "));
    said.join(" | ")
}

/// In a session of its own, so that neither a terminal nor the service's end reaches it.
fn spawn_keeper(keeper: &[String], id: &str, folder: &Path) -> anyhow::Result<Child> {
    let errors = File::create(folder.join("keeper.log"))?;
    let mut command = Command::new("setsid");
    command.args(keeper).arg(id).current_dir(folder).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().context("starting the keeper (setsid, of util-linux)")
}

/// Waits for QEMU's greeting. The child is waited for aside, so that it leaves no zombie however it ends.
async fn wait_for_qemu(mut keeper: Child, folder: &Path) -> anyhow::Result<()> {
    let (ended, mut has_ended) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let status = keeper.wait().await;
        drop(ended.send(status));
    });
    let began = Instant::now();
    loop {
        if Qmp::connect(folder, Duration::from_secs(1)).await.is_ok() {
            return Ok(());
        }
        let gone = !matches!(has_ended.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        let is_late = began.elapsed() > START_DEADLINE;
        if is_late && keeper::is_alive(folder)? {
            return Ok(());
        }
        if gone || is_late {
            anyhow::bail!("QEMU did not come up ({}): {}", if gone { "it ended" } else { "no answer" }, last_words(folder));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
