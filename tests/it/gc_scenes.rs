//! Issue point 5: rows and machines held against each other, cloud first and in both directions. Each test names its row of
//! FAILURES.md where there is one.

use crate::support::Bench;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::BTreeSet;
use std::sync::Arc;
use vm_service::admin::dry_run;
use vm_service::domain::failure::FailureCode;
use vm_service::domain::ids::VolumeId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::tags::VolumeTags;
use vm_service::loops::{Providers, World, assign::Assign, collect::Collect, launch::Launch};
use vm_service::provider::MachineState;
use vm_service::provider::volumes::Volumes as _;
use vm_service::sim::{EndCause, Fault, FaultRates, Gate, Rules, Sim, Spread};

/// From the first complete list that shows the leak to the terminate call.
const BOUND: TimeDelta = TimeDelta::seconds(90);

/// When the first list came that showed this machine, and when its termination was accepted.
fn seen_and_ended(bench: &Bench, planted_at: DateTime<Utc>, machine: &str) -> (DateTime<Utc>, DateTime<Utc>) {
    let journal = bench.sim.journal();
    let seen =
        journal.iter().find(|c| c.op == "list_machines" && c.at >= planted_at && c.detail.contains("complete: true")).unwrap();
    let ended = journal.iter().find(|c| c.op == "terminate" && c.detail.contains(machine)).unwrap();
    (seen.at, ended.at)
}

/// Point 5: accepted at most 90 s after the first complete list that shows the leak, at the real pace of lists.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_orphan_is_ended_within_ninety_seconds_at_the_real_pace(pool: PgPool) {
    for offset in [0, 7, 29] {
        let bench = Bench::strict(pool.clone()).await;
        sqlx::query("delete from vms.turns").execute(&pool).await.unwrap();
        sqlx::query("delete from vms.orphans").execute(&pool).await.unwrap();
        bench.turn_by(1, TimeDelta::seconds(offset)).await;
        let planted_at = bench.now();
        bench.sim.plant("orphan", bench.tags());
        bench.turn(160).await;
        assert!(!bench.lives("orphan"));
        let (seen, ended) = seen_and_ended(&bench, planted_at, "orphan");
        assert!(ended - seen <= BOUND, "after {}", ended - seen);
        assert!(ended - seen >= TimeDelta::seconds(20), "never on one sighting: after {}", ended - seen);
    }
}

/// Row 3: lists show the orphan, and each direct look fails: nothing is ended and nothing forgotten, however long that lasts; once looks
/// work, the end comes within the bound.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_orphan_whose_look_keeps_failing_is_ended_when_looks_work(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.plant("orphan", bench.tags());
    bench.turn(12).await;
    for _ in 0..30 {
        let struck = bench.sim.handle(Arc::new(LooksFail(bench.sim.clone())));
        let world = World { providers: Providers::new(vec![Arc::new(struck)]), ..bench.world.clone() };
        bench.tick(&Collect(world)).await;
        bench.clock.advance(TimeDelta::seconds(10));
    }
    assert!(bench.sim.calls("find_machine") >= 25, "{} looks", bench.sim.calls("find_machine"));
    assert!(bench.lives("orphan"));
    assert_eq!(bench.count("select count(*) from vms.orphans where state = 'seen'").await, 1);
    bench.turn(45).await;
    assert!(!bench.lives("orphan"));
}

/// Lets each direct look fail, and nothing else.
struct LooksFail(Sim);

#[async_trait::async_trait]
impl Gate for LooksFail {
    async fn pass(&self, point: &'static str) {
        if point == "find_machine:before" {
            self.0.inject(Fault::LoseLook);
        }
    }
}

/// Row 3: looks and lists fail for a quarter of an hour; the orphan stays known, and is ended within the bound afterwards.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_orphan_is_not_forgotten_while_the_provider_is_away(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.tolerate();
    let (task, _, busy) = bench.job("p").await;
    bench.sim.plant("orphan", bench.tags());
    bench.turn(12).await;
    assert_eq!(bench.count("select count(*) from vms.orphans").await, 1);
    bench.sim.set_faults(FaultRates::none().with(Fault::LoseLook, 1.0));
    bench.turn_by(90, TimeDelta::seconds(10)).await;
    assert_eq!((bench.sim.live().len(), bench.count("select count(*) from vms.orphans").await), (2, 1));
    bench.sim.set_faults(FaultRates::none());
    bench.turn(90).await;
    assert!(!bench.lives("orphan"));
    assert_eq!((bench.state(task).await, bench.lives(&busy)), (TaskState::Ready, true), "silence proves nothing about a job");
}

