//! Snapshots through the provider: once per token, found by their tags, copied within their project when they are completed.

use super::alone::Alone;
use super::volumes::{refusal, tags};
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::rules::Rules;
use crate::support::{lineage, snapshot, volume as spec};
use std::time::Duration;
use uuid::Uuid;
use vm_service::domain::ids::{GenerationId, InstallationId};
use vm_service::domain::lineage::{Lineage, Trust};
use vm_service::provider::ProviderError;
use vm_service::provider::volumes::{ProviderSnapshot, SnapshotState, VolumeSpec, Volumes as _};

impl Alone {
    fn zone(&self) -> String {
        self.cloud.subnets()[0].zone.clone()
    }

    async fn cache_volume(&self, token: &str) -> String {
        self.ec2.create_volume(&spec(&tags("p"), &self.zone(), token)).await.unwrap().provider_id
    }

    /// A volume of this lineage that begins with the snapshot.
    async fn copy(&self, of: &str, to: Lineage, token: &str) -> Result<String, ProviderError> {
        let mut wish = VolumeSpec { snapshot: Some(of.to_owned()), ..spec(&tags("p"), &self.zone(), token) };
        wish.tags.lineage = to;
        self.ec2.create_volume(&wish).await.map(|it| it.provider_id)
    }
}

#[tokio::test]
async fn a_snapshot_goes_through_its_life() {
    let alone = Alone::new(Rules::default()).await;
    let volume = alone.cache_volume("v").await;
    let wish = snapshot(&tags("p"), "s");
    alone.cloud.inject(Fault::pending_for(Duration::from_secs(90)));
    alone.cloud.inject(Fault::lose_answer("CreateSnapshot"));
    let lost = alone.ec2.snapshot_volume(&volume, &wish).await;
    assert!(matches!(lost, Err(ProviderError::Transient { .. })), "{lost:?}");
    let made = alone.ec2.snapshot_volume(&volume, &wish).await.unwrap();
    assert_eq!(alone.cloud.calls("CreateSnapshot").len(), 1, "a lost answer makes no second one");

    let shown = |state| ProviderSnapshot { provider_id: made.clone(), tags: wish.tags.clone(), size_gib: 100, state };
    assert_eq!(alone.ec2.find_snapshot(&made).await.unwrap(), Some(shown(SnapshotState::Pending)));
    let refused = refusal(alone.copy(&made, lineage("p"), "early").await);
    assert_eq!(refused, format!("making a volume of {made}: it is not completed yet: wait, or go on with an older generation"));
    alone.cloud.pass(Duration::from_secs(90));
    let listed = alone.ec2.list_snapshots().await.unwrap();
    assert_eq!((listed.snapshots, listed.complete), (vec![shown(SnapshotState::Completed)], true));

    // It outlives its volume, and a copy it.
    alone.ec2.delete_volume(&volume).await.unwrap();
    let copy = alone.copy(&made, lineage("p"), "copy").await.unwrap();
    assert_eq!(alone.cloud.volumes().await.into_iter().find(|it| it.id == copy).unwrap().snapshot, made);
    alone.ec2.delete_snapshot(&made).await.unwrap();
    alone.ec2.delete_snapshot(&made).await.unwrap();
    assert_eq!(alone.ec2.find_snapshot(&made).await.unwrap(), None);
    assert_eq!(alone.ec2.find_snapshot("snap-0123456789abcdef0").await.unwrap(), None);
    assert_eq!(alone.ec2.list_snapshots().await.unwrap().snapshots, []);
    let refused = refusal(alone.copy(&made, lineage("p"), "gone").await);
    assert!(refused.contains("there is no such snapshot of this installation"), "{refused}");
}

/// A token that made a snapshot of one volume is no answer for another.
#[tokio::test]
async fn a_token_belongs_to_one_volume() {
    let alone = Alone::new(Rules::default()).await;
    let (one, other) = (alone.cache_volume("v").await, alone.cache_volume("w").await);
    let wish = snapshot(&tags("p"), "s");
    let made = alone.ec2.snapshot_volume(&one, &wish).await.unwrap();
    let refused = refusal(alone.ec2.snapshot_volume(&other, &wish).await);
    assert_eq!(refused, format!("making a snapshot of {other}: its token made {made} of {one}: take another token"));
    let none = refusal(alone.ec2.snapshot_volume("vol-0123456789abcdef0", &snapshot(&tags("p"), "t")).await);
    assert!(none.contains("InvalidVolume.NotFound"), "{none}");
}

/// Snapshots of other installations, of images and of people are not ours.
#[tokio::test]
async fn what_is_not_ours_is_not_seen() {
    let alone = Alone::new(Rules::default()).await;
    let volume = alone.cache_volume("v").await;
    let made = alone.ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "s")).await.unwrap();
    alone.cloud.behind_our_back("CreateSnapshot", &[("VolumeId", &volume)]).await;
    let mut theirs = snapshot(&tags("p"), "theirs");
    theirs.tags.installation = InstallationId(Uuid::from_u128(43));
    theirs.tags.generation = GenerationId(Uuid::from_u128(90));
    let theirs = alone.ec2.snapshot_volume(&volume, &theirs).await.unwrap();
    assert_eq!(alone.ec2.find_snapshot(&theirs).await.unwrap(), None);
    let listed = alone.ec2.list_snapshots().await.unwrap().snapshots;
    assert_eq!(listed.into_iter().map(|it| it.provider_id).collect::<Vec<_>>(), [made]);
    assert!(refusal(alone.copy(&theirs, lineage("p"), "c").await).contains("no such snapshot of this installation"));
}

/// Another project gets no copy; an untrusted job may read what trusted ones wrote, and never the other way round.
#[tokio::test]
async fn a_snapshot_is_copied_within_its_project() {
    let alone = Alone::new(Rules::default()).await;
    let untrusted = || Lineage { trust: Trust::Untrusted, ..lineage("p") };
    let volume = alone.cache_volume("v").await;
    let trusted = alone.ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "s")).await.unwrap();
    let refused = refusal(alone.copy(&trusted, lineage("q"), "q").await);
    assert_eq!(refused, format!("making a volume of {trusted}: it belongs to trusted project p"));
    alone.copy(&trusted, untrusted(), "u").await.unwrap();
    let mut wish = snapshot(&tags("p"), "t");
    wish.tags.lineage = untrusted();
    let dirty = alone.ec2.snapshot_volume(&volume, &wish).await.unwrap();
    let refused = refusal(alone.copy(&dirty, lineage("p"), "d").await);
    assert_eq!(refused, format!("making a volume of {dirty}: it belongs to untrusted project p"));
    let calls = alone.cloud.calls("CreateVolume").len();
    assert_eq!(calls, 2, "the one, and the untrusted copy: nothing was asked for that was refused here");
}
