//! Tests of `assign`.

use super::*;
use crate::domain::plan::room::{Room, Supply};
use crate::domain::rate::Allowance;
use crate::domain::settings::ProviderChoice;
use uuid::Uuid;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn settings() -> Settings {
    Settings { provider: ProviderChoice::OnHost, ..Settings::default() }
}

fn kind() -> Kind {
    (Executor::Machine, "medium".to_owned())
}

fn waiting(id: u128, project: &str) -> Waiting {
    Waiting {
        id: TaskId(Uuid::from_u128(id)),
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        project_id: project.to_owned(),
        priority: 0,
        created_at: at(0),
        max_run_seconds: 3600,
        caching: false,
        trust: Trust::Trusted,
        reason: None,
    }
}

fn available(id: u128) -> Available {
    Available {
        id: VmId(Uuid::from_u128(id)),
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        absolute_end_at: at(7200),
        owner: None,
        zone: Some("a".to_owned()),
    }
}

fn snapshot(settings: &Settings) -> Snapshot<'_> {
    let limits = Limits {
        settings,
        supply: BTreeMap::new(),
        breakers: BTreeMap::new(),
        room: Some(Room { vms: 10, in_flight: 10, gpus: None }),
        allowance: Allowance::UNLIMITED,
        max_batch: 10,
        now: at(5),
    };
    Snapshot {
        limits,
        waiting: Vec::new(),
        served_at: BTreeMap::new(),
        available: Vec::new(),
        booting: Vec::new(),
        volumes: BTreeMap::new(),
        reserve: BTreeMap::new(),
        at_work: BTreeMap::new(),
        refusals: BTreeMap::new(),
    }
}

fn counts(decision: &Decision) -> Vec<u32> {
    decision.launches.iter().map(|launch| launch.count).collect()
}

#[test]
fn first_in_the_queue_takes_the_oldest_vm_and_the_rest_is_launched_in_one_batch() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![waiting(1, "a"), waiting(2, "a"), waiting(3, "b")];
    s.available = vec![available(10)];
    let decision = plan_assign(s);
    assert_eq!(decision.claims, [(TaskId(Uuid::from_u128(1)), VmId(Uuid::from_u128(10)))]);
    let launch = Launch { executor: Executor::Machine, resource_class: "medium".to_owned(), count: 2, seen: 0, near: None };
    assert_eq!(decision.launches, [launch]);
}

#[test]
fn a_vm_that_ends_before_the_job_may_is_not_given() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![Waiting { max_run_seconds: 7200, ..waiting(1, "a") }, waiting(2, "b")];
    s.available = vec![available(10)];
    let decision = plan_assign(s);
    assert_eq!(decision.claims, [(TaskId(Uuid::from_u128(2)), VmId(Uuid::from_u128(10)))]);
    assert_eq!(counts(&decision), [1]);
}

#[test]
fn what_is_in_flight_is_not_launched_again() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
    s.limits.supply.insert(kind(), Supply { in_flight: 1, live: 1, available: 0 });
    assert_eq!(counts(&plan_assign(s)), [1]);
}

#[test]
fn no_limit_is_passed() {
    let mut settings = settings();
    settings.limits.vms_per_project = Some(1);
    settings.resource_classes.get_mut("medium").unwrap().limit = Some(3);
    let mut s = snapshot(&settings);
    s.waiting = (1..=9).map(|n| waiting(n, &format!("p{n}"))).collect();
    s.limits.room = Some(Room { vms: 5, in_flight: 2, gpus: None });
    assert_eq!(counts(&plan_assign(s.clone())), [2], "in flight");
    s.limits.room = Some(Room { vms: 5, in_flight: 9, gpus: None });
    assert_eq!(counts(&plan_assign(s.clone())), [3], "class");
    s.limits.allowance = Allowance { calls: 1, machines: 2 };
    assert_eq!(counts(&plan_assign(s.clone())), [2], "the call budget's machines");
    s.limits.allowance = Allowance { calls: 0, machines: 2 };
    assert_eq!(counts(&plan_assign(s.clone())), [0; 0], "the call budget's calls");
    s.limits.allowance = Allowance::UNLIMITED;
    s.waiting = vec![waiting(1, "a"), waiting(2, "a")];
    assert_eq!(counts(&plan_assign(s.clone())), [1], "project");
    s.available = vec![available(10), available(11)];
    let decision = plan_assign(s);
    assert_eq!((decision.claims.len(), decision.waits.len()), (1, 1), "project");
}

