//! What goes wrong in life, one scenario each; the row of FAILURES.md that each replays is named where there is one.
//!
//! | row | replayed by, or why not here |
//! | --- | --- |
//! | 1 | `a_lost_launch_answer_makes_nothing_twice`, `a_worker_killed_after_the_call_is_taken_over`; all of `relaunch` |
//! | 2 | `an_orphan_is_collected_after_its_second_sighting`; `gc_scenes::a_stopped_orphan_is_collected` |
//! | 3 | `gc_scenes::an_orphan_whose_look_keeps_failing_is_ended_when_looks_work`, `…_is_not_forgotten_while_the_provider_is_away` |
//! | 4 | `a_busy_vm_is_not_given_up_on_one_list`; `gc_scenes::a_busy_vm_is_never_collected`, `…::a_vm_claimed_at_its_idle_maximum_is_not_ended` |
//! | 5 | `gc_scenes::not_found_just_after_the_launch_means_not_yet` |
//! | 6 | `gc_scenes::nothing_outlives_its_absolute_end`, `…::machines_end_themselves_when_nobody_calls` |
//! | 7, 8 | `planners_side_by_side_launch_once`; `limits::planners_of_every_kind_never_pass_the_limit_in_all` and its neighbours |
//! | 9, 10 | `pool::booting_vms_are_not_missing_and_ending_ones_are_not_free`; `an_ending_vm_is_not_launched_for_twice` |
//! | 11 | spot machines: AWS |
//! | 12 | `no_capacity_waits`; candidates of type, zone and market: AWS |
//! | 13 | `limits::creation_does_not_run_away_when_no_answer_arrives`, `limits::starts_that_fail_pause_longer_and_come_back_slowly` |
//! | 14 | `a_refused_launch_fails_the_task_with_its_reason_and_does_not_storm`; `every_state_has_an_exit` |
//! | 15 | `limits::a_throttled_batch_is_put_back_whole`, `limits::a_burst_goes_out_within_the_budgets` |
//! | 16 | `a_quota_error_is_not_passing_trouble`; which error of AWS is one: AWS |
//! | 17 | `rebuild` (volumes without a row are their project's again), `gc_scenes::a_dry_run_…`; deleting by last use: layer cache |
//! | 18–22, 30 | layer cache |
//! | 23 | `a_vm_that_never_answers_is_replaced` |
//! | 24 | `limits::a_hundred_jobs_go_out_in_batches` |
//! | 25 | `cycling::cycling_kills_no_running_job`, `pool::a_schedule_that_ends_takes_nothing_from_jobs`, `no_setting_kills_a_running_job` |
//! | 26 | `loops_go_on_after_the_database_was_away`; whole processes: the kill tests |
//! | 27 | one wake per commit, outside of it: `db::wake` |
//! | 28 | a benchmark's |
//! | 29 | all of `holds` |

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
use vm_service::sim::{Fault, FaultRates};

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

/// Row 10: an ending machine is on its way out and not free, counts against the limit until it is gone, and is not replaced twice.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_ending_vm_is_not_launched_for_twice(pool: PgPool) {
    let slow = vm_service::sim::Spread::exactly(TimeDelta::seconds(30));
    let bench = Bench::with(pool, vm_service::sim::Rules { shuts_down_in: slow, ..vm_service::sim::Rules::obliging() }).await;
    bench.set(|settings| settings.limits.vms = Some(1)).await;
    let (first, ..) = bench.job("p").await;
    bench.db.release_task(first, bench.now()).await.unwrap();
    let second = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(25).await;
    assert_eq!((bench.sim.calls("launch"), bench.states().await.as_str()), (1, "terminating 1"));
    bench.turn_until(second, TaskState::Ready, 15).await;
    assert_eq!(bench.sim.calls("launch"), 2);
}

