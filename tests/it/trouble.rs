//! What goes wrong in life, one scenario each; the row of FAILURES.md that each replays is named where there is one.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::db::DbError;
use vm_service::db::leases::Lease;
use vm_service::db::release::Evidence;
use vm_service::db::vms::LeasedVm;
use vm_service::domain::failure::{Failure, FailureCode};
use vm_service::domain::ids::{InstallationId, LaunchId};
use vm_service::domain::lifecycle::{TaskState, VmState};
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::loops::{Loop, assign::Assign, launch::Launch, reach::Reach};
use vm_service::sim::Fault;

/// Row 1: the service died, or the answer was lost, after the launch succeeded.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_launch_answer_makes_nothing_twice(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::LoseLaunchAnswer);
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    assert_eq!(bench.sim.calls("launch"), 2, "the same call, replayed");
    assert_eq!(bench.sim.live().len(), 1);
}

/// Row 1 again: the worker is killed between the call and the record, and its lease runs out.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_worker_killed_after_the_call_is_taken_over(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    // The worker is killed when the call has been made and before its answer is recorded.
    bench.sim.inject(Fault::HangAfterLaunch);
    let act = Launch(bench.world.clone()).tick(bench.now(), 64).await.unwrap().remove(0);
    tokio::select! {
        done = act.run => panic!("{done:?}"),
        () = async { while bench.sim.live().is_empty() { tokio::task::yield_now().await } } => {}
    }
    bench.turn(9).await;
    assert_eq!(bench.sim.calls("launch"), 1, "the lease holds");
    bench.turn_until(task, TaskState::Ready, 6).await;
    assert_eq!((bench.sim.calls("launch"), bench.sim.live().len()), (2, 1), "the same call, answered with the same machine");
}

/// Row 13 and 14: starts that fail again and again pause the launches, and the task has a final answer.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_refused_launch_fails_the_task_with_its_reason_and_does_not_storm(pool: PgPool) {
    let bench = Bench::new(pool).await;
    for _ in 0..10 {
        bench.sim.inject(Fault::Refuse("there is no image".to_owned()));
    }
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Failed, 60).await;
    let failure = bench.task(task).await.view.failure.unwrap();
    assert_eq!(failure.code, FailureCode::VmStartFailed);
    assert!(failure.detail.contains("there is no image"), "{}", failure.detail);
    assert_eq!(bench.sim.calls("launch"), 3);
}

/// Row 12: no capacity is not an error of the task; it waits and is served later.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_capacity_waits(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::NoCapacity);
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(5).await;
    assert_eq!(bench.state(task).await, TaskState::Queued);
    bench.turn_until(task, TaskState::Ready, 15).await;
}

/// Row 23: up, never reachable. It is replaced, and its console is kept.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_vm_that_never_answers_is_replaced(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::BootHangs);
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(175).await;
    assert_eq!(bench.state(task).await, TaskState::Queued, "it has until its deadline");
    bench.turn_until(task, TaskState::Ready, 40).await;
    bench.sim.inject(Fault::WrongHostKey);
    let other = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(other, TaskState::Ready, 40).await;
    bench.turn(3).await;
    assert_eq!(bench.sim.live().len(), 2, "those given up are gone");
    let consoles: Vec<Option<String>> = sqlx::query_scalar("select console from vms.vms where start_failed_at is not null")
        .fetch_all(&bench.db.pool)
        .await
        .unwrap();
    assert_eq!(consoles, vec![Some("simulated console".to_owned()); 2]);
}

/// A machine that dies under a job fails it with a code to act on; one that dies under a preparing task is replaced.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_that_dies_under_its_job_fails_it(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    let machine = bench.sim.live().keys().next().unwrap().clone();
    bench.sim.kill(&machine);
    bench.turn_until(task, TaskState::Failed, 12).await;
    assert_eq!(bench.task(task).await.view.failure.unwrap().code, FailureCode::VmLost);
}

/// Rows 4 and 5: an absence is believed after two complete lists and a direct look.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_busy_vm_is_not_given_up_on_one_list(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    for _ in 0..3 {
        bench.sim.inject(Fault::IncompleteList);
    }
    bench.turn(30).await;
    assert_eq!(bench.state(task).await, TaskState::Ready, "incomplete lists prove nothing");
    let machine = bench.sim.live().keys().next().unwrap().clone();
    bench.sim.forget(&machine);
    bench.turn(15).await;
    assert_eq!(bench.state(task).await, TaskState::Ready, "one absence proves nothing");
    bench.turn_until(task, TaskState::Failed, 25).await;
}

/// Row 2: the cleaner walks the provider's list and not only its own rows.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_orphan_is_collected_after_its_second_sighting(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let tags = Tags {
        installation: InstallationId(Uuid::from_u128(42)),
        launch: LaunchId(Uuid::from_u128(999)),
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        origin: Origin::OnDemand,
        created_at: bench.now(),
    };
    bench.sim.plant("sim-orphan", tags);
    bench.turn(25).await;
    assert_eq!(bench.sim.live().len(), 1, "seen twice, in quarantine");
    bench.turn(10).await;
    assert_eq!(bench.sim.live().len(), 0);
}

