//! The layer cache when something comes at the wrong time: what the histories of the simulation found, and replicas that stand still.

use crate::cache_scenes::small;
use crate::support::Bench;
use async_trait::async_trait;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_service::db::DbError;
use vm_service::domain::api::Hold;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::TaskRequest;
use vm_service::loops::volumes::MoveVolumes;
use vm_service::loops::{Loop as _, World};
use vm_service::provider::volumes::Volumes as _;
use vm_service::sim::{Fault, Gate, Rules};

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_held_in_use_is_not_deleted_when_its_job_is_over(pool: PgPool) {
    let bench = small(pool).await;
    let outside = TaskRequest { cache_trust: Trust::Untrusted, ..bench.cached("p") };
    let (task, _) = bench.cached_job(&outside).await;
    let volume = bench.volume_of("p").await;
    let hold = Hold { reason: "a look".to_owned(), until: bench.now() + TimeDelta::days(3) };
    assert!(bench.db.set_volume_hold(volume, Some(&hold), "op", bench.now()).await.unwrap());
    bench.over(task).await;
    bench.turn_by(3, TimeDelta::hours(20)).await;
    assert_eq!(bench.volumes().len(), 1);
    assert_eq!(bench.count("select count(*) from vms.volumes where state = 'quarantined'").await, 1, "and nobody gets it");
    bench.turn_by(5, TimeDelta::hours(20)).await;
    assert_eq!(bench.volumes().len(), 0, "after its hold");
}

/// A guest that has nothing mounted any more does not say that the disk is whole.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_was_torn_off_under_its_job_is_not_used_again(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    let (second, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("app", 1000)]);
    let torn = bench.volumes()[0].provider_id.clone();
    bench.sim.detach_volume(&torn, &machine).await.unwrap();
    bench.over(second).await;
    assert_eq!(bench.count("select count(*) from vms.volumes where content = 'unchecked' and not mounted").await, 1);
    for _ in 0..2 {
        let (next, machine) = bench.cached_job(&bench.cached("p")).await;
        assert!(bench.cache(next).await.0, "{:#?}", bench.timeline(next).await);
        let on = bench.volumes().into_iter().find(|it| it.machine() == Some(&machine)).unwrap();
        assert!(!on.content.torn && on.provider_id != torn, "{on:?}");
    }
    assert!(!bench.sim.snapshots_truth().iter().any(|it| it.content.torn));
}

/// Stands still at this point for as long as it is shut.
struct StandsStill {
    at: &'static str,
    shut: AtomicBool,
    reached: AtomicBool,
}