/// Row 3: a lost terminate call for an orphan is repeated.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_terminate_of_an_orphan_is_repeated(pool: PgPool) {
    for fault in [Fault::LoseTerminate, Fault::LoseTerminateAnswer] {
        let bench = Bench::new(pool.clone()).await;
        sqlx::query("delete from vms.turns").execute(&pool).await.unwrap();
        bench.tolerate();
        bench.sim.plant("orphan", bench.tags());
        bench.sim.inject(fault);
        bench.turn(90).await;
        assert_eq!(bench.sim.live().len(), 0);
        bench.turn(20).await;
        assert_eq!(bench.count("select count(*) from vms.orphans").await, 0);
    }
}

/// Point 5: stopped machines hold disks: they are collected too.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_stopped_orphan_is_collected(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.plant("orphan", bench.tags());
    bench.sim.stop_machine("orphan").await.unwrap();
    assert_eq!(bench.sim.live()["orphan"].state, MachineState::Stopped);
    bench.turn(60).await;
    assert_eq!(bench.sim.live().len(), 0);
}

/// Point 5, the other direction: a machine that was stopped from outside under a job is dead to it: the job fails, nothing is left.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_stopped_under_its_job_fails_it_and_goes(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, _, machine) = bench.job("p").await;
    bench.sim.stop_machine(&machine).await.unwrap();
    bench.turn_until(task, TaskState::Failed, 15).await;
    assert_eq!(bench.task(task).await.view.failure.unwrap().code, FailureCode::VmLost);
    bench.turn(10).await;
    assert_eq!((bench.sim.live().len(), bench.states().await.as_str()), (0, ""));
}

/// Point 5: a machine that lost its tags is in no list any more; a direct look finds it, so its job goes on.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_that_lost_its_tags_is_not_given_up(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.sim.inject(Fault::LoseTags);
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn(10).await;
    let (task, _, machine) = bench.job("p").await;
    assert!(bench.sim.live()[&machine].tags_lost);
    bench.turn_by(60, TimeDelta::seconds(10)).await;
    assert_eq!((bench.state(task).await, bench.lives(&machine)), (TaskState::Ready, true));
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(5).await;
    assert!(!bench.lives(&machine), "and it is ended like any other");
}

/// Row 5: just after a launch neither a list nor a look may show the machine; at the real lag no start is given up for it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn not_found_just_after_the_launch_means_not_yet(pool: PgPool) {
    let minutes = Spread::exactly(TimeDelta::minutes(4));
    let bench =
        Bench::with(pool, Rules { look_lag: Spread::exactly(TimeDelta::seconds(3)), list_lag: minutes, ..Rules::default() }).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Ready, 45).await;
    bench.turn(260).await;
    assert_eq!((bench.state(task).await, bench.sim.truth().len()), (TaskState::Ready, 1));
    // Released at once after its launch: asked to end before it is known, it is asked again until it has ended.
    let gone = bench.ask(&bench.request("p")).await.view.id;
    bench.tick(&Assign(bench.world.clone())).await;
    bench.tick(&Launch(bench.world.clone())).await;
    let vm: uuid::Uuid =
        sqlx::query_scalar("select id from vms.vms where state = 'launching'").fetch_one(&bench.db.pool).await.unwrap();
    bench.db.release_task(gone, bench.now()).await.unwrap();
    let failure = vm_service::domain::failure::Failure::new(FailureCode::TerminatedByOperator, "ended by the operator op");
    bench.db.terminate_vms(&[vm_service::domain::ids::VmId(vm)], None, &failure, bench.now()).await.unwrap();
    bench.turn(60).await;
    assert_eq!(bench.sim.live().len(), 1, "no machine leaked");
    bench.turn_by(40, TimeDelta::seconds(10)).await;
    assert_eq!(bench.states().await, "assigned 1");
}

