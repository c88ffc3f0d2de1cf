//! One history per seed, told in full; and gates, behind which replicas die and freeze.

use super::{Cloud, bootstrap, identity, volume_tags};
use crate::support::{lineage, snapshot};
use async_trait::async_trait;
use chrono::TimeDelta;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use vm_service::clock::{Clock as _, HandClock};
use vm_service::domain::settings::Settings;
use vm_service::guest::cache::{CacheContent, CacheDisk};
use vm_service::guest::{Endpoint, Guest as _, Personality};
use vm_service::provider::volumes::Volumes as _;
use vm_service::provider::{Machine, MachineState, Provider as _};
use vm_service::sim::{Bucket, EndCause, Fault, FaultRates, Gate, Outcome, Rules, Sim};

/// A strict world on a bad day, under a simple-minded service, for an hour.
async fn bad_day(seed: u64) -> Sim {
    let clock = HandClock::at(crate::support::start());
    let faults = FaultRates::usual().with(Fault::Dies, 0.1).with(Fault::LoseTags, 0.1);
    let sim = Sim::strict(clock.clone(), Rules::default(), faults, seed);
    let cloud = Cloud { sim, clock: clock.clone() };
    let mut known: BTreeSet<String> = BTreeSet::new();
    for round in 0..120 {
        if let Ok(made) = cloud.sim.launch(&cloud.spec(&format!("t{}", round / 2), 1 + round % 7)).await {
            known.extend(made.into_iter().map(|machine| machine.provider_id));
        }
        let ids: Vec<String> = known.iter().cloned().collect();
        for machine in cloud.sim.find_machines(&ids).await.unwrap_or_default() {
            greet(&cloud, &machine).await;
        }
        if round % 3 == 0
            && let Some(oldest) = ids.first()
            && cloud.sim.terminate(std::slice::from_ref(oldest)).await.is_ok()
        {
            known.remove(oldest);
        }
        drop(cloud.sim.list_machines().await);
        let addresses: Vec<_> = cloud.sim.live().into_values().filter_map(|machine| machine.address).collect();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len(), "two machines with one address");
        clock.advance(TimeDelta::seconds(30));
    }
    cloud.sim
}

async fn greet(cloud: &Cloud, machine: &Machine) {
    let Some(address) = machine.address else { return };
    let at = Endpoint { ssh: SocketAddr::new(address.ip, 22), docker: SocketAddr::new(address.ip, 2376) };
    let now = cloud.clock.now();
    let personality =
        Personality { settings: Settings::default().guest, gpus: 0, absolute_end_at: now + TimeDelta::minutes(20), now };
    let identity = identity(&machine.provider_id);
    drop(cloud.sim.personalise(&at, Some(&bootstrap("batch")), &identity, &personality, Duration::ZERO).await);
}

/// The same seed and the same calls: the same history, byte for byte; another seed, another history.
#[tokio::test]
async fn the_same_seed_makes_the_same_history() {
    let (first, again, other) = (bad_day(1).await, bad_day(1).await, bad_day(2).await);
    assert_eq!(first.journal(), again.journal());
    assert_eq!((first.truth(), first.journal_digest()), (again.truth(), again.journal_digest()));
    assert_ne!(first.journal_digest(), other.journal_digest());
    let ends: BTreeSet<String> = first.truth().iter().map(|machine| format!("{:?}", machine.end)).collect();
    let all = [None, Some(EndCause::AskedByUs), Some(EndCause::OwnEnd), Some(EndCause::Died)];
    assert_eq!(ends, all.map(|end| format!("{end:?}")).into_iter().collect(), "a day on which everything happens");
    assert!(first.truth().iter().any(|machine| machine.personalised_as.is_some() && machine.tags_lost));
}

/// The digest is of the lines, by FNV-1a: it is the same in another process.
#[tokio::test]
async fn a_digest_is_stable() {
    let cloud = Cloud::easy();
    assert_eq!(cloud.sim.journal_digest(), 0xcbf2_9ce4_8422_2325, "of nothing");
    cloud.one("t").await;
    let line = "2026-09-21T14:13:20.000Z launch t x1 -> i-00000000:Running => Done";
    assert_eq!(cloud.sim.journal()[0].to_string(), line);
    assert_eq!(cloud.sim.journal_digest(), 0x812f_aa45_6a9e_38d5);
}

/// The journal says what was asked for, which budget it took from, and what became of it.
#[tokio::test]
async fn the_journal_tells_everything() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    cloud.pass(1);
    cloud.sim.inject(Fault::LoseTerminateAnswer);
    drop(cloud.sim.terminate(std::slice::from_ref(&machine.provider_id)).await);
    cloud.sim.inject(Fault::Throttle);
    drop(cloud.sim.find_machine(&machine.provider_id).await);
    let told: Vec<_> = cloud.sim.journal().into_iter().map(|call| (call.op, call.bucket, call.detail, call.outcome)).collect();
    let expected = [
        ("launch", Some(Bucket::LaunchCalls), "t x1 -> i-00000000:Running", Outcome::Done),
        ("terminate", Some(Bucket::Terminate), "i-00000000 -> ok", Outcome::AnswerLost),
        ("find_machine", Some(Bucket::Describe), "i-00000000", Outcome::Throttled),
    ];
    assert_eq!(told, expected.map(|(op, bucket, detail, outcome)| (op, bucket, detail.to_owned(), outcome)));
    assert_eq!(cloud.sim.journal()[1].at, crate::support::start() + TimeDelta::seconds(1));
    cloud.sim.set_journal(false);
    cloud.listed().await;
    assert_eq!((cloud.sim.journal().len(), cloud.sim.calls("list_machines")), (3, 1), "counted, not kept");
}

