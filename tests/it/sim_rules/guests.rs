//! Guests: whoever has the address answers, with its own keys.

use super::{Cloud, SILENT_FOR, after, bootstrap, easy, identity};
use chrono::{DateTime, TimeDelta, Utc};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vm_service::domain::lineage::Engine;
use vm_service::domain::settings::Settings;
use vm_service::guest::{Endpoint, Guest as _, GuestError, Personality};
use vm_service::provider::{Machine, MachineState, Provider as _};
use vm_service::sim::{EndCause, Fault, Rules};

const DEADLINE: Duration = Duration::from_secs(60);

impl Cloud {
    /// First contact with whoever is at `machine`'s address, with the batch's bootstrap keys.
    async fn meet(&self, machine: &Machine, name: &str, end_at: DateTime<Utc>) -> Result<Option<Engine>, GuestError> {
        let ssh = self.ssh(machine);
        let at = Endpoint { ssh, docker: SocketAddr::new(ssh.ip(), 2376) };
        let personality = Personality { settings: Settings::default().guest, gpus: 0, absolute_end_at: end_at, now: self.now() };
        self.sim.personalise(&at, Some(&bootstrap("batch")), &identity(name), &personality, DEADLINE).await
    }

    fn ssh(&self, machine: &Machine) -> SocketAddr {
        SocketAddr::new(machine.address.map_or_else(|| IpAddr::V4(self.truth(machine).address.unwrap()), |a| a.ip), 22)
    }

    fn now(&self) -> DateTime<Utc> {
        vm_service::clock::Clock::now(&self.clock)
    }

    fn later(&self) -> DateTime<Utc> {
        self.now() + TimeDelta::hours(2)
    }
}

/// "`running` is not 'reachable'": the guest answers later, and the caller is told at once.
#[tokio::test]
async fn running_is_not_reachable() {
    let cloud = Cloud::with(Rules { runs_after: after(18), answers_after: after(8), ..easy() });
    let machine = cloud.one("t").await;
    for _ in 0..26 {
        let met = cloud.meet(&machine, "vm", cloud.later()).await;
        assert!(matches!(met, Err(GuestError::NotReachable(DEADLINE))), "{met:?}");
        cloud.pass(1);
    }
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
}

/// First contact pins the bootstrap key and gives the machine its own keys; afterwards the bootstrap login is gone.
#[tokio::test]
async fn first_contact_changes_the_keys_once() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    let truth = cloud.truth(&machine);
    assert_eq!(truth.keys.logins, ["login of vm"]);
    assert_eq!(truth.personalised_as.as_deref(), Some("host of vm"));
    let other = cloud.meet(&machine, "other", cloud.later()).await;
    assert!(matches!(other, Err(GuestError::WrongHostKey)), "it serves one identity: {other:?}");
    assert_eq!(cloud.truth(&machine).keys.host, "host of vm");
}

/// Who shows the right host key and not the right login is in another state than the row says.
#[tokio::test]
async fn another_login_is_refused() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    let mut stranger = identity("vm");
    stranger.login_public = "another login".to_owned();
    let refused = cloud.sim.set_end(cloud.ssh(&machine), &stranger, cloud.later(), DEADLINE).await;
    assert!(matches!(refused, Err(GuestError::LoginRefused)), "{refused:?}");
}

/// A machine that came to the address of a dead one is not taken for it.
#[tokio::test]
async fn a_stranger_at_the_same_address_is_noticed() {
    let cloud = Cloud::easy();
    let machine = cloud.one("a").await;
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    cloud.terminate(&machine).await;
    let ssh = cloud.ssh(&machine);
    let authorise = || async { cloud.sim.authorise(ssh, &identity("vm"), &["key".to_owned()], DEADLINE).await };
    assert!(matches!(authorise().await, Err(GuestError::NotReachable(_))), "nobody is there");
    let mut spec = cloud.spec("b", 1);
    spec.user_data = cloud.sim.user_data(&bootstrap("another batch"), SILENT_FOR);
    let stranger = cloud.sim.launch(&spec).await.unwrap().remove(0);
    assert_eq!(stranger.address, machine.address);
    assert!(matches!(authorise().await, Err(GuestError::WrongHostKey)));
    assert!(matches!(cloud.meet(&machine, "vm", cloud.later()).await, Err(GuestError::WrongHostKey)));
    assert_eq!(cloud.truth(&stranger).keys.logins, ["login of another batch"], "nothing was given to it");
}

