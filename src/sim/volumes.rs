//! Cache volumes: each is in one zone and on at most one machine, and outlives every machine.
//!
//! *Moving* is what a volume does between the wish to attach or detach and the fact; a stuck one moves until its machine has
//! ended. Whether it has arrived is read off the time whenever somebody looks.

use super::Sim;
use super::cache::Content;
use super::faults::Fault;
use super::ops;
use super::snapshots::Snapshots;
use super::world::{World, broken, check_token};
use crate::domain::lineage::Lineage;
use crate::domain::tags::VolumeTags;
use crate::provider::volumes::{Copies, ProviderSnapshot, SnapshotListing, SnapshotSpec, VolumeSpec, Volumes};
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
    /// What is on it.
    pub content: Content,
}

#[derive(Debug, Default)]
pub(super) struct SimVolumes {
    all: BTreeMap<String, SimVolume>,
    /// Volumes by their client token.
    created: BTreeMap<String, String>,
    pub(super) snapshots: Snapshots,
    /// How many volumes each machine has, moving ones too.
    per_machine: BTreeMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct SimVolume {
    pub(super) truth: VolumeTruth,
    listed_from: DateTime<Utc>,
    /// Until when it moves, if it moves; none: for ever.
    moves_until: Option<DateTime<Utc>>,
}

impl SimVolumes {
    /// What is on a volume.
    pub(super) fn content(&mut self, volume: &str) -> Option<&mut Content> {
        self.all.get_mut(volume).map(|volume| &mut volume.truth.content)
    }

    /// The same, with whose it is.
    pub(super) fn lineage_and_content(&mut self, volume: &str) -> Option<(Lineage, &mut Content)> {
        self.all.get_mut(volume).map(|volume| (volume.truth.tags.lineage.clone(), &mut volume.truth.content))
    }
}

impl VolumeTruth {
    /// The machine that it is on, or on its way to or from.
    pub fn machine(&self) -> Option<&String> {
        match &self.link {
            VolumeLink::Attaching(machine) | VolumeLink::Attached(machine) | VolumeLink::Detaching(machine) => Some(machine),
            VolumeLink::Free | VolumeLink::Deleted => None,
        }
    }
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
    fn copies(&self) -> Copies {
        self.world().rules.copies
    }

    fn serial(&self, volume: &str) -> String {
        volume.replace('-', "")
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        self.through(&ops::CREATE_VOLUME, |world| {
            let asked = || format!("{} in {} of {:?}", spec.client_token, spec.zone, spec.snapshot);
            world.call(&ops::CREATE_VOLUME, 1, asked, |world| world.create_volume(spec))
        })
        .await
    }

