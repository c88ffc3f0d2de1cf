//! "Call budgets": AWS's figures, on a clock that stands until the test moves it.

use super::budgets::{Bucket, Budgets, cost};
use super::params::Params;
use super::proxy::Cloud;
use super::requests::{code, launch, launched};
use super::rules::Rules;
use std::time::Duration;

/// How many calls of an action go through at once, and then in ten seconds.
fn through(action: &str, params: &[(&str, &str)]) -> (u32, u32) {
    let cost = cost(action, &params.iter().copied().collect::<Params>());
    let mut budgets = Budgets::default();
    let mut count = |now| (0..2000).take_while(|_| budgets.take(&cost, Duration::from_secs(now)).is_ok()).count();
    (u32::try_from(count(0)).unwrap(), u32::try_from(count(10)).unwrap())
}

#[test]
fn the_figures_are_those_of_aws() {
    let one = [("MinCount", "1"), ("MaxCount", "1")];
    let many = [("MinCount", "1"), ("MaxCount", "500")];
    assert_eq!(through("RunInstances", &one), (5, 5), "2 a second, 5 at most");
    assert_eq!(through("RunInstances", &many), (2, 0), "1000 machines, 2 a second");
    assert_eq!(through("TerminateInstances", &[]), (100, 50));
    assert_eq!(through("CreateTags", &[]), (100, 100));
    assert_eq!(through("AttachVolume", &[]), (50, 50));
    assert_eq!(through("CreateFleet", &[]), (50, 50));
    assert_eq!(through("DescribeInstances", &[]), (100, 100));
    let mut budgets = Budgets::default();
    let both = [(Bucket::LaunchCalls, 1), (Bucket::LaunchMachines, 1001)];
    assert_eq!(budgets.take(&both, Duration::ZERO), Err(Bucket::LaunchMachines));
    assert_eq!(budgets.take(&[(Bucket::LaunchCalls, 5)], Duration::ZERO), Ok(()), "a call that is refused takes nothing");
}

#[tokio::test]
async fn an_empty_budget_refuses_and_nothing_happens() {
    let cloud = Cloud::by_hand(Rules { budgets: true, speed: 0.0, ..Rules::default() }).await;
    for n in 0..5 {
        launch(&cloud, &format!("t{n}")).send().await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(code(launch(&cloud, "u").send().await), "RequestLimitExceeded");
    }
    assert_eq!(cloud.instances().await.len(), 5);
    assert_eq!(code(cloud.ec2().describe_instances().send().await), "fine", "another budget");
    cloud.pass(Duration::from_millis(500));
    assert_eq!(code(launch(&cloud, "u").send().await), "fine");
    cloud.pass(Duration::from_secs(2));
    assert_eq!(launched(launch(&cloud, "many").max_count(20)).await.len(), 20, "machines have a budget of their own");
}
