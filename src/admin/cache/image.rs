//! Makes what a project's first volume is to begin with: image archives and named images, put into an engine's store by an engine of the
//! very kind that will read it, in a VM of its own on this host. Nothing of the VM is left afterwards.
//!
//! Reads: the archives. Writes: a folder of its own. Calls: the on-host provider, `Guest`. Not here: where the result goes (`seed`).

use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::ids::{InstallationId, LaunchId, VolumeId};
use crate::domain::lineage::{Engine, Layer, Lineage, Trust};
use crate::domain::resource_class::{ResourceClass, default_classes};
use crate::domain::settings::{GuestSettings, VmNetwork};
use crate::domain::tags::{Origin, Tags, VolumeTags};
use crate::domain::task::Executor;
use crate::guest::cache::{CacheContent, CacheDisk, Mounted};
use crate::guest::linux::LinuxGuest;
use crate::guest::{Endpoint, Guest as _, Personality};
use crate::provider::onhost::{OnHost, OnHostConfig};
use crate::provider::volumes::{VolumeSpec, Volumes as _};
use crate::provider::{LaunchSpec, Provider as _};
use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A VM under software emulation takes a minute, a busy host two more.
const BOOT_WITHIN: Duration = Duration::from_secs(300);
/// For the attachment and the detachment.
const MOVE_WITHIN: Duration = Duration::from_secs(60);
/// For the mount, and for the unmount.
const MOUNT_WITHIN: Duration = Duration::from_secs(180);
/// For one archive or image.
const LOAD_WITHIN: Duration = Duration::from_secs(3600);

/// What is to be on the volume, and where it is made.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The VM images and the program that keeps a VM, as the service on this host has them; its folder and installation are set aside.
    pub host: OnHostConfig,
    /// Made for this; gone afterwards. It must be empty.
    pub folder: PathBuf,
    /// Archives as `docker save` makes them, compressed or not.
    pub archives: Vec<PathBuf>,
    /// Names of images, from registries that this host can reach.
    pub images: Vec<String>,
    /// Size of the volume.
    pub size_gib: u32,
}

