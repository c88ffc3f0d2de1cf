//! A request that AWS's service model does not know is refused and noted: first on texts, then on the wire.

use super::model;
use super::params::Params;
use super::policy_tests::assert_violated;
use super::proxy::Cloud;
use super::requests::{code, launch};
use super::rules::Rules;
use aws_sdk_ec2::types::{Filter, InstanceType, MarketType};

/// An action, its parameters, a part of what is wrong.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str);

fn wrong(action: &str, params: &[(&str, &str)]) -> Vec<String> {
    model::ec2().check(action, &params.iter().copied().collect::<Params>())
}

const LAUNCH: [(&str, &str); 2] = [("MinCount", "1"), ("MaxCount", "1")];

#[test]
fn each_kind_of_break_is_found() {
    let rows: &[Row] = &[
        ("RunInstance", &[], "no such action"),
        ("DescribeInstances", &[("InstanceIds.1", "i-1")], "has no member InstanceIds"),
        ("DescribeInstances", &[("instanceId.1", "i-1")], "has no member instanceId"),
        ("DescribeInstances", &[("InstanceId.member.1", "i-1")], "is not a number"),
        ("DescribeInstances", &[("InstanceId.0", "i-1")], "does not count from 1"),
        ("DescribeInstances", &[("InstanceId.1", "i-1"), ("InstanceId.3", "i-3")], "does not count from 1"),
        ("DescribeInstances", &[("InstanceId.1.Id", "i-1")], "has no parts"),
        ("DescribeInstances", &[("InstanceId", "i-1")], "a list and not a value"),
        ("DescribeInstances", &[("Filter.1", "x")], "a structure and not a value"),
        ("DescribeInstances", &[("MaxResults", "many")], "not a whole number"),
        ("DescribeInstances", &[("DryRun", "yes")], "not true or false"),
        ("DescribeInstances", &[("Version", "2014-09-01")], "has no member Version"),
        ("RunInstances", &[("MinCount", "1")], "MaxCount is required"),
        ("StartInstances", &[], "InstanceIds is required"),
        ("AttachVolume", &[("VolumeId", "vol-1"), ("InstanceId", "i-1")], "Device is required"),
        (
            "CreateTags",
            &[("ResourceId.1", "i-1"), ("Tag.1.Key", "a"), ("Tag.1.Value", "b"), ("Tag.1.Colour", "c")],
            "no member Colour",
        ),
        ("CreateVolume", &[("AvailabilityZone", "z"), ("Size", "1"), ("VolumeType", "gp9")], "not one of"),
        ("CreateFleet", &[("TargetCapacitySpecification.DefaultTargetCapacityType", "spot")], "TotalTargetCapacity is required"),
        ("DescribeSpotPriceHistory", &[("StartTime", "yesterday")], "not a time"),
        ("DescribeInstanceTypes", &[("InstanceType.1", "m7i.large"), ("MaxResults", "2")], "not between Some(5)"),
    ];
    for (action, params, reason) in rows {
        let found = wrong(action, params);
        assert!(found.iter().any(|one| one.contains(reason)), "{action} {params:?}: {found:?}");
    }
}

#[test]
fn limits_of_lists_and_texts_are_kept() {
    let types: Vec<(String, String)> = (1..=101).map(|n| (format!("InstanceType.{n}"), "m7i.large".to_owned())).collect();
    let found = model::ec2().check("DescribeInstanceTypes", &Params(types.into_iter().collect()));
    assert!(found[0].contains("101 entries"), "{found:?}");
    let token = "x".repeat(65);
    let fleet =
        [("TargetCapacitySpecification.TotalTargetCapacity", "1"), ("LaunchTemplateConfigs.1.Overrides.1.Priority", "high")];
    assert!(wrong("CreateFleet", &fleet)[0].contains("not a number"));
    let start = [("VolumeSize", "1"), ("ClientToken", token.as_str()), ("Timeout", "5")];
    let found = model::ebs().check("StartSnapshot", &start.into_iter().collect());
    assert!(found.len() == 1 && found[0].contains("not between Some(10)"), "its token may have 255 characters: {found:?}");
    let token = "x".repeat(256);
    let found = model::ebs().check("StartSnapshot", &[("VolumeSize", "1"), ("ClientToken", &token)].into_iter().collect());
    assert!(found.len() == 1 && found[0].contains("256 characters"), "{found:?}");
    let list = [("snapshotId", "snapshot-1"), ("maxResults", "100")];
    let found = model::ebs().check("ListSnapshotBlocks", &list.into_iter().collect());
    assert!(found.len() == 1 && found[0].contains("does not match"), "{found:?}");
}

