//! Volumes: in one zone, on one machine, and they outlive it.

use super::{Cloud, after, easy, refusal, volume_tags as tags};
use crate::support::{lineage, snapshot, volume as spec};
use vm_service::domain::lineage::{Lineage, Trust};
use vm_service::provider::Provider as _;
use vm_service::provider::volumes::Volumes as _;
use vm_service::sim::{Fault, Rules, VolumeLink};

impl Cloud {
    fn link(&self, volume: &str) -> VolumeLink {
        self.volume_truth(volume).link
    }
}

fn slow() -> Rules {
    Rules { volume_moves_in: after(3), runs_after: after(18), shuts_down_in: after(30), ..easy() }
}

/// "`ClientToken` …: RunInstances, CreateFleet, CreateVolume, StartSnapshot."
#[tokio::test]
async fn a_volume_and_a_snapshot_are_made_once_per_token() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    assert_eq!(cloud.volume("v").await, volume);
    let other = cloud.sim.create_volume(&spec(&tags("q"), "zone-a", "v")).await;
    assert_eq!(refusal(other), "IdempotentParameterMismatch");
    let wish = |token: &str| snapshot(&tags("p"), token);
    let made = cloud.sim.snapshot_volume(&volume, &wish("s")).await.unwrap();
    assert_eq!(cloud.sim.snapshot_volume(&volume, &wish("s")).await.unwrap(), made);
    let second = cloud.volume("w").await;
    assert_eq!(refusal(cloud.sim.snapshot_volume(&second, &wish("s")).await), "IdempotentParameterMismatch");
    assert_eq!(refusal(cloud.sim.snapshot_volume("vol-none", &wish("x")).await), "InvalidVolume.NotFound");
    let truth: Vec<_> = cloud.sim.snapshots_truth().into_iter().map(|it| (it.provider_id, it.volume)).collect();
    assert_eq!(truth, [(made, volume)]);
    assert_eq!(cloud.sim.list_volumes().await.unwrap().volumes.len(), 2);
}

/// "A volume attaches only in its own availability zone".
#[tokio::test]
async fn a_volume_attaches_only_in_its_own_zone() {
    let cloud = Cloud::with(Rules { zones: vec!["zone-a".to_owned(), "zone-b".to_owned()], ..easy() });
    let volume = cloud.volume("v").await;
    let made = cloud.sim.launch(&cloud.spec("t", 1)).await.unwrap().remove(0);
    let zone = cloud.truth(&made).zone;
    let other = if zone == "zone-a" { "zone-b" } else { "zone-a" };
    let far = cloud.sim.create_volume(&spec(&tags("p"), other, "far")).await.unwrap().provider_id;
    let near = cloud.sim.create_volume(&spec(&tags("p"), &zone, "near")).await.unwrap().provider_id;
    assert_eq!(refusal(cloud.attach(&far, &made).await), "InvalidVolume.ZoneMismatch");
    cloud.attach(&near, &made).await.unwrap();
    assert_eq!(cloud.link(&volume), VolumeLink::Free);
    assert_eq!(refusal(cloud.sim.create_volume(&spec(&tags("p"), "zone-x", "x")).await), "InvalidParameterValue");
}

/// "Attach needs the instance `running` (or stopped): `IncorrectState` before".
#[tokio::test]
async fn a_volume_attaches_to_a_machine_that_runs_or_is_stopped() {
    let cloud = Cloud::with(slow());
    let volume = cloud.volume("v").await;
    let machine = cloud.one("t").await;
    assert_eq!(refusal(cloud.attach(&volume, &machine).await), "IncorrectState");
    cloud.pass(18);
    cloud.sim.stop_machine(&machine.provider_id).await.unwrap();
    assert_eq!(refusal(cloud.attach(&volume, &machine).await), "IncorrectState");
    cloud.pass(30);
    cloud.attach(&volume, &machine).await.unwrap();
    let on = machine.provider_id.clone();
    assert_eq!(cloud.link(&volume), VolumeLink::Attaching(on.clone()));
    assert_eq!(cloud.sim.find_volume(&volume).await.unwrap().unwrap().machine.as_ref(), Some(&on), "on its way counts");
    cloud.pass(3);
    assert_eq!(cloud.link(&volume), VolumeLink::Attached(on));
    assert_eq!(refusal(cloud.sim.attach_volume(&volume, "i-none", &lineage("p")).await), "InvalidInstanceID.NotFound");
}

