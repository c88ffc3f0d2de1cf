//! EBS volumes through the provider: once per token, in one zone, never under two writers.

use super::scene::Scene;
use crate::ec2_doctor::OURS;
use crate::ec2_wire::faults::Fault;
use crate::support::volume as spec;
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::ids::VolumeId;
use vm_service::domain::tags::VolumeTags;
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{Provider as _, ProviderError};

pub(super) fn tags(project: &str) -> VolumeTags {
    VolumeTags {
        installation: OURS,
        volume: VolumeId(Uuid::from_u128(77)),
        project_id: project.to_owned(),
        cache_trust: "trusted".to_owned(),
        architecture: "x86_64".to_owned(),
        store: "classic".to_owned(),
        engine_major: 28,
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ProviderError>) -> String {
    match answer {
        Err(ProviderError::Invalid(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
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

    ec2.attach_volume(&volume, &machine).await.unwrap();
    ec2.attach_volume(&volume, &machine).await.unwrap();
    assert_eq!(ec2.find_volume(&volume).await.unwrap().unwrap().machine.as_ref(), Some(&machine));
    let (_, other) = scene.job().await;
    assert!(refusal(ec2.attach_volume(&volume, &other).await).contains("VolumeInUse"));
    assert!(refusal(ec2.delete_volume(&volume).await).contains("VolumeInUse"));

    let snapshot = ec2.snapshot_volume(&volume, "snap-1").await.unwrap();
    assert_eq!(ec2.snapshot_volume(&volume, "snap-1").await.unwrap(), snapshot);
    ec2.detach_volume(&volume).await.unwrap();
    ec2.detach_volume(&volume).await.unwrap();
    let mut copy = spec(&tags("p"), &zones[1], "second");
    copy.snapshot = Some(snapshot);
    let far = ec2.create_volume(&copy).await.unwrap().provider_id;
    assert!(refusal(ec2.attach_volume(&far, &machine).await).contains("ZoneMismatch"), "of another zone");

    for volume in [volume, far] {
        ec2.delete_volume(&volume).await.unwrap();
        ec2.delete_volume(&volume).await.unwrap();
        assert_eq!(ec2.find_volume(&volume).await.unwrap(), None);
    }
    scene.ends_clean().await;
}