#[test]
fn batches_are_no_larger_than_the_provider_takes() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = (1..=3).map(|n| waiting(n, "a")).collect();
    s.limits.max_batch = 1;
    let launches = plan_assign(s).launches;
    assert_eq!(launches.iter().map(|l| (l.count, l.seen)).collect::<Vec<_>>(), [(1, 0), (1, 1), (1, 2)]);
}

#[test]
fn a_start_that_keeps_failing_pauses_launches_and_then_fails_the_task_with_its_reason() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![waiting(1, "a")];
    let breaker = Breaker { failed_at: vec![at(0), at(4)], reason: Some("there is no image".to_owned()), allowance: None };
    s.limits.breakers.insert(kind(), breaker.clone());
    s.limits.now = at(13);
    assert_eq!(counts(&plan_assign(s.clone())), [0; 0]);
    s.limits.now = at(14);
    assert_eq!(counts(&plan_assign(s.clone())), [1]);
    s.limits.breakers.insert(kind(), Breaker { failed_at: vec![at(0), at(4), at(20)], ..breaker });
    s.limits.now = at(1000);
    let decision = plan_assign(s.clone());
    assert_eq!(decision.launches, []);
    assert_eq!(decision.failures[0].1.detail, "3 starts failed in a row; the last said: there is no image");
    s.waiting[0].created_at = at(1);
    assert_eq!(counts(&plan_assign(s)), [1], "one of the rounds was before it came");
}

#[test]
fn a_reason_is_told_once() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![waiting(1, "a")];
    s.limits.room = Some(Room { vms: 0, in_flight: 9, gpus: None });
    let waits = plan_assign(s.clone()).waits;
    assert_eq!(waits.len(), 1);
    s.waiting[0].reason = Some(waits[0].1.clone());
    assert_eq!(plan_assign(s).waits, []);
}

fn caching(id: u128, project: &str) -> Waiting {
    Waiting { caching: true, ..waiting(id, project) }
}

fn owner(project: &str) -> Owner {
    (project.to_owned(), Trust::Trusted)
}

fn vm(id: u128) -> VmId {
    VmId(Uuid::from_u128(id))
}

#[test]
fn a_task_with_a_cache_takes_the_vm_where_its_volume_is() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![caching(1, "a"), waiting(2, "a"), caching(3, "b")];
    let in_zone =
        |id, zone: &str, of: Option<&str>| Available { zone: Some(zone.to_owned()), owner: of.map(owner), ..available(id) };
    s.available = vec![in_zone(11, "x", None), in_zone(12, "y", None), in_zone(13, "x", Some("b"))];
    s.volumes = BTreeMap::from([(owner("a"), vec!["y".to_owned()])]);
    let task = |id: u128| TaskId(Uuid::from_u128(id));
    assert_eq!(plan_assign(s).claims, [(task(1), vm(12)), (task(3), vm(13)), (task(2), vm(11))].map(|it| it).to_vec());
}

#[test]
fn a_vm_that_starts_is_marked_for_the_first_task_that_brings_a_volume() {
    let settings = settings();
    let mut s = snapshot(&settings);
    let kind = || (Executor::Machine, "medium".to_owned());
    let booting = |id, zone: Option<&str>, of: Option<&str>| Booting {
        id: vm(id),
        kind: kind(),
        owner: of.map(owner),
        zone: zone.map(str::to_owned),
    };
    s.waiting = vec![caching(1, "a"), caching(2, "a"), waiting(3, "c")];
    s.booting = vec![booting(10, None, None), booting(11, Some("x"), None), booting(12, Some("x"), Some("a"))];
    s.limits.supply = BTreeMap::from([(kind(), Supply { in_flight: 2, available: 0, live: 3 })]);
    let decision = plan_assign(s);
    assert_eq!(decision.marks, [(vm(11), owner("a"))], "the other task of the project has one already");
    assert_eq!(decision.launches, [], "each has one that starts");
}

#[test]
fn a_launch_for_a_volume_asks_for_its_zone() {
    let settings = settings();
    let mut s = snapshot(&settings);
    s.waiting = vec![caching(1, "a"), waiting(2, "a"), caching(3, "b")];
    s.volumes = BTreeMap::from([(owner("a"), vec!["y".to_owned()])]);
    let near: Vec<_> = plan_assign(s).launches.into_iter().map(|it| (it.count, it.near)).collect();
    assert_eq!(near.len(), 2);
    assert!(near.contains(&(1, Some("y".to_owned()))) && near.contains(&(2, None)), "{near:?}");
}