/// "ext4 and xfs are destroyed by two writers": no second attachment, not even on the way.
#[tokio::test]
async fn a_volume_is_on_one_machine() {
    let cloud = Cloud::with(slow());
    let volume = cloud.volume("v").await;
    let (first, second) = (cloud.one("a").await, cloud.one("b").await);
    cloud.pass(18);
    cloud.attach(&volume, &first).await.unwrap();
    assert_eq!(refusal(cloud.attach(&volume, &second).await), "VolumeInUse");
    cloud.pass(3);
    assert_eq!(refusal(cloud.attach(&volume, &second).await), "VolumeInUse");
    cloud.sim.detach_volume(&volume, &first.provider_id).await.unwrap();
    cloud.sim.detach_volume(&volume, &first.provider_id).await.unwrap();
    assert_eq!(refusal(cloud.attach(&volume, &second).await), "VolumeInUse");
    cloud.pass(3);
    cloud.attach(&volume, &second).await.unwrap();
    cloud.sim.detach_volume(&volume, &first.provider_id).await.unwrap();
    cloud.pass(3);
    let on = VolumeLink::Attached(second.provider_id.clone());
    assert_eq!(cloud.link(&volume), on, "a late wish does not take it off the next machine");
}

/// "One that is on it already, or on its way there, is fine": an answer may have been lost.
#[tokio::test]
async fn attaching_to_the_same_machine_again_changes_nothing() {
    let cloud = Cloud::with(slow());
    let volume = cloud.volume("v").await;
    let machine = cloud.one("t").await;
    cloud.pass(18);
    cloud.sim.inject(Fault::LoseChangeAnswer);
    cloud.attach(&volume, &machine).await.unwrap_err();
    let on = machine.provider_id.clone();
    cloud.pass(1);
    cloud.attach(&volume, &machine).await.unwrap();
    assert_eq!(cloud.link(&volume), VolumeLink::Attaching(on.clone()));
    cloud.pass(2);
    assert_eq!(cloud.link(&volume), VolumeLink::Attached(on.clone()), "it does not set out anew");
    cloud.attach(&volume, &machine).await.unwrap();
    assert_eq!(cloud.link(&volume), VolumeLink::Attached(on));
    cloud.sim.detach_volume(&volume, &machine.provider_id).await.unwrap();
    assert_eq!(refusal(cloud.attach(&volume, &machine).await), "VolumeInUse", "it is on its way off");
}

/// `Invalid` where the volume is "of another project or trust than `owner`".
#[tokio::test]
async fn a_volume_goes_to_its_project_and_trust_only() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    let machine = cloud.one("t").await;
    let untrusted = Lineage { trust: Trust::Untrusted, ..lineage("p") };
    for stranger in [lineage("q"), untrusted] {
        let refused = cloud.sim.attach_volume(&volume, &machine.provider_id, &stranger).await;
        assert_eq!(refusal(refused), "WrongOwner", "{stranger:?}");
    }
    assert_eq!(cloud.link(&volume), VolumeLink::Free);
    cloud.attach(&volume, &machine).await.unwrap();
    let again = cloud.sim.attach_volume(&volume, &machine.provider_id, &lineage("q")).await;
    assert_eq!(refusal(again), "WrongOwner", "where it is does not matter");
}

