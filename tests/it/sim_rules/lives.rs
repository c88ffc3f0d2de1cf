//! The life of a machine, from pending to gone.

use super::{Cloud, after, easy, refusal};
use chrono::TimeDelta;
use vm_service::provider::{MachineState, Provider as _};
use vm_service::sim::{EndCause, Fault, Rules};

/// "Address and state come from Describe".
#[tokio::test]
async fn a_machine_is_pending_and_then_runs_at_an_address() {
    let cloud = Cloud::with(Rules { runs_after: after(18), ..easy() });
    let machine = cloud.one("t").await;
    assert_eq!((machine.state, machine.address), (MachineState::Pending, None));
    cloud.pass(17);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Pending));
    cloud.pass(1);
    let machine = cloud.sim.find_machine(&machine.provider_id).await.unwrap().unwrap();
    assert_eq!(machine.state, MachineState::Running);
    assert_eq!(machine.address.map(|address| (address.ssh_port, address.docker_port)), Some((22, 2376)));
}

/// "Typical cold start is about 26 s, of which about 18 s is AWS's."
#[tokio::test]
async fn a_cold_start_takes_about_26_seconds() {
    let cloud = Cloud::strict();
    let made = cloud.sim.launch(&cloud.spec("t", 500)).await.unwrap();
    let start = crate::support::start();
    let takes: Vec<TimeDelta> = cloud.sim.truth().iter().map(|machine| machine.runs_at - start).collect();
    assert!(takes.iter().all(|t| (14..=22).contains(&t.num_seconds())));
    let mean = takes.iter().sum::<TimeDelta>() / i32::try_from(made.len()).unwrap();
    assert!((mean - TimeDelta::seconds(18)).abs() < TimeDelta::seconds(1), "{mean}");
}

/// "TerminateInstances is idempotent by itself", and takes ids that are unknown or dead.
#[tokio::test]
async fn a_termination_is_idempotent() {
    let cloud = Cloud::with(Rules { shuts_down_in: after(30), ..easy() });
    let machine = cloud.one("t").await;
    let ids = [machine.provider_id.clone(), "i-none".to_owned()];
    cloud.sim.terminate(&ids).await.unwrap();
    cloud.pass(20);
    cloud.sim.terminate(&ids).await.unwrap();
    cloud.pass(10);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Terminated), "asking again does not put it off");
    cloud.sim.terminate(&ids).await.unwrap();
    assert_eq!(cloud.truth(&machine).ended_at, Some(crate::support::start() + TimeDelta::seconds(30)));
}

/// "`InstanceInitiatedShutdownBehavior=terminate`": before first contact a machine ends itself when nobody comes.
#[tokio::test]
async fn a_machine_that_nobody_contacts_ends_itself() {
    let cloud = Cloud::with(Rules { runs_after: after(18), shuts_down_in: after(30), ..easy() });
    let machine = cloud.one("t").await;
    cloud.pass(18 + 1199);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    cloud.pass(1);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Stopping));
    cloud.pass(30);
    let truth = cloud.truth(&machine);
    assert_eq!((truth.state, truth.end), (MachineState::Terminated, Some(EndCause::OwnEnd)));
}

/// Stop and start: the disk and the name stay, the address changes; other states are `IncorrectInstanceState`.
#[tokio::test]
async fn a_stopped_machine_keeps_its_disk_and_not_its_address() {
    let cloud = Cloud::with(Rules { runs_after: after(18), shuts_down_in: after(30), ..easy() });
    let machine = cloud.one("a").await;
    let stop = || cloud.sim.stop_machine(&machine.provider_id);
    let start = || cloud.sim.start_machine(&machine.provider_id);
    assert_eq!(refusal(stop().await), "IncorrectInstanceState", "pending");
    cloud.pass(18);
    let first = cloud.truth(&machine).address;
    stop().await.unwrap();
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Stopping));
    assert_eq!(refusal(start().await), "IncorrectInstanceState", "stopping");
    cloud.pass(30);
    assert_eq!(cloud.truth(&machine).address, None);
    cloud.one("takes the address").await;
    start().await.unwrap();
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Pending));
    cloud.pass(18);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    assert_ne!(cloud.truth(&machine).address, first);
    assert_eq!(refusal(cloud.sim.start_machine("i-none").await), "InvalidInstanceID.NotFound");
}

/// A stopped machine is terminated like any other.
#[tokio::test]
async fn a_stopped_machine_can_be_terminated() {
    let cloud = Cloud::easy();
    let machine = cloud.one("a").await;
    cloud.sim.stop_machine(&machine.provider_id).await.unwrap();
    cloud.terminate(&machine).await;
    assert_eq!((cloud.state(&machine).await, cloud.sim.live().len()), (Some(MachineState::Terminated), 0));
    assert_eq!(refusal(cloud.sim.start_machine(&machine.provider_id).await), "IncorrectInstanceState");
}

/// A host fails under a machine: it is gone at once.
#[tokio::test]
async fn a_machine_may_die() {
    let cloud = Cloud::with(Rules { struck_after: after(100), ..easy() });
    cloud.sim.inject(Fault::Dies);
    let made = cloud.sim.launch(&cloud.spec("t", 2)).await.unwrap();
    cloud.pass(99);
    assert_eq!(cloud.sim.live().len(), 2);
    cloud.pass(1);
    assert_eq!(cloud.state(&made[0]).await, Some(MachineState::Terminated));
    assert_eq!((cloud.truth(&made[0]).end, cloud.sim.live().len()), (Some(EndCause::Died), 1));
}

/// Somebody removes the tags of a machine: it is in no list, and a direct look still finds it.
#[tokio::test]
async fn a_machine_may_lose_its_tags() {
    let cloud = Cloud::with(Rules { struck_after: after(100), ..easy() });
    cloud.sim.inject(Fault::LoseTags);
    let machine = cloud.one("t").await;
    assert_eq!(cloud.listed().await, 1);
    cloud.pass(100);
    assert_eq!((cloud.listed().await, cloud.state(&machine).await), (0, Some(MachineState::Running)));
    assert!(cloud.truth(&machine).tags_lost);
}

/// What happens does not depend on when somebody looks.
#[tokio::test]
async fn looking_changes_nothing() {
    let (watched, unwatched) = (Cloud::strict(), Cloud::strict());
    for cloud in [&watched, &unwatched] {
        cloud.sim.inject(Fault::Dies);
        cloud.sim.launch(&cloud.spec("t", 20)).await.unwrap();
    }
    for _ in 0..4000 {
        watched.pass(1);
        watched.sim.truth();
    }
    unwatched.pass(4000);
    assert_eq!(watched.sim.truth(), unwatched.sim.truth());
    assert_eq!(watched.sim.live().len(), 0);
}