/// Row 16: a quota error comes back for every try: it opens the breaker and is told as what it is, and other classes go on.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_quota_error_is_not_passing_trouble(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let quota = "VcpuLimitExceeded: you have requested more vCPU capacity than your limit of 32";
    bench.set(|settings| settings.preallocated.machine = 5).await;
    for _ in 0..1000 {
        bench.sim.inject(Fault::Refuse(quota.to_owned()));
    }
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(300).await;
    assert!(bench.sim.calls("launch") <= 16, "{} calls in five minutes", bench.sim.calls("launch"));
    let failure = bench.task(task).await.view.failure.unwrap();
    assert!(failure.code == FailureCode::VmStartFailed && failure.detail.contains("VcpuLimitExceeded"), "{failure:?}");
}

/// Row 14: every state that waits has a deadline and an exit: with a provider and guests that never come through, each task has its
/// final answer, and nothing is left, not even after everything came through again.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_state_has_an_exit(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.timeouts.vm_start_ms = 60_000;
            settings.timeouts.ssh_connect_ms = 60_000;
        })
        .await;
    for fault in [Fault::BootHangs, Fault::NeverAnswers, Fault::WrongHostKey, Fault::LoseLaunchAnswer, Fault::LoseLaunch] {
        sqlx::query("delete from vms.breakers").execute(&bench.db.pool).await.unwrap();
        bench.sim.set_faults(FaultRates::none().with(fault.clone(), 1.0));
        let task = bench.ask(&bench.request("p")).await.view.id;
        bench.turn_by(60, TimeDelta::seconds(7)).await;
        assert_eq!(bench.state(task).await, TaskState::Failed, "{fault:?}: {:?}", bench.timeline(task).await);
        bench.sim.set_faults(FaultRates::none());
        bench.turn_by(30, TimeDelta::seconds(7)).await;
        assert_eq!((bench.states().await.as_str(), bench.sim.live().len()), ("", 0), "{fault:?}");
    }
}

/// Row 25: no setting that changes while a job runs ends it before its own deadline: not the deadlines, not its class, not the provider.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_setting_kills_a_running_job(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, _, machine) = bench.job("p").await;
    bench
        .set(|settings| {
            settings.timeouts.vm_idle_hours = 1;
            settings.timeouts.task_hours = 1;
            settings.timeouts.vm_start_ms = 1000;
            settings.timeouts.ssh_connect_ms = 1000;
            settings.resource_classes.get_mut("medium").unwrap().vcpus = 1;
            settings.limits.vms = Some(0);
            settings.limits.in_flight = Some(0);
            settings.limits.vms_per_project = Some(1);
            settings.pause_launches = true;
        })
        .await;
    bench.turn_by(40, TimeDelta::seconds(60)).await;
    bench.set(|settings| settings.provider = vm_service::domain::settings::ProviderChoice::None).await;
    bench.turn_by(15, TimeDelta::seconds(60)).await;
    assert_eq!((bench.state(task).await, bench.lives(&machine)), (TaskState::Ready, true));
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(3).await;
    assert!(!bench.lives(&machine), "machines of a provider that is not chosen any more stay in care");
}

/// Row 26: while the database refuses everything each tick fails and the next one tries again; all connections are cut meanwhile.
/// Nothing that was accepted is lost, and nothing is doubled.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn loops_go_on_after_the_database_was_away(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    let (running, _, machine) = bench.job("p").await;
    let waiting = bench.ask(&bench.request("q")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    sqlx::query("alter schema vms rename to away").execute(&bench.db.pool).await.unwrap();
    bench.tolerate();
    bench.turn(40).await;
    sqlx::query("alter schema away rename to vms").execute(&bench.db.pool).await.unwrap();
    let cut =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&bench.db.pool).await.unwrap();
    bench.turn_until(waiting, TaskState::Ready, 20).await;
    bench.turn(70).await;
    assert_eq!((bench.state(running).await, bench.lives(&machine)), (TaskState::Ready, true));
    assert_eq!((bench.states().await.as_str(), bench.sim.truth().len()), ("assigned 2, available 1", 3));
}
