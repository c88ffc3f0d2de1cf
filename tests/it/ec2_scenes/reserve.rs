//! Instances that are stopped and started: one call each, and no job waits for one that AWS does not start.

use super::scene::Scene;
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::journal::Outcome;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::time::Duration;

/// A reserve of one, filled.
async fn filled(pool: PgPool) -> (Scene, String) {
    let scene = Scene::new(pool).await;
    resize(&scene, 1).await;
    rested(&scene, 60).await;
    let stopped = only_stopped(&scene).await;
    (scene, stopped)
}

async fn resize(scene: &Scene, size: u32) {
    scene.set(|settings| settings.resource_classes.get_mut("medium").unwrap().reserve.machine = size).await;
}

async fn rested(scene: &Scene, seconds: u32) {
    for _ in 0..seconds {
        if scene.bench.states().await.contains("stopped 1") {
            return;
        }
        scene.turn(1).await;
    }
    panic!("no VM is in the reserve: {}", scene.bench.states().await);
}

async fn only_stopped(scene: &Scene) -> String {
    let mut stopped = scene.cloud.instances().await.into_iter().filter(|it| it.state == "stopped");
    let one = stopped.next().unwrap();
    assert!(stopped.next().is_none());
    one.id
}

async fn ends_clean(scene: &Scene) {
    resize(scene, 0).await;
    scene.ends_clean().await;
}

/// The row of FAILURES.md that AWS's users know least: a stopped machine is no promise of a running one.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_capacity_for_a_stopped_vm_is_a_fresh_launch(pool: PgPool) {
    let (scene, stopped) = filled(pool).await;
    let fault = scene.cloud.inject(Fault::no_capacity("StartInstances").always());
    let (_, machine) = scene.job().await;
    assert_ne!(machine, stopped);
    assert_eq!(only_stopped(&scene).await, stopped, "it stays for the next");
    assert_eq!(scene.cloud.calls("StartInstances").len(), 1);
    scene.cloud.lift(fault);
    scene.bench.clock.advance(TimeDelta::minutes(3));
    assert_eq!(scene.job().await.1, stopped);
    ends_clean(&scene).await;
}

/// A service that is killed between the call and its record: another one goes on, and nothing is started or stopped that should not be.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn lost_answers_stop_and_start_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::lose_answer("StopInstances"));
    scene.cloud.inject(Fault::lose_answer("StartInstances"));
    resize(&scene, 1).await;
    rested(&scene, 90).await;
    let stopped = only_stopped(&scene).await;
    // No further VM comes in its place while it starts.
    resize(&scene, 0).await;
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.ready(task, 60).await;
    assert_eq!(scene.bench.task(task).await.view.vm.unwrap().provider_id.unwrap(), stopped);
    let lost = |action| scene.cloud.calls(action).iter().filter(|it| it.outcome == Outcome::AnswerLost).count();
    assert_eq!((lost("StopInstances"), lost("StartInstances")), (1, 1));
    ends_clean(&scene).await;
}

/// What AWS refuses is told to the operator and does not become a loop that launches and ends VMs.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_denied_stop_costs_no_further_vm(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::unauthorized("StopInstances").always());
    resize(&scene, 1).await;
    scene.turn(60).await;
    for _ in 0..20 {
        scene.bench.clock.advance(TimeDelta::minutes(1));
        scene.cloud.pass(Duration::from_secs(60));
        scene.turn(1).await;
    }
    assert_eq!(scene.bench.states().await, "stopping 1");
    let (launches, stops) = (scene.cloud.calls("RunInstances").len(), scene.cloud.calls("StopInstances").len());
    assert!(launches == 1 && (2..=3).contains(&stops), "{launches} launches, {stops} stops in 20 minutes");
    ends_clean(&scene).await;
}

/// FAILURES.md row 11: neither by settings nor by a change of them is a spot instance stopped.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn spot_is_never_stopped(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let market = async |market| {
        scene
            .set(|settings| {
                settings.preallocated.machine = 1;
                settings.resource_classes.get_mut("medium").unwrap().ec2.market = market;
            })
            .await;
    };
    market(vm_service::domain::ec2::Market::Spot).await;
    scene.bench.turn_until_states("available 1", 60).await;
    let spot = scene.live().await;
    // The base goes, a reserve comes: the spot VM is spare, and not fit for it.
    market(vm_service::domain::ec2::Market::OnDemand).await;
    scene.set(|settings| settings.preallocated.machine = 0).await;
    resize(&scene, 1).await;
    rested(&scene, 120).await;
    scene.turn(90).await;
    assert_ne!([only_stopped(&scene).await], *spot);
    let stopped: Vec<String> =
        scene.cloud.calls("StopInstances").iter().map(|it| it.params.get("InstanceId.1").unwrap().to_owned()).collect();
    assert!(!stopped.contains(&spot[0]) && !scene.live().await.contains(&spot[0]), "{stopped:?}");
    ends_clean(&scene).await;
}

/// Said at the launch, and at the stop.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hibernating_class_says_so(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.set(|settings| settings.resource_classes.get_mut("medium").unwrap().reserve.hibernate = true).await;
    resize(&scene, 1).await;
    rested(&scene, 60).await;
    let said = |action, name: &str| scene.cloud.calls(action)[0].params.get(name).map(str::to_owned);
    assert_eq!(said("RunInstances", "HibernationOptions.Configured").as_deref(), Some("true"));
    assert_eq!(said("StopInstances", "Hibernate").as_deref(), Some("true"));
    ends_clean(&scene).await;
}
