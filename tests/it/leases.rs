//! Issue point 3: a worker whose lease was lost changes nothing, whichever row it worked on; what it still sends is harmless.
//!
//! A *stale* worker is one that took a lease and then stood still for longer than it lasts, while another took the row over.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgPool};
use vm_service::db::DbError;
use vm_service::db::launch_attempts::After;
use vm_service::db::launches::End;
use vm_service::db::leases::Lease;
use vm_service::db::release::Evidence;
use vm_service::domain::failure::{Failure, FailureCode};
use vm_service::domain::lifecycle::{TaskState, VmState};
use vm_service::loops::{
    Loop, assign::Assign, keep::Keep, launch::Launch, prepare::Prepare, reach::Reach, terminate::Terminate, watch::Watch,
};
use vm_service::sim::EndCause;

const PLACE: (&str, &str) = ("sim", "sim");
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ";

/// Every row of these tables.
async fn rows(bench: &Bench) -> Vec<String> {
    let mut all = Vec::new();
    for table in ["launches", "vms", "tasks", "events", "breakers"] {
        let sql = format!("select t::text from vms.{table} t order by 1");
        all.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&bench.db.pool).await.unwrap());
    }
    all
}

fn lost<T: std::fmt::Debug>(done: Result<T, DbError>) {
    match done {
        Err(DbError::LostLease) => {}
        other => panic!("{other:?}"),
    }
}

fn pass(bench: &Bench) {
    bench.clock.advance(TimeDelta::seconds(11));
}

/// Point 3, launches: the attempt, the end, the postponement, the renewal.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stale_worker_changes_no_launch(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.ask(&bench.request("p")).await;
    bench.tick(&Assign(bench.world.clone())).await;
    let (db, now) = (&bench.db, bench.now());
    let old = db.lease_launches(PLACE, now, 1).await.unwrap().remove(0);
    assert!(db.lease_launches(PLACE, now + TimeDelta::seconds(8), 1).await.unwrap().is_empty(), "the lease lasts");
    pass(&bench);
    let new = db.lease_launches(PLACE, bench.now(), 1).await.unwrap().remove(0);
    assert!(new.lease > old.lease);
    let before = rows(&bench).await;
    let now = bench.now();
    lost(db.mark_attempt(old.id, old.lease, "", None, now).await);
    for end in [End::Answered, End::NotNeeded, End::NoRoom, End::Failed("late")] {
        lost(db.end_launch(old.id, old.lease, end, now).await);
    }
    for after in [After::Throttled, After::Refused, After::Unclear] {
        lost(db.postpone_launch(old.id, old.lease, now, after, "late").await);
    }
    lost(db.renew_lease(&Lease::Launch(old.id, old.lease), now).await);
    assert_eq!(rows(&bench).await, before);
    db.mark_attempt(new.id, new.lease, "", None, now).await.unwrap();
}