/// Row 4: a busy VM is never collected: neither by a missing page, nor by a lagging list, nor by incomplete ones, nor by age.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_busy_vm_is_never_collected(pool: PgPool) {
    let bench = Bench::with(pool, Rules { page: 2, ..Rules::obliging() }).await;
    bench.tolerate();
    let mut jobs = Vec::new();
    for n in 0..5 {
        jobs.push(bench.job(&format!("p{n}")).await);
    }
    let faults = FaultRates::none().with(Fault::ListMissesPage, 0.5).with(Fault::IncompleteList, 0.2).with(Fault::LoseLook, 0.3);
    bench.sim.set_faults(faults);
    bench.turn_by(120, TimeDelta::seconds(10)).await;
    for (task, _, machine) in &jobs {
        assert_eq!((bench.state(*task).await, bench.lives(machine)), (TaskState::Ready, true));
    }
    assert_eq!(bench.sim.calls("terminate"), 0);
}

/// Row 6: a hard maximum age outside the normal path: every row and every machine is gone after its absolute end, whatever was stuck.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn nothing_outlives_its_absolute_end(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.timeouts.vm_idle_hours = 2;
            settings.timeouts.task_hours = 1;
            settings.preallocated.machine = 2;
        })
        .await;
    bench.turn_until_states("available 2", 5).await;
    let born = bench.now();
    let machines: BTreeSet<String> = bench.sim.live().into_keys().collect();
    // The usual deadlines are broken: nobody ends these by idleness, and no replacement comes.
    sqlx::query("update vms.vms set deadline_at = null").execute(&bench.db.pool).await.unwrap();
    bench.set(|settings| settings.pause_launches = true).await;
    bench.turn_by(20, TimeDelta::minutes(8)).await;
    assert_eq!(bench.sim.live().len(), 2);
    bench.turn_by(5, TimeDelta::minutes(8)).await;
    bench.turn(2).await;
    assert!(machines.iter().all(|machine| !bench.lives(machine)));
    let latest = bench.sim.truth().into_iter().filter_map(|machine| machine.ended_at).max().unwrap();
    assert!(latest - born <= TimeDelta::minutes(191), "{}", latest - born);
    assert_eq!(bench.states().await, "");
}

/// Row 6: machines whose service is gone end themselves: those that nobody called soon, the others at their absolute end.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn machines_end_themselves_when_nobody_calls(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (_, _, met) = bench.job("p").await;
    bench.sim.set_boot_time(TimeDelta::seconds(30));
    bench.ask(&bench.request("q")).await;
    bench.turn(2).await;
    let unmet = bench.sim.live().into_keys().find(|id| *id != met).unwrap();
    bench.clock.advance(TimeDelta::minutes(11));
    assert_eq!((bench.lives(&unmet), bench.lives(&met)), (false, true));
    bench.clock.advance(TimeDelta::hours(31));
    let truth = bench.sim.truth();
    assert!(truth.iter().all(|machine| machine.end == Some(EndCause::OwnEnd)), "{truth:?}");
}

/// Point 5: a VM is overdue when the list is read and claimed before it is ended: the claim wins.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_vm_claimed_at_its_idle_maximum_is_not_ended(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 5).await;
    bench.clock.advance(TimeDelta::hours(24) + TimeDelta::seconds(1));
    let overdue = bench.db.list_overdue_vms(bench.now()).await.unwrap();
    assert_eq!(overdue.len(), 1);
    let task = bench.ask(&bench.request("p")).await.view;
    assert_eq!(task.state, TaskState::Ready);
    assert!(!bench.db.end_overdue_vm(overdue[0].0, bench.now()).await.unwrap());
    bench.turn(5).await;
    assert_eq!(bench.state(task.id).await, TaskState::Ready);
    // And both at the same moment, many times: one winner, and never a task on a VM that ends.
    let ends = (0..8).map(|_| {
        let (db, now, vm) = (bench.db.clone(), bench.now(), overdue[0].0);
        tokio::spawn(async move { db.end_overdue_vm(vm, now).await.unwrap() })
    });
    for end in ends.collect::<Vec<_>>() {
        assert!(!end.await.unwrap());
    }
}

