//! Makes a claimed VM fit for its task: the task's own keys may log in, the engine works on the project's cache, then the task is `ready`.
//!
//! A cache never fails a job: what does not come in time, or is not fit, is left out, and the timeline says so.
//! Reads: `tasks`, `volumes`. Writes: `tasks`; `vms` when one is unfit; `volumes` that are not fit. Calls: `Guest::authorise`,
//! `Guest::mount_cache`. Runs: in `serve`. Not here: which volume is brought (`cache`), how it comes (`volumes`).

use super::{About, Act, Loop, World, lease};
use crate::db::DbError;
use crate::db::cache_mounts::{Brought, Content};
use crate::db::claims::{Preparing, Started};
use crate::db::leases::Lease;
use crate::db::release::Evidence;
use crate::db::rows::WayIn;
use crate::domain::failure::{Failure, FailureCode};
use crate::domain::identity::Identity;
use crate::domain::lifecycle::VolumeState;
use crate::guest::GuestError;
use crate::guest::cache::{CacheContent, CacheDisk, CacheTrouble, Mounted};
use crate::provider::Provider;
use crate::telemetry::{names, tell};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A VM that does not take a key within this is unfit.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between looks for a volume that is on its way; its arrival wakes.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(1);
/// For the mount, when hardly anything is left of the wait: what has come is worth a moment.
const MOUNT_AT_LEAST: TimeDelta = TimeDelta::seconds(20);

/// See the module.
pub struct Prepare(pub World);

#[async_trait]
impl Loop for Prepare {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for task in self.0.db.lease_preparing((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), Arc::clone(&provider));
                acts.push(Act::new(
                    format!("preparing task {}", task.id),
                    About { vm: Some(task.way_in.vm), ..About::task(task.id) },
                    async move {
                        let lease = Lease::Task(task.id, task.lease);
                        lease::hold(&world, lease, prepare(&world, provider.as_ref(), &task)).await
                    },
                ));
            }
        }
        Ok(acts)
    }
}

async fn prepare(world: &World, provider: &dyn Provider, task: &Preparing) -> anyhow::Result<()> {
    let refused = match make_fit(world, provider, task).await {
        Ok(Fit::Yes) => {
            let now = world.clock.now();
            tell_ready(&world.db.finish_preparing(task.id, task.lease, now).await?, now);
            return Ok(());
        }
        Ok(Fit::Later) => return Ok(world.db.postpone_preparing(task.id, task.lease, world.clock.now() + LOOK_AGAIN).await?),
        // The VM's fault costs the VM; ours, such as a sealing key that is missing here, does not.
        Err(error) if error.is::<GuestError>() => error,
        Err(error) => return Err(error),
    };
    let failure = Failure::new(FailureCode::PreparationFailed, format!("the VM could not be prepared: {refused:#}"));
    let evidence = Evidence::Unfit { task: task.id, lease: task.lease };
    Ok(world.db.give_up_vm(task.way_in.vm, evidence, &failure, "", world.clock.now()).await?)
}

fn tell_ready(task: &Started, now: DateTime<Utc>) {
    let since = |then: DateTime<Utc>| (now - then).to_std().unwrap_or_default();
    let (executor, origin) = (task.executor.as_str(), task.origin.as_str());
    tell::phase(if task.caching { "caching" } else { "preparing" }, executor, origin, since(task.claimed_at));
    tell::task_ready(executor, origin, since(task.created_at));
}

/// Whether the VM is as the task needs it.
enum Fit {
    Yes,
    /// Its cache is on its way.
    Later,
}

async fn make_fit(world: &World, provider: &dyn Provider, task: &Preparing) -> anyhow::Result<Fit> {
    let identity = world.open_identity(task.way_in.vm, &task.way_in.identity_sealed)?;
    let ssh = ssh_of(&task.way_in)?;
    let mut fit = Fit::Yes;
    if task.wants_cache {
        fit = cache(world, provider, task, ssh, &identity).await?;
    }
    // Last, so that they are put in once.
    if matches!(fit, Fit::Yes) && !task.request.ssh_public_keys.is_empty() {
        world.guest.authorise(ssh, &identity, &task.request.ssh_public_keys, DEADLINE).await?;
    }
    Ok(fit)
}