/// The job's keys come beside the identity's own, once each.
#[tokio::test]
async fn keys_are_authorised_once() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    let early = cloud.sim.authorise(cloud.ssh(&machine), &identity("vm"), &["key".to_owned()], DEADLINE).await;
    assert!(matches!(early, Err(GuestError::WrongHostKey)), "{early:?}");
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    for _ in 0..2 {
        cloud.sim.authorise(cloud.ssh(&machine), &identity("vm"), &["key".to_owned()], DEADLINE).await.unwrap();
    }
    assert_eq!(cloud.truth(&machine).keys.logins, ["login of vm", "key"]);
}

/// A personalised machine ends itself at its absolute end, which only `set_end` moves.
#[tokio::test]
async fn a_machine_ends_itself_at_its_end() {
    let cloud = Cloud::with(Rules { shuts_down_in: after(30), ..easy() });
    let [kept, moved, ended] = ["a", "b", "c"].map(|token| cloud.one(token));
    let (kept, moved, ended) = (kept.await, moved.await, ended.await);
    let end = cloud.now() + TimeDelta::hours(1);
    for (machine, name) in [(&kept, "vm a"), (&moved, "vm b"), (&ended, "vm c")] {
        cloud.meet(machine, name, end).await.unwrap();
    }
    cloud.sim.set_end(cloud.ssh(&moved), &identity("vm b"), end + TimeDelta::hours(1), DEADLINE).await.unwrap();
    cloud.sim.set_end(cloud.ssh(&ended), &identity("vm c"), cloud.now() - TimeDelta::hours(9), DEADLINE).await.unwrap();
    assert_eq!(cloud.state(&ended).await, Some(MachineState::Stopping), "an end in the past is now");
    cloud.pass(3599);
    assert_eq!(cloud.state(&kept).await, Some(MachineState::Running), "not at the end without first contact");
    cloud.pass(1);
    assert_eq!(cloud.state(&kept).await, Some(MachineState::Stopping));
    cloud.pass(30);
    assert_eq!(cloud.truth(&kept).end, Some(EndCause::OwnEnd));
    assert_eq!(cloud.state(&moved).await, Some(MachineState::Running));
    cloud.pass(3600);
    assert_eq!(cloud.truth(&moved).end, Some(EndCause::OwnEnd));
}

/// Stop and start: the keys are on the disk, and so is the end, which is kept over restarts.
#[tokio::test]
async fn a_started_machine_has_its_keys_and_its_end() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    let end = cloud.now() + TimeDelta::hours(1);
    cloud.meet(&machine, "vm", end).await.unwrap();
    cloud.sim.stop_machine(&machine.provider_id).await.unwrap();
    let gone = cloud.meet(&machine, "vm", end).await;
    assert!(matches!(gone, Err(GuestError::NotReachable(_))), "{gone:?}");
    cloud.pass(1800);
    cloud.sim.start_machine(&machine.provider_id).await.unwrap();
    cloud.meet(&machine, "vm", end).await.unwrap();
    cloud.sim.stop_machine(&machine.provider_id).await.unwrap();
    cloud.pass(7200);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Stopped), "nothing runs that could end it");
    cloud.sim.start_machine(&machine.provider_id).await.unwrap();
    assert_eq!(cloud.truth(&machine).end, Some(EndCause::OwnEnd));
}

/// A boot that hangs: it runs, and never answers.
#[tokio::test]
async fn a_boot_may_hang() {
    let cloud = Cloud::easy();
    cloud.sim.inject(Fault::BootHangs);
    let machine = cloud.one("t").await;
    cloud.pass(600);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    assert!(matches!(cloud.meet(&machine, "vm", cloud.later()).await, Err(GuestError::NotReachable(_))));
}

/// A guest's one-time troubles, as injected.
#[tokio::test]
async fn contact_may_fail_once() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    cloud.sim.inject(Fault::WrongHostKey);
    cloud.sim.inject(Fault::NeverAnswers);
    cloud.sim.inject(Fault::RefusesKeys);
    assert!(matches!(cloud.meet(&machine, "vm", cloud.later()).await, Err(GuestError::NotReachable(_))));
    assert!(matches!(cloud.meet(&machine, "vm", cloud.later()).await, Err(GuestError::WrongHostKey)));
    cloud.meet(&machine, "vm", cloud.later()).await.unwrap();
    let authorise = || async { cloud.sim.authorise(cloud.ssh(&machine), &identity("vm"), &[], DEADLINE).await };
    assert!(matches!(authorise().await, Err(GuestError::NotReachable(_))));
    authorise().await.unwrap();
}

/// User data is what its own machines read; anything else makes none.
#[tokio::test]
async fn user_data_is_read_at_the_launch() {
    let cloud = Cloud::easy();
    let mut spec = cloud.spec("t", 1);
    spec.user_data = "#cloud-config".to_owned();
    assert_eq!(super::refusal(cloud.sim.launch(&spec).await), "InvalidUserData");
}