/// `TagSpecification` is a location name in small letters, `LaunchTemplateConfigs` a member without one.
#[test]
fn what_aws_takes_is_taken() {
    let launch = [
        ("InstanceType", "x99.huge"),
        ("MetadataOptions.HttpTokens", "required"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "a"),
        ("TagSpecification.1.Tag.1.Value", ""),
        ("BlockDeviceMapping.1.Ebs.Throughput", "125"),
        ("NetworkInterface.1.DeviceIndex", "0"),
    ];
    assert_eq!(wrong("RunInstances", &[&launch[..], &LAUNCH].concat()), Vec::<String>::new());
    assert_eq!(wrong("DescribeSpotPriceHistory", &[("StartTime", "2026-11-22T09:00:00Z")]), Vec::<String>::new());
    let fleet = [("TargetCapacitySpecification.TotalTargetCapacity", "1"), ("LaunchTemplateConfigs.1.Overrides.1.Priority", "1.5")];
    assert_eq!(wrong("CreateFleet", &fleet), Vec::<String>::new());
}

/// The SDK lets an unknown value of an enumeration through; AWS does not.
#[tokio::test]
async fn a_break_on_the_wire_is_answered_400_and_noted_and_nothing_happens() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let market = aws_sdk_ec2::types::InstanceMarketOptionsRequest::builder().market_type(MarketType::from("grey")).build();
    assert_eq!(code(launch(&cloud, "t").instance_market_options(market).send().await), "ValidationError");
    assert_violated(&cloud, &["model: RunInstances: InstanceMarketOptions.MarketType=grey"]);
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = plain.post(cloud.endpoint()).body("Action=DescribeInstances&Version=2016-11-15").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    assert_violated(&cloud, &["signature: DescribeInstances"]);
    assert_eq!(cloud.instances().await, []);
    assert!(cloud.actions().is_empty(), "nothing was really asked for");

    assert_eq!(code(launch(&cloud, "t").instance_type(InstanceType::from("x99.huge")).send().await), "InvalidParameterValue");
    assert_eq!(code(launch(&cloud, "t").image_id("ami-0123456789abcdef0").send().await), "InvalidAMIID.NotFound");
    // Only where there is an instance does moto look at filters.
    launch(&cloud, "t").send().await.unwrap();
    let filter = Filter::builder().name("colour").values("red").build();
    assert_ne!(code(cloud.ec2().describe_instances().filters(filter).send().await), "fine");
    assert_violated(&cloud, &["moto cannot: DescribeInstances"]);
}

/// Nobody can use a right that operators are not told of.
#[tokio::test]
async fn a_right_beyond_the_policy_fails_its_test() {
    let cloud = Cloud::start(Rules::default()).await;
    cloud.ec2().describe_instances().send().await.unwrap();
    cloud.ec2().describe_regions().send().await.unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cloud))).unwrap_err();
    let told = panic.downcast_ref::<String>().unwrap();
    assert!(told.ends_with("overlooked:\nbeyond `vm-service iam-policy`: ec2:DescribeRegions"), "{told}");
}

/// Nobody can overlook one.
#[tokio::test]
async fn a_cloud_that_goes_with_violations_fails_its_test() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    code(launch(&cloud, "t").min_count(2).max_count(2).send().await);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cloud))).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("MinCount is not 1"), "{panic:?}");
}
