//! Each check fails on a story that has its fault, and none on a good one.

use super::checks::{Seen, Story, wrongs};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::{Duration, Instant};
use uuid::Uuid;
use vm_service::domain::ids::{InstallationId, LaunchId};
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::provider::MachineState;
use vm_service::sim::{EndCause, GuestKeys, MachineTruth};

fn machine(id: &str, launch: u128, ended: bool) -> MachineTruth {
    let at = DateTime::<Utc>::UNIX_EPOCH;
    MachineTruth {
        provider_id: id.to_owned(),
        tags: Tags {
            installation: InstallationId(Uuid::nil()),
            launch: LaunchId(Uuid::from_u128(launch)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            origin: Origin::OnDemand,
            created_at: at,
        },
        tags_lost: false,
        state: if ended { MachineState::Terminated } else { MachineState::Running },
        zone: "zone-a".to_owned(),
        address: None,
        launched_at: at,
        runs_at: at,
        ended_at: ended.then(|| at + TimeDelta::seconds(1)),
        end: ended.then_some(EndCause::AskedByUs),
        image: None,
        keys: GuestKeys { host: "host".to_owned(), logins: vec!["own".to_owned(), "the task's".to_owned()] },
        personalised_as: Some("host".to_owned()),
        ends_itself_at: None,
    }
}

/// One task that had machine `i-1` and let it go; one that was cancelled; machine `i-2` is free.
fn good() -> (Story, Instant) {
    let now = Instant::now();
    let served = Seen {
        task: Uuid::from_u128(1),
        accepted: true,
        machine: Some("i-1".to_owned()),
        ready_at: Some(now),
        let_go_at: Some(now + Duration::from_secs(2)),
        ended: Some("released".to_owned()),
        ..Seen::default()
    };
    let cancelled =
        Seen { task: Uuid::from_u128(2), accepted: true, cancelled: true, ended: Some("cancelled".to_owned()), ..Seen::default() };
    let mut story = Story { tasks: vec![served, cancelled], base: 1, free: vec!["i-2".to_owned()], ..Story::default() };
    story.machines = vec![machine("i-1", 1, true), machine("i-2", 2, false)];
    story.asked_to_end.insert("i-1".to_owned(), now + Duration::from_secs(3));
    story.launches.extend([(Uuid::from_u128(1), 1), (Uuid::from_u128(2), 1)]);
    story.ends.extend([(Uuid::from_u128(1), "released".to_owned()), (Uuid::from_u128(2), "cancelled".to_owned())]);
    (story, now)
}

fn found(spoil: impl FnOnce(&mut Story, Instant)) -> String {
    let (mut story, now) = good();
    spoil(&mut story, now);
    wrongs(&story).join("; ")
}

#[test]
fn a_good_story_has_nothing_wrong() {
    assert_eq!(found(|_, _| {}), "");
}

#[test]
fn a_lost_task_is_found() {
    assert!(found(|story, _| story.ends.clear()).contains("is forgotten"));
    assert!(found(|story, _| story.tasks[0].ended = None).contains("never had a final answer"));
    assert!(found(|story, _| story.tasks[0].ready_at = None).contains("was never ready"));
    assert!(found(|story, _| drop(story.ends.insert(Uuid::from_u128(1), "ready".to_owned()))).contains("is ready now"));
    let failed = |story: &mut Story, _| {
        story.tasks[0].ended = Some("failed".to_owned());
        story.ends.insert(Uuid::from_u128(1), "failed".to_owned());
    };
    assert!(found(failed).contains("ended as failed"));
    assert!(found(|story, _| story.tasks[0].wrong.push("its VM changed".to_owned())).contains("its VM changed"));
}

#[test]
fn a_machine_given_twice_is_found() {
    let twice = |story: &mut Story, _| {
        let again = Seen { task: Uuid::from_u128(3), ..story.tasks[0].clone() };
        story.ends.insert(again.task, "released".to_owned());
        story.tasks.push(again);
    };
    assert!(found(twice).contains("was given to"));
    assert!(found(|story, _| story.machines[0].keys.logins.push("another's".to_owned())).contains("keys of two tasks"));
}

#[test]
fn a_machine_ended_while_it_works_is_found() {
    let early = |story: &mut Story, now| *story.asked_to_end.get_mut("i-1").unwrap() = now;
    assert!(found(early).contains("was asked to end while"));
    assert!(found(|story, _| story.machines[0].end = Some(EndCause::OwnEnd)).contains("ended by"));
}

#[test]
fn a_doubled_launch_is_found() {
    let twin = |story: &mut Story, _| story.machines.push(machine("i-3", 1, true));
    assert!(found(twin).contains("made 2 machines"));
    assert!(found(|story, _| story.launches.retain(|id, _| *id != Uuid::from_u128(1))).contains("meant were None"));
}

#[test]
fn a_leak_and_a_wrong_base_are_found() {
    assert!(found(|story, _| story.machines.push(machine("i-3", 2, false))).contains("is left and not free"));
    assert!(found(|story, _| story.machines[1].ended_at = Some(DateTime::UNIX_EPOCH)).contains("is free and gone"));
    assert!(found(|story, _| story.base = 2).contains("1 machines are free and not 2"));
}