/// A volume that holds what was wished.
#[derive(Clone, Debug)]
pub struct Made {
    /// The engine that put it there: no other kind can read it.
    pub engine: Engine,
    /// Its content, raw and sparse.
    pub raw: PathBuf,
    /// What is on it.
    pub layers: Vec<Layer>,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// Makes the volume. `tell` is given a line for each step; `stop` ends it early, and well.
///
/// # Errors
/// A sentence: which step failed. Nothing is left running.
pub async fn make(wish: &Wish, now: DateTime<Utc>, stop: &CancellationToken, tell: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Made> {
    let config = OnHostConfig {
        data: wish.folder.join("host"),
        installation: InstallationId(Uuid::new_v4()),
        network: if wish.images.is_empty() { VmNetwork::Closed } else { VmNetwork::Open },
        ..wish.host.clone()
    };
    let installation = config.installation;
    let host = OnHost::open(config).await?;
    let made = stop.run_until_cancelled(in_vm(wish, &host, installation, now, tell)).await;
    let machines = host.list_machines().await.map(|listing| listing.machines).unwrap_or_default();
    let ids: Vec<String> = machines.into_iter().map(|machine| machine.provider_id).collect();
    host.terminate(&ids).await.context("ending the VM that was made for it")?;
    let (volume, mut made) = made.context("stopped")??;
    tell("writing the volume's image");
    host.export_volume(&volume, &made.raw).await?;
    made.raw = made.raw.canonicalize()?;
    Ok(made)
}

async fn in_vm(
    wish: &Wish,
    host: &OnHost,
    installation: InstallationId,
    now: DateTime<Utc>,
    tell: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<(String, Made)> {
    let guest = LinuxGuest;
    let class =
        ResourceClass { vcpus: 2, memory_mib: 2048, ..default_classes().remove("medium").context("there is a class medium")? };
    let bootstrap = Bootstrap::generate()?;
    let tags = Tags {
        installation,
        launch: LaunchId(Uuid::new_v4()),
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        origin: Origin::OnDemand,
        created_at: now,
    };
    tell("starting a VM");
    let spec = LaunchSpec {
        client_token: "seed".to_owned(),
        tags,
        user_data: guest.user_data(&bootstrap, BOOT_WITHIN * 2),
        candidate: host.choose(&class, None, None).await?,
        image: None,
        class,
        count: 1,
    };
    let machine = host.launch(&spec).await?.pop().context("a launch makes a machine")?;
    let machine = wait(MOVE_WITHIN, "the VM's machine runs", async || {
        Ok(host.find_machine(&machine.provider_id).await?.filter(|it| it.address.is_some()))
    })
    .await?;
    let address = machine.address.context("it runs")?;
    let (ssh, docker) = (SocketAddr::new(address.ip, address.ssh_port), SocketAddr::new(address.ip, address.docker_port));
    let end = now + TimeDelta::hours(6);
    let identity = Identity::generate(Executor::Machine, &[address.ip], now, end)?;
    let personality = Personality { settings: GuestSettings::default(), gpus: 0, absolute_end_at: end, now };
    let engine = guest
        .personalise(&Endpoint { ssh, docker }, Some(&bootstrap), &identity, &personality, BOOT_WITHIN)
        .await
        .context("meeting the VM")?
        .context("the VM image has no Docker engine: build it with ami/build-onhost")?;

    tell("bringing it an empty volume");
    let lineage = Lineage { project_id: "seed".to_owned(), trust: Trust::Trusted, engine: engine.clone() };
    let tags = VolumeTags { installation, volume: VolumeId(Uuid::new_v4()), lineage: lineage.clone() };
    let zone = machine.zone.clone().unwrap_or_default();
    let spec = VolumeSpec { client_token: "seed".to_owned(), tags, zone, size_gib: wish.size_gib, snapshot: None };
    let volume = host.create_volume(&spec).await?.provider_id;
    host.attach_volume(&volume, &machine.provider_id, &lineage).await?;
    wait(MOVE_WITHIN, "the volume is attached", async || {
        Ok(host.find_volume(&volume).await?.filter(|it| it.machine.is_some() && !it.moving))
    })
    .await?;
    let disk = CacheDisk { serial: host.serial(&volume), engine: engine.clone(), content: CacheContent::Nothing };
    match guest.mount_cache(ssh, &identity, &disk, MOUNT_WITHIN).await.context("moving the engine onto the volume")? {
        Mounted::Ready(_) => {}
        Mounted::Refused { detail, .. } => anyhow::bail!("the VM does not take the volume: {detail}"),
    }
    load(wish, ssh, &identity, tell).await?;

    tell("taking the volume off");
    let left = guest.unmount_cache(ssh, &identity, MOUNT_WITHIN).await.context("taking the engine off the volume")?;
    host.detach_volume(&volume, &machine.provider_id).await?;
    wait(MOVE_WITHIN, "the volume is detached", async || Ok(host.find_volume(&volume).await?.filter(|it| it.machine.is_none())))
        .await?;
    let raw = wish.folder.join("volume.raw");
    Ok((volume, Made { engine, raw, layers: left.layers, used_bytes: left.used_bytes }))
}

/// Archives and images, one after the other, into the VM's engine.
async fn load(wish: &Wish, ssh: SocketAddr, identity: &Identity, tell: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
    for archive in &wish.archives {
        tell(&format!("loading {}", archive.display()));
        let file = tokio::fs::File::open(archive).await.with_context(|| format!("opening {}", archive.display()))?;
        let loaded = LinuxGuest.load_archive(ssh, identity, file, LOAD_WITHIN).await;
        loaded.with_context(|| format!("loading {}", archive.display()))?;
    }
    for image in &wish.images {
        tell(&format!("pulling {image}"));
        LinuxGuest.pull_image(ssh, identity, image, LOAD_WITHIN).await.with_context(|| format!("pulling {image}"))?;
    }
    Ok(())
}

/// Polls until it is there.
async fn wait<T>(within: Duration, what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < until, "within {} s it did not come about that {what}", within.as_secs());
        sleep(Duration::from_millis(200)).await;
    }
}
