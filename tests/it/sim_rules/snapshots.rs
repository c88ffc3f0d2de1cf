//! Snapshots: what was on a volume when it was asked for, usable when it is completed, and independent of its volume.

use super::{Cloud, after, easy, refusal, volume_tags as tags};
use crate::support::{lineage, snapshot, volume as spec};
use vm_service::domain::ids::GenerationId;
use vm_service::domain::lineage::{Lineage, Trust};
use vm_service::provider::ProviderError;
use vm_service::provider::volumes::{ProviderSnapshot, SnapshotState, VolumeSpec, Volumes as _};
use vm_service::sim::{Content, Fault, Rules};

impl Cloud {
    async fn snapshot(&self, volume: &str, token: &str) -> String {
        self.sim.snapshot_volume(volume, &snapshot(&tags("p"), token)).await.unwrap()
    }

    async fn snapshot_state(&self, snapshot: &str) -> Option<SnapshotState> {
        self.sim.find_snapshot(snapshot).await.unwrap().map(|it| it.state)
    }

    /// A volume that begins with what is in the snapshot.
    async fn copy(&self, of: &str, token: &str) -> Result<String, ProviderError> {
        let wish = VolumeSpec { snapshot: Some(of.to_owned()), ..spec(&tags("p"), "zone-a", token) };
        self.sim.create_volume(&wish).await.map(|it| it.provider_id)
    }
}

/// It carries its tags from the call that makes it, is found and listed by them, and completes in its time.
#[tokio::test]
async fn a_snapshot_completes_in_its_time() {
    let cloud = Cloud::with(Rules { snapshot_takes: after(60), ..easy() });
    let volume = cloud.volume("v").await;
    let wish = snapshot(&tags("p"), "s");
    let made = cloud.sim.snapshot_volume(&volume, &wish).await.unwrap();
    let shown = |state| ProviderSnapshot { provider_id: made.clone(), tags: wish.tags.clone(), size_gib: 100, state };
    assert_eq!(cloud.sim.find_snapshot(&made).await.unwrap(), Some(shown(SnapshotState::Pending)));
    assert_eq!(refusal(cloud.copy(&made, "early").await), "IncorrectState");
    cloud.pass(59);
    assert_eq!(cloud.snapshot_state(&made).await, Some(SnapshotState::Pending));
    cloud.pass(1);
    let listed = cloud.sim.list_snapshots().await.unwrap();
    assert_eq!((listed.snapshots, listed.complete), (vec![shown(SnapshotState::Completed)], true));
    cloud.copy(&made, "late").await.unwrap();
    assert_eq!(cloud.sim.find_snapshot("snap-none").await.unwrap(), None);
}

/// The same token names the same snapshot after a lost answer; other tokens make others.
#[tokio::test]
async fn a_lost_answer_makes_no_second_snapshot() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    cloud.sim.inject(Fault::LoseChangeAnswer);
    let lost = cloud.sim.snapshot_volume(&volume, &snapshot(&tags("p"), "s")).await;
    assert!(matches!(lost, Err(ProviderError::Transient { .. })), "{lost:?}");
    let made = cloud.snapshot(&volume, "s").await;
    assert_eq!(cloud.sim.snapshots_truth().len(), 1);
    let mut other = snapshot(&tags("p"), "t");
    other.tags.generation = GenerationId(uuid::Uuid::from_u128(89));
    assert_ne!(cloud.sim.snapshot_volume(&volume, &other).await.unwrap(), made);
    assert_eq!(cloud.sim.snapshots_truth().len(), 2);
}

/// One that is stuck never completes, and is deleted all the same.
#[tokio::test]
async fn a_snapshot_may_never_complete() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    cloud.sim.inject(Fault::StuckSnapshot);
    let made = cloud.snapshot(&volume, "s").await;
    cloud.pass(100_000);
    assert_eq!(cloud.snapshot_state(&made).await, Some(SnapshotState::Pending));
    assert_eq!(refusal(cloud.copy(&made, "copy").await), "IncorrectState");
    cloud.sim.delete_snapshot(&made).await.unwrap();
    assert_eq!(cloud.snapshot_state(&made).await, None);
}

/// "What is written to the volume later is not in it", and it outlives its volume; so does a copy its snapshot.
#[tokio::test]
async fn a_copy_has_what_was_there_when_the_snapshot_was_made() {
    let cloud = Cloud::easy();
    let (volume, machine) = (cloud.volume("v").await, cloud.one("t").await);
    let layers = |volume: &str| cloud.volume_truth(volume).content.layers.into_keys().collect::<Vec<_>>();
    cloud.works_on(&volume, &machine, &[("base", 100)]).await;
    let made = cloud.snapshot(&volume, "s").await;
    cloud.works_on(&volume, &machine, &[("late", 10)]).await;
    assert_eq!(layers(&volume), ["base", "late"]);
    cloud.sim.delete_volume(&volume).await.unwrap();
    let copy = cloud.copy(&made, "copy").await.unwrap();
    assert_eq!(layers(&copy), ["base"]);
    assert_eq!(cloud.volume_truth(&copy).content.written_by.into_iter().collect::<Vec<_>>(), [lineage("p")]);
    cloud.sim.delete_snapshot(&made).await.unwrap();
    cloud.sim.delete_snapshot(&made).await.unwrap();
    assert_eq!(cloud.sim.list_snapshots().await.unwrap().snapshots, []);
    assert_eq!(refusal(cloud.copy(&made, "another").await), "InvalidSnapshot.NotFound");
    assert_eq!(layers(&copy), ["base"]);
    assert_eq!(cloud.sim.volumes_truth().iter().filter(|it| it.content == Content::default()).count(), 0);
}

/// Another project gets no copy; an untrusted job of the same gets one.
#[tokio::test]
async fn a_snapshot_is_copied_within_its_project() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    let made = cloud.snapshot(&volume, "s").await;
    let stranger = VolumeSpec { snapshot: Some(made.clone()), ..spec(&tags("q"), "zone-a", "q") };
    assert_eq!(refusal(cloud.sim.create_volume(&stranger).await), "WrongOwner");
    let mut untrusted = spec(&tags("p"), "zone-a", "u");
    untrusted.tags.lineage = Lineage { trust: Trust::Untrusted, ..lineage("p") };
    untrusted.snapshot = Some(made);
    cloud.sim.create_volume(&untrusted).await.unwrap();
}
