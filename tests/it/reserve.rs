//! Stopped VMs: filled from what is spare, started for tasks that find no free VM, replaced each day, and never in a job's way.

use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::admin::dry_run;
use vm_service::domain::identity::Identity;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::task::Executor;
use vm_service::loops::Loop as _;
use vm_service::loops::power::Power;
use vm_service::provider::MachineState;
use vm_service::sim::{Fault, Rules};

/// A reserve of so many for machine jobs, filled.
async fn filled(pool: PgPool, size: u32) -> Bench {
    let bench = Bench::with(pool, Rules { shuts_down_in: Rules::default().shuts_down_in, ..Rules::obliging() }).await;
    bench.sim.set_boot_time(TimeDelta::seconds(5));
    resize(&bench, size).await;
    bench.turn_until_states(&format!("stopped {size}"), 120).await;
    bench
}

async fn resize(bench: &Bench, size: u32) {
    bench.set(|settings| settings.resource_classes.get_mut("medium").unwrap().reserve.machine = size).await;
}

fn stopped(bench: &Bench) -> Vec<String> {
    bench.sim.truth().into_iter().filter(|it| it.state == MachineState::Stopped).map(|it| it.provider_id).collect()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn it_is_filled_and_then_left_alone(pool: PgPool) {
    let bench = filled(pool, 2).await;
    assert_eq!(stopped(&bench).len(), 2);
    let calls = bench.sim.journal().len();
    bench.turn(300).await;
    assert_eq!(bench.states().await, "stopped 2");
    assert_eq!((bench.sim.calls("launch"), bench.sim.calls("stop_machine"), bench.sim.calls("start_machine")), (2, 2, 0));
    let lists = bench.sim.journal()[calls..].iter().all(|call| call.op.starts_with("list_"));
    assert!(lists, "nothing is asked of a reserve that rests");
}

/// The pool is empty: a task is served by a start, and the reserve is filled again.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_gets_a_stopped_vm(pool: PgPool) {
    let bench = filled(pool, 1).await;
    let before = bench.sim.truth()[0].clone();
    let end = "select extract(epoch from absolute_end_at)::bigint from vms.vms where state in ('stopped', 'assigned')";
    let end_before = bench.count(end).await;
    bench.turn(600).await;
    let (task, _, machine) = bench.job("p").await;
    assert_eq!(machine, before.provider_id, "the stopped one, by another address");
    let timeline = bench.timeline(task).await;
    assert!(timeline.iter().any(|line| line.contains("one of the reserve is started for it")), "{timeline:?}");
    assert!(bench.count(end).await >= end_before + 600, "a start moves the end");
    let truth = bench.sim.live()[&machine].clone();
    assert_eq!(truth.personalised_as, before.personalised_as, "its host key stays");
    assert_eq!(bench.task(task).await.way_in.unwrap().address, truth.address.unwrap().to_string());
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn_until_states("stopped 1", 120).await;
    assert_ne!(stopped(&bench), [machine], "a VM serves one task");
    assert_eq!(bench.sim.calls("launch"), 2);
}

/// The engine has certificates for where it is now, and to its new end.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_started_engine_has_new_certificates(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.resource_classes.get_mut("medium").unwrap().reserve.remote_docker = 1).await;
    bench.turn_until_states("stopped 1", 60).await;
    let identity = async || -> Identity {
        let sql = "select id, identity_sealed from vms.vms where identity_sealed is not null and state <> 'terminated' order by created_at";
        let (vm, sealed): (uuid::Uuid, Vec<u8>) = sqlx::query_as(sql).fetch_one(&bench.db.pool).await.unwrap();
        serde_json::from_slice(&bench.world.sealer.open(vm, &sealed).unwrap()).unwrap()
    };
    let before = identity().await;
    let request = vm_service::domain::task::TaskRequest { executor: Executor::RemoteDocker, ..bench.request("p") };
    let task = bench.ask(&request).await.view.id;
    bench.turn_until(task, TaskState::Ready, 30).await;
    let after = identity().await;
    assert_eq!((&before.host_public, &before.login_public), (&after.host_public, &after.login_public));
    assert_ne!(before.docker.unwrap().server_cert, after.docker.unwrap().server_cert);
}

/// FAILURES.md and EC2.md: a start can find no capacity. The task gets a fresh VM at once, and the stopped one stays.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_capacity_for_a_start_falls_through_to_a_launch(pool: PgPool) {
    let bench = filled(pool, 1).await;
    let rested = stopped(&bench);
    bench.sim.inject(Fault::NoCapacity);
    let asked_at = bench.now();
    let (task, _, machine) = bench.job("p").await;
    assert!(bench.now() - asked_at <= TimeDelta::seconds(10), "a boot of 5 s, and not after a pause");
    assert_ne!([machine], *rested);
    assert_eq!(stopped(&bench), rested);
    let why = bench
        .count("select count(*) from vms.events where message like 'It stays in the reserve: there is no capacity to start it%'")
        .await;
    assert_eq!(why, 1);
    // A while later it is tried again.
    bench.turn(180).await;
    assert_eq!(bench.job("q").await.2, rested[0]);
    bench.db.release_task(task, bench.now()).await.unwrap();
}