async fn cache(
    world: &World,
    provider: &dyn Provider,
    task: &Preparing,
    ssh: SocketAddr,
    identity: &Identity,
) -> anyhow::Result<Fit> {
    let (db, now) = (&world.db, world.clock.now());
    // What cost one VM does not cost a second one.
    if task.unfit_before {
        return go_without(world, task, "unfit_vm", "another VM could not be made fit for it.").await;
    }
    let until = task.claimed_at + world.settings().cache.wait();
    let volume = db.find_brought(task).await?;
    let (Some(volume), Some(volumes)) = (volume.filter(|it| it.state == VolumeState::Attached), provider.volumes()) else {
        if now < until && provider.volumes().is_some() {
            return Ok(Fit::Later);
        }
        let waited = (now - task.claimed_at).num_seconds();
        let (class, why) = match provider.volumes() {
            Some(_) => ("late", format!("its volume did not come within {waited} s.")),
            None => ("no_volumes", format!("the provider {} keeps no volumes.", provider.name())),
        };
        return go_without(world, task, class, &why).await;
    };
    let serial = volumes.serial(volume.provider_id.as_deref().context("an attached volume has been made")?);
    let disk = CacheDisk { serial, engine: volume.engine.clone(), content: content(volume.content) };
    db.begin_mount(task, volume.id).await?;
    let patience = (until - now).max(MOUNT_AT_LEAST).to_std().unwrap_or_default();
    let mounted = match world.guest.mount_cache(ssh, identity, &disk, patience).await {
        Ok(mounted) => mounted,
        Err(error) => {
            // Its engine may stand still: the VM is of no use, and nobody knows what is on the volume. What it is a copy of is not to blame.
            let unknown = Brought { copy_of: None, ..volume };
            db.refuse_volume(task, &unknown, &format!("it could not be mounted: {error}"), world.clock.now()).await?;
            return Err(error.into());
        }
    };
    let (trouble, detail) = match mounted {
        Mounted::Ready(ready) => {
            let reason = hit_or_miss(&volume, ready.warm, ready.used_bytes);
            db.note_mounted(task, &volume, (ready.warm, &reason), &ready.notes, world.clock.now()).await?;
            match (ready.warm, volume.copy_of, volume.content) {
                (true, Some(_), _) => tell::cache("hit", "copy"),
                (true, None, _) => tell::cache("hit", "volume"),
                (false, _, Content::Nothing) => tell::cache("miss", "new_volume"),
                (false, _, _) => tell::cache("miss", "empty_volume"),
            }
            return Ok(Fit::Yes);
        }
        Mounted::Refused { trouble, detail } => (trouble, detail),
    };
    let (class, reason) = match trouble {
        CacheTrouble::NotThere => ("not_there", "its disk did not show in the VM"),
        CacheTrouble::Damaged => ("damaged", "it is damaged"),
        CacheTrouble::WrongEngine => ("wrong_engine", "another engine wrote it"),
        CacheTrouble::Full => ("full", "it is full"),
    };
    counter!(names::CACHES_REFUSED, "reason" => class).increment(1);
    tracing::warn!(task = %task.id, vm = %task.way_in.vm, volume = %volume.id, reason, detail, "a cache volume is not fit");
    match db.refuse_volume(task, &volume, &format!("{reason} ({detail})"), world.clock.now()).await {
        // The next look finds another volume, or none.
        Ok(()) | Err(DbError::LostLease) => Ok(Fit::Later),
        Err(error) => Err(error.into()),
    }
}

/// Its engine stays as it is; the timeline says why.
async fn go_without(world: &World, task: &Preparing, class: &'static str, why: &str) -> anyhow::Result<Fit> {
    if world.db.go_without(task.id, why, world.clock.now()).await? {
        tell::cache("without", class);
    }
    Ok(Fit::Yes)
}

fn content(of: Content) -> CacheContent {
    match of {
        Content::Nothing => CacheContent::Nothing,
        Content::Good => CacheContent::Good,
        Content::Unchecked => CacheContent::Unchecked,
    }
}

fn hit_or_miss(volume: &Brought, warm: bool, used_bytes: u64) -> String {
    let id = volume.id;
    match (warm, volume.copy_of, volume.content) {
        (true, Some(parent), _) => format!("Volume {id}, a copy of the good state {parent}, holds {} MiB.", used_bytes >> 20),
        (true, None, _) => format!("Volume {id} holds {} MiB from earlier jobs.", used_bytes >> 20),
        (false, _, Content::Nothing) => {
            format!("Volume {id} is new: the project has no layers for this engine yet, or none are free.")
        }
        (false, _, _) => format!("Volume {id} holds no layers."),
    }
}

/// Where the VM's SSH server is.
pub(super) fn ssh_of(way_in: &WayIn) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(way_in.address.parse().context("reading a VM's address")?, way_in.ssh_port))
}