    async fn attach_volume(&self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError> {
        self.through(&ops::ATTACH_VOLUME, |world| {
            world.call(&ops::ATTACH_VOLUME, 1, || format!("{volume} to {machine}"), |world| world.attach(volume, machine, owner))
        })
        .await
    }

    async fn detach_volume(&self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        self.through(&ops::DETACH_VOLUME, |world| {
            world.call(&ops::DETACH_VOLUME, 1, || format!("{volume} from {machine}"), |world| world.detach(volume, machine))
        })
        .await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), ProviderError> {
        self.through(&ops::DELETE_VOLUME, |world| {
            world.call(&ops::DELETE_VOLUME, 1, || volume.to_owned(), |world| world.delete_volume(volume))
        })
        .await
    }

    async fn snapshot_volume(&self, volume: &str, spec: &SnapshotSpec) -> Result<String, ProviderError> {
        self.through(&ops::SNAPSHOT_VOLUME, |world| {
            let asked = || format!("{} of {volume}", spec.client_token);
            world.call(&ops::SNAPSHOT_VOLUME, 1, asked, |world| world.snapshot(volume, spec))
        })
        .await
    }

    async fn find_snapshot(&self, snapshot: &str) -> Result<Option<ProviderSnapshot>, ProviderError> {
        self.through(&ops::FIND_SNAPSHOT, |world| {
            world.call(&ops::FIND_SNAPSHOT, 1, || snapshot.to_owned(), |world| Ok(world.look_at_snapshot(snapshot)))
        })
        .await
    }

    async fn list_snapshots(&self) -> Result<SnapshotListing, ProviderError> {
        self.through(&ops::LIST_SNAPSHOTS, World::list_snapshots).await
    }

    async fn delete_snapshot(&self, snapshot: &str) -> Result<(), ProviderError> {
        self.through(&ops::DELETE_SNAPSHOT, |world| {
            world.call(&ops::DELETE_SNAPSHOT, 1, || snapshot.to_owned(), |world| world.delete_snapshot(snapshot))
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

    fn create_volume(&mut self, spec: &VolumeSpec) -> Result<ProviderVolume, ProviderError> {
        let VolumeSpec { tags, zone, client_token: token, snapshot, .. } = spec;
        check_token(token)?;
        if let Some(first) = self.volumes.created.get(token).and_then(|id| self.volumes.all.get(id)) {
            if (&first.truth.tags, first.truth.zone.as_str()) != (tags, zone.as_str()) {
                return Err(broken("IdempotentParameterMismatch", "this client token was used with other parameters"));
            }
            return Ok(shown(&first.truth));
        }
        if !self.rules.zones.iter().any(|known| known == zone) {
            return Err(broken("InvalidParameterValue", &format!("there is no zone {zone}")));
        }
        let content = match snapshot {
            Some(snapshot) => self.content_of_snapshot(snapshot, &tags.lineage)?,
            None => Content::default(),
        };
        let provider_id = format!("vol-{:08x}", self.volumes.all.len());
        let listed_from = self.now + self.rules.list_lag.draw(&mut self.rng);
        let truth = VolumeTruth {
            provider_id: provider_id.clone(),
            tags: tags.clone(),
            zone: zone.to_owned(),
            link: VolumeLink::Free,
            content,
        };
        let answer = shown(&truth);
        self.volumes.all.insert(provider_id.clone(), SimVolume { truth, listed_from, moves_until: None });
        self.volumes.created.insert(token.to_owned(), provider_id);
        Ok(answer)
    }

    fn attach(&mut self, volume: &str, machine: &str, owner: &Lineage) -> Result<(), ProviderError> {
        let truth = &self.volume(volume)?.truth;
        let of = &truth.tags.lineage;
        if (&of.project_id, of.trust) != (&owner.project_id, owner.trust) {
            return Err(broken("WrongOwner", &format!("{volume} belongs to {} project {}", of.trust, of.project_id)));
        }
        if matches!(&truth.link, VolumeLink::Attaching(holder) | VolumeLink::Attached(holder) if holder == machine) {
            return Ok(());
        }
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

    fn detach(&mut self, volume: &str, machine: &str) -> Result<(), ProviderError> {
        match self.volume(volume)?.truth.link.clone() {
            VolumeLink::Attaching(holder) | VolumeLink::Attached(holder) if holder == machine => {
                let until = self.draw_move(&Fault::StuckDetach);
                self.move_volume(volume, VolumeLink::Detaching(holder), until);
                Ok(())
            }
            _ => Ok(()),
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

    /// The volume of this serial that is on the machine.
    pub(super) fn attached_by_serial(&mut self, machine: &str, serial: &str) -> Option<String> {
        self.settle_volumes();
        let on_it = VolumeLink::Attached(machine.to_owned());
        let found = self.volumes.all.iter().find(|(id, volume)| volume.truth.link == on_it && id.replace('-', "") == serial);
        found.map(|(id, _)| id.clone())
    }

    /// What is on the disk that the machine's engine works on.
    pub(super) fn mounted_on(&mut self, machine: &str) -> Option<&mut Content> {
        self.settle_volumes();
        let on_it = self.volumes.all.values_mut().filter(|volume| volume.truth.link.machine() == Some(machine));
        on_it.map(|volume| &mut volume.truth.content).find(|content| content.mounted)
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
    pub(super) fn volume(&mut self, volume: &str) -> Result<&mut SimVolume, ProviderError> {
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
            volume.truth.content.torn |= std::mem::take(&mut volume.truth.content.mounted);
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
    let (provider_id, tags, zone) = (truth.provider_id.clone(), truth.tags.clone(), truth.zone.clone());
    ProviderVolume { provider_id, tags, zone, machine, moving }
}