/// What a test does to the world from outside.
#[tokio::test]
async fn a_test_may_kill_forget_and_plant() {
    let cloud = Cloud::easy();
    let made = cloud.sim.launch(&cloud.spec("t", 2)).await.unwrap();
    cloud.sim.kill(&made[0].provider_id);
    cloud.sim.forget(&made[1].provider_id);
    cloud.sim.plant("i-planted", super::tags("medium"));
    assert_eq!((cloud.state(&made[0]).await, cloud.state(&made[1]).await), (Some(MachineState::Terminated), None));
    let ends: Vec<_> = cloud.sim.truth().iter().map(|machine| machine.end).collect();
    assert_eq!(ends, [Some(EndCause::Killed), Some(EndCause::Killed), None]);
    assert_eq!((cloud.listed().await, cloud.sim.live().len()), (2, 1));
}

/// Ten thousand machines, in ten launches and eleven pages.
#[tokio::test]
async fn ten_thousand_machines_fit() {
    let cloud = Cloud::easy();
    for n in 0..10 {
        cloud.sim.launch(&cloud.spec(&format!("t{n}"), 1000)).await.unwrap();
    }
    cloud.one("t").await;
    assert_eq!(cloud.listed().await, 10_001);
    assert_eq!(cloud.sim.totals()[&Bucket::Describe].taken, 11);
}

/// Keeps every call at the points that it was told, and remembers all.
#[derive(Default)]
struct Shut {
    at: &'static str,
    seen: Mutex<Vec<&'static str>>,
    opened: Notify,
}

#[async_trait]
impl Gate for Shut {
    async fn pass(&self, point: &'static str) {
        self.seen.lock().unwrap().push(point);
        if point == self.at {
            self.opened.notified().await;
        }
    }
}

/// A replica that is killed before the effect made nothing; after it, the machine is there and nobody was told.
#[tokio::test]
async fn a_replica_is_killed_before_or_after_the_effect() {
    for (at, made) in [("launch:before", 0), ("launch:after", 1)] {
        let cloud = Cloud::easy();
        let replica = cloud.sim.handle(Arc::new(Shut { at, ..Shut::default() }));
        let spec = cloud.spec("t", 1);
        tokio::select! {
            biased;
            answer = replica.launch(&spec) => panic!("{answer:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(cloud.sim.truth().len(), made, "{at}");
        cloud.one("t").await;
        assert_eq!(cloud.sim.truth().len(), 1, "the other replica goes on");
    }
}

/// A replica that was frozen before the effect has it late, on the clock of then.
#[tokio::test]
async fn a_frozen_replica_acts_late() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    let gate = Arc::new(Shut { at: "terminate:before", ..Shut::default() });
    let replica = cloud.sim.handle(gate.clone());
    let ids = [machine.provider_id.clone()];
    let frozen = tokio::spawn(async move { replica.terminate(&ids).await });
    tokio::task::yield_now().await;
    cloud.pass(60);
    assert_eq!(cloud.state(&machine).await, Some(MachineState::Running));
    gate.opened.notify_one();
    frozen.await.unwrap().unwrap();
    assert_eq!(cloud.truth(&machine).ended_at, Some(crate::support::start() + TimeDelta::seconds(60)));
    assert_eq!(*gate.seen.lock().unwrap(), ["terminate:before", "terminate:after"]);
}

/// Every call has two gates, named after it.
#[tokio::test]
async fn every_call_passes_two_gates() {
    let cloud = Cloud::easy();
    let machine = cloud.one("t").await;
    let gate = Arc::new(Shut::default());
    let replica = Cloud { sim: cloud.sim.handle(gate.clone()), clock: cloud.clock.clone() };
    let (sim, id) = (&replica.sim, machine.provider_id.as_str());
    let ssh = SocketAddr::new(machine.address.unwrap().ip, 22);
    drop(sim.launch(&replica.spec("t", 1)).await);
    drop(sim.list_machines().await);
    drop(sim.find_machine(id).await);
    drop(sim.find_machines(&[id.to_owned()]).await);
    drop(sim.console(id).await);
    drop(sim.list_volumes().await);
    drop(sim.find_volume("v").await);
    drop(sim.create_volume(&crate::support::volume(&volume_tags("p"), "zone-a", "v")).await);
    drop(sim.attach_volume("v", id, &lineage("p")).await);
    drop(sim.detach_volume("v", "i").await);
    drop(sim.delete_volume("v").await);
    drop(sim.snapshot_volume("v", &snapshot(&volume_tags("p"), "s")).await);
    drop(sim.find_snapshot("s").await);
    drop(sim.list_snapshots().await);
    drop(sim.delete_snapshot("s").await);
    greet(&replica, &machine).await;
    drop(sim.authorise(ssh, &identity("vm"), &[], Duration::ZERO).await);
    drop(sim.set_end(ssh, &identity("vm"), replica.clock.now(), Duration::ZERO).await);
    let disk = CacheDisk { serial: "v".to_owned(), engine: lineage("p").engine, content: CacheContent::Nothing };
    drop(sim.mount_cache(ssh, &identity("vm"), &disk, Duration::ZERO).await);
    drop(sim.unmount_cache(ssh, &identity("vm"), Duration::ZERO).await);
    drop(sim.stop_machine(id).await);
    drop(sim.start_machine(id).await);
    drop(sim.terminate(&[id.to_owned()]).await);
    let called: Vec<&str> = sim.journal().iter().skip(1).map(|call| call.op).collect();
    let gates: Vec<String> = called.iter().flat_map(|op| [format!("{op}:before"), format!("{op}:after")]).collect();
    assert_eq!((called.len(), gate.seen.lock().unwrap().clone()), (23, gates.iter().map(String::as_str).collect()));
}
