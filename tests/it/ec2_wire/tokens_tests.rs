//! "One token per attempt": what EC2.md says of idempotency, and what moto does not do.

use super::faults::Fault;
use super::proxy::Cloud;
use super::requests::{code, launch, launch_spot, launched, made, volume};
use super::rules::Rules;
use aws_sdk_ec2::types::InstanceType;
use std::collections::BTreeSet;

/// Also after a lost answer, and when there is no room for a new machine any more.
#[tokio::test]
async fn one_launch_token_makes_its_machines_once() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    cloud.inject(Fault::lose_answer("RunInstances"));
    assert_eq!(code(launch(&cloud, "t").max_count(3).send().await), "cut");
    cloud.inject(Fault::no_capacity("RunInstances").always());
    let first = launched(launch(&cloud, "t").max_count(3)).await;
    let again = launch(&cloud, "t").max_count(3).send().await.unwrap();
    assert_eq!(again.instances()[0].client_token(), Some("t"));
    let truth = cloud.instances().await;
    let ids: BTreeSet<_> = truth.iter().map(|truth| truth.id.clone()).collect();
    assert_eq!((ids, truth.len(), again.instances().len()), (first.iter().cloned().collect(), 3, 3));
    assert_eq!(truth[0].token, "t");

    assert_eq!(code(launch(&cloud, "t").max_count(2).send().await), "IdempotentParameterMismatch");
    assert_eq!(
        code(launch(&cloud, "t").max_count(3).instance_type(InstanceType::C7iLarge).send().await),
        "IdempotentParameterMismatch"
    );
    assert_eq!(code(launch_spot(&cloud, "t").max_count(3).send().await), "IdempotentParameterMismatch");

    cloud.behind_our_back("TerminateInstances", &[("InstanceId.1", &first[1])]).await;
    assert_eq!(code(launch(&cloud, "t").max_count(3).send().await), "IdempotentInstanceTerminated");
    assert_eq!(cloud.instances().await.len(), 3);
}

/// A call that was refused binds no token.
#[tokio::test]
async fn tokens_are_64_ascii_characters_and_belong_to_what_was_done() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    assert_eq!(code(launch(&cloud, &"t".repeat(65)).send().await), "InvalidParameterValue");
    assert_eq!(code(launch(&cloud, "é").send().await), "InvalidParameterValue");
    assert_eq!(cloud.violations().len(), 2, "the policy has seen it, too");
    cloud.inject(Fault::no_capacity("RunInstances"));
    assert_eq!(code(launch(&cloud, "u").send().await), "InsufficientInstanceCapacity");
    assert_eq!(code(launch(&cloud, "u").instance_type(InstanceType::C7iLarge).send().await), "fine");
    assert_eq!(code(launch(&cloud, &"t".repeat(64)).send().await), "fine");

    let first = made(volume(&cloud, 0, "v")).await;
    assert_eq!(made(volume(&cloud, 0, "v")).await, first);
    assert_eq!(code(volume(&cloud, 1, "v").send().await), "IdempotentParameterMismatch");
    assert_eq!(code(volume(&cloud, 0, &"v".repeat(65)).send().await), "InvalidParameterValue");
    assert_eq!(cloud.volumes().await.into_iter().filter(|volume| volume.attached.is_none()).count(), 1);
    assert_eq!(cloud.violations().len(), 1);
}
