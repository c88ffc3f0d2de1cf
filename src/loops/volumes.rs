//! Carries each volume through its present move: made, brought to its VM, unmounted and taken off when the job is over, deleted. Each move
//! has a deadline; past it the volume is not used any more, and nobody waits for it.
//!
//! Reads: `volumes`, `vms`. Writes: `volumes`, `generations`. Calls: `Volumes`, `Guest::unmount_cache`. Runs: in `serve`.
//!
//! Not here: which volume goes where (`cache`); the mount (`prepare`); snapshots that are being made (`generations`).

use super::prepare::ssh_of;
use super::{About, Act, Loop, World, lease};
use crate::db::leases::Lease;
use crate::db::volume_moves::{LeasedVolume, OnVm};
use crate::domain::ids::GenerationId;
use crate::domain::lifecycle::{VmState, VolumeState};
use crate::domain::lineage::Trust;
use crate::domain::tags::{SnapshotTags, VolumeTags};
use crate::guest::GuestError;
use crate::provider::volumes::{SnapshotSpec, VolumeSpec, Volumes};
use crate::provider::{Provider, ProviderError, ProviderVolume};
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;

/// Between looks at a volume that moves, at the least.
const LOOK_AGAIN: TimeDelta = TimeDelta::milliseconds(250);
/// Between calls that ask for the same move.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(15);
/// After a call that may have failed.
const TRY_AGAIN: TimeDelta = TimeDelta::seconds(2);
/// For the unmount of one disk; its lease is renewed meanwhile.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(75);

/// See the module.
pub struct MoveVolumes(pub World);

#[async_trait]
impl Loop for MoveVolumes {
    fn name(&self) -> &'static str {
        "volumes"
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>> {
        let mut acts = Vec::new();
        for provider in self.0.providers.all() {
            let limit = i64::try_from(room.saturating_sub(acts.len())).unwrap_or(i64::MAX);
            for volume in self.0.db.lease_volumes((provider.name(), provider.place()), now, limit).await? {
                let (world, provider) = (self.0.clone(), Arc::clone(&provider));
                acts.push(Act::new(
                    format!("moving volume {}", volume.id),
                    About { vm: volume.vm.as_ref().map(|vm| vm.id), ..About::volume(volume.id) },
                    async move {
                        let lease = Lease::Volume(volume.id, volume.lease);
                        lease::hold(&world, lease, step(&world, provider.as_ref(), &volume)).await
                    },
                ));
            }
        }
        Ok(acts)
    }
}

/// One volume under lease, and what can be done with it.
struct Move<'a> {
    world: &'a World,
    provider: &'a dyn Provider,
    volumes: &'a dyn Volumes,
    volume: &'a LeasedVolume,
    now: DateTime<Utc>,
}

async fn step(world: &World, provider: &dyn Provider, volume: &LeasedVolume) -> anyhow::Result<()> {
    let volumes = provider.volumes().context("the provider keeps volumes")?;
    let it = Move { world, provider, volumes, volume, now: world.clock.now() };
    match volume.state {
        VolumeState::Creating => it.create().await,
        VolumeState::Attaching => it.attach().await,
        VolumeState::Attached => it.unmount().await,
        VolumeState::Detaching => it.detach().await,
        VolumeState::Deleting => it.delete().await,
        VolumeState::Available | VolumeState::Quarantined | VolumeState::Deleted => Ok(()),
    }
}

