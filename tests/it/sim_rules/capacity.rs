//! Capacity: room per class and zone, and addresses.

use super::{Cloud, after, easy, tags};
use std::collections::{BTreeMap, BTreeSet};
use vm_service::provider::{MachineState, Provider as _, ProviderError};
use vm_service::sim::{Fault, Rules};

fn room(machines: u32) -> BTreeMap<(String, String), u32> {
    BTreeMap::from([(("medium".to_owned(), "zone-a".to_owned()), machines)])
}

/// "No capacity: remember (type, zone, market) … and try the next candidate": a full class does not fill another.
#[tokio::test]
async fn no_capacity_is_of_one_class() {
    let cloud = Cloud::with(Rules { capacity: room(1), ..easy() });
    let first = cloud.one("a").await;
    assert!(matches!(cloud.sim.launch(&cloud.spec("b", 1)).await, Err(ProviderError::NoCapacity(_))));
    let mut large = cloud.spec("c", 1);
    large.tags = tags("large");
    cloud.sim.launch(&large).await.unwrap();
    cloud.terminate(&first).await;
    cloud.sim.launch(&cloud.spec("b", 1)).await.unwrap();
}

/// "`InsufficientInstanceCapacity`" is of one zone: the others are tried.
#[tokio::test]
async fn no_capacity_is_of_one_zone() {
    let zones: Vec<String> = vec!["zone-a".to_owned(), "zone-b".to_owned()];
    let cloud = Cloud::with(Rules { capacity: room(1), zones, ..easy() });
    for n in 0..9 {
        cloud.one(&format!("t{n}")).await;
    }
    let in_a = cloud.sim.truth().iter().filter(|machine| machine.zone == "zone-a").count();
    assert!(in_a <= 1, "{in_a}");
}

/// "A RunInstances with MinCount 1 and MaxCount N may give fewer than N."
#[tokio::test]
async fn fewer_machines_than_asked_for_may_come() {
    let cloud = Cloud::with(Rules { capacity: room(3), ..easy() });
    assert_eq!(cloud.sim.launch(&cloud.spec("a", 5)).await.unwrap().len(), 3);
    assert_eq!(cloud.sim.launch(&cloud.spec("a", 5)).await.unwrap().len(), 3, "and stays so");
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::FewerMachines);
    let came = cloud.sim.launch(&cloud.spec("a", 5)).await.unwrap().len();
    assert!((1..5).contains(&came), "{came}");
}

/// "It can also strike when a *stopped* instance is started."
#[tokio::test]
async fn no_capacity_strikes_at_a_start() {
    let cloud = Cloud::with(Rules { capacity: room(1), ..easy() });
    let stopped = cloud.one("a").await;
    cloud.sim.stop_machine(&stopped.provider_id).await.unwrap();
    let other = cloud.one("b").await;
    let start = || cloud.sim.start_machine(&stopped.provider_id);
    assert!(matches!(start().await, Err(ProviderError::NoCapacity(_))));
    cloud.terminate(&other).await;
    cloud.sim.inject(Fault::NoCapacity);
    assert!(matches!(start().await, Err(ProviderError::NoCapacity(_))));
    start().await.unwrap();
    assert_eq!(cloud.state(&stopped).await, Some(MachineState::Running));
}

/// "`InsufficientFreeAddressesInSubnet`": addresses are unique among machines that run, and are used again.
#[tokio::test]
async fn addresses_are_unique_and_used_again() {
    let cloud = Cloud::with(Rules { addresses: 3, shuts_down_in: after(30), ..easy() });
    let made = cloud.sim.launch(&cloud.spec("a", 9)).await.unwrap();
    let addresses: BTreeSet<_> = made.iter().map(|machine| machine.address.unwrap().ip).collect();
    assert_eq!((made.len(), addresses.len()), (3, 3));
    cloud.terminate(&made[1]).await;
    assert!(matches!(cloud.sim.launch(&cloud.spec("b", 1)).await, Err(ProviderError::NoCapacity(_))), "not free yet");
    cloud.pass(30);
    assert_eq!(cloud.one("c").await.address, made[1].address);
}