/// Point 5: the same race, by many at once: eight claim, eight end; whoever has a VM keeps it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn claims_and_ends_at_one_moment_have_one_winner(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 8).await;
    bench.turn_until_states("available 8", 8).await;
    bench.clock.advance(TimeDelta::hours(24) + TimeDelta::seconds(1));
    let overdue = bench.db.list_overdue_vms(bench.now()).await.unwrap();
    let ends = overdue.iter().map(|(vm, _)| {
        let (db, now, vm) = (bench.db.clone(), bench.now(), *vm);
        tokio::spawn(async move { usize::from(db.end_overdue_vm(vm, now).await.unwrap()) })
    });
    let ends: Vec<_> = ends.collect();
    let mut ready = Vec::new();
    for n in 0..8 {
        let task = bench.ask(&bench.request(&format!("p{n}"))).await.view;
        if task.state == TaskState::Ready {
            ready.push(task.id);
        }
    }
    let mut ended = 0;
    for end in ends {
        ended += end.await.unwrap();
    }
    assert_eq!(ended + ready.len(), 8, "each VM has one fate");
    bench.turn(10).await;
    for task in ready {
        assert_eq!(bench.state(task).await, TaskState::Ready);
    }
}

/// Point 5: a task past its long-running limit is ended with its reason, and its VM with it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_job_past_its_limit_ends_with_its_reason(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let (task, _, machine) = bench.job("p").await;
    bench.clock.advance(TimeDelta::seconds(3600));
    bench.turn(3).await;
    let view = bench.task(task).await.view;
    assert_eq!((view.state, view.failure.unwrap().code), (TaskState::Expired, FailureCode::MaxRunExceeded));
    assert!(!bench.lives(&machine));
}

/// Everything that the tables hold.
async fn tables(bench: &Bench) -> Vec<String> {
    let names: Vec<String> =
        sqlx::query_scalar("select table_name::text from information_schema.tables where table_schema = 'vms' order by 1")
            .fetch_all(&bench.db.pool)
            .await
            .unwrap();
    let mut rows = Vec::new();
    for name in names {
        let sql = format!("select '{name} ' || t::text from vms.{name} t order by 1");
        rows.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&bench.db.pool).await.unwrap());
    }
    rows
}

/// Point 5: `gc --dry-run` tells of each kind what would be done and why; it only reads, here and at the provider.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_dry_run_tells_everything_and_changes_nothing(pool: PgPool) {
    let bench = Bench::new(pool).await;
    assert_eq!(dry_run::look(&bench.world, bench.now()).await.unwrap(), []);
    let (late, _, _) = bench.job("late").await;
    let (_, lost, gone) = bench.job("lost").await;
    let (_, dead, killed) = bench.job("dead").await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("assigned 3, available 1", 5).await;
    let idle = bench.db.list_available(bench.now()).await.unwrap()[0].id;
    bench.set(|settings| settings.pause_launches = true).await;
    bench.sim.plant("old-orphan", bench.tags());
    bench.sim.forget(&gone);
    bench.turn(22).await;
    bench.sim.plant("new-orphan", bench.tags());
    bench.sim.kill(&killed);
    let tags = VolumeTags {
        installation: bench.world.installation,
        volume: VolumeId(uuid::Uuid::from_u128(77)),
        lineage: crate::support::lineage("acme"),
    };
    let volume = bench.sim.create_volume(&crate::support::volume(&tags, "zone-a", "token")).await.unwrap().provider_id;
    sqlx::query("update vms.tasks set expires_at = $1 where id = $2")
        .bind(bench.now())
        .bind(late.0)
        .execute(&bench.db.pool)
        .await
        .unwrap();
    sqlx::query("update vms.vms set deadline_at = $1 where id = $2")
        .bind(bench.now())
        .bind(idle.0)
        .execute(&bench.db.pool)
        .await
        .unwrap();
    let (before, calls) = (tables(&bench).await, bench.sim.journal().len());
    let found = dry_run::look(&bench.world, bench.now()).await.unwrap();
    let told: BTreeSet<String> = found.iter().map(|i| format!("{} {}", i.action, i.what)).collect();
    let wanted = [
        format!("expire task {late}"),
        format!("terminate VM {idle}"),
        format!("give up VM {dead}"),
        format!("give up VM {lost}"),
        "terminate machine old-orphan".to_owned(),
        "watch machine new-orphan".to_owned(),
        format!("adopt volume {volume}"),
    ];
    assert_eq!(told, wanted.into_iter().collect());
    assert!(found.iter().all(|intention| intention.why.ends_with('.')), "{found:?}");
    assert_eq!(tables(&bench).await, before, "no row changed");
    let ops: BTreeSet<&str> = bench.sim.journal()[calls..].iter().map(|call| call.op).collect();
    assert_eq!(ops, BTreeSet::from(["list_machines", "list_volumes"]), "nothing was asked for but lists");
}