#[async_trait]
impl Gate for StandsStill {
    async fn pass(&self, point: &'static str) {
        if point == self.at {
            self.reached.store(true, Ordering::Relaxed);
            while self.shut.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The guest has unmounted the disk; whoever asked for it stands still before it hears so. Another replica goes on.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_replica_that_stands_still_after_the_unmount_costs_no_volume(pool: PgPool) {
    stand_still(pool, "unmount_cache:after").await;
}

/// The same before the guest has heard of it: the late unmount finds nothing mounted.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_replica_that_stands_still_before_the_unmount_costs_no_volume(pool: PgPool) {
    stand_still(pool, "unmount_cache:before").await;
}

async fn stand_still(pool: PgPool, at: &'static str) {
    let (bench, project) = (small(pool).await, "p");
    {
        let (first, machine) = bench.cached_job(&bench.cached(project)).await;
        bench.sim.use_layers(&machine, &[("base", 100)]);
        bench.over(first).await;
        let (second, machine) = bench.cached_job(&bench.cached(project)).await;
        bench.sim.use_layers(&machine, &[("base", 100), ("app", 1000)]);
        let volume = bench.volumes()[0].provider_id.clone();
        let gate = Arc::new(StandsStill { at, shut: AtomicBool::new(true), reached: AtomicBool::new(false) });
        let world = World { guest: Arc::new(bench.sim.handle(gate.clone())), ..bench.world.clone() };
        bench.db.release_task(second, bench.now()).await.unwrap();
        let moves = MoveVolumes(world).tick(bench.now(), 64).await.unwrap();
        assert_eq!(moves.len(), 1, "the unmount");
        let frozen = tokio::spawn(futures::future::join_all(moves.into_iter().map(|act| act.run)));
        while !gate.reached.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        bench.turn(5).await;
        assert!(bench.lives(&machine), "{at}: nobody ends it while its volume is being unmounted");
        bench.turn(40).await;
        assert!(!bench.lives(&machine), "{at}: the other replica goes on");
        gate.shut.store(false, Ordering::Relaxed);
        let late = frozen.await.unwrap();
        assert!(late[0].as_ref().is_err_and(|error| matches!(error.downcast_ref(), Some(DbError::LostLease))), "{late:?}");
        let there = bench.volumes().into_iter().find(|it| it.provider_id == volume).expect("the volume is kept");
        assert!(there.content.layers.contains_key("app") && !there.content.torn, "{there:?}");
        let (next, _) = bench.cached_job(&bench.cached(project)).await;
        assert!(bench.cache(next).await.0, "{:#?}", bench.timeline(next).await);
        bench.over(next).await;
    }
}

/// On EC2 a volume is of one zone: the VM that is free there is preferred; where there is none, a volume of the VM's zone is made.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_vm_in_the_volumes_zone_is_preferred_and_elsewhere_another_volume_is_made(pool: PgPool) {
    let zones = ["zone-a", "zone-b"].map(str::to_owned).to_vec();
    let rules = Rules { copies: Rules::default().copies, zones, ..Rules::obliging() };
    let bench = Bench::with(pool, rules).await;
    bench.set(|settings| settings.preallocated.machine = 16).await;
    bench.turn_until_states("available 16", 60).await;
    // Nothing new comes.
    bench.set(|settings| settings.pause_launches = true).await;
    let free = async || -> Vec<String> {
        bench.db.list_available(bench.now()).await.unwrap().into_iter().filter_map(|vm| vm.zone).collect()
    };
    // At home: after the first of these comes one of the other zone, then another one of home, and at last one of the other.
    let fits = |zones: &[String]| {
        let home = &zones[0];
        zones[1] != *home && zones[2..].contains(home) && zones[zones.len() - 1] != *home
    };
    while !fits(&free().await) {
        bench.job("other").await;
    }
    let zone_of = |machine: &str| bench.sim.live()[machine].zone.clone();
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    let home = zone_of(&machine);
    bench.over(first).await;
    assert!(free().await[0] != home, "the oldest is elsewhere");
    let (second, machine) = bench.cached_job(&bench.cached("p")).await;
    assert_eq!(zone_of(&machine), home);
    assert!(bench.cache(second).await.1.contains("from earlier jobs"), "{:?}", bench.cache(second).await);
    while free().await.contains(&home) {
        bench.job("other").await;
    }
    bench.over(second).await;
    let (third, machine) = bench.cached_job(&bench.cached("p")).await;
    assert_ne!(zone_of(&machine), home);
    assert!(bench.cache(third).await.1.contains("a copy of the good state"), "{:?}", bench.cache(third).await);
    let volumes: BTreeSet<(String, bool)> =
        bench.volumes().iter().map(|it| (it.zone.clone(), it.machine() == Some(&machine))).collect();
    assert_eq!(volumes, [(home, false), (zone_of(&machine), true)].into());
}

/// Six hours, then it is dropped; the next job's state takes its place.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_snapshot_that_never_completes_is_given_up_and_followed_by_another(pool: PgPool) {
    let rules = Rules { copies: Rules::default().copies, snapshot_takes: Rules::default().snapshot_takes, ..Rules::obliging() };
    let bench = Bench::with(pool, rules).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.sim.inject(Fault::StuckSnapshot);
    bench.over(first).await;
    bench.turn_by(5, TimeDelta::hours(1)).await;
    let states = "select count(*) from vms.generations where state = 'creating'";
    assert_eq!((bench.count(states).await, bench.sim.snapshots_truth().len()), (1, 1));
    bench.turn_by(3, TimeDelta::hours(1)).await;
    assert_eq!((bench.count(states).await, bench.sim.snapshots_truth().len()), (0, 0), "given up");
    let (second, _) = bench.cached_job(&bench.cached("p")).await;
    assert!(bench.cache(second).await.0, "the volume itself is as good as before");
    bench.over(second).await;
    bench.turn_by(20, TimeDelta::minutes(1)).await;
    assert_eq!(bench.count("select count(*) from vms.generations where state = 'good'").await, 1);
    let kept = bench.sim.snapshots_truth();
    assert!(kept.len() == 1 && kept[0].done_at.is_some() && kept[0].content.layers.contains_key("base"), "{kept:?}");
}
