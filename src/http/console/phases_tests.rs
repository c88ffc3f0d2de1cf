use super::*;
use crate::domain::ids::{LaunchId, TaskId, VmId};
use crate::domain::lifecycle::{TaskState, VmState};
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use uuid::Uuid;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn task(ready: Option<i64>, ended: Option<i64>) -> TaskView {
    TaskView {
        id: TaskId(Uuid::nil()),
        state: TaskState::Ready,
        request: serde_json::from_value(serde_json::json!({ "executor": "machine", "project_id": "p" })).unwrap(),
        created_at: at(0),
        ready_at: ready.map(at),
        ended_at: ended.map(at),
        vm: None,
        cache: None,
        connection: None,
        failure: None,
    }
}

fn vm(created: i64, others: [Option<i64>; 4]) -> VmLife {
    let [launched_at, booted_at, available_at, assigned_at] = others.map(|other| other.map(at));
    VmLife {
        id: VmId(Uuid::nil()),
        launch_id: Some(LaunchId(Uuid::nil())),
        state: VmState::Assigned,
        reason: None,
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        origin: Origin::OnDemand,
        provider: "sim".to_owned(),
        place: "here".to_owned(),
        zone: None,
        provider_id: None,
        address: None,
        project_id: None,
        host_key: None,
        image: None,
        notice: None,
        console: None,
        hold_reason: None,
        hold_until: None,
        created_at: at(created),
        launched_at,
        booted_at,
        available_at,
        assigned_at,
        terminating_at: None,
        terminated_at: None,
        deadline_at: None,
        absolute_end_at: Some(at(90_000)),
        task_id: None,
    }
}

fn said(task: &TaskView, vm: Option<&VmLife>, now: i64) -> Vec<(&'static str, i64, i64, bool)> {
    let phases = phases(task, vm, at(now));
    phases.iter().map(|phase| (phase.key, phase.after.num_seconds(), phase.length.num_seconds(), phase.open)).collect()
}

#[test]
fn a_vm_that_was_launched_for_it_shows_every_step() {
    let vm = vm(2, [Some(5), Some(15), Some(40), Some(41)]);
    let steps = [
        ("queued", 0, 2, false),
        ("asked", 2, 3, false),
        ("launching", 5, 10, false),
        ("booting", 15, 25, false),
        ("waiting", 40, 1, false),
        ("preparing", 41, 9, false),
    ];
    assert_eq!(said(&task(Some(50), Some(500)), Some(&vm), 900), steps);
}

#[test]
fn what_a_vm_did_before_is_not_its_time() {
    let pooled = vm(-100, [Some(-90), Some(-80), Some(-60), Some(0)]);
    assert_eq!(said(&task(Some(3), None), Some(&pooled), 900), [("preparing", 0, 3, false)]);
    assert_eq!(said(&task(Some(0), None), Some(&pooled), 900), []);
    let booting = vm(-100, [Some(-90), Some(-80), Some(7), Some(8)]);
    assert_eq!(said(&task(Some(8), None), Some(&booting), 900), [("booting", 0, 7, false), ("waiting", 7, 1, false)]);
}

#[test]
fn what_is_not_over_goes_on_until_now() {
    assert_eq!(said(&task(None, None), None, 30), [("queued", 0, 30, true)]);
    assert_eq!(said(&task(None, None), None, -5), [("queued", 0, 0, true)], "a clock that is behind");
    assert_eq!(said(&task(None, Some(20)), None, 30), [("queued", 0, 20, false)]);
    let vm = vm(2, [Some(5), None, None, None]);
    assert_eq!(
        said(&task(None, None), Some(&vm), 30),
        [("queued", 0, 2, false), ("asked", 2, 3, false), ("launching", 5, 25, true)]
    );
}

#[test]
fn every_bar_is_seen_and_inside() {
    let of = |after, length| {
        let phase = Phase { key: "", name: "", after: TimeDelta::seconds(after), length: TimeDelta::seconds(length), open: false };
        bar(&phase, TimeDelta::seconds(100))
    };
    assert_eq!([of(0, 100), of(10, 20), of(100, 0), of(0, 0)], [(0, 1000), (100, 200), (996, 4), (0, 4)]);
}
