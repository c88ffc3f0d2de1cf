//! Calls that are throttled, lost, or answered twice.

use super::Cloud;
use vm_service::provider::{MachineState, Provider as _, ProviderError};
use vm_service::sim::{Bucket, Fault, FaultRates, Outcome};

fn is_transient<T>(answer: &Result<T, ProviderError>) -> bool {
    matches!(answer, Err(ProviderError::Transient { .. }))
}

/// "Answers to an empty bucket: `RequestLimitExceeded` (503): nothing happened".
#[tokio::test]
async fn a_throttled_call_has_no_effect() {
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::Throttle);
    assert!(matches!(cloud.sim.launch(&cloud.spec("t", 1)).await, Err(ProviderError::Throttled)));
    assert_eq!((cloud.sim.truth().len(), cloud.sim.throttled(Bucket::LaunchCalls)), (0, 1));
    cloud.one("t").await;
}

/// "One token per attempt, stored before the call": before the effect and after it, the loss looks the same.
#[tokio::test]
async fn a_launch_is_lost_before_or_after_its_effect() {
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::LoseLaunch);
    assert!(is_transient(&cloud.sim.launch(&cloud.spec("t", 1)).await));
    assert_eq!(cloud.sim.truth().len(), 0);
    cloud.sim.inject(Fault::LoseLaunchAnswer);
    assert!(is_transient(&cloud.sim.launch(&cloud.spec("t", 1)).await));
    assert_eq!(cloud.sim.truth().len(), 1);
    cloud.one("t").await;
    assert_eq!((cloud.sim.truth().len(), cloud.sim.calls("launch")), (1, 3));
}

/// The same for a termination, a change, and a look.
#[tokio::test]
async fn any_call_may_be_lost() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    let ids = [machine.provider_id.clone()];
    cloud.sim.inject(Fault::LoseTerminate);
    assert!(is_transient(&cloud.sim.terminate(&ids).await));
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    cloud.sim.inject(Fault::LoseChange);
    assert!(is_transient(&cloud.sim.stop_machine(&ids[0]).await));
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    cloud.sim.inject(Fault::LoseChangeAnswer);
    assert!(is_transient(&cloud.sim.stop_machine(&ids[0]).await));
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Stopped));
    cloud.sim.inject(Fault::LoseTerminateAnswer);
    assert!(is_transient(&cloud.sim.terminate(&ids).await));
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Terminated));
    cloud.sim.inject(Fault::LoseLook);
    assert!(is_transient(&cloud.sim.list_machines().await));
}

/// A launch reaches the cloud twice: one effect, two entries.
#[tokio::test]
async fn an_answer_may_come_twice() {
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::DoubleAnswer);
    cloud.one("t").await;
    assert_eq!((cloud.sim.truth().len(), cloud.sim.calls("launch")), (1, 2));
    let journal = cloud.sim.journal();
    assert!(journal[0] == journal[1] && journal[0].outcome == Outcome::Done, "{journal:?}");
}

/// A refusal has the reason that the test gave.
#[tokio::test]
async fn a_launch_may_be_refused_with_a_reason() {
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::Refuse("there is no image".to_owned()));
    assert_eq!(super::refusal(cloud.sim.launch(&cloud.spec("t", 1)).await), "there is no image");
    cloud.one("t").await;
}

/// Rates strike by chance, about as often as they say, and can be switched off.
#[tokio::test]
async fn rates_strike_by_chance_until_they_are_switched_off() {
    let cloud = Cloud::easy();
    cloud.sim.set_faults(FaultRates::none().with(Fault::LoseLook, 0.25));
    let mut lost = 0;
    for _ in 0..1000 {
        lost += u32::from(is_transient(&cloud.sim.list_machines().await));
    }
    assert!((200..300).contains(&lost), "{lost}");
    cloud.sim.set_faults(FaultRates::none());
    for _ in 0..1000 {
        cloud.sim.list_machines().await.unwrap();
    }
}
