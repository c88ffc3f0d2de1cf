//! Call budgets: token buckets, per account and region.

use super::{Cloud, easy};
use vm_service::domain::rate::{LaunchRate, Rate};
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{Provider as _, ProviderError};
use vm_service::sim::{Bucket, Rules};

/// Makes calls until one is throttled, and says how many went through.
macro_rules! until_throttled {
    ($call:expr) => {{
        let mut through = 0;
        while !matches!($call, Err(ProviderError::Throttled)) {
            through += 1;
            assert!(through < 10_000, "never throttled");
        }
        through
    }};
}

/// "RunInstances, requests | 5 / 2", and "Answers to an empty bucket: nothing happened".
#[tokio::test]
async fn launch_requests_take_from_5_and_2_a_second() {
    let cloud = Cloud::strict();
    let mut tokens = 0..;
    let mut spec = || cloud.spec(&format!("t{}", tokens.next().unwrap()), 1);
    assert_eq!(until_throttled!(cloud.sim.launch(&spec()).await), 5);
    assert_eq!(cloud.sim.truth().len(), 5, "the throttled call made nothing");
    cloud.pass(2);
    assert_eq!(until_throttled!(cloud.sim.launch(&spec()).await), 4);
    cloud.pass(3600);
    assert_eq!(until_throttled!(cloud.sim.launch(&spec()).await), 5, "it holds no more than its burst");
    assert_eq!(cloud.sim.throttled(Bucket::LaunchCalls), 3);
    assert_eq!(cloud.sim.totals()[&Bucket::LaunchCalls].taken, 14);
}

/// "RunInstances, instances | 1000 / 2": a call of n machines takes n. "1,000 VMs … in one call about 1 s".
#[tokio::test]
async fn launched_instances_take_from_1000_and_2_a_second() {
    let cloud = Cloud::strict();
    assert_eq!(cloud.sim.launch(&cloud.spec("all", 1000)).await.unwrap().len(), 1000);
    assert!(matches!(cloud.sim.launch(&cloud.spec("more", 1)).await, Err(ProviderError::Throttled)));
    assert_eq!((cloud.sim.throttled(Bucket::LaunchMachines), cloud.sim.throttled(Bucket::LaunchCalls)), (1, 0));
    cloud.pass(10);
    assert!(matches!(cloud.sim.launch(&cloud.spec("more", 21)).await, Err(ProviderError::Throttled)));
    assert_eq!(cloud.sim.launch(&cloud.spec("more", 20)).await.unwrap().len(), 20);
}

/// "So 1,000 VMs asked for one by one take about 497 s in asking alone".
#[tokio::test]
async fn a_thousand_machines_one_by_one_take_497_seconds() {
    let cloud = Cloud::with(Rules { rates: Rules::default().rates, ..easy() });
    let mut seconds = 0;
    for n in 0..1000 {
        while matches!(cloud.sim.launch(&cloud.spec(&format!("t{n}"), 1)).await, Err(ProviderError::Throttled)) {
            cloud.pass(1);
            seconds += 1;
        }
    }
    assert!((497..=498).contains(&seconds), "{seconds}");
}

/// "TerminateInstances | 100 / 5": one per call, however many ids.
#[tokio::test]
async fn terminations_take_from_100_and_5_a_second() {
    let cloud = Cloud::strict();
    let many: Vec<String> = (0..1000).map(|n| format!("i-{n}")).collect();
    assert_eq!(until_throttled!(cloud.sim.terminate(&many).await), 100);
    cloud.pass(2);
    assert_eq!(until_throttled!(cloud.sim.terminate(&many).await), 10);
    assert_eq!(cloud.sim.throttled(Bucket::Terminate), 2);
}

/// "CreateFleet and other mutating calls (volumes too) | 50 / 5".
#[tokio::test]
async fn other_changes_take_from_50_and_5_a_second() {
    let cloud = Cloud::strict();
    assert_eq!(until_throttled!(cloud.sim.delete_volume("vol-none").await), 50);
    cloud.pass(1);
    assert_eq!(until_throttled!(cloud.sim.detach_volume("vol-none", "i-none").await), 5);
    assert_eq!(until_throttled!(cloud.sim.stop_machine("i-none").await), 0, "one budget for all of them");
}

/// "DescribeInstances and other reading calls | 100 / 20".
#[tokio::test]
async fn looks_take_from_100_and_20_a_second() {
    let cloud = Cloud::strict();
    assert_eq!(until_throttled!(cloud.sim.find_machine("i-none").await), 100);
    cloud.pass(1);
    assert_eq!(until_throttled!(cloud.sim.list_volumes().await), 20);
    assert_eq!(until_throttled!(cloud.sim.console("i-none").await), 0, "one budget for all of them");
}

/// "DescribeInstances": a list is one call per page of 1000.
#[tokio::test]
async fn each_page_of_a_list_is_a_call() {
    let cloud = Cloud::easy();
    let taken = || cloud.sim.totals()[&Bucket::Describe].taken;
    assert_eq!((cloud.listed().await, taken()), (0, 1), "an empty list is a call too");
    cloud.sim.launch(&cloud.spec("a", 1000)).await.unwrap();
    assert_eq!((cloud.listed().await, taken()), (1000, 2));
    cloud.one("b").await;
    assert_eq!((cloud.listed().await, taken()), (1001, 4));
}

/// "Tags go in the creating call: no CreateTags", so that this bucket stays full.
#[tokio::test]
async fn tags_come_with_the_launch() {
    let cloud = Cloud::strict();
    let spec = cloud.spec("t", 2);
    let made = cloud.sim.launch(&spec).await.unwrap();
    assert!(made.iter().all(|machine| machine.tags == spec.tags));
    assert_eq!(cloud.sim.totals().get(&Bucket::CreateTags), None);
}

/// The provider tells its budgets, so that all replicas share them.
#[tokio::test]
async fn the_provider_tells_its_launch_budgets() {
    let sim = Cloud::strict().sim;
    let rate = |burst| Rate { burst, per_second: 2.0 };
    assert_eq!(sim.launch_rate(), Some(LaunchRate { calls: rate(5), machines: rate(1000) }));
    assert_eq!((sim.max_batch(), sim.pace().terminate.as_secs()), (1000, 5));
    let obliging = vm_service::sim::Sim::new(Cloud::strict().clock);
    assert_eq!((obliging.launch_rate(), obliging.max_batch(), obliging.pace().terminate.as_secs()), (None, 1, 0));
    obliging.set_max_batch(9);
    assert_eq!(obliging.max_batch(), 9);
}
