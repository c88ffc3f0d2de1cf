//! "Eventual consistency", and the limits of a call that reads.

use super::faults::Fault;
use super::proxy::Cloud;
use super::requests::{code, launch, launched, made, volume};
use super::rules::Rules;
use aws_sdk_ec2::types::Filter;
use std::time::Duration;

async fn listed(cloud: &Cloud, filter: Option<(&str, &str)>) -> Vec<(String, String)> {
    let filter = filter.map(|(name, value)| vec![Filter::builder().name(name).values(value).build()]);
    let answer = cloud.ec2().describe_instances().set_filters(filter).send().await.unwrap();
    let all = answer.reservations().iter().flat_map(|reservation| reservation.instances());
    let shown = |i: &aws_sdk_ec2::types::Instance| {
        (i.instance_id().unwrap().to_owned(), i.state().unwrap().name().unwrap().as_str().to_owned())
    };
    all.map(shown).collect()
}

/// Unknown to a look, missing in a list, `pending` at first; each for its own time.
#[tokio::test]
async fn what_is_new_is_known_listed_and_running_only_later() {
    let cloud = Cloud::by_hand(Rules { speed: 0.0, runs_after: Duration::from_secs(20), ..Rules::default() }).await;
    let ec2 = cloud.ec2();
    cloud.inject(Fault::unknown_for(Duration::from_secs(5)));
    cloud.inject(Fault::unlisted_for("RunInstances", Duration::from_secs(10)));
    let new = launched(launch(&cloud, "new")).await.remove(0);
    let other = launched(launch(&cloud, "other")).await.remove(0);
    let look = || ec2.describe_instances().instance_ids(&new).instance_ids(&other).send();
    assert_eq!(code(look().await), "InvalidInstanceID.NotFound");
    assert_eq!(code(ec2.terminate_instances().instance_ids(&new).send().await), "InvalidInstanceID.NotFound");
    let pending = |id: &String| (id.clone(), "pending".to_owned());
    assert_eq!(listed(&cloud, None).await, [pending(&other)]);
    cloud.pass(Duration::from_secs(6));
    assert_eq!(look().await.unwrap().reservations().len(), 2, "a look knows it before a list does");
    assert_eq!(listed(&cloud, None).await, [pending(&other)]);
    cloud.pass(Duration::from_secs(6));
    assert_eq!(listed(&cloud, Some(("instance-state-name", "pending"))).await, [pending(&new), pending(&other)]);
    assert_eq!(listed(&cloud, Some(("instance-state-name", "running"))).await, []);
    cloud.pass(Duration::from_secs(9));
    assert_eq!(listed(&cloud, Some(("instance-state-name", "running"))).await.len(), 2);

    cloud.inject(Fault::unlisted_for("CreateVolume", Duration::from_secs(10)));
    let disk = made(volume(&cloud, 0, "v")).await;
    let free = || ec2.describe_volumes().filters(Filter::builder().name("status").values("available").build()).send();
    assert_eq!(free().await.unwrap().volumes().len(), 0);
    assert_eq!(ec2.describe_volumes().volume_ids(&disk).send().await.unwrap().volumes().len(), 1);
    cloud.pass(Duration::from_secs(11));
    assert_eq!(free().await.unwrap().volumes().len(), 1);
}

/// "One bad id fails a whole DescribeInstances(ids)"; 1,000 ids at most; ids and pages exclude each other; a filter moto lacks.
#[tokio::test]
async fn limits_of_a_look() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let ec2 = cloud.ec2();
    let ids = launched(launch(&cloud, "t").max_count(2)).await;
    let look = |ids: Vec<String>| ec2.describe_instances().set_instance_ids(Some(ids)).send();
    assert_eq!(code(look(ids.clone()).await), "fine");
    let unknown = "i-0123456789abcdef0".to_owned();
    assert_eq!(code(look(vec![ids[0].clone(), unknown.clone()]).await), "InvalidInstanceID.NotFound");
    assert_eq!(code(look(vec!["i-nonsense".to_owned()]).await), "InvalidInstanceID.Malformed");
    assert_eq!(code(look(vec![unknown.clone(); 1001]).await), "InvalidParameterValue");
    let both = ec2.describe_instances().instance_ids(&ids[0]).max_results(100);
    assert_eq!(code(both.send().await), "InvalidParameterCombination");
    let both = ec2.describe_volumes().volume_ids("vol-0123456789abcdef0").max_results(100);
    assert_eq!(code(both.send().await), "InvalidParameterCombination");
    for (size, expected) in [(4, "InvalidParameterValue"), (5, "fine"), (1000, "fine"), (1001, "InvalidParameterValue")] {
        assert_eq!(code(ec2.describe_instances().max_results(size).send().await), expected);
    }
    assert_eq!(listed(&cloud, Some(("client-token", "t"))).await.len(), 2);
    assert_eq!(listed(&cloud, Some(("client-token", "u"))).await, []);
    assert_eq!(listed(&cloud, Some(("tag:vm-service:installation", "42"))).await.len(), 2);
    assert_eq!(listed(&cloud, Some(("tag:vm-service:installation", "43"))).await, []);

    for n in 0..7 {
        launch(&cloud, &format!("page {n}")).send().await.unwrap();
    }
    let pages: Result<Vec<_>, _> = ec2.describe_instances().into_paginator().page_size(5).send().collect().await;
    assert_eq!(pages.unwrap().iter().map(|page| page.reservations().len()).collect::<Vec<_>>(), [5, 3]);
}

/// What an operator set up is there, Canonical's images too.
#[tokio::test]
async fn the_ground_is_there() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let ec2 = cloud.ec2();
    let own = ec2.describe_images().owners("self").send().await.unwrap();
    let image = &own.images()[0];
    assert_eq!((image.image_id(), own.images().len()), (Some(cloud.image().as_str()), 1));
    assert_eq!((image.architecture().unwrap().as_str(), image.root_device_name()), ("x86_64", Some("/dev/sda1")));
    let name = Filter::builder().name("name").values("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*").build();
    let theirs = ec2.describe_images().owners("099720109477").filters(name).send().await.unwrap();
    let newest = theirs.images().iter().max_by_key(|image| image.creation_date().unwrap()).unwrap();
    assert_eq!((newest.image_id(), theirs.images().len()), (Some(cloud.canonical_image().as_str()), 2));
    let groups = ec2.describe_security_groups().group_ids(cloud.security_group()).send().await.unwrap();
    let mut ports: Vec<_> = groups.security_groups()[0].ip_permissions().iter().map(|p| p.from_port().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [22, 2376]);
    let zones: Vec<_> = cloud.subnets().into_iter().map(|subnet| subnet.zone).collect();
    assert_eq!(zones, ["eu-west-1a", "eu-west-1b"]);
    launch(&cloud, "t").image_id(cloud.canonical_image()).send().await.unwrap();
    assert_eq!(cloud.instances().await[0].zone, "eu-west-1a");
}
