//! EBS volumes through the provider: once per token, in one zone, never under two writers.

use super::scene::Scene;
use crate::ec2_doctor::OURS;
use crate::ec2_wire::faults::Fault;
use crate::support::{lineage, snapshot, volume as spec};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::ids::VolumeId;
use vm_service::domain::tags::VolumeTags;
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{Provider as _, ProviderError};

pub(super) fn tags(project: &str) -> VolumeTags {
    VolumeTags { installation: OURS, volume: VolumeId(Uuid::from_u128(77)), lineage: lineage(project) }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ProviderError>) -> String {
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
    ec2.detach_volume(&volume).await.unwrap();
    assert_eq!(whereabouts().await, (None, false));

    ec2.attach_volume(&volume, &other, &lineage("p")).await.unwrap();
    assert_eq!(whereabouts().await, (Some(other.clone()), false));
    let refused = refusal(ec2.attach_volume(&volume, &machine, &lineage("p")).await);
    assert!(refused.contains(&format!("{volume} is on {other}: detach it there")), "{refused}");
    // A stuck way back ends with the machine.
    scene.cloud.inject(Fault::stuck_detach());
    ec2.detach_volume(&volume).await.unwrap();
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
    assert_eq!(ec2.find_volume(&volume).await.unwrap().unwrap().machine.as_ref(), Some(&machine));
    let (_, other) = scene.job().await;
    assert!(refusal(ec2.attach_volume(&volume, &other, &lineage("p")).await).contains(&format!("{volume} is on {machine}")));
    assert!(refusal(ec2.delete_volume(&volume).await).contains("VolumeInUse"));

    let saved = ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "snap-1")).await.unwrap();
    assert_eq!(ec2.snapshot_volume(&volume, &snapshot(&tags("p"), "snap-1")).await.unwrap(), saved);
    ec2.detach_volume(&volume).await.unwrap();
    ec2.detach_volume(&volume).await.unwrap();
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
