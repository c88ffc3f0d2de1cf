//! Eventual consistency: what is shown is not yet, or no longer, what is.

use super::{Cloud, after, easy, refusal};
use vm_service::provider::{MachineState, Provider as _};
use vm_service::sim::{Bucket, EndCause, Fault, Rules};

/// "`InvalidInstanceID.NotFound` just after RunInstances does not mean that it does not exist".
#[tokio::test]
async fn a_look_just_after_a_launch_says_not_yet() {
    let cloud = Cloud::with(Rules { look_lag: after(3), ..easy() });
    let machine = cloud.one("t").await;
    assert_eq!(cloud.state(&machine).await, None);
    assert_eq!(cloud.sim.find_machines(std::slice::from_ref(&machine.provider_id)).await.unwrap(), []);
    assert_eq!(cloud.listed().await, 1, "lists and looks lag each for itself");
    cloud.pass(3);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
}

/// "After TerminateInstances it does not prove that it is gone": the call is fine and reached nothing, as for any unknown id.
#[tokio::test]
async fn a_machine_that_is_not_known_yet_is_not_terminated() {
    let cloud = Cloud::with(Rules { look_lag: after(3), ..easy() });
    let machine = cloud.one("t").await;
    cloud.terminate(&machine).await;
    assert_eq!(cloud.state(&machine).await, None);
    cloud.pass(3);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    cloud.terminate(&machine).await;
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Terminated));
}

/// "After TerminateInstances it does not prove that it is gone", the other way: unknown already, and still a machine.
#[tokio::test]
async fn a_machine_that_ends_may_be_unknown_before_it_is_gone() {
    let cloud = Cloud::with(Rules { shuts_down_in: after(30), ..easy() });
    cloud.sim.inject(Fault::UnknownWhileEnding);
    let machine = cloud.one("t").await;
    cloud.terminate(&machine).await;
    assert_eq!((cloud.state(&machine).await, cloud.listed().await, cloud.sim.live().len()), (None, 0, 1));
    cloud.pass(30);
    assert_eq!((cloud.state(&machine).await, cloud.sim.live().len()), (Some(MachineState::Terminated), 0));
}

/// "A list may miss pages' worth of new instances", for seconds always and for minutes at times, and still call itself complete.
#[tokio::test]
async fn lists_miss_new_machines() {
    let cloud = Cloud::with(Rules { list_lag: after(10), list_lag_struck: after(240), ..easy() });
    cloud.sim.inject(Fault::ListLags);
    let made = cloud.sim.launch(&cloud.spec("t", 2)).await.unwrap();
    assert_eq!(cloud.listed().await, 0);
    assert!(cloud.sim.list_machines().await.unwrap().complete);
    assert_eq!(cloud.state(&made[0]).await, Some(MachineState::Running), "found, and in no list");
    cloud.pass(10);
    assert_eq!(cloud.sim.list_machines().await.unwrap().machines, vec![made[1].clone()]);
    cloud.pass(230);
    assert_eq!(cloud.listed().await, 2);
}

/// "'Absent' is concluded from two complete lists": one that lacks a page says so.
#[tokio::test]
async fn a_list_that_lacks_a_page_says_so() {
    let cloud = Cloud::with(Rules { page: 10, ..easy() });
    cloud.sim.launch(&cloud.spec("t", 35)).await.unwrap();
    cloud.sim.inject(Fault::ListMissesPage);
    let listing = cloud.sim.list_machines().await.unwrap();
    assert!(!listing.complete && [25, 30].contains(&listing.machines.len()), "{}", listing.machines.len());
    cloud.sim.inject(Fault::IncompleteList);
    let listing = cloud.sim.list_machines().await.unwrap();
    assert_eq!((listing.complete, listing.machines.len()), (false, 0));
    let listing = cloud.sim.list_machines().await.unwrap();
    assert_eq!((listing.complete, listing.machines.len()), (true, 35));
}

/// "Terminated instances stay visible for about an hour; they hold no machine."
#[tokio::test]
async fn an_ended_machine_is_shown_for_an_hour() {
    let cloud = Cloud::with(Rules { shuts_down_in: after(30), ..easy() });
    let machine = cloud.one("t").await;
    cloud.terminate(&machine).await;
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Stopping));
    cloud.pass(30);
    assert_eq!((cloud.state(&machine).await, cloud.sim.live().len()), (Some(MachineState::Terminated), 0));
    cloud.pass(3599);
    assert_eq!((cloud.state(&machine).await, cloud.listed().await), (Some(MachineState::Terminated), 1));
    cloud.pass(1);
    assert_eq!((cloud.state(&machine).await, cloud.listed().await), (None, 0));
    assert_eq!(cloud.truth(&machine).end, Some(EndCause::AskedByUs), "the truth remembers");
}

/// "One bad id fails a whole DescribeInstances(ids): look the missing ones up singly."
#[tokio::test]
async fn an_unknown_id_costs_a_look_of_its_own() {
    let cloud = Cloud::easy();
    let made = cloud.sim.launch(&cloud.spec("t", 3)).await.unwrap();
    let mut ids: Vec<String> = made.iter().map(|machine| machine.provider_id.clone()).collect();
    let taken = || cloud.sim.totals()[&Bucket::Describe].taken;
    assert_eq!(cloud.sim.find_machines(&ids).await.unwrap(), made);
    assert_eq!(taken(), 1);
    ids.insert(1, "i-none".to_owned());
    assert_eq!(cloud.sim.find_machines(&ids).await.unwrap(), made);
    assert_eq!(taken(), 3);
    let strict = Cloud::strict();
    let unknown: Vec<String> = (0..500).map(|n| format!("i-none{n}")).collect();
    assert_eq!(strict.sim.find_machines(&unknown).await.unwrap(), [], "more of them than a full bucket holds");
    assert_eq!(strict.sim.totals()[&Bucket::Describe].taken, 100);
}

/// A call takes 1000 ids; a shared look makes as many calls as it needs, a termination is one call.
#[tokio::test]
async fn a_call_takes_1000_ids() {
    let cloud = Cloud::easy();
    let mut ids: Vec<String> = Vec::new();
    for token in ["a", "b"] {
        ids.extend(cloud.sim.launch(&cloud.spec(token, 600)).await.unwrap().into_iter().map(|machine| machine.provider_id));
    }
    assert_eq!(cloud.sim.find_machines(&ids).await.unwrap().len(), 1200);
    assert_eq!(cloud.sim.totals()[&Bucket::Describe].taken, 2);
    assert_eq!(refusal(cloud.sim.terminate(&ids).await), "InvalidParameterValue");
    assert_eq!(cloud.sim.live().len(), 1200);
    cloud.sim.terminate(&ids[..1000]).await.unwrap();
    assert_eq!(cloud.sim.live().len(), 200);
}
