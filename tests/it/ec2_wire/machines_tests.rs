//! Stop, start and end.

use super::proxy::Cloud;
use super::requests::{code, launch, launch_spot, launched};
use super::rules::Rules;
use std::time::Duration;

/// "Only on-demand instances are stopped"; nothing that has ended comes back.
#[tokio::test]
async fn machines_stop_and_start_in_their_states_only() {
    let cloud = Cloud::by_hand(Rules { speed: 0.0, runs_after: Duration::from_secs(20), ..Rules::default() }).await;
    let ec2 = cloud.ec2();
    let (plain, spot) = (launched(launch(&cloud, "a")).await.remove(0), launched(launch_spot(&cloud, "b")).await.remove(0));
    let stop = |id: &str| ec2.stop_instances().instance_ids(id).send();
    let start = |id: &str| ec2.start_instances().instance_ids(id).send();
    assert_eq!(code(stop(&spot).await), "UnsupportedOperation");
    assert_eq!(code(stop(&plain).await), "IncorrectInstanceState", "pending");
    cloud.pass(Duration::from_secs(21));
    assert_eq!(code(stop(&plain).await), "fine");
    let state = |n: usize| {
        let cloud = &cloud;
        async move { cloud.instances().await[n].state.clone() }
    };
    assert_eq!((state(0).await.as_str(), state(1).await.as_str()), ("stopped", "running"));
    assert_eq!(code(start(&plain).await), "fine");
    assert_eq!(code(stop(&plain).await), "IncorrectInstanceState", "pending again");

    let end = |id: &str| ec2.terminate_instances().instance_ids(id).send();
    assert_eq!(code(end(&plain).await), "fine");
    assert_eq!(code(end(&plain).await), "fine", "TerminateInstances is idempotent by itself");
    assert_eq!(code(start(&plain).await), "IncorrectInstanceState");
    assert_eq!(code(stop(&plain).await), "IncorrectInstanceState");
    assert_eq!(state(0).await, "terminated");
    assert_eq!(cloud.ec2().describe_instances().send().await.unwrap().reservations().len(), 2);
    cloud.forget(&plain);
    assert_eq!(cloud.ec2().describe_instances().send().await.unwrap().reservations().len(), 1);
    assert_eq!(code(cloud.ec2().describe_instances().instance_ids(&plain).send().await), "InvalidInstanceID.NotFound");
    assert_eq!(code(launch(&cloud, "a").send().await), "IdempotentInstanceTerminated", "its token is not forgotten");
    assert_eq!(code(end("i-0123456789abcdef0").await), "InvalidInstanceID.NotFound");
    for (least, most) in [(0, 1), (2, 1), (1, 1001)] {
        assert_eq!(code(launch(&cloud, "n").min_count(least).max_count(most).send().await), "InvalidParameterValue");
    }
    assert_eq!(cloud.violations().len(), 2, "MinCount is 1");
}
