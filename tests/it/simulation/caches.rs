//! What befalls caches: the cloud and its bad days, jobs that build and use layers, operators who hold and delete volumes.
//!
//! A trusted job's layers are named after its project, `project-1:7`; an untrusted one's after its task, `poison:<task>:7`.

use super::cluster::INSTALLATION;
use super::history::History;
use super::model::{HeldVolume, Job};
use super::report::Violation;
use chrono::TimeDelta;
use rand::Rng as _;
use rand::rngs::StdRng;
use vm_service::db::volume_list::VolumeFilter;
use vm_service::domain::api::{Hold, VolumeView};
use vm_service::domain::ids::{TaskId, VolumeId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::lineage::Trust;
use vm_service::domain::tags::VolumeTags;
use vm_service::provider::volumes::{Copies, Volumes as _};
use vm_service::sim::{Fault, FaultRates, Rules, Spread};

/// Of each project; a job uses a few of them.
const LAYERS: u64 = 12;

/// Of four seeds two have a cloud with zones and hourly snapshots, as EC2, and two one with one zone and cheap copies, as a host.
pub(super) fn cloud(seed: u64) -> Rules {
    if is_cheap(seed) {
        let snapshot_takes = Spread::between(TimeDelta::zero(), TimeDelta::seconds(2));
        Rules { copies: Copies::Cheap, zones: vec!["zone-a".to_owned()], snapshot_takes, ..Rules::default() }
    } else {
        Rules::default()
    }
}

pub(super) fn is_cheap(seed: u64) -> bool {
    (seed / 2).is_multiple_of(2)
}

/// The usual one, worse for caches.
pub(super) fn bad_day() -> FaultRates {
    let worse = [Fault::StuckAttach, Fault::StuckDetach, Fault::StuckSnapshot, Fault::DamagedDisk, Fault::UnmountFails];
    worse.into_iter().fold(FaultRates::usual(), |rates, fault| rates.with(fault, 0.04))
}

impl History {
    /// One of the jobs that have a cache builds something.
    pub(super) fn build(&mut self, pick: usize) {
        let ready = |job: &&Job| job.request.docker_layer_caching && job.state == TaskState::Ready && job.machine.is_some();
        let jobs: Vec<TaskId> = self.model.jobs.values().filter(ready).map(|job| job.id).collect();
        if let Some(job) = jobs.get(pick % jobs.len().max(1)) {
            self.build_in(*job);
        }
    }

    /// Most jobs build before they end.
    pub(super) fn build_at_the_end(&mut self, id: TaskId) {
        if self.rng.random_bool(0.8) {
            self.build_in(id);
        }
    }

    pub(super) fn build_in(&mut self, id: TaskId) {
        let Some(job) = self.model.jobs.get(&id) else { return };
        let Some(machine) = job.machine.clone().filter(|_| job.request.docker_layer_caching) else { return };
        let whose = match job.request.cache_trust {
            Trust::Trusted => job.request.project_id.clone(),
            Trust::Untrusted => poison(id),
        };
        let layers: Vec<(String, u64)> = (0..self.rng.random_range(1..=3)).map(|_| layer(&whose, &mut self.rng)).collect();
        let layers: Vec<(&str, u64)> = layers.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        self.cluster.sim.use_layers(&machine, &layers);
    }

    /// Volumes that are not deleted, as the API lists them.
    pub(super) async fn volume_views(&self) -> Vec<VolumeView> {
        let filter = VolumeFilter { limit: 1000, ..VolumeFilter::default() };
        let mut views = self.db.list_volume_views(&filter).await.unwrap();
        views.sort_by_key(|view| view.id);
        views.into_iter().filter(|view| view.provider_id.is_some()).collect()
    }

    pub(super) async fn hold_volume(&mut self, pick: usize, seconds: i64) {
        let volumes = self.volume_views().await;
        let Some(view) = volumes.get(pick % volumes.len().max(1)) else { return };
        let until = self.now() + TimeDelta::seconds(seconds);
        let hold = Hold { reason: "looking at it".to_owned(), until };
        if self.db.set_volume_hold(view.id, Some(&hold), "op", self.now()).await.unwrap() {
            let held = HeldVolume { volume: view.id, until };
            self.model.held_volumes.insert(view.provider_id.clone().unwrap_or_default(), held);
        }
    }

    pub(super) async fn unhold_volume(&mut self, pick: usize) {
        let held: Vec<String> = self.model.held_volumes.keys().cloned().collect();
        let Some(volume) = held.get(pick % held.len().max(1)) else { return };
        if let Some(held) = self.model.held_volumes.remove(volume) {
            self.db.set_volume_hold(held.volume, None, "op", self.now()).await.unwrap();
        }
    }

    pub(super) async fn delete_volume(&mut self, pick: usize) -> Result<(), Violation> {
        let volumes = self.volume_views().await;
        let Some(view) = volumes.get(pick % volumes.len().max(1)) else { return Ok(()) };
        let held = view.provider_id.as_ref().and_then(|id| self.model.held_volumes.get(id)).copied();
        let deleted = self.db.delete_volume(view.id, "op", self.now()).await.unwrap();
        if deleted && held.is_some_and(|held| held.until > self.now()) {
            return Err(Violation::new("an operator cannot delete a held volume", format!("{view:?}")));
        }
        Ok(())
    }

    pub(super) async fn plant_volume(&mut self, project: usize) {
        let volume = VolumeId(self.cluster.fresh_id());
        let tags =
            VolumeTags { installation: INSTALLATION, volume, lineage: crate::support::lineage(&format!("project-{project}")) };
        let planted = self.cluster.sim.create_volume(&crate::support::volume(&tags, "zone-a", &format!("volume-{volume}"))).await;
        if let Err(error) = planted {
            self.cluster.log.push(format!("planting a volume: {error}"));
        }
        // It may be there although the answer was lost.
        let made = self.cluster.sim.volumes_truth().into_iter().filter(|truth| truth.tags.volume == volume);
        self.model.planted_volumes.extend(made.map(|truth| truth.provider_id));
    }
}

/// How the names of an untrusted task's layers begin.
pub(super) fn poison(task: TaskId) -> String {
    format!("poison:{task}")
}

fn layer(whose: &str, rng: &mut StdRng) -> (String, u64) {
    let nth = rng.random_range(0..LAYERS);
    (format!("{whose}:{nth}"), (nth + 1) * 1000)
}
