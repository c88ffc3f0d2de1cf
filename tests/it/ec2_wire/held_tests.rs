//! What is held in moto's place answers as moto does: the same calls to both, and the same trees but for names, addresses and times.

use super::answer::Stop;
use super::params::Params;
use super::proxy::Cloud;
use super::requests::{code, launch, launched};
use super::rules::Rules;
use super::upstream::numbered;
use super::xml::{items, parse, text};
use regex_lite::Regex;
use roxmltree::Node;
use std::collections::BTreeMap;
use std::time::Duration;

/// An answer as lines of path and text, names and times replaced by the order in which they come.
fn tree(answer: Result<String, Stop>) -> Vec<String> {
    let source = match answer {
        Ok(source) => source,
        Err(stop) => return vec![passing().replace_all(&format!("{stop:?}"), "NAME").into_owned()],
    };
    let (document, mut lines) = (parse(&source), Vec::new());
    walk(document.root_element(), "", &mut lines);
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut told = Vec::new();
    for line in lines {
        let shown = passing().replace_all(&line, |found: &regex_lite::Captures<'_>| {
            let count = names.len();
            format!("NAME{}", names.entry(found[0].to_owned()).or_insert(count))
        });
        told.push(shown.into_owned());
    }
    told
}

/// What differs from one machine to the next.
fn passing() -> Regex {
    Regex::new(
        r"(i|r|vol|eni|eni-attach)-[0-9a-f]{17}|(ip-)?10[.-]20[.-]\d+[.-]\d+|02(:[0-9a-f]{2}){5}|20\d\d-\d\d-\d\d[T ][0-9:.]+(Z| UTC)",
    )
    .unwrap()
}

fn walk(node: Node<'_, '_>, at: &str, lines: &mut Vec<String>) {
    let path = format!("{at}/{}", node.tag_name().name());
    lines.push(format!("{path} {}", node.text().unwrap_or_default()));
    node.children().filter(Node::is_element).for_each(|child| walk(child, &path, lines));
}

/// The request that our callers make; its own machine has ended.
async fn request(cloud: &Cloud) -> Params {
    let ids = launched(launch(cloud, "request")).await;
    cloud.ec2().terminate_instances().set_instance_ids(Some(ids)).send().await.unwrap();
    cloud.calls("RunInstances")[0].params.clone().with("MinCount", "3").with("MaxCount", "3")
}

#[tokio::test]
async fn held_machines_are_told_as_moto_tells_them() {
    let cloud = Cloud::by_hand(Rules { held_by_us: true, speed: 0.0, ..Rules::default() }).await;
    let (params, wire) = (request(&cloud).await, cloud.wire());
    // Both have had a machine before; moto's was the mould.
    let (ours, theirs) = (wire.ask("RunInstances", &params).await, wire.ask_moto("RunInstances", &params).await);
    let ids = |answer: &Result<String, Stop>| -> Vec<String> {
        let document = parse(answer.as_ref().unwrap());
        items(document.root_element(), &["instancesSet"]).into_iter().map(|it| text(it, &["instanceId"]).to_owned()).collect()
    };
    let (mine, motos) = (ids(&ours), ids(&theirs));
    assert_eq!(mine.len(), 3);
    assert_eq!(tree(ours), tree(theirs));

    let both = async |action: &str, params: &dyn Fn(&[String]) -> Params| {
        let ours = tree(wire.ask(action, &params(&mine)).await);
        assert_eq!(ours, tree(wire.ask_moto(action, &params(&motos)).await), "{action}");
        ours
    };
    let by_id = |ids: &[String]| numbered("InstanceId", &[&ids[0], &ids[2]]);
    let by_filter = |name: &str, values: &[&str]| {
        let params = Params::default().with("Filter.1.Name", name).with("MaxResults", "5");
        values.iter().zip(1..).fold(params, |params, (value, nth)| params.with(&format!("Filter.1.Value.{nth}"), value))
    };
    let nobody = |_: &[String]| numbered("InstanceId", &["i-0123456789abcdef0"]);
    both("DescribeInstances", &by_id).await;
    assert!(both("DescribeInstances", &|ids| by_filter("instance-id", &[&ids[1]])).await.len() > 50);
    both("DescribeInstances", &|_| by_filter("instance-id", &["i-0123456789abcdef0"])).await;
    both("DescribeInstances", &|_| by_filter("tag:vm-service:installation", &["43"])).await;
    assert!(both("DescribeInstances", &nobody).await[0].contains("InvalidInstanceID.NotFound"));
    both("TerminateInstances", &by_id).await;
    both("DescribeInstances", &|ids| numbered("InstanceId", &[&ids[0], &ids[1], &ids[2]])).await;
    both("TerminateInstances", &nobody).await;
    assert!(both("DescribeInstances", &|_| by_filter("instance-state-name", &["running"])).await.len() > 50);
}

/// The proxy's rules hold for them, and moto's judgement of a launch.
#[tokio::test]
async fn rules_and_refusals_hold_for_held_machines() {
    let rules = Rules { held_by_us: true, speed: 0.0, runs_after: Duration::from_secs(20), ..Rules::default() };
    let cloud = Cloud::by_hand(rules).await;
    let ec2 = cloud.ec2();
    let ids = launched(launch(&cloud, "t").max_count(300)).await;
    assert_eq!((ids.len(), launched(launch(&cloud, "t").max_count(300)).await), (300, ids.clone()), "once per token");
    assert_eq!(code(launch(&cloud, "u").image_id("ami-0123456789abcdef0").send().await), "InvalidAMIID.NotFound");
    let truth = cloud.instances().await;
    let addresses: std::collections::BTreeSet<_> = truth.iter().map(|it| &it.address).collect();
    assert_eq!((truth.len(), addresses.len(), truth[299].token.as_str()), (300, 300, "t"));
    let state = async |id: &str| {
        let answer = ec2.describe_instances().instance_ids(id).send().await.unwrap();
        answer.reservations()[0].instances()[0].state().unwrap().name().unwrap().as_str().to_owned()
    };
    assert_eq!(state(&ids[299]).await, "pending");
    cloud.pass(Duration::from_secs(21));
    assert_eq!(state(&ids[299]).await, "running");
    ec2.terminate_instances().instance_ids(&ids[0]).send().await.unwrap();
    ec2.terminate_instances().instance_ids(&ids[0]).send().await.unwrap();
    assert_eq!((state(&ids[0]).await, state(&ids[1]).await), ("terminated".to_owned(), "running".to_owned()));
    assert_eq!(code(launch(&cloud, "t").max_count(300).send().await), "IdempotentInstanceTerminated");
    for nth in 0..7 {
        launched(launch(&cloud, &format!("page {nth}")).max_count(100)).await;
    }
    let pages: Result<Vec<_>, _> = ec2.describe_instances().into_paginator().page_size(250).send().collect().await;
    assert_eq!(pages.unwrap().iter().map(|page| page.reservations().len()).collect::<Vec<_>>(), [1, 2, 2, 2, 1]);
    assert_ne!(code(ec2.stop_instances().instance_ids(&ids[1]).send().await), "fine");
    assert_eq!(cloud.violations(), ["held by us: StopInstances knows no machine that is"]);
}
