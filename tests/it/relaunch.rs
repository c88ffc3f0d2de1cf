//! Issue point 4: a launch happens exactly once. Its token and parameters are stored before the call; after a lost answer the same call
//! is repeated, or the machine is bound by its tags, or it is collected: never is there a second machine in use.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::lifecycle::TaskState;
use vm_service::loops::{Loop, assign::Assign, launch::Launch};
use vm_service::sim::{Fault, Outcome, Rules};

/// Tokens and counts of all launches sent, in order.
fn sent(bench: &Bench) -> Vec<String> {
    let calls = bench.sim.journal().into_iter().filter(|call| call.op == "launch");
    calls.map(|call| call.detail.split(" -> ").next().unwrap_or_default().to_owned()).collect()
}

async fn step(bench: &Bench, work: impl Loop) {
    bench.tick(&work).await;
}

/// Point 4: other settings meanwhile do not change the call: same token, same parameters, same machine.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_call_is_repeated_as_it_was_although_settings_changed(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    bench.sim.inject(Fault::LoseLaunchAnswer);
    step(&bench, Launch(bench.world.clone())).await;
    bench
        .set(|settings| {
            settings.timeouts.vm_start_ms = 900_000;
            settings.timeouts.vm_idle_hours = 3;
            settings.timeouts.task_hours = 2;
            settings.guest.http_proxy = Some("http://proxy.example:3128".to_owned());
            settings.resource_classes.get_mut("medium").unwrap().memory_mib = 2048;
        })
        .await;
    bench.turn_until(task, TaskState::Ready, 5).await;
    let calls = sent(&bench);
    assert_eq!((calls.len(), calls.first()), (2, calls.last()), "the same token and count");
    assert!(bench.sim.journal().iter().all(|call| call.outcome != Outcome::Refused), "with the same parameters");
    assert_eq!(bench.sim.truth().len(), 1);
}

/// Point 4: a worker that is killed before its call is taken over, and the call is made once.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_worker_killed_before_the_call_is_taken_over(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    drop(Launch(bench.world.clone()).tick(bench.now(), 64).await.unwrap());
    bench.turn_until(task, TaskState::Ready, 12).await;
    assert_eq!((sent(&bench).len(), bench.sim.truth().len()), (1, 1));
}

/// Point 4: a worker that was frozen before its call and makes it late, after another did, makes nothing.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_late_call_makes_nothing(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    let late = Launch(bench.world.clone()).tick(bench.now(), 64).await.unwrap().remove(0);
    bench.turn_until(task, TaskState::Ready, 14).await;
    println!("{:?}", late.run.await);
    bench.turn(100).await;
    assert_eq!((bench.sim.truth().len(), bench.state(task).await), (1, TaskState::Ready));
}

/// Point 4: an answer that comes twice, or with fewer machines than asked for, is counted right; the rest is launched anew.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn fewer_machines_and_double_answers_are_counted_right(pool: PgPool) {
    let bench = Bench::with(pool, Rules { max_batch: 20, ..Rules::obliging() }).await;
    bench.sim.inject(Fault::FewerMachines);
    bench.sim.inject(Fault::DoubleAnswer);
    for n in 0..8 {
        bench.ask(&bench.request(&format!("p{n}"))).await;
    }
    bench.turn(20).await;
    assert_eq!(bench.states().await, "assigned 8");
    assert_eq!(bench.sim.truth().len(), 8, "no machine too many was made");
}

/// Point 4: the launch ended without its answer, and rows still wait: its machine is bound to one of them by its tags.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_of_an_ended_launch_is_adopted_by_its_tags(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    bench.sim.inject(Fault::LoseLaunchAnswer);
    step(&bench, Launch(bench.world.clone())).await;
    sqlx::query("update vms.launches set state = 'sent'").execute(&bench.db.pool).await.unwrap();
    bench.turn_until(task, TaskState::Ready, 15).await;
    assert_eq!((sent(&bench).len(), bench.sim.truth().len()), (1, 1));
    assert_eq!(bench.count("select count(*) from vms.orphans").await, 0);
}

/// Point 4: the answer was lost, and by shorter deadlines the launch is over before it is repeated: its machine is nobody's and is
/// collected; the task has another.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_of_a_launch_that_was_given_up_is_collected(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    bench.sim.inject(Fault::LoseLaunchAnswer);
    step(&bench, Launch(bench.world.clone())).await;
    bench.set(|settings| settings.timeouts.vm_start_ms = 1000).await;
    bench.clock.advance(TimeDelta::seconds(2));
    bench.turn(1).await;
    bench.set(|settings| settings.timeouts.vm_start_ms = 300_000).await;
    bench.turn_until(task, TaskState::Ready, 20).await;
    bench.turn(90).await;
    assert_eq!((bench.sim.truth().len(), bench.sim.live().len()), (2, 1), "the first one was collected");
    assert!(bench.lives(&bench.task(task).await.view.vm.unwrap().provider_id.unwrap()));
}

/// Point 4, row 15: the answer was lost and the repeated call is throttled: that says nothing about the first call, so the launch is
/// still one that may have happened. When nobody needs it any more its machine is bound and ended, and is not left to be found.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_throttled_repetition_forgets_nothing(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    step(&bench, Assign(bench.world.clone())).await;
    bench.sim.inject(Fault::LoseLaunchAnswer);
    step(&bench, Launch(bench.world.clone())).await;
    bench.clock.advance(TimeDelta::seconds(1));
    bench.sim.inject(Fault::Throttle);
    step(&bench, Launch(bench.world.clone())).await;
    assert_eq!(bench.sim.journal().last().unwrap().outcome, Outcome::Throttled);
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(5).await;
    assert_eq!(bench.count("select count(*) from vms.vms where provider_id is not null").await, 1, "its machine has its row");
    bench.turn(80).await;
    assert_eq!((bench.sim.live().len(), bench.states().await.as_str()), (0, ""));
    assert_eq!(bench.count("select count(*) from vms.events where kind = 'machine.orphan'").await, 0);
}

/// Row 14: a launch whose place nobody serves any more does not count as a VM on its way for ever.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_launch_that_nobody_serves_is_ended_and_its_task_served(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    for table in ["launches", "vms"] {
        let gone = format!("update vms.{table} set place = 'gone'");
        sqlx::query(sqlx::AssertSqlSafe(gone)).execute(&bench.db.pool).await.unwrap();
    }
    bench.turn_by(35, TimeDelta::seconds(10)).await;
    assert_eq!(bench.state(task).await, TaskState::Queued, "a VM is on its way, as far as anybody knows");
    bench.turn_until(task, TaskState::Ready, 40).await;
    assert_eq!(bench.states().await, "assigned 1");
}

/// A task for which no VM can be made fit does not use up VM after VM.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_that_no_vm_is_fit_for_fails(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ".to_owned()];
    let task = bench.ask(&request).await.view.id;
    for _ in 0..10 {
        bench.sim.inject(Fault::RefusesKeys);
    }
    bench.turn_until(task, TaskState::Failed, 120).await;
    assert_eq!(bench.task(task).await.view.failure.unwrap().code, vm_service::domain::failure::FailureCode::PreparationFailed);
    bench.turn(5).await;
    assert_eq!((bench.sim.calls("authorise"), bench.sim.live().len()), (3, 0));
}