/// Point 3, VMs: the identity, the availability, the end that it was told, the giving up, the confirmation, the postponement.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stale_worker_changes_no_vm(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let db = &bench.db;
    bench.ask(&bench.request("p")).await;
    for work in [&Assign(bench.world.clone()) as &dyn Loop, &Launch(bench.world.clone())] {
        bench.tick(work).await;
    }
    let old = db.lease_vms(&[VmState::Booting], PLACE, bench.now(), 1).await.unwrap().remove(0);
    pass(&bench);
    let new = db.lease_vms(&[VmState::Booting], PLACE, bench.now(), 1).await.unwrap().remove(0);
    let (before, now) = (rows(&bench).await, bench.now());
    let later = now + TimeDelta::hours(1);
    let failure = Failure::new(FailureCode::VmStartFailed, "late");
    lost(db.keep_identity(old.id, old.lease, b"late").await);
    let late = vm_service::db::vms::Met { host_key: "late", absolute_end_at: later, idle_end_at: later, engine: None };
    lost(db.make_available(&old, &late, now).await);
    lost(db.note_guest_end(old.id, old.lease, later).await);
    lost(db.give_up_vm(old.id, Evidence::NotStarted { lease: old.lease }, &failure, "late", now).await);
    lost(db.renew_lease(&Lease::Vms(vec![(old.id, old.lease)]), now).await);
    db.postpone_vms(&[(old.id, old.lease)], later).await.unwrap();
    db.mark_end_asked(&[(old.id, old.lease)], later, now).await.unwrap();
    db.confirm_terminated(&[old.id], false, now).await.unwrap();
    assert_eq!(rows(&bench).await, before, "a VM that is not to end is not confirmed to be gone");
    // The end of the VM begins: even the newest lease from before is void.
    assert_eq!(db.terminate_vms(&[new.id], None, &failure, now).await.unwrap(), [new.id]);
    let before = rows(&bench).await;
    lost(db.keep_identity(new.id, new.lease, b"late").await);
    lost(db.make_available(&new, &late, now).await);
    db.mark_end_asked(&[(new.id, new.lease)], later, now).await.unwrap();
    // An event about nothing would be one too many.
    assert_eq!(rows(&bench).await, before);
}

/// Point 3, terminations: a stale worker does not say that the provider was asked, also where the row waits for just that.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stale_worker_notes_no_end(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, vm, _) = bench.job("p").await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    let old = bench.db.lease_vms(&[VmState::Terminating], PLACE, bench.now(), 1).await.unwrap().remove(0);
    pass(&bench);
    let new = bench.db.lease_vms(&[VmState::Terminating], PLACE, bench.now(), 1).await.unwrap().remove(0);
    let before = rows(&bench).await;
    bench.db.mark_end_asked(&[(vm, old.lease)], bench.now(), bench.now()).await.unwrap();
    bench.db.postpone_vms(&[(vm, old.lease)], bench.now()).await.unwrap();
    assert_eq!(rows(&bench).await, before);
    bench.db.mark_end_asked(&[(vm, new.lease)], bench.now(), bench.now()).await.unwrap();
    assert_ne!(rows(&bench).await, before);
}

/// Point 3, tasks: a stale worker neither finishes a preparation nor calls its VM unfit; and nobody does once the task went back.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stale_worker_changes_no_task(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let db = &bench.db;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec![KEY.to_owned()];
    let task = bench.ask(&request).await.view.id;
    let world = &bench.world;
    for work in [&Assign(world.clone()) as &dyn Loop, &Launch(world.clone()), &Reach(world.clone()), &Assign(world.clone())] {
        bench.tick(work).await;
    }
    assert_eq!(bench.state(task).await, TaskState::Preparing);
    let old = db.lease_preparing(PLACE, bench.now(), 1).await.unwrap().remove(0);
    pass(&bench);
    let new = db.lease_preparing(PLACE, bench.now(), 1).await.unwrap().remove(0);
    let (before, now) = (rows(&bench).await, bench.now());
    let failure = Failure::new(FailureCode::PreparationFailed, "late");
    let unfit = |lease| Evidence::Unfit { task, lease };
    lost(db.finish_preparing(task, old.lease, now).await);
    lost(db.give_up_vm(old.way_in.vm, unfit(old.lease), &failure, "", now).await);
    lost(db.renew_lease(&Lease::Task(task, old.lease), now).await);
    assert_eq!(rows(&bench).await, before);
    db.give_up_vm(new.way_in.vm, unfit(new.lease), &failure, "", now).await.unwrap();
    assert_eq!(bench.state(task).await, TaskState::Queued);
    let before = rows(&bench).await;
    lost(db.finish_preparing(task, new.lease, now).await);
    lost(db.give_up_vm(new.way_in.vm, unfit(new.lease), &failure, "", now).await);
    assert_eq!(rows(&bench).await, before);
}