impl Move<'_> {
    async fn create(&self) -> anyhow::Result<()> {
        let Self { world, volume, now, .. } = self;
        let spec = VolumeSpec {
            client_token: volume.id.to_string(),
            tags: VolumeTags { installation: world.installation, volume: volume.id, lineage: volume.lineage.clone() },
            zone: volume.zone.clone(),
            size_gib: volume.size_gib,
            snapshot: volume.snapshot.clone(),
        };
        match self.volumes.create_volume(&spec).await {
            Ok(made) => Ok(world.db.volume_made(volume, &made.provider_id, *now + world.settings().cache.wait(), *now).await?),
            Err(ProviderError::Invalid(reason)) => self.refuse(&format!("it could not be made: {reason}")).await,
            Err(error) if self.is_late() => self.refuse(&format!("it was not made in time: {error}")).await,
            Err(error) => self.failed(error, "making").await,
        }
    }

    async fn attach(&self) -> anyhow::Result<()> {
        let Self { world, volume, now, .. } = self;
        let (id, vm) = (self.id()?, self.vm()?);
        let machine = vm.provider_id.as_deref().context("the VM of a volume has a machine")?;
        let asks = volume.asked_at.is_none_or(|asked_at| *now - asked_at >= ASK_AGAIN);
        if asks {
            match self.volumes.attach_volume(id, machine, &volume.lineage).await {
                Ok(()) => {}
                Err(ProviderError::Invalid(reason)) => return self.attach_refused(id, &reason).await,
                Err(error) if self.is_late() => return self.give_up_attach(id, &error.to_string()).await,
                Err(error) => return self.failed(error, "attaching").await,
            }
        }
        let seen = self.provider.find_volume(id).await;
        match seen {
            Ok(Some(ProviderVolume { machine: Some(on), moving: false, .. })) if on == machine => {
                return Ok(world.db.volume_attached(volume, world.clock.now()).await?);
            }
            Ok(None) => return self.refuse("the provider does not know it any more").await,
            Ok(Some(_)) | Err(_) if self.is_late() => return self.give_up_attach(id, "the attachment did not end").await,
            Ok(Some(_)) | Err(_) => {}
        }
        self.again(asks, self.pause()).await
    }

    /// Whoever refuses may be right about the VM, which ends; else the volume is not where its row says.
    async fn attach_refused(&self, id: &str, reason: &str) -> anyhow::Result<()> {
        let vm = self.vm()?;
        let machine = vm.provider_id.as_deref().unwrap_or_default();
        let free = self.provider.find_volume(id).await?.is_some_and(|it| it.machine.is_none());
        let runs = self.provider.find_machine(machine).await?.is_some_and(|it| it.state == crate::provider::MachineState::Running);
        if free && !runs {
            return Ok(self.world.db.volume_put_back(self.volume, self.world.clock.now()).await?);
        }
        self.refuse(&format!("it cannot be attached: {reason}")).await
    }

    /// It may come yet: it is taken off again, and not used.
    async fn give_up_attach(&self, id: &str, why: &str) -> anyhow::Result<()> {
        let machine = self.vm()?.provider_id.as_deref().unwrap_or_default();
        if let Err(error) = self.volumes.detach_volume(id, machine).await {
            tracing::warn!(volume = %self.volume.id, %error, "a volume that did not come could not be called back");
        }
        self.refuse(&format!("it did not come in time: {why}")).await
    }

    async fn unmount(&self) -> anyhow::Result<()> {
        let Self { world, volume, .. } = self;
        let vm = self.vm()?;
        let way_in = vm.way_in.as_ref().filter(|_| vm.state == VmState::Terminating && !self.is_late());
        let Some(way_in) = way_in else {
            return self.refuse("its VM ended before it was unmounted").await;
        };
        let identity = world.open_identity(vm.id, &way_in.identity_sealed)?;
        match world.guest.unmount_cache(ssh_of(way_in)?, &identity, UNMOUNT_WITHIN).await {
            Ok(said) => {
                for note in &said.notes {
                    tracing::info!(volume = %volume.id, note, "unmounting a cache");
                }
                Ok(world.db.volume_unmounted(volume, said.used_bytes, &said.layers, &said.used, world.clock.now()).await?)
            }
            // It answers no more, or will not let go: nobody knows what is on the disk.
            Err(
                error @ (GuestError::NotReachable(_)
                | GuestError::Misbehaved(_)
                | GuestError::WrongHostKey
                | GuestError::LoginRefused),
            ) => self.refuse(&format!("it was not unmounted: {error}")).await,
        }
    }

    async fn detach(&self) -> anyhow::Result<()> {
        let Self { world, volume, now, .. } = self;
        let id = self.id()?;
        let asks = volume.asked_at.is_none_or(|asked_at| *now - asked_at >= ASK_AGAIN);
        let ends = volume.vm.as_ref().is_some_and(|vm| vm.state == VmState::Terminating && vm.way_in.is_none());
        // A machine that ends at once takes an unmounted volume off by its end.
        if asks
            && !ends
            && let Some(machine) = volume.vm.as_ref().and_then(|vm| vm.provider_id.as_deref())
            && let Err(error) = self.volumes.detach_volume(id, machine).await
        {
            return self.failed(error, "detaching").await;
        }
        match self.provider.find_volume(id).await {
            Ok(Some(ProviderVolume { machine: None, .. })) => self.off(id).await,
            Ok(None) => self.refuse("the provider does not know it any more").await,
            Ok(Some(_)) | Err(_) => {
                if self.is_late()
                    && let Some(vm) = &volume.vm
                {
                    world.db.let_vm_go(vm.id, *now).await?;
                }
                self.again(asks, self.pause()).await
            }
        }
    }

    /// It is on no machine: what its job left is kept, or not, and it is free.
    async fn off(&self, id: &str) -> anyhow::Result<()> {
        let Self { world, volume, .. } = self;
        let mut volume = (*volume).clone();
        // What is kept may take a while; the VM need not wait for it.
        if let Some(vm) = &volume.vm {
            world.db.let_vm_go(vm.id, world.clock.now()).await?;
        }
        if volume.undecided && volume.lineage.trust == Trust::Trusted {
            let place = (self.provider.name(), self.provider.place());
            let fresh = GenerationId((world.fresh_id)());
            volume.unwanted = !world.db.keep_best(&volume, place, self.volumes.copies(), fresh, world.clock.now()).await?;
        }
        if let Some(generation) = world.db.find_wanted_generation(volume.id).await? {
            let tags = SnapshotTags { installation: world.installation, generation, lineage: volume.lineage.clone() };
            let spec = SnapshotSpec { client_token: generation.to_string(), tags };
            match self.volumes.snapshot_volume(id, &spec).await {
                Ok(snapshot) => world.db.bind_generation(generation, &snapshot, world.clock.now()).await?,
                Err(ProviderError::Invalid(reason)) => {
                    world.db.drop_generation(generation, &format!("it could not be made: {reason}"), world.clock.now()).await?;
                }
                Err(error) => return self.failed(error, "making a snapshot of").await,
            }
        }
        Ok(world.db.volume_off(&volume, world.clock.now()).await?)
    }

    async fn delete(&self) -> anyhow::Result<()> {
        let Self { world, volume, now, .. } = self;
        // One that was never bound may exist all the same: collecting finds it by its tags, or finds that it does not.
        let Some(id) = volume.provider_id.as_deref() else { return self.again(false, ASK_AGAIN).await };
        match self.volumes.delete_volume(id).await {
            Ok(()) => Ok(world.db.volume_deleted(volume, *now).await?),
            Err(ProviderError::Invalid(reason)) => {
                tracing::info!(volume = %volume.id, reason, "a volume cannot be deleted yet: it is taken off first");
                let on = self.provider.find_volume(id).await?.and_then(|seen| seen.machine);
                if let Some(machine) = on
                    && let Err(error) = self.volumes.detach_volume(id, &machine).await
                {
                    tracing::debug!(volume = %volume.id, %error, "it cannot be taken off");
                }
                self.again(true, ASK_AGAIN).await
            }
            Err(error) => self.failed(error, "deleting").await,
        }
    }

    fn id(&self) -> anyhow::Result<&str> {
        self.volume.provider_id.as_deref().context("a volume that moves has been made")
    }

    fn vm(&self) -> anyhow::Result<&OnVm> {
        self.volume.vm.as_ref().context("a volume that moves has a VM")
    }

    /// A volume moves faster than a machine starts: it is looked at twice as often.
    fn pause(&self) -> TimeDelta {
        TimeDelta::from_std(self.provider.pace().watch / 2).map_or(LOOK_AGAIN, |pause| pause.max(LOOK_AGAIN))
    }

    fn is_late(&self) -> bool {
        self.volume.deadline_at.is_some_and(|deadline_at| self.now >= deadline_at)
    }

    async fn again(&self, asked: bool, pause: TimeDelta) -> anyhow::Result<()> {
        let now = self.world.clock.now();
        Ok(self.world.db.postpone_volume(self.volume.id, self.volume.lease, asked, now + pause, now).await?)
    }

    async fn refuse(&self, reason: &str) -> anyhow::Result<()> {
        tracing::warn!(volume = %self.volume.id, reason, "a volume is not used any more");
        Ok(self.world.db.quarantine_volume(self.volume, reason, self.world.clock.now()).await?)
    }

    /// Asked again soon; only what may mend itself comes here.
    async fn failed(&self, error: ProviderError, doing: &str) -> anyhow::Result<()> {
        self.again(false, TRY_AGAIN).await?;
        match error {
            ProviderError::Throttled => Ok(()),
            error => Err(error).with_context(|| format!("{doing} volume {}", self.volume.id)),
        }
    }
}
