//! Issue point 8, row 29: a held VM survives every path that kills, until its hold ends; then the usual rules apply.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::failure::{Failure, FailureCode};
use vm_service::domain::ids::VmId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::sim::Fault;

const DAYS: TimeDelta = TimeDelta::days(5);

/// A free VM of the pool and its machine.
async fn free_vm(bench: &Bench) -> (VmId, String) {
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 5).await;
    (bench.db.list_available(bench.now()).await.unwrap()[0].id, bench.sim.live().into_keys().next().unwrap())
}

/// Lives through the whole hold, and is gone soon after it.
async fn survives(bench: &Bench, machine: &str) {
    bench.turn_by(40, TimeDelta::hours(2)).await;
    assert!(bench.lives(machine), "it was ended in its hold: {}", bench.states().await);
    let end = bench.sim.live()[machine].ends_itself_at.unwrap();
    assert!(end >= bench.now(), "its own end was moved");
    bench.clock.advance(DAYS - TimeDelta::hours(80) - TimeDelta::minutes(1));
    bench.turn(2).await;
    assert!(bench.lives(machine), "it was ended in its hold: {}", bench.states().await);
    bench.clock.advance(TimeDelta::minutes(1));
    bench.turn_by(3, TimeDelta::minutes(5)).await;
    assert!(!bench.lives(machine), "the usual rules apply again: {}", bench.states().await);
}

/// Point 8: release; and the absolute end, of the row and of the machine itself, which is told the new one.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_the_release_and_the_absolute_end(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, machine) = bench.job("p").await;
    let first_end = bench.sim.live()[&machine].ends_itself_at.unwrap();
    assert!(first_end < bench.now() + DAYS);
    bench.hold(vm, DAYS).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(2).await;
    assert!(bench.sim.calls("set_end") >= 1);
    assert!(bench.sim.live()[&machine].ends_itself_at.unwrap() >= bench.now() + DAYS);
    survives(&bench, &machine).await;
}

/// Point 8: a job that expires under a hold ends, its VM does not.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_the_expiry_of_its_job(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, machine) = bench.job("p").await;
    bench.hold(vm, DAYS).await;
    bench.turn(2).await;
    bench.turn_by(1, TimeDelta::hours(2)).await;
    bench.turn(1).await;
    assert_eq!(bench.state(task).await, TaskState::Expired);
    bench.clock.advance(-TimeDelta::hours(2) - TimeDelta::seconds(3));
    survives(&bench, &machine).await;
}

/// Point 8: the idle maximum, the cycle, and a pool that became smaller.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_idleness_cycle_and_drain(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (vm, machine) = free_vm(&bench).await;
    bench.hold(vm, DAYS).await;
    bench.turn(2).await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    bench.clock.advance(-TimeDelta::seconds(2));
    survives(&bench, &machine).await;
}

/// Point 8: a VM that was drained already, but not ended, when the hold came.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_a_drain_that_had_begun(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (vm, machine) = free_vm(&bench).await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    assert_eq!(bench.db.drain_vms(&[(vm, "a test")], bench.now()).await.unwrap(), 1);
    bench.hold(vm, DAYS).await;
    survives(&bench, &machine).await;
}

/// Point 8: an operator's termination, of one or of many, keeps held ones; its job goes on too.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_an_operators_termination(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, machine) = bench.job("p").await;
    bench.hold(vm, DAYS).await;
    let failure = Failure::new(FailureCode::TerminatedByOperator, "ended by the operator op");
    assert_eq!(bench.db.terminate_vms(&[vm], None, &failure, bench.now()).await.unwrap(), []);
    bench.turn(2).await;
    assert_eq!((bench.state(task).await, bench.lives(&machine)), (TaskState::Ready, true));
    assert!(bench.db.set_vm_hold(vm, None, "op", bench.now()).await.unwrap());
    assert_eq!(bench.db.terminate_vms(&[vm], None, &failure, bench.now()).await.unwrap(), [vm]);
    bench.turn(2).await;
    assert_eq!(bench.task(task).await.view.failure.unwrap().code, FailureCode::TerminatedByOperator);
    assert!(!bench.lives(&machine));
}

/// Point 8: a preparation that fails: the task goes to another VM, the held one is kept for the look it is held for.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_a_failed_preparation(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (vm, machine) = free_vm(&bench).await;
    bench.set(|settings| settings.preallocated.machine = 0).await;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ".to_owned()];
    let task = bench.ask(&request).await.view;
    assert_eq!(task.state, TaskState::Preparing);
    bench.hold(vm, DAYS).await;
    bench.sim.inject(Fault::RefusesKeys);
    let begun = bench.now();
    bench.turn_until(task.id, TaskState::Ready, 20).await;
    assert_ne!(bench.task(task.id).await.view.vm.unwrap().id, vm);
    assert!(bench.states().await.contains("quarantined 1"));
    assert_eq!(bench.db.find_way_in(vm, "op", bench.now()).await.unwrap().map(|way_in| way_in.vm), Some(vm), "it can be looked at");
    bench.db.release_task(task.id, bench.now()).await.unwrap();
    bench.clock.advance(begun - bench.now());
    survives(&bench, &machine).await;
}

/// Point 8: the garbage collection: a held VM whose tags were lost, and lists that do not show it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_survives_the_garbage_collection(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::LoseTags);
    let (task, vm, machine) = bench.job("p").await;
    bench.hold(vm, DAYS).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    survives(&bench, &machine).await;
}

/// Point 8: a hold on a VM that still starts: nothing takes it when it is there, and it is told the later end after first contact.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_on_a_vm_that_starts_lasts(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(2).await;
    let vm: uuid::Uuid =
        sqlx::query_scalar("select id from vms.vms where state = 'launching'").fetch_one(&bench.db.pool).await.unwrap();
    let machine = bench.sim.live().into_keys().next().unwrap();
    bench.hold(VmId(vm), DAYS).await;
    let begun = bench.now();
    bench.turn_until(task, TaskState::Ready, 25).await;
    assert_ne!(bench.task(task).await.view.vm.unwrap().id, VmId(vm), "a held VM is given to nobody");
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.clock.advance(begun - bench.now());
    survives(&bench, &machine).await;
}

/// Point 8: what no hold can keep: a machine that is dead. Its row ends, and the job on it fails at once.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_on_a_dead_machine_keeps_nothing(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, machine) = bench.job("p").await;
    bench.hold(vm, DAYS).await;
    bench.sim.kill(&machine);
    bench.turn_until(task, TaskState::Failed, 15).await;
    bench.turn(5).await;
    assert_eq!(bench.states().await, "");
}

/// Point 8: letting go early: the usual rules apply at once, the machine ends with its next reason.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn letting_go_ends_what_the_hold_kept(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, machine) = bench.job("p").await;
    bench.hold(vm, DAYS).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(30).await;
    assert!(bench.lives(&machine));
    assert!(bench.db.set_vm_hold(vm, None, "op", bench.now()).await.unwrap());
    bench.turn(3).await;
    assert!(!bench.lives(&machine));
}
