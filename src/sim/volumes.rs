//! Cache volumes: each is in one zone and on at most one machine, and outlives every machine.
//!
//! *Moving* is what a volume does between the wish to attach or detach and the fact; a stuck one moves until its machine has
//! ended. Whether it has arrived is read off the time whenever somebody looks.

use super::Sim;
use super::faults::Fault;
use super::ops;
use super::world::{World, broken, check_token};
use crate::domain::tags::VolumeTags;
use crate::provider::volumes::{VolumeSpec, Volumes};
use crate::provider::{MachineState, ProviderError, ProviderVolume, VolumeListing};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeLink {
    /// On no machine.
    Free,
    /// On its way to this machine.
    Attaching(String),
    /// On this machine.
    Attached(String),
    /// On its way from this machine.
    Detaching(String),
    /// It is no more.
    Deleted,
}

/// The truth about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeTruth {
    /// The provider's name for it.
    pub provider_id: String,
    /// What it carries.
    pub tags: VolumeTags,
    /// Its availability zone, for ever.
    pub zone: String,
    /// Where it is.
    pub link: VolumeLink,
    /// Names of the snapshots made of it, oldest first.
    pub snapshots: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct SimVolumes {
    all: BTreeMap<String, SimVolume>,
    /// Volumes by their client token.
    created: BTreeMap<String, String>,
    /// Snapshots by their client token: volume and snapshot.
    snapshots: BTreeMap<String, (String, String)>,
    /// How many volumes each machine has, moving ones too.
    per_machine: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct SimVolume {
    truth: VolumeTruth,
    listed_from: DateTime<Utc>,
    /// Until when it moves, if it moves; none: for ever.
    moves_until: Option<DateTime<Utc>>,
}

impl VolumeLink {
    /// The machine that it is on, or on its way to or from.
    fn machine(&self) -> Option<&str> {
        match self {
            Self::Attaching(machine) | Self::Attached(machine) | Self::Detaching(machine) => Some(machine),
            Self::Free | Self::Deleted => None,
        }
    }
}

#[async_trait]
impl Volumes for Sim {
    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        let VolumeSpec { tags, zone, client_token, .. } = spec;
        self.through(&ops::CREATE_VOLUME, |world| {
            let asked = || format!("{client_token} in {zone}");
            world.call(&ops::CREATE_VOLUME, 1, asked, |world| world.create_volume(tags, zone, client_token))
        })
        .await
    }

    async fn attach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        self.through(&ops::ATTACH_VOLUME, |world| {
            world.call(&ops::ATTACH_VOLUME, 1, || format!("{volume} to {machine}"), |world| world.attach(volume, machine))
        })
        .await
    }

    async fn detach_volume(&self, volume: &str) -> Result<(), ProviderError> {
        self.through(&ops::DETACH_VOLUME, |world| {
            world.call(&ops::DETACH_VOLUME, 1, || volume.to_owned(), |world| world.detach(volume))
        })
        .await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError> {
        self.through(&ops::DELETE_VOLUME, |world| {
            world.call(&ops::DELETE_VOLUME, 1, || volume.to_owned(), |world| world.delete_volume(volume))
        })
        .await
    }

    async fn snapshot_volume(&self, volume: &str, client_token: &str) -> Result<String, ProviderError> {
        self.through(&ops::SNAPSHOT_VOLUME, |world| {
            let asked = || format!("{client_token} of {volume}");
            world.call(&ops::SNAPSHOT_VOLUME, 1, asked, |world| world.snapshot(volume, client_token))
        })
        .await
    }
}

impl Sim {
    /// All volumes that there ever were.
    pub fn volumes_truth(&self) -> Vec<VolumeTruth> {
        let mut world = self.world();
        world.settle_volumes();
        world.volumes.all.values().map(|volume| volume.truth.clone()).collect()
    }
}

impl World {
    /// One call that lists volumes.
    pub(super) fn list_volumes(&mut self) -> Result<VolumeListing, ProviderError> {
        self.settle_volumes();
        let (now, page) = (self.now, self.rules.page.max(1));
        let listed = |volume: &&SimVolume| volume.truth.link != VolumeLink::Deleted && volume.listed_from <= now;
        let entries = self.volumes.all.values().filter(listed).count();
        self.call(&ops::LIST_VOLUMES, self.pages(entries), String::new, |world| {
            let missing = world.missing_page(entries);
            let volumes = world.volumes.all.values().filter(listed).enumerate();
            let volumes = volumes.filter(|(at, _)| Some(at / page) != missing).map(|(_, volume)| shown(&volume.truth)).collect();
            Ok(VolumeListing { volumes, complete: missing.is_none() })
        })
    }

    /// A direct look.
    pub(super) fn look_at_volume(&mut self, volume: &str) -> Option<ProviderVolume> {
        self.volume(volume).map(|volume| shown(&volume.truth)).ok()
    }

    fn create_volume(&mut self, tags: &VolumeTags, zone: &str, token: &str) -> Result<ProviderVolume, ProviderError> {
        check_token(token)?;
        if let Some(first) = self.volumes.created.get(token).and_then(|id| self.volumes.all.get(id)) {
            if (&first.truth.tags, first.truth.zone.as_str()) != (tags, zone) {
                return Err(broken("IdempotentParameterMismatch", "this client token was used with other parameters"));
            }
            return Ok(shown(&first.truth));
        }
        if !self.rules.zones.iter().any(|known| known == zone) {
            return Err(broken("InvalidParameterValue", &format!("there is no zone {zone}")));
        }
        let provider_id = format!("vol-{:08x}", self.volumes.all.len());
        let listed_from = self.now + self.rules.list_lag.draw(&mut self.rng);
        let truth = VolumeTruth {
            provider_id: provider_id.clone(),
            tags: tags.clone(),
            zone: zone.to_owned(),
            link: VolumeLink::Free,
            snapshots: Vec::new(),
        };
        let answer = shown(&truth);
        self.volumes.all.insert(provider_id.clone(), SimVolume { truth, listed_from, moves_until: None });
        self.volumes.created.insert(token.to_owned(), provider_id);
        Ok(answer)
    }