/// Point 3: whoever is frozen anywhere is taken over within ten seconds, by every loop that works under a lease.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_frozen_worker_is_taken_over_within_ten_seconds(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let world = &bench.world;
    let mut request = bench.request("p");
    request.ssh_public_keys = vec![KEY.to_owned()];
    let task = bench.ask(&request).await.view.id;
    bench.tick(&Assign(world.clone())).await;
    let mut frozen = Vec::new();
    for work in [&Launch(world.clone()) as &dyn Loop, &Reach(world.clone()), &Prepare(world.clone()), &Terminate(world.clone())] {
        if work.name() == "terminate" {
            assert_eq!(bench.state(task).await, TaskState::Ready);
            bench.db.release_task(task, bench.now()).await.unwrap();
        }
        let acts = work.tick(bench.now(), 64).await.unwrap();
        assert_eq!(acts.len(), 1, "{}", work.name());
        frozen.extend(acts);
        bench.clock.advance(TimeDelta::seconds(8));
        bench.tick(work).await;
        bench.clock.advance(TimeDelta::seconds(2));
        bench.tick(work).await;
        bench.tick(&Assign(world.clone())).await;
    }
    bench.tick(&Watch(world.clone())).await;
    assert_eq!(bench.states().await, "", "each step was done by another");
    let (before, live) = (rows(&bench).await, bench.sim.live());
    // They wake up: what each still sends is harmless, and it may write nothing.
    for act in frozen {
        println!("{}: {:?}", act.name, act.run.await.err().map(|error| format!("{error:#}")));
    }
    assert_eq!(rows(&bench).await, before);
    assert_eq!((bench.sim.live(), bench.sim.truth().len()), (live, 1));
}

/// Point 3: a worker that stood still before it told a VM its end, and wakes up after the hold was made longer, must not make the VM
/// end earlier than it may.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_frozen_keeper_does_not_shorten_a_life(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (_, vm, machine) = bench.job("p").await;
    bench.hold(vm, TimeDelta::days(3)).await;
    let frozen = Keep(bench.world.clone()).tick(bench.now(), 64).await.unwrap();
    assert_eq!(frozen.len(), 1);
    pass(&bench);
    bench.hold(vm, TimeDelta::days(9)).await;
    bench.tick(&Keep(bench.world.clone())).await;
    let end = bench.sim.live()[&machine].ends_itself_at.unwrap();
    assert!(end >= bench.now() + TimeDelta::days(9));
    for act in frozen {
        println!("{:?}", act.run.await.err());
    }
    bench.turn(60).await;
    assert!(bench.sim.live()[&machine].ends_itself_at.unwrap() >= end, "it ends itself while it is held");
}

/// Point 3: sixteen replicas of every loop at once serve what one would, once.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn replicas_share_the_work_and_double_none_of_it(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 2).await;
    let mut tasks = Vec::new();
    for n in 0..6 {
        tasks.push(bench.ask(&bench.request(&format!("p{n}"))).await.view.id);
    }
    for second in 0..15 {
        let replica = || {
            let (world, now) = (bench.world.clone(), bench.now());
            tokio::spawn(async move {
                for work in vm_service::loops::serve_loops(&world).into_iter().chain(vm_service::loops::scaler_loops(&world)) {
                    for act in work.tick(now, 64).await.unwrap() {
                        act.run.await.unwrap();
                    }
                }
            })
        };
        for replica in (0..8).map(|_| replica()).collect::<Vec<_>>() {
            replica.await.unwrap();
        }
        if second == 7 {
            for task in &tasks {
                bench.db.release_task(*task, bench.now()).await.unwrap();
            }
        }
        bench.clock.advance(TimeDelta::seconds(1));
    }
    assert_eq!(bench.states().await, "available 2");
    assert_eq!(bench.sim.truth().len(), 8);
    assert!(bench.sim.truth().iter().filter_map(|machine| machine.end).all(|end| end == EndCause::AskedByUs));
}
