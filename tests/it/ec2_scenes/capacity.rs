//! Where one candidate has no room the next is asked in the same pass; where none has, the job waits and is told why.

use super::scene::Scene;
use crate::ec2_wire::faults::Fault;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::ec2::Market;
use vm_service::domain::lifecycle::TaskState;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_room_in_one_zone_is_found_in_the_next_in_the_same_pass(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let zones: Vec<String> = scene.cloud.subnets().into_iter().map(|it| it.zone).collect();
    scene.cloud.inject(Fault::no_capacity("RunInstances").in_zone(&zones[0]).always());
    let (_, machine) = scene.job().await;
    let truth = scene.cloud.instances().await;
    assert_eq!(truth.iter().find(|it| it.id == machine).unwrap().zone, zones[1]);
    let calls = scene.cloud.calls("RunInstances");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0].params.get("ClientToken"), calls[1].params.get("ClientToken"), "other parameters, another token");
    // The next job does not begin with what has no room.
    scene.job().await;
    assert_eq!(scene.cloud.calls("RunInstances").len(), 3);
    scene.ends_clean().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn several_types_are_one_fleet_in_the_operators_order(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene
        .set(|settings| {
            let class = settings.resource_classes.get_mut("medium").unwrap();
            class.ec2.instance_types = vec!["m7i.large".to_owned(), "m6i.large".to_owned()];
            class.ec2.market = Market::SpotThenOnDemand;
        })
        .await;
    scene.cloud.inject(Fault::no_capacity("CreateFleet").of_type("m7i.large").always());
    scene.cloud.inject(Fault::quota("CreateFleet", "MaxSpotInstanceCountExceeded").market(true).always());
    let (_, machine) = scene.job().await;
    let truth = scene.cloud.instances().await;
    let truth = truth.iter().find(|it| it.id == machine).unwrap();
    assert_eq!((truth.instance_type.as_str(), truth.spot), ("m6i.large", false));
    let fleets = scene.cloud.calls("CreateFleet");
    let asked = |nth: usize, name: &str| -> Vec<String> {
        let at = "LaunchTemplateConfigs.1.Overrides";
        let entries = fleets[nth].params.entries(at);
        entries.iter().map(|entry| fleets[nth].params.get(&format!("{entry}.{name}")).unwrap().to_owned()).collect()
    };
    assert_eq!(fleets.len(), 2, "spot, then on demand, in one pass");
    assert_eq!(asked(0, "InstanceType"), ["m7i.large", "m7i.large", "m6i.large", "m6i.large"]);
    assert_eq!(asked(0, "Priority"), ["0", "1", "2", "3"].map(|nth| format!("{nth}.0")));
    scene.job().await;
    assert_eq!(scene.cloud.calls("CreateFleet").len(), 3, "what has no room is not asked again");
    assert_eq!(
        (scene.cloud.calls("CreateLaunchTemplate").len(), scene.cloud.calls("RunInstances").len()),
        (2, 0),
        "one a market, once"
    );
    scene.ends_clean().await;

    scene.cloud.lift_all();
    scene.bench.clock.advance(TimeDelta::minutes(1));
    scene
        .set(|settings| {
            let class = settings.resource_classes.get_mut("medium").unwrap();
            class.ec2.instance_types = vec!["t3.large".to_owned()];
            class.ec2.market = Market::Spot;
        })
        .await;
    let (_, machine) = scene.job().await;
    let truth = scene.cloud.instances().await;
    assert!(truth.iter().find(|it| it.id == machine).unwrap().spot);
    scene.ends_clean().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn without_room_anywhere_the_job_waits_with_its_reason(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::no_capacity("RunInstances").always());
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.turn(100).await;
    assert_eq!(scene.bench.state(task).await, TaskState::Queued);
    let asked = scene.cloud.calls("RunInstances").len();
    assert_eq!(asked, 2, "each subnet once, then none for some minutes");
    let timeline = scene.bench.timeline(task).await.join("\n");
    assert!(timeline.contains("InsufficientInstanceCapacity"), "{timeline}");
    scene.ends_clean().await;
    assert!(scene.cloud.instances().await.is_empty());
}

/// A quota of one market, or of one kind of machine, is none of the next: the same pass goes on there, and no later one begins with it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_quota_spills_over_where_the_operator_allows_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let allow = async |types: [&str; 2], market: Market| {
        scene
            .set(|settings| {
                let class = settings.resource_classes.get_mut("medium").unwrap();
                class.ec2.instance_types = types.map(str::to_owned).to_vec();
                class.ec2.market = market;
            })
            .await;
    };
    let asked = || scene.cloud.calls("RunInstances").len() + scene.cloud.calls("CreateFleet").len();
    let truth = async |machine: String| {
        let truth = scene.cloud.instances().await.into_iter().find(|it| it.id == machine).unwrap();
        (truth.instance_type, truth.spot)
    };
    scene.cloud.inject(Fault::quota("RunInstances", "MaxSpotInstanceCountExceeded").market(true).always());
    allow(["t3.large", "t3.large"], Market::SpotThenOnDemand).await;
    assert_eq!(truth(scene.job().await.1).await, ("t3.large".to_owned(), false));
    assert_eq!(asked(), 2);
    assert_eq!(truth(scene.job().await.1).await, ("t3.large".to_owned(), false));
    assert_eq!(asked(), 3);

    scene.cloud.inject(Fault::quota("CreateFleet", "InstanceLimitExceeded").of_type("m7i.large").market(false).always());
    allow(["m7i.large", "m6i.large"], Market::OnDemand).await;
    assert_eq!(truth(scene.job().await.1).await, ("m6i.large".to_owned(), false));
    assert_eq!(asked(), 4, "both types in one fleet");
    assert_eq!(truth(scene.job().await.1).await, ("m6i.large".to_owned(), false));
    assert_eq!(asked(), 5);
    scene.ends_clean().await;

    // Where nothing else is allowed the job waits, and is told.
    allow(["t3.large", "t3.large"], Market::Spot).await;
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.cloud.inject(Fault::quota("RunInstances", "MaxSpotInstanceCountExceeded").market(true).always());
    scene.turn(60).await;
    assert_eq!((scene.bench.state(task).await, asked()), (TaskState::Queued, 5), "it is known already");
    let timeline = scene.bench.timeline(task).await.join("\n");
    assert!(timeline.contains("t3.large spot in subnet-") && timeline.contains("MaxSpotInstanceCountExceeded"), "{timeline}");
    scene.ends_clean().await;
}

/// FAILURES.md row 16: a quota is no passing trouble, and another market may have room.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_quota_is_told_and_not_asked_again_and_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::quota("RunInstances", "VcpuLimitExceeded").always());
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.turn(100).await;
    assert_eq!(scene.bench.state(task).await, TaskState::Queued);
    assert_eq!(scene.cloud.calls("RunInstances").len(), 1, "a quota holds in every subnet");
    let timeline = scene.bench.timeline(task).await.join("\n");
    assert!(timeline.contains("VcpuLimitExceeded"), "{timeline}");
    scene.ends_clean().await;
}
