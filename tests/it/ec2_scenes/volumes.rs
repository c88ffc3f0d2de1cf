//! EBS volumes through the provider: once per token, in one zone, never under two writers.

use super::scene::Scene;
use crate::ec2_doctor::OURS;
use crate::ec2_wire::faults::Fault;
use crate::support::{lineage, snapshot, volume as spec};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::ids::{InstallationId, VolumeId};
use vm_service::domain::lineage::{Lineage, Trust};
use vm_service::domain::tags::VolumeTags;
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{Provider as _, ProviderError};

pub(super) fn tags(project: &str) -> VolumeTags {
    VolumeTags { installation: OURS, volume: VolumeId(Uuid::from_u128(77)), lineage: lineage(project) }
}

pub(super) fn refusal<T: std::fmt::Debug>(answer: Result<T, ProviderError>) -> String {
    match answer {
        Err(ProviderError::Invalid(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// FAILURES.md row 21. Who waits for the volume has the deadline; here it is half a minute.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_that_is_stuck_on_its_way_has_no_second_writer_and_is_free_again_when_it_is_given_up(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let ec2 = &scene.ec2;
    let ((_, machine), (_, other)) = (scene.job().await, scene.job().await);
    let volume = ec2.create_volume(&spec(&tags("p"), &scene.cloud.subnets()[0].zone, "v")).await.unwrap().provider_id;
    let whereabouts = async || {
        let found = ec2.find_volume(&volume).await.unwrap().unwrap();
        (found.machine, found.moving)
    };
    scene.cloud.inject(Fault::stuck_attach());
    ec2.attach_volume(&volume, &machine, &lineage("p")).await.unwrap();
    for _ in 0..30 {
        scene.turn(1).await;
        assert_eq!(whereabouts().await, (Some(machine.clone()), true));
    }
    let refused = refusal(ec2.attach_volume(&volume, &other, &lineage("p")).await);
    let expected = format!("{volume} is on its way to or from {machine}: detach it there, or go on with a copy or without it");
    assert!(refused.contains(&expected), "{refused}");
    assert!(refusal(ec2.delete_volume(&volume).await).contains("VolumeInUse"));
    ec2.detach_volume(&volume, &machine).await.unwrap();
    assert_eq!(whereabouts().await, (None, false));

    ec2.attach_volume(&volume, &other, &lineage("p")).await.unwrap();
    assert_eq!(whereabouts().await, (Some(other.clone()), false));
    let refused = refusal(ec2.attach_volume(&volume, &machine, &lineage("p")).await);
    assert!(refused.contains(&format!("{volume} is on {other}: detach it there")), "{refused}");
    // A stuck way back ends with the machine.
    ec2.detach_volume(&volume, &machine).await.unwrap();
    assert_eq!(whereabouts().await, (Some(other.clone()), false), "a late wish does not take it off the next machine");
    scene.cloud.inject(Fault::stuck_detach());
    ec2.detach_volume(&volume, &other).await.unwrap();
    assert_eq!(whereabouts().await, (Some(other), true));
    scene.ends_clean().await;
    assert_eq!(whereabouts().await, (None, false));
    ec2.delete_volume(&volume).await.unwrap();
    assert_eq!(scene.cloud.volumes().await, []);
}

/// FAILURES.md row 22.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_of_another_zone_is_refused_and_stays_free(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, machine) = scene.job().await;
    let volume = scene.ec2.create_volume(&spec(&tags("p"), &scene.cloud.subnets()[1].zone, "v")).await.unwrap().provider_id;
    let refused = refusal(scene.ec2.attach_volume(&volume, &machine, &lineage("p")).await);
    assert!(refused.contains("ZoneMismatch") && refused.contains(&volume) && refused.contains(&machine), "{refused}");
    let found = scene.ec2.find_volume(&volume).await.unwrap().unwrap();
    assert_eq!((found.machine, found.moving), (None, false));
    scene.ec2.delete_volume(&volume).await.unwrap();
    scene.ends_clean().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_goes_through_its_life(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, machine) = scene.job().await;
    let zones: Vec<String> = scene.cloud.subnets().into_iter().map(|it| it.zone).collect();
    let ec2 = &scene.ec2;

    // A lost answer makes no second one.
    scene.cloud.inject(Fault::lose_answer("CreateVolume"));
    let wish = spec(&tags("p"), &zones[0], "first");
    assert!(matches!(ec2.create_volume(&wish).await, Err(ProviderError::Transient { .. })));
    let volume = ec2.create_volume(&wish).await.unwrap().provider_id;
    let listed = ec2.list_volumes().await.unwrap();
    assert_eq!(listed.volumes.iter().map(|it| &it.provider_id).collect::<Vec<_>>(), [&volume], "root disks are none of them");
    assert_eq!(listed.volumes[0].tags, wish.tags);

    ec2.attach_volume(&volume, &machine, &lineage("p")).await.unwrap();
    ec2.attach_volume(&volume, &machine, &lineage("p")).await.unwrap();
    assert_eq!(scene.cloud.calls("AttachVolume").len(), 1, "the second one looks, and sees that nothing is to be done");
    assert_eq!(ec2.find_volume(&volume).await.unwrap().unwrap().machine.as_ref(), Some(&machine));
    let (_, other) = scene.job().await;
    assert!(refusal(ec2.attach_volume(&volume, &other, &lineage("p")).await).contains(&format!("{volume} is on {machine}")));
    assert!(refusal(ec2.delete_volume(&volume).await).contains("VolumeInUse"));

    let saved = ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "snap-1")).await.unwrap();
    assert_eq!(ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "snap-1")).await.unwrap(), saved);
    ec2.detach_volume(&volume, &machine).await.unwrap();
    ec2.detach_volume(&volume, &machine).await.unwrap();
    let mut copy = spec(&tags("p"), &zones[1], "second");
    copy.snapshot = Some(saved);
    let far = ec2.create_volume(&copy).await.unwrap().provider_id;

    for volume in [volume, far] {
        ec2.delete_volume(&volume).await.unwrap();
        ec2.delete_volume(&volume).await.unwrap();
        assert_eq!(ec2.find_volume(&volume).await.unwrap(), None);
    }
    scene.ends_clean().await;
}