    fn attach(&mut self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        let truth = &self.volume(volume)?.truth;
        let (zone, free) = (truth.zone.clone(), truth.link == VolumeLink::Free);
        let no = self.known(machine)?;
        let target = self.fleet.get(no).map(|machine| (machine.state(), machine.zone.as_str()));
        if !matches!(target, Some((MachineState::Running | MachineState::Stopped, _))) {
            return Err(broken("IncorrectState", &format!("{machine} is neither running nor stopped")));
        }
        if target.is_some_and(|(_, target_zone)| target_zone != zone) {
            return Err(broken("InvalidVolume.ZoneMismatch", &format!("{volume} is in {zone}, {machine} is not")));
        }
        if !free {
            return Err(broken("VolumeInUse", volume));
        }
        self.settle_volumes_of(machine);
        if self.volumes.per_machine.get(machine).is_some_and(|has| *has >= self.rules.volumes_per_machine) {
            return Err(broken("AttachmentLimitExceeded", machine));
        }
        let until = self.draw_move(&Fault::StuckAttach);
        *self.volumes.per_machine.entry(machine.to_owned()).or_default() += 1;
        self.move_volume(volume, VolumeLink::Attaching(machine.to_owned()), until);
        Ok(())
    }

    fn detach(&mut self, volume: &str) -> Result<(), ProviderError> {
        match self.volume(volume)?.truth.link.clone() {
            VolumeLink::Attaching(machine) | VolumeLink::Attached(machine) => {
                let until = self.draw_move(&Fault::StuckDetach);
                self.move_volume(volume, VolumeLink::Detaching(machine), until);
                Ok(())
            }
            VolumeLink::Free | VolumeLink::Detaching(_) | VolumeLink::Deleted => Ok(()),
        }
    }

    fn delete_volume(&mut self, volume: &str) -> Result<(), ProviderError> {
        match self.volume(volume).map(|volume| volume.truth.link == VolumeLink::Free) {
            Ok(true) => {
                self.move_volume(volume, VolumeLink::Deleted, None);
                Ok(())
            }
            Ok(false) => Err(broken("VolumeInUse", volume)),
            Err(_) => Ok(()),
        }
    }

    fn snapshot(&mut self, volume: &str, token: &str) -> Result<String, ProviderError> {
        check_token(token)?;
        if let Some((first, snapshot)) = self.volumes.snapshots.get(token) {
            if first != volume {
                return Err(broken("IdempotentParameterMismatch", "this client token was used with another volume"));
            }
            return Ok(snapshot.clone());
        }
        let snapshot = format!("snap-{:08x}", self.volumes.snapshots.len());
        self.volume(volume)?.truth.snapshots.push(snapshot.clone());
        self.volumes.snapshots.insert(token.to_owned(), (volume.to_owned(), snapshot.clone()));
        Ok(snapshot)
    }

    fn draw_move(&mut self, stuck: &Fault) -> Option<DateTime<Utc>> {
        let is_stuck = self.strikes(stuck);
        (!is_stuck).then(|| self.now + self.rules.volume_moves_in.draw(&mut self.rng))
    }

    fn move_volume(&mut self, volume: &str, link: VolumeLink, until: Option<DateTime<Utc>>) {
        if let Some(volume) = self.volumes.all.get_mut(volume) {
            volume.truth.link = link;
            volume.moves_until = until;
        }
    }

    /// A volume that is not deleted, as it is now.
    fn volume(&mut self, volume: &str) -> Result<&mut SimVolume, ProviderError> {
        self.settle_volume(volume);
        let found = self.volumes.all.get_mut(volume).filter(|found| found.truth.link != VolumeLink::Deleted);
        found.ok_or_else(|| broken("InvalidVolume.NotFound", volume))
    }

    fn settle_volumes(&mut self) {
        for id in self.volumes.all.keys().cloned().collect::<Vec<_>>() {
            self.settle_volume(&id);
        }
    }

    fn settle_volumes_of(&mut self, machine: &str) {
        if self.volumes.per_machine.get(machine).is_some_and(|has| *has >= self.rules.volumes_per_machine) {
            self.settle_volumes();
        }
    }

    /// Lets a volume arrive where it was going; the end of a machine frees it.
    fn settle_volume(&mut self, id: &str) {
        let Some(volume) = self.volumes.all.get_mut(id) else { return };
        let Some(machine) = volume.truth.link.machine().map(str::to_owned) else { return };
        let arrived = volume.moves_until.is_some_and(|until| until <= self.now);
        let ended = self.fleet.find(&machine).is_none_or(|machine| machine.state() == MachineState::Terminated);
        let detached = arrived && matches!(volume.truth.link, VolumeLink::Detaching(_));
        if ended || detached {
            volume.truth.link = VolumeLink::Free;
            if let Some(has) = self.volumes.per_machine.get_mut(&machine) {
                *has = has.saturating_sub(1);
            }
        } else if arrived && matches!(volume.truth.link, VolumeLink::Attaching(_)) {
            volume.truth.link = VolumeLink::Attached(machine);
        }
    }
}

fn shown(truth: &VolumeTruth) -> ProviderVolume {
    let machine = truth.link.machine().map(str::to_owned);
    let moving = matches!(truth.link, VolumeLink::Attaching(_) | VolumeLink::Detaching(_));
    ProviderVolume { provider_id: truth.provider_id.clone(), tags: truth.tags.clone(), machine, moving }
}
