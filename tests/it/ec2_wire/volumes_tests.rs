//! "Volumes": one zone, one machine, a free place; what the end of a machine leaves; attachments that do not end.

use super::faults::Fault;
use super::proxy::Cloud;
use super::requests::{code, launch, launched, made, volume};
use super::rules::Rules;
use aws_sdk_ec2::error::SdkError;
use aws_sdk_ec2::operation::attach_volume::AttachVolumeError;
use std::time::Duration;

async fn attach(cloud: &Cloud, volume: &str, instance: &str, device: &str) -> Result<String, SdkError<AttachVolumeError>> {
    let answer = cloud.ec2().attach_volume().volume_id(volume).instance_id(instance).device(device).send().await?;
    Ok(answer.state().unwrap().as_str().to_owned())
}

/// The state of a volume, and that of its attachment.
async fn shown(cloud: &Cloud, id: &str) -> (String, String) {
    let answer = cloud.ec2().describe_volumes().volume_ids(id).send().await.unwrap();
    let volume = &answer.volumes()[0];
    let attachment = volume.attachments().first().map_or("", |attachment| attachment.state().unwrap().as_str());
    (volume.state().unwrap().as_str().to_owned(), attachment.to_owned())
}

fn pair(state: &str, attachment: &str) -> (String, String) {
    (state.to_owned(), attachment.to_owned())
}

#[tokio::test]
async fn a_volume_attaches_in_its_zone_to_one_running_machine_at_a_free_place() {
    let rules = Rules { speed: 0.0, runs_after: Duration::from_secs(20), volumes_per_machine: 3, ..Rules::default() };
    let cloud = Cloud::by_hand(rules).await;
    let ec2 = cloud.ec2();
    let machines = launched(launch(&cloud, "m").max_count(2)).await;
    let (one, two) = (&machines[0], &machines[1]);
    let (here, there) = (made(volume(&cloud, 0, "here")).await, made(volume(&cloud, 1, "there")).await);
    assert_eq!(code(attach(&cloud, &here, one, "/dev/sdf").await), "IncorrectState", "it is pending");
    cloud.pass(Duration::from_secs(21));
    assert_eq!(code(attach(&cloud, &there, one, "/dev/sdf").await), "InvalidVolume.ZoneMismatch");
    assert_eq!(code(attach(&cloud, &here, one, "/dev/sda1").await), "InvalidParameterValue", "the root is there");
    assert_eq!(attach(&cloud, &here, one, "/dev/sdf").await.unwrap(), "attaching");
    assert_eq!(shown(&cloud, &here).await, pair("in-use", "attached"));
    assert_eq!(code(attach(&cloud, &here, two, "/dev/sdf").await), "VolumeInUse");
    assert_eq!(code(attach(&cloud, &here, one, "/dev/sdg").await), "VolumeInUse");
    assert_eq!(code(ec2.delete_volume().volume_id(&here).send().await), "VolumeInUse");
    let more = [made(volume(&cloud, 0, "g")).await, made(volume(&cloud, 0, "h")).await];
    attach(&cloud, &more[0], one, "/dev/sdg").await.unwrap();
    assert_eq!(code(attach(&cloud, &more[1], one, "/dev/sdh").await), "AttachmentLimitExceeded");
    assert_eq!(code(attach(&cloud, "vol-0123456789abcdef0", one, "/dev/sdh").await), "InvalidVolume.NotFound");
    assert_eq!(code(attach(&cloud, &more[1], "i-0123456789abcdef0", "/dev/sdh").await), "InvalidInstanceID.NotFound");

    assert_eq!(code(ec2.detach_volume().volume_id(&here).instance_id(two).send().await), "InvalidAttachment.NotFound");
    ec2.detach_volume().volume_id(&here).send().await.unwrap();
    assert_eq!(code(ec2.detach_volume().volume_id(&here).send().await), "IncorrectState");
    attach(&cloud, &here, two, "/dev/sdf").await.unwrap();
    ec2.terminate_instances().instance_ids(one).instance_ids(two).send().await.unwrap();
    assert_eq!(shown(&cloud, &here).await, pair("available", ""), "it outlives its machine");
    assert_eq!(shown(&cloud, &more[0]).await, pair("available", ""));
    assert_eq!(code(attach(&cloud, &here, two, "/dev/sdf").await), "IncorrectState", "its machine has ended");
    assert_eq!(cloud.volumes().await.len(), 4, "the roots have gone with their machines");
    assert_eq!(code(ec2.delete_volume().volume_id(&here).send().await), "fine");
}

#[tokio::test]
async fn attachments_that_do_not_end() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let (ec2, machine) = (cloud.ec2(), launched(launch(&cloud, "m")).await.remove(0));
    let disk = made(volume(&cloud, 0, "v")).await;
    let other = launched(launch(&cloud, "n")).await.remove(0);
    let detach = || ec2.detach_volume().volume_id(&disk).send();
    cloud.inject(Fault::stuck_attach());
    attach(&cloud, &disk, &machine, "/dev/sdf").await.unwrap();
    assert_eq!(shown(&cloud, &disk).await, pair("in-use", "attaching"));
    let answer = ec2.describe_instances().instance_ids(&machine).send().await.unwrap();
    let devices = answer.reservations()[0].instances()[0].block_device_mappings();
    let status = |at: &str| {
        let device = devices.iter().find(|device| device.device_name() == Some(at)).unwrap();
        device.ebs().unwrap().status().unwrap().as_str().to_owned()
    };
    assert_eq!((status("/dev/sda1").as_str(), status("/dev/sdf").as_str()), ("attached", "attaching"));
    assert_eq!(detach().await.unwrap().state().unwrap().as_str(), "detaching");
    assert_eq!(shown(&cloud, &disk).await, pair("available", ""));

    attach(&cloud, &disk, &machine, "/dev/sdf").await.unwrap();
    assert_eq!(shown(&cloud, &disk).await, pair("in-use", "attached"));
    cloud.inject(Fault::stuck_detach());
    for _ in 0..2 {
        assert_eq!(detach().await.unwrap().state().unwrap().as_str(), "detaching");
        assert_eq!(shown(&cloud, &disk).await, pair("in-use", "detaching"));
    }
    assert_eq!(code(attach(&cloud, &disk, &other, "/dev/sdf").await), "VolumeInUse");
    ec2.terminate_instances().instance_ids(&machine).send().await.unwrap();
    assert_eq!(shown(&cloud, &disk).await, pair("available", ""));
    attach(&cloud, &disk, &other, "/dev/sdf").await.unwrap();
    assert_eq!(shown(&cloud, &disk).await, pair("in-use", "attached"));
}
