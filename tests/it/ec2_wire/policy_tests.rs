//! Each rule of the request policy fails on a request that breaks it, and on no other.

use super::params::Params;
use super::policy;
use super::proxy::Cloud;
use super::requests::{code, disk, launch, launch_spot, root, tags, volume};
use super::rules::Rules;
use aws_sdk_ec2::types::{
    EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification, InstanceMetadataOptionsRequest, ResourceType,
    ShutdownBehavior, Tag,
};
use std::collections::BTreeSet;

/// The violations since the last look are these, each by a part of its text.
pub(super) fn assert_violated(cloud: &Cloud, parts: &[&str]) {
    let found = cloud.violations();
    let fits = found.len() == parts.len() && found.iter().zip(parts).all(|(one, part)| one.contains(part));
    assert!(fits, "{found:#?} and not {parts:?}");
}

#[tokio::test]
async fn a_launch_keeps_the_policy_or_is_noted() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    launch(&cloud, "fine").send().await.unwrap();
    launch_spot(&cloud, "spot").send().await.unwrap();
    assert_eq!(cloud.violations(), Vec::<String>::new());

    launch(&cloud, "min").min_count(2).max_count(2).send().await.unwrap();
    assert_violated(&cloud, &["MinCount is not 1"]);
    launch(&cloud, "tag").set_tag_specifications(Some(vec![tags(ResourceType::Instance)])).send().await.unwrap();
    assert_violated(&cloud, &["volume: no tag ManagedBy", "volume: no tag vm-service:installation"]);
    let spot = launch_spot(&cloud, "u");
    let some = vec![tags(ResourceType::Instance), tags(ResourceType::Volume)];
    spot.set_tag_specifications(Some(some)).send().await.unwrap();
    assert_violated(&cloud, &["spot-instances-request: no tag ManagedBy", "spot-instances-request: no tag vm-service:inst"]);
    let options = InstanceMetadataOptionsRequest::builder;
    launch(&cloud, "v1").metadata_options(options().http_tokens(HttpTokensState::Optional).build()).send().await.unwrap();
    assert_violated(&cloud, &["IMDSv2 is not required", "hop limit"]);
    launch(&cloud, "hop").metadata_options(options().http_tokens(HttpTokensState::Required).build()).send().await.unwrap();
    assert_violated(&cloud, &["hop limit"]);
    launch(&cloud, "stop").instance_initiated_shutdown_behavior(ShutdownBehavior::Stop).send().await.unwrap();
    assert_violated(&cloud, &["does not terminate it"]);
    let disks = |disk: EbsBlockDevice| Some(vec![root(disk)]);
    let mut open = disk();
    open.encrypted = None;
    launch(&cloud, "open").set_block_device_mappings(disks(open)).send().await.unwrap();
    assert_violated(&cloud, &["/dev/sda1 is not encrypted"]);
    let mut lasting = disk();
    lasting.delete_on_termination = Some(false);
    launch(&cloud, "lasting").set_block_device_mappings(disks(lasting)).send().await.unwrap();
    assert_violated(&cloud, &["/dev/sda1 outlives its machine"]);
    launch(&cloud, "none").set_block_device_mappings(None).send().await.unwrap();
    assert_violated(&cloud, &["no disk is said to be encrypted"]);
    launch(&cloud, "data").set_user_data(None).send().await.unwrap();
    assert_eq!(code(launch(&cloud, "text").user_data("#cloud-config").send().await), "InvalidUserData.Malformed");
    assert_violated(&cloud, &["no user data in base64", "no user data in base64"]);
}

#[tokio::test]
async fn rights_volumes_and_tags_keep_the_policy_or_are_noted() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let profile = || IamInstanceProfileSpecification::builder().name("guest").build();
    assert_ne!(code(launch(&cloud, "p").iam_instance_profile(profile()).send().await), "fine", "moto has no such profile");
    assert_violated(&cloud, &["the instance profile guest gives it rights"]);
    cloud.allow_profile("guest");
    code(launch(&cloud, "p").iam_instance_profile(profile()).send().await);
    assert_eq!(cloud.violations(), Vec::<String>::new());

    volume(&cloud, 0, "fine").send().await.unwrap();
    assert_eq!(cloud.violations(), Vec::<String>::new());
    let id = volume(&cloud, 0, "open").encrypted(false).send().await.unwrap().volume_id.unwrap();
    volume(&cloud, 0, "bare").set_tag_specifications(None).send().await.unwrap();
    assert_violated(&cloud, &["the volume is not encrypted", "volume: no tag ManagedBy", "volume: no tag vm-service:installation"]);
    cloud.ec2().create_tags().resources(&id).tags(Tag::builder().key("a").value("b").build()).send().await.unwrap();
    assert_violated(&cloud, &["tags belong in the creating call"]);
    let actions = ["ec2:CreateTags", "ec2:CreateVolume", "ec2:RunInstances", "iam:PassRole"].map(str::to_owned);
    assert_eq!(cloud.actions(), BTreeSet::from(actions));
}

fn check(action: &str, params: &[(&str, &str)]) -> Vec<String> {
    policy::check(action, &params.iter().copied().collect::<Params>(), &BTreeSet::new())
}

/// The SDK makes a token itself where there is none, so this and fleets are checked on texts.
#[test]
fn tokens_and_fleets() {
    let found = check("CreateVolume", &[("Encrypted", "true")]);
    assert!(found[0].contains("no ClientToken"), "{found:?}");
    assert!(check("StartSnapshot", &[]).len() == 4, "token, encryption, two tags");
    let found = check("CreateFleet", &[("ClientToken", "t"), ("Type", "maintain")]);
    assert!(found[0].contains("not instant") && found.len() == 6, "{found:?}");
    let template = [
        ("LaunchTemplateData.MetadataOptions.HttpTokens", "required"),
        ("LaunchTemplateData.MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("LaunchTemplateData.InstanceInitiatedShutdownBehavior", "stop"),
        ("LaunchTemplateData.BlockDeviceMapping.1.NoDevice", ""),
        ("LaunchTemplateData.TagSpecification.1.ResourceType", "volume"),
        ("LaunchTemplateData.TagSpecification.1.Tag.1.Key", "ManagedBy"),
        ("LaunchTemplateData.TagSpecification.1.Tag.1.Value", "vm-service"),
        ("LaunchTemplateData.TagSpecification.1.Tag.2.Key", "vm-service:installation"),
        ("LaunchTemplateData.TagSpecification.1.Tag.2.Value", "42"),
    ];
    assert_eq!(check("CreateLaunchTemplate", &template), ["CreateLaunchTemplate: a shutdown from inside does not terminate it"]);
    let launch = [("ClientToken", "t"), ("MinCount", "1"), ("LaunchTemplate.LaunchTemplateId", "lt-1")];
    assert_eq!(check("RunInstances", &launch).len(), 4, "only tags are missing: the template holds the rest");
}