/// Answers of stops and starts that are lost, calls that never arrive: the same thing happens once.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn lost_calls_and_answers_change_nothing(pool: PgPool) {
    let bench = Bench::with(pool, Rules::obliging()).await;
    bench.tolerate();
    bench.sim.inject(Fault::LoseChange);
    bench.sim.inject(Fault::LoseChangeAnswer);
    resize(&bench, 1).await;
    bench.turn_until_states("stopped 1", 200).await;
    bench.sim.inject(Fault::LoseChangeAnswer);
    bench.sim.inject(Fault::LoseChange);
    bench.job("p").await;
    bench.turn_until_states("assigned 1, stopped 1", 200).await;
    assert_eq!(bench.sim.live().len(), 2);
}

/// It is replaced as the base is: a fresh one first, then the old one goes.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_reserve_is_fresh_each_day(pool: PgPool) {
    let bench = filled(pool, 3).await;
    let old = stopped(&bench);
    // Ten minutes before the cycle at four in the morning.
    let four = (bench.now() + TimeDelta::days(1)).date_naive().and_hms_opt(3, 50, 0).unwrap().and_utc();
    bench.clock.advance(four - bench.now());
    let mut fewest = usize::MAX;
    for _ in 0..30 {
        assert!(bench.now() >= four + TimeDelta::minutes(10) || old.iter().all(|machine| bench.lives(machine)), "too early");
        bench.turn_by(1, TimeDelta::minutes(1)).await;
        fewest = fewest.min(stopped(&bench).len());
    }
    assert!(old.iter().all(|machine| !bench.lives(machine)), "none is older than a day");
    assert_eq!((bench.states().await.as_str(), fewest), ("stopped 3", 3));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_smaller_reserve_lets_the_oldest_go(pool: PgPool) {
    let bench = filled(pool, 2).await;
    resize(&bench, 1).await;
    bench.turn_until_states("stopped 1", 60).await;
    resize(&bench, 0).await;
    bench.turn_until_states("", 60).await;
    assert_eq!(bench.sim.live().len(), 0);
}

/// A stopped machine that runs without us costs money and serves nobody.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_that_wakes_by_itself_is_replaced(pool: PgPool) {
    let bench = filled(pool, 1).await;
    let rested = stopped(&bench);
    bench.sim.start_machine(&rested[0]).await.unwrap();
    bench.clock.advance(TimeDelta::seconds(10));
    let intended = dry_run::look(&bench.world, bench.now()).await.unwrap();
    let told = format!("It is in the reserve, and its machine {} runs; a direct look decides.", rested[0]);
    assert_eq!(intended.iter().map(|it| (it.action, it.why.as_str())).collect::<Vec<_>>(), [("terminate", told.as_str())]);
    bench.turn(60).await;
    assert!(!bench.lives(&rested[0]));
    bench.turn_until_states("stopped 1", 60).await;
}

/// One that dies while it is stopped is replaced too.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stopped_machine_that_is_gone_is_replaced(pool: PgPool) {
    let bench = filled(pool, 1).await;
    let rested = stopped(&bench);
    bench.sim.forget(&rested[0]);
    bench.turn(90).await;
    bench.turn_until_states("stopped 1", 60).await;
    assert_ne!(stopped(&bench), rested);
}

/// A task takes the VM in the moment in which it was to be stopped.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_vm_that_a_task_took_is_not_stopped(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (_, vm, machine) = bench.job("p").await;
    bench.db.stop_vms(&[vm], bench.now()).await.unwrap();
    bench.tick(&Power(bench.world.clone())).await;
    assert_eq!((bench.states().await.as_str(), bench.sim.calls("stop_machine")), ("assigned 1", 0));
    assert_eq!(bench.sim.live()[&machine].state, MachineState::Running);
}

/// A replica that stood still with a stop in its hands: by the time it goes on, a task has the VM.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_late_stop_hits_nobody(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let vm = bench.spare_vm().await;
    bench.db.stop_vms(&[vm], bench.now()).await.unwrap();
    let late = Power(bench.world.clone()).tick(bench.now(), 64).await.unwrap();
    assert_eq!(late.len(), 1);
    bench.clock.advance(TimeDelta::seconds(11));
    let (_, given, machine) = bench.job("p").await;
    assert_ne!(given, vm, "nobody gets a machine that a stop may still hit");
    for act in late {
        act.run.await.unwrap_err();
    }
    assert_eq!(bench.sim.live().into_iter().map(|(id, it)| (id, it.state)).collect::<Vec<_>>(), [(machine, MachineState::Running)]);
}

/// A held VM is neither stopped, nor started, nor dropped.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_keeps_a_stopped_vm_as_it_is(pool: PgPool) {
    let bench = filled(pool, 1).await;
    let vm = bench.count("select count(*) from vms.vms where state = 'stopped'").await;
    assert_eq!(vm, 1);
    let id: uuid::Uuid =
        sqlx::query_scalar("select id from vms.vms where state = 'stopped'").fetch_one(&bench.db.pool).await.unwrap();
    let rested = stopped(&bench);
    bench.hold(vm_service::domain::ids::VmId(id), TimeDelta::hours(1)).await;
    assert_ne!([bench.job("p").await.2], *rested);
    resize(&bench, 0).await;
    bench.turn(60).await;
    assert_eq!(stopped(&bench), rested);
    bench.turn_by(2, TimeDelta::hours(1)).await;
    bench.turn(60).await;
    assert!(!bench.lives(&rested[0]), "the usual rules apply");
}