/// A lost terminate call is repeated until the provider says that the machine is gone.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_terminate_is_repeated(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    bench.sim.inject(Fault::LoseTerminate);
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(15).await;
    assert_eq!(bench.sim.live().len(), 0);
    assert_eq!(bench.sim.calls("terminate"), 2);
}

/// Rows 7 and 8: two planners of one queue cannot both launch for it, and the limits are checked where rows are made.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn planners_side_by_side_launch_once(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.limits.vms = Some(5)).await;
    for n in 0..12 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    let planners = (0..8).map(|_| {
        let world = bench.world.clone();
        let now = bench.now();
        tokio::spawn(async move {
            let acts = Assign(world).tick(now, 64).await.unwrap();
            assert!(acts.is_empty());
        })
    });
    for planner in planners.collect::<Vec<_>>() {
        planner.await.unwrap();
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from vms.vms").fetch_one(&bench.db.pool).await.unwrap();
    assert_eq!(rows, 5);
    bench.turn(5).await;
    assert_eq!(bench.sim.live().len(), 5);
}

/// A task whose VM proved unfit while it was prepared waits again and is served by another.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_unfit_vm_puts_its_task_back(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ".to_owned()];
    let task = bench.ask(&request).await.view.id;
    bench.sim.inject(Fault::RefusesKeys);
    bench.turn_until(task, TaskState::Ready, 20).await;
    let timeline = bench.timeline(task).await;
    assert!(timeline.iter().any(|line| line.starts_with("Waits again: the VM could not be prepared")), "{timeline:?}");
    bench.turn(3).await;
    assert_eq!((bench.sim.calls("launch"), bench.sim.live().len()), (2, 1));
}

/// Who lost its lease changes nothing.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_lease_gives_nobody_up(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(60));
    bench.ask(&bench.request("p")).await;
    bench.tick(&Assign(bench.world.clone())).await;
    bench.tick(&Launch(bench.world.clone())).await;
    let place = ("sim", "sim");
    let old = bench.db.lease_vms(&[VmState::Launching], place, bench.now(), 1).await.unwrap().remove(0);
    bench.clock.advance(TimeDelta::seconds(11));
    let new = bench.db.lease_vms(&[VmState::Launching], place, bench.now(), 1).await.unwrap().remove(0);
    assert!(new.lease > old.lease);
    let failure = Failure::new(FailureCode::VmStartFailed, "late");
    let late = bench.db.give_up_vm(old.id, Evidence::NotStarted { lease: old.lease }, &failure, "", bench.now()).await;
    assert!(matches!(late, Err(DbError::LostLease)), "{late:?}");
    bench.db.postpone_vms(&[(old.id, old.lease)], bench.now() + TimeDelta::hours(1)).await.unwrap();
    let lease = |vm: &LeasedVm| Lease::Vms(vec![(vm.id, vm.lease)]);
    assert!(matches!(bench.db.renew_lease(&lease(&old), bench.now()).await, Err(DbError::LostLease)));
    bench.db.renew_lease(&lease(&new), bench.now()).await.unwrap();
    bench.db.confirm_terminated(&[(old.id, old.lease)], bench.now()).await.unwrap();
    let late: Option<bool> = sqlx::query_scalar("select due_at > $1 from vms.vms where state = 'launching'")
        .bind(bench.now())
        .fetch_optional(&bench.db.pool)
        .await
        .unwrap();
    assert_eq!(late, Some(false), "what the old one wrote changed nothing");
}

/// One host's tasks are not prepared, and its VMs not judged, by the replica of another.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn another_hosts_replica_leaves_preparing_tasks_alone(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ".to_owned()];
    let task = bench.ask(&request).await.view.id;
    let world = &bench.world;
    for work in [&Assign(world.clone()) as &dyn Loop, &Launch(world.clone()), &Reach(world.clone()), &Assign(world.clone())] {
        bench.tick(work).await;
    }
    assert_eq!(bench.state(task).await, TaskState::Preparing);
    assert_eq!(bench.db.lease_preparing(("sim", "elsewhere"), bench.now(), 10).await.unwrap().len(), 0);
    let mine = bench.db.lease_preparing(("sim", "sim"), bench.now(), 10).await.unwrap().remove(0);
    // A worker that lost this lease judges the VM: nothing happens.
    bench.clock.advance(TimeDelta::seconds(11));
    let newer = bench.db.lease_preparing(("sim", "sim"), bench.now(), 10).await.unwrap().remove(0);
    let failure = Failure::new(FailureCode::PreparationFailed, "late");
    let late = Evidence::Unfit { task, lease: mine.lease };
    assert!(matches!(bench.db.give_up_vm(mine.way_in.vm, late, &failure, "", bench.now()).await, Err(DbError::LostLease)));
    bench.db.finish_preparing(task, newer.lease, bench.now()).await.unwrap();
}

/// A host that got another name does not take the machines of its rows for orphans.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_renamed_host_kills_no_running_job(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 5).await;
    sqlx::query("update vms.vms set place = 'old-name'").execute(&bench.db.pool).await.unwrap();
    bench.turn(60).await;
    assert_eq!((bench.state(task).await, bench.sim.live().len()), (TaskState::Ready, 1));
}
