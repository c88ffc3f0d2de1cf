//! A task from its wish to its end, through the real loops and a real database, over the simulated world.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::db::tasks::NewTask;
use vm_service::db::vm_list::VmFilter;
use vm_service::domain::api::Hold;
use vm_service::domain::failure::FailureCode;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::{TaskState, VmState};
use vm_service::loops::{assign::Assign, expire::Expire, launch::Launch, prepare::Prepare, reach::Reach};
use vm_service::provider::Provider as _;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_gets_a_vm_and_leaves_nothing(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    let row = bench.task(task).await;
    assert!(row.way_in.is_some());
    assert_eq!(bench.sim.live().len(), 1);
    assert_eq!(bench.db.release_task(task, bench.now()).await.unwrap(), Some(TaskState::Released));
    bench.turn(3).await;
    assert_eq!(bench.sim.live().len(), 0);
    assert_eq!(bench.sim.calls("launch"), 1);
    let row = bench.task(task).await;
    assert!(row.way_in.is_none(), "the way in is erased at release");
    let timeline = bench.timeline(task).await;
    assert_eq!(timeline[0], "Asked for a machine VM of class medium.");
    assert_eq!(timeline[1], "No machine VM of class medium is free; no other task waits for one.");
    assert_eq!(timeline[2], "No VM is free: one is launched for it.");
    assert!(timeline.iter().any(|line| line.starts_with("Given VM")), "{timeline:?}");
    assert_eq!(timeline.last().unwrap(), "The job is over.");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_with_keys_is_ready_only_when_they_are_in(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ";
    let mut request = bench.request("p");
    request.ssh_public_keys = vec![key.to_owned()];
    let task = bench.ask(&request).await.view.id;
    let world = &bench.world;
    bench.tick(&Assign(world.clone())).await;
    bench.tick(&Launch(world.clone())).await;
    bench.tick(&Reach(world.clone())).await;
    bench.tick(&Assign(world.clone())).await;
    let row = bench.task(task).await;
    assert_eq!((row.view.state, row.way_in.is_some()), (TaskState::Preparing, false));
    bench.tick(&Prepare(world.clone())).await;
    assert_eq!(bench.state(task).await, TaskState::Ready);
    assert!(bench.sim.live().values().all(|machine| machine.keys.logins.contains(&key.to_owned())));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn nobody_is_served_twice_and_no_vm_serves_two(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        tasks.push(bench.ask(&bench.request(&format!("p{n}"))).await.view.id);
    }
    bench.turn(5).await;
    let mut vms = Vec::new();
    for task in &tasks {
        let row = bench.task(*task).await;
        assert_eq!(row.view.state, TaskState::Ready);
        vms.push(row.view.vm.unwrap().id);
    }
    vms.sort();
    vms.dedup();
    assert_eq!(vms.len(), 8);
    assert_eq!(bench.sim.calls("launch"), 8);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_free_vm_is_claimed_in_the_same_commit_but_not_past_the_queue(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let first = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(2).await;
    bench.db.release_task(first, bench.now()).await.unwrap();
    let second = bench.ask(&bench.request("p")).await;
    assert_eq!(second.view.state, TaskState::Queued, "the VM of another task is never taken");
    bench.db.release_task(second.view.id, bench.now()).await.unwrap();
    // Its launch was under way, or not made at all: either way a later task is served.
    bench.turn(3).await;
    let third = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(third, TaskState::Ready, 5).await;
    bench.db.release_task(third, bench.now()).await.unwrap();

    let spare = bench.spare_vm().await;
    let claimed = bench.ask(&bench.request("p")).await;
    assert_eq!(claimed.view.state, TaskState::Ready, "claimed in the PUT's commit");
    assert_eq!(claimed.view.vm.unwrap().id, spare);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_launch_that_nobody_needs_is_not_made_and_a_spare_vm_goes(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(3).await;
    assert_eq!(bench.sim.calls("launch"), 0);
    assert_eq!(bench.state(task).await, TaskState::Cancelled);

    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    bench.tick(&Launch(bench.world.clone())).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(30).await;
    assert_eq!(bench.sim.live().len(), 1, "it lingers for a job that follows");
    bench.turn(60).await;
    assert_eq!(bench.sim.live().len(), 0);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_job_past_its_time_or_without_its_dispatcher_is_ended(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let long = bench.ask(&bench.request("p")).await.view.id;
    let mut request = bench.request("q");
    request.lease_seconds = Some(10);
    let silent = bench.ask(&request).await.view.id;
    let talking = bench.ask(&request).await.view.id;
    bench.turn(3).await;
    for _ in 0..3 {
        bench.clock.advance(TimeDelta::seconds(6));
        assert!(bench.db.heartbeat(talking, bench.now()).await.unwrap());
        bench.turn(1).await;
    }
    assert_eq!(bench.task(silent).await.view.failure.unwrap().code, FailureCode::LeaseExpired);
    assert_eq!(bench.state(talking).await, TaskState::Ready);
    bench.clock.advance(TimeDelta::hours(1));
    bench.turn(3).await;
    assert_eq!(bench.task(long).await.view.failure.unwrap().code, FailureCode::MaxRunExceeded);
    assert_eq!(bench.state(long).await, TaskState::Expired);
    assert_eq!(bench.sim.live().len(), 0);
}

/// While the API is away nobody can send a heartbeat: its `gc`, which works on, ends no job for that, and once the API is back each
/// dispatcher has its whole time.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_job_ends_because_the_api_was_away(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut request = bench.request("p");
    request.lease_seconds = Some(20);
    let task = bench.ask(&request).await.view.id;
    bench.turn_until(task, TaskState::Ready, 60).await;
    assert!(bench.db.heartbeat(task, bench.now()).await.unwrap());
    for _ in 0..60 {
        bench.clock.advance(TimeDelta::seconds(5));
        bench.tick(&Expire(bench.world.clone())).await;
    }
    assert_eq!(bench.state(task).await, TaskState::Ready, "the API was away");
    bench.turn(18).await;
    assert_eq!(bench.state(task).await, TaskState::Ready, "it is back, for less than the dispatcher's time");
    bench.turn(5).await;
    assert_eq!(bench.task(task).await.view.failure.unwrap().code, FailureCode::LeaseExpired);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_held_vm_survives_its_job_until_the_hold_ends(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    let vm = bench.task(task).await.view.vm.unwrap().id;
    let hold = Hold { reason: "a look".to_owned(), until: bench.now() + TimeDelta::minutes(5) };
    assert!(bench.db.set_vm_hold(vm, Some(&hold), "op", bench.now()).await.unwrap());
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(60).await;
    assert_eq!(bench.sim.live().len(), 1);
    let views = bench.db.list_vms(&VmFilter { id: Some(vm), limit: 1, ..VmFilter::default() }).await.unwrap();
    assert_eq!((views[0].state, views[0].hold.clone()), (VmState::Assigned, Some(hold)));
    bench.clock.advance(TimeDelta::minutes(5));
    bench.turn(3).await;
    assert_eq!(bench.sim.live().len(), 0);
}

/// A hold keeps a free VM out of use; a task that waits gets another, and the held one is used again when the hold is over.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_held_free_vm_is_nobodys_supply(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let spare = bench.spare_vm().await;
    let hold = Hold { reason: "a look".to_owned(), until: bench.now() + TimeDelta::seconds(30) };
    assert!(bench.db.set_vm_hold(spare, Some(&hold), "op", bench.now()).await.unwrap());
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 12).await;
    assert_ne!(bench.task(task).await.view.vm.unwrap().id, spare);
    bench.clock.advance(TimeDelta::seconds(30));
    let next = bench.ask(&bench.request("p")).await.view;
    assert_eq!((next.state, next.vm.unwrap().id), (TaskState::Ready, spare));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn ended_rows_move_to_the_history_and_are_answered_from_there(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let request = bench.request("p");
    let task = bench.ask(&request).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(3).await;
    let before = bench.task(task).await;
    bench.clock.advance(TimeDelta::minutes(16));
    assert!(bench.db.move_to_history(bench.now()).await.unwrap() >= 1);
    bench.db.move_to_history(bench.now()).await.unwrap();
    let (tasks, vms, launches): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from vms.tasks), (select count(*) from vms.vms), (select count(*) from vms.launches)",
    )
    .fetch_one(&bench.db.pool)
    .await
    .unwrap();
    assert_eq!((tasks, vms, launches), (0, 0, 0));
    let after = bench.task(task).await;
    assert_eq!(after.view, before.view);
    let again = vm_service::db::tasks::NewTask {
        id: task,
        principal: "ci",
        request: &request,
        request_hash: b"hash",
        max_run_seconds: 3600,
    };
    let answer = bench.db.ensure_task(&again, bench.now()).await.unwrap();
    assert!(matches!(answer, vm_service::db::tasks::Ensured::Same(row) if row.view == before.view));
    assert_eq!(
        bench
            .sim
            .list_machines()
            .await
            .unwrap()
            .machines
            .iter()
            .filter(|m| m.state != vm_service::provider::MachineState::Terminated)
            .count(),
        0
    );
}

/// Row 14: a task that was made under longer deadlines than new VMs live by has a final answer, and VMs are not launched for it for ever.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_longer_than_any_vms_life_is_not_launched_for_in_vain(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (id, request) = (TaskId(uuid::Uuid::from_u128(7777)), bench.request("p"));
    let new = NewTask { id, principal: "ci", request: &request, request_hash: b"hash", max_run_seconds: 6 * 3600 };
    bench.db.ensure_task(&new, bench.now()).await.unwrap();
    bench
        .set(|settings| {
            settings.timeouts.task_hours = 1;
            settings.timeouts.vm_idle_hours = 1;
        })
        .await;
    bench.turn_by(150, TimeDelta::seconds(5)).await;
    assert!(bench.sim.calls("launch") <= 3, "{} launches, and the task is {}", bench.sim.calls("launch"), bench.state(id).await);
    assert_ne!(bench.state(id).await, TaskState::Queued);
}
