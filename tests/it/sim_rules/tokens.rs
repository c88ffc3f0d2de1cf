//! Idempotency: client tokens.

use super::{Cloud, SILENT_FOR, bootstrap, refusal, tags};
use chrono::TimeDelta;
use vm_service::guest::Guest as _;
use vm_service::provider::{MachineState, Provider as _};

/// "Same token and parameters: no second effect, the first answer again."
#[tokio::test]
async fn the_same_token_makes_nothing_twice() {
    let cloud = Cloud::strict();
    let first = cloud.sim.launch(&cloud.spec("t", 3)).await.unwrap();
    let again = cloud.sim.launch(&cloud.spec("t", 3)).await.unwrap();
    assert_eq!((first, cloud.sim.truth().len()), (again, 3));
    cloud.pass(3600);
    cloud.sim.launch(&cloud.spec("t", 3)).await.unwrap();
    assert_eq!(cloud.sim.truth().len(), 3, "however late");
}

/// "Other parameters: `IdempotentParameterMismatch`."
#[tokio::test]
async fn the_same_token_with_other_parameters_is_refused() {
    let cloud = Cloud::easy();
    let spec = cloud.spec("t", 1);
    cloud.sim.launch(&spec).await.unwrap();
    let mut others = vec![spec.clone(), spec.clone(), spec.clone(), spec.clone()];
    others[0].count = 2;
    others[1].tags = tags("large");
    others[2].class.vcpus = 4;
    others[3].user_data = cloud.sim.user_data(&bootstrap("other"), SILENT_FOR);
    for other in others {
        assert_eq!(refusal(cloud.sim.launch(&other).await), "IdempotentParameterMismatch");
    }
    assert_eq!(cloud.sim.truth().len(), 1);
}

/// "`ClientToken` (64 ASCII characters at most)".
#[tokio::test]
async fn a_token_has_64_ascii_characters_at_most() {
    let cloud = Cloud::easy();
    cloud.one(&"t".repeat(64)).await;
    for token in ["t".repeat(65), "é".to_owned(), String::new()] {
        assert_eq!(refusal(cloud.sim.launch(&cloud.spec(&token, 1)).await), "InvalidParameterValue");
    }
}

/// "The token of an instance that has been terminated answers `IdempotentInstanceTerminated`": the contract of `launch` is to
/// return what the token made, so the machine comes back as terminated, also when nobody else shows it any more.
#[tokio::test]
async fn the_token_of_an_ended_machine_answers_with_it() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    cloud.terminate(&machine).await;
    cloud.clock.advance(TimeDelta::hours(2));
    assert_eq!(cloud.state(&machine).await, None);
    let again = cloud.one("t").await;
    assert_eq!((again.provider_id, again.state), (machine.provider_id, MachineState::Terminated));
    assert_eq!(cloud.sim.truth().len(), 1);
}

/// One token per launch, and at most `max_batch` machines in one.
#[tokio::test]
async fn a_launch_asks_for_1_to_1000_machines() {
    let cloud = Cloud::strict();
    for count in [0, 1001] {
        assert_eq!(refusal(cloud.sim.launch(&cloud.spec("t", count)).await), "InvalidParameterValue");
    }
}