/// A volume in use is not deleted ("moto … is right about … deleting an attached volume").
#[tokio::test]
async fn an_attached_volume_is_not_deleted() {
    let cloud = Cloud::easy();
    let volume = cloud.volume("v").await;
    let machine = cloud.one("t").await;
    cloud.attach(&volume, &machine).await.unwrap();
    assert_eq!(refusal(cloud.sim.delete_volume(&volume).await), "VolumeInUse");
    cloud.sim.detach_volume(&volume, &machine.provider_id).await.unwrap();
    cloud.sim.delete_volume(&volume).await.unwrap();
    cloud.sim.delete_volume(&volume).await.unwrap();
    assert_eq!(cloud.link(&volume), VolumeLink::Deleted);
    assert_eq!(cloud.sim.find_volume(&volume).await.unwrap(), None);
    assert_eq!(cloud.sim.list_volumes().await.unwrap().volumes, []);
    assert_eq!(refusal(cloud.attach(&volume, &machine).await), "InvalidVolume.NotFound");
    assert_eq!(refusal(cloud.sim.detach_volume(&volume, &machine.provider_id).await), "InvalidVolume.NotFound");
}

/// "Other volumes default to *not* deleted on termination": a volume survives its machine, and is free then.
#[tokio::test]
async fn a_volume_survives_its_machine() {
    let cloud = Cloud::with(slow());
    let volume = cloud.volume("v").await;
    let machine = cloud.one("t").await;
    cloud.pass(18);
    cloud.attach(&volume, &machine).await.unwrap();
    cloud.terminate(&machine).await;
    cloud.pass(29);
    assert_eq!(cloud.link(&volume), VolumeLink::Attached(machine.provider_id.clone()));
    cloud.pass(1);
    assert_eq!(cloud.link(&volume), VolumeLink::Free);
}

/// "About 27 EBS volumes per Nitro instance."
#[tokio::test]
async fn a_machine_has_27_volumes_at_most() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    for n in 0..27 {
        cloud.attach(&cloud.volume(&format!("v{n}")).await, &machine).await.unwrap();
    }
    let one_more = cloud.volume("more").await;
    assert_eq!(refusal(cloud.attach(&one_more, &machine).await), "AttachmentLimitExceeded");
    cloud.sim.detach_volume("vol-00000003", &machine.provider_id).await.unwrap();
    cloud.attach(&one_more, &machine).await.unwrap();
}

/// "Detaching a mounted disk hangs `busy`", and attachments hang too: until the machine has ended.
#[tokio::test]
async fn attaching_and_detaching_may_hang() {
    let cloud = Cloud::with(slow());
    let (attaching, detaching) = (cloud.volume("v").await, cloud.volume("w").await);
    let machine = cloud.one("t").await;
    cloud.pass(18);
    let on = machine.provider_id.clone();
    cloud.sim.inject(Fault::StuckAttach);
    cloud.sim.inject(Fault::StuckDetach);
    cloud.attach(&attaching, &machine).await.unwrap();
    cloud.attach(&detaching, &machine).await.unwrap();
    cloud.pass(300);
    assert_eq!(
        (cloud.link(&attaching), cloud.link(&detaching)),
        (VolumeLink::Attaching(on.clone()), VolumeLink::Attached(on.clone()))
    );
    cloud.sim.detach_volume(&detaching, &machine.provider_id).await.unwrap();
    cloud.pass(300);
    assert_eq!(cloud.link(&detaching), VolumeLink::Detaching(on));
    assert_eq!(refusal(cloud.sim.delete_volume(&detaching).await), "VolumeInUse");
    cloud.sim.detach_volume(&attaching, &machine.provider_id).await.unwrap();
    cloud.pass(3);
    assert_eq!(cloud.link(&attaching), VolumeLink::Free);
    cloud.terminate(&machine).await;
    cloud.pass(30);
    assert_eq!(cloud.link(&detaching), VolumeLink::Free);
}

/// Lists of volumes lag and lack pages as those of machines do.
#[tokio::test]
async fn lists_of_volumes_lag_and_lack_pages() {
    let cloud = Cloud::with(Rules { page: 2, list_lag: after(10), ..easy() });
    for token in ["a", "b", "c", "d"] {
        cloud.volume(token).await;
    }
    let list = || async { cloud.sim.list_volumes().await.unwrap() };
    assert_eq!((list().await.volumes.len(), list().await.complete), (0, true));
    cloud.pass(10);
    cloud.sim.inject(Fault::ListMissesPage);
    let short = list().await;
    assert_eq!((short.volumes.len(), short.complete), (2, false));
    assert_eq!(list().await.volumes.len(), 4);
}