/// Volumes are never shared between projects, and what an untrusted job wrote goes to no trusted one.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_volume_goes_to_its_owner_only(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, machine) = scene.job().await;
    let (ec2, zone) = (&scene.ec2, scene.cloud.subnets()[0].zone.clone());
    let volume = ec2.create_volume(&spec(&tags("p"), &zone, "v")).await.unwrap().provider_id;
    let untrusted = Lineage { trust: Trust::Untrusted, ..lineage("p") };
    for (owner, named) in [(lineage("q"), "trusted project q"), (untrusted, "untrusted project p")] {
        let refused = refusal(ec2.attach_volume(&volume, &machine, &owner).await);
        let expected = format!("attaching a volume: {volume} belongs to trusted project p and {machine} works for {named}");
        assert_eq!(refused, expected);
    }
    let mut stranger = spec(&tags("p"), &zone, "w");
    stranger.tags.installation = InstallationId(Uuid::from_u128(43));
    let stranger = ec2.create_volume(&stranger).await.unwrap().provider_id;
    let by_hand = scene.cloud.behind_our_back("CreateVolume", &[("AvailabilityZone", &zone), ("Size", "1")]).await;
    let by_hand = by_hand.split_once("<volumeId>").unwrap().1.split_once('<').unwrap().0;
    for other in [stranger.as_str(), by_hand] {
        let refused = refusal(ec2.attach_volume(other, &machine, &lineage("p")).await);
        assert_eq!(refused, format!("attaching a volume: {other} is no cache volume of this installation"));
    }
    assert!(refusal(ec2.attach_volume("vol-0123456789abcdef0", &machine, &lineage("p")).await).contains("InvalidVolume.NotFound"));
    assert_eq!(scene.cloud.calls("AttachVolume").len(), 0, "nothing was asked for");
    scene.ends_clean().await;
}

/// The answer to an attachment is lost, or another worker makes it between our look and our call.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_attachment_is_one_change_whatever_happens(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let ((_, machine), (_, other)) = (scene.job().await, scene.job().await);
    let (ec2, zone) = (&scene.ec2, scene.cloud.subnets()[0].zone.clone());
    let volume = ec2.create_volume(&spec(&tags("p"), &zone, "v")).await.unwrap().provider_id;
    scene.cloud.inject(Fault::lose_answer("AttachVolume"));
    let lost = ec2.attach_volume(&volume, &machine, &lineage("p")).await;
    assert!(matches!(lost, Err(ProviderError::Transient { .. })), "{lost:?}");
    ec2.attach_volume(&volume, &machine, &lineage("p")).await.unwrap();
    assert_eq!(scene.cloud.calls("AttachVolume").len(), 1);
    // On its way off, it is on its way nowhere else, and not back either.
    scene.cloud.inject(Fault::stuck_detach());
    ec2.detach_volume(&volume, &machine).await.unwrap();
    for machine in [&machine, &other] {
        let refused = refusal(ec2.attach_volume(&volume, machine, &lineage("p")).await);
        assert!(refused.contains("on its way to or from"), "{refused}");
    }
    let both: Vec<String> = vec![machine, other];
    let second = ec2.create_volume(&spec(&tags("p"), &zone, "w")).await.unwrap().provider_id;
    let owner = lineage("p");
    let (one, two) = tokio::join!(ec2.attach_volume(&second, &both[0], &owner), ec2.attach_volume(&second, &both[1], &owner));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|won| **won).count(), 1, "{one:?} {two:?}");
    scene.ends_clean().await;
}
