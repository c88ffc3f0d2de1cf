//! Answers to RunInstances that are lost, late, fewer or refused: what was made is served, and made once.

use super::scene::Scene;
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::journal::Outcome;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sqlx::PgPool;
use std::time::Duration;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::preallocated::Pool;
use vm_service::domain::task::Executor;
use vm_service::loops::Loop as _;
use vm_service::loops::assign::Assign;
use vm_service::loops::launch::Launch;
use vm_service::provider::Provider as _;

/// The whole way, and what the wire saw of it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_job_has_a_machine_and_leaves_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (task, machine) = scene.job().await;
    let truth = scene.cloud.instances().await;
    let truth = truth.iter().find(|it| it.id == machine).unwrap();
    let row = scene.bench.task(task).await;
    assert_eq!(row.way_in.unwrap().address, truth.address, "the private one");
    let launch = truth.tags["vm-service:launch"].clone();
    assert_eq!(truth.token, format!("{launch}-1"));
    assert_eq!((truth.instance_type.as_str(), truth.zone.as_str()), ("m5.large", scene.cloud.subnets()[0].zone.as_str()));
    scene.ends_clean().await;
    assert_eq!(scene.cloud.calls("CreateTags").len(), 0);
    assert_eq!(scene.cloud.calls("RunInstances").len(), 1);
}

/// Without an image of one's own it is Canonical's newest, and the user data prepares it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn without_an_image_it_is_canonicals_newest(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.set(|settings| settings.ec2.images.clear()).await;
    scene.job().await;
    let call = scene.cloud.calls("RunInstances").remove(0).params;
    assert_eq!(call.get("ImageId"), Some(scene.cloud.canonical_image().as_str()));
    let data = BASE64.decode(call.get("UserData").unwrap()).unwrap();
    assert!(String::from_utf8_lossy(&data).contains("/run/vm-service-ami/first-boot"));
    let looks = scene.cloud.calls("DescribeImages");
    assert_eq!(looks[0].params.get("Owner.1"), Some("099720109477"));
    scene.job().await;
    assert_eq!(scene.cloud.calls("DescribeImages").len(), looks.len(), "once an hour");
    scene.ends_clean().await;
}

/// What is proved on the simulated cloud about calls and times holds here only at the same pace.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_pace_is_that_of_the_simulated_cloud(pool: PgPool) {
    let scene = Scene::new(pool).await;
    assert_eq!(scene.ec2.pace(), vm_service::sim::Rules::default().pace);
}

/// The contract of every provider.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_contract_holds(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let pass = async || scene.cloud.pass(Duration::from_secs(5));
    let ours = scene.bench.world.installation;
    crate::contract::hold(scene.ec2.as_ref(), ours, "#cloud-config\n", "i-0123456789abcdef0", pass).await;
}

/// FAILURES.md row 1: the service dies, or the connection, after the launch succeeded.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_answer_makes_no_second_machine(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::lose_answer("RunInstances").times(2));
    let (_, machine) = scene.job().await;
    assert_eq!(scene.live().await, [machine]);
    let tokens: Vec<String> =
        scene.cloud.calls("RunInstances").iter().map(|it| it.params.get("ClientToken").unwrap().to_owned()).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    scene.ends_clean().await;
}

/// The same for a fleet: its machines are found by their token, or by their tags.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_lost_answer_makes_no_second_fleet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene
        .set(|settings| {
            let types = ["m7i.large", "m6i.large"].map(str::to_owned);
            settings.resource_classes.get_mut("medium").unwrap().ec2.instance_types = types.to_vec();
        })
        .await;
    scene.cloud.inject(Fault::lose_answer("CreateLaunchTemplate"));
    scene.cloud.inject(Fault::lose_answer("CreateFleet").times(2));
    let (task, machine) = scene.job().await;
    assert_eq!(scene.live().await, std::slice::from_ref(&machine));
    let truth = scene.cloud.instances().await.remove(0);
    assert_eq!((truth.id, truth.instance_type.as_str()), (machine, "m7i.large"));
    assert!(truth.tags.contains_key("vm-service:launch"));
    assert_eq!(scene.bench.task(task).await.way_in.unwrap().address, truth.address);
    let fleets = scene.cloud.calls("CreateFleet");
    assert!(fleets.len() == 3 && fleets.iter().all(|it| it.params == fleets[0].params), "the same token and parameters");
    scene.ends_clean().await;
}

/// The same with a process that is killed while it waits for the answer: the settings have changed when another goes on.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_killed_service_makes_no_second_machine(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.bench.tick(&Assign(scene.bench.world.clone())).await;
    // The request has arrived; its caller is gone before the machine is made.
    scene.cloud.inject(Fault::lose_answer("RunInstances"));
    let acts = Launch(scene.bench.world.clone()).tick(scene.bench.now(), 64).await.unwrap();
    for act in acts {
        tokio::select! {
            _ = act.run => {}
            () = until(|| scene.cloud.calls("RunInstances").len() == 1) => {}
        }
    }
    until(|| scene.cloud.calls("RunInstances")[0].outcome == Outcome::AnswerLost).await;
    assert_eq!(scene.live().await.len(), 1, "made, and nobody knows");
    scene
        .set(|settings| {
            settings.ec2.instance_type = "m6i.large".to_owned();
            settings.ec2.subnets.reverse();
        })
        .await;
    scene.ready(task, 60).await;
    assert_eq!(scene.live().await.len(), 1);
    scene.ends_clean().await;
}

async fn until(is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(120), "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// FAILURES.md row 5: "not found" just after the launch means "not yet".
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn not_found_after_a_launch_means_not_yet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::unknown_for(Duration::from_secs(90)));
    scene.cloud.inject(Fault::unlisted_for("RunInstances", Duration::from_secs(90)));
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.turn(80).await;
    assert_eq!((scene.bench.state(task).await, scene.cloud.faults_waiting()), (TaskState::Queued, 0));
    scene.ready(task, 60).await;
    assert_eq!(scene.cloud.instances().await.len(), 1, "the first machine was kept");
    scene.ends_clean().await;
}

/// An account that is throttled for minutes is not asked more often than its budget refills: there is one place that asks again.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn retries_keep_to_the_budget(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let fault = scene.cloud.inject(Fault::throttle("RunInstances").always());
    scene
        .set(|settings| {
            let pool = |executor, class: &str| Pool { executor, resource_class: class.to_owned(), count: 1 };
            let classes = ["medium", "large"];
            let pools = classes.map(|class| [pool(Executor::Machine, class), pool(Executor::RemoteDocker, class)]);
            settings.preallocated.pools = pools.into_iter().flatten().collect();
        })
        .await;
    scene.turn(60).await;
    let calls = scene.cloud.calls("RunInstances").len();
    // Five at once, then two a second; four launches alone would ask four times a second.
    assert!((100..=5 + 2 * 60 * 6 / 5).contains(&calls), "{calls} calls in a minute");
    scene.cloud.lift(fault);
    scene.bench.turn_until_states("available 4", 30).await;
    assert_eq!(scene.live().await.len(), 4);
    scene.set(|settings| settings.preallocated.pools.clear()).await;
    scene.ends_clean().await;
}

/// FAILURES.md row 15: a throttled call is put back, whole.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_throttled_batch_is_put_back(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.set(|settings| settings.preallocated.machine = 20).await;
    scene.cloud.inject(Fault::throttle("RunInstances").times(3));
    scene.cloud.inject(Fault::throttle("DescribeInstances").times(2));
    for _ in 0..60 {
        scene.turn(1).await;
        // What was throttled rests, by the clock of the process: half a second, then one.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if scene.bench.states().await == "available 20" {
            break;
        }
    }
    assert_eq!(scene.bench.states().await, "available 20");
    assert_eq!(scene.live().await.len(), 20);
    assert_eq!(scene.cloud.calls("RunInstances").len(), 4, "one launch of twenty, three times throttled");
    scene.cloud.inject(Fault::throttle("TerminateInstances").times(2));
    scene.set(|settings| settings.preallocated.machine = 0).await;
    scene.ends_clean().await;
}

/// What a throttled call asked for is asked for again, also under newer settings: its token must not meet other parameters.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_throttled_call_keeps_its_parameters(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::throttle("RunInstances"));
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    while scene.cloud.calls("RunInstances").is_empty() {
        scene.turn(1).await;
    }
    scene.set(|settings| settings.ec2.instance_type = "m6i.large".to_owned()).await;
    scene.cloud.inject(Fault::lose_answer("RunInstances"));
    scene.ready(task, 60).await;
    let types: Vec<String> =
        scene.cloud.calls("RunInstances").iter().map(|it| it.params.get("InstanceType").unwrap().to_owned()).collect();
    assert_eq!(types, ["m5.large", "m5.large", "m5.large"]);
    assert_eq!(scene.cloud.instances().await.len(), 1);
    scene.ends_clean().await;
}

/// EC2 may give fewer than asked for: the rest is asked for anew.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn fewer_than_asked_for_are_made_up_for(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::fewer(3));
    scene.set(|settings| settings.preallocated.machine = 8).await;
    for _ in 0..60 {
        scene.turn(1).await;
        if scene.bench.states().await == "available 8" {
            break;
        }
    }
    assert_eq!((scene.bench.states().await.as_str(), scene.live().await.len()), ("available 8", 8));
    scene.set(|settings| settings.preallocated.machine = 0).await;
    scene.ends_clean().await;
}

/// Somebody ends a machine at AWS's console under its job: the job is told, with a reason to act on.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_machine_that_dies_under_its_job_is_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (task, machine) = scene.job().await;
    scene.cloud.behind_our_back("TerminateInstances", &[("InstanceId.1", &machine)]).await;
    for _ in 0..120 {
        scene.turn(1).await;
        if scene.bench.state(task).await == TaskState::Failed {
            break;
        }
    }
    let failure = scene.bench.task(task).await.view.failure.unwrap();
    assert_eq!(serde_json::to_value(failure.code).unwrap(), "vm_lost", "{}", failure.detail);
    assert!(failure.detail.contains("User initiated"), "why, in the provider's words: {}", failure.detail);
    scene.ends_clean().await;
}

/// A machine with our tag and no row: two lists, a look, and its end.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_leaked_machine_is_collected_and_others_are_left_alone(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, machine) = scene.job().await;
    let ours = scene.bench.world.installation.to_string();
    let make = async |installation: &str| {
        let (image, subnet) = (scene.cloud.image(), scene.cloud.subnets()[0].id.clone());
        let tags = [
            ("vm-service:installation", installation),
            ("vm-service:launch", "00000000-0000-0000-0000-0000000003e7"),
            ("vm-service:executor", "machine"),
            ("vm-service:class", "medium"),
            ("vm-service:origin", "on_demand"),
            ("vm-service:created-at", "2026-09-01T00:00:00Z"),
        ];
        let mut params = vec![
            ("ImageId".to_owned(), image),
            ("InstanceType".to_owned(), "m5.large".to_owned()),
            ("SubnetId".to_owned(), subnet),
            ("MinCount".to_owned(), "1".to_owned()),
            ("MaxCount".to_owned(), "1".to_owned()),
            ("TagSpecification.1.ResourceType".to_owned(), "instance".to_owned()),
        ];
        for (nth, (key, value)) in tags.into_iter().enumerate() {
            params.push((format!("TagSpecification.1.Tag.{}.Key", nth + 1), key.to_owned()));
            params.push((format!("TagSpecification.1.Tag.{}.Value", nth + 1), value.to_owned()));
        }
        let params: Vec<(&str, &str)> = params.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        scene.cloud.behind_our_back("RunInstances", &params).await
    };
    make(&ours).await;
    make("7c4e0f3e-0000-4000-8000-000000000001").await;
    assert_eq!(scene.live().await.len(), 3);
    scene.turn(120).await;
    let left = scene.live().await;
    assert!(left.len() == 2 && left.contains(&machine), "{left:?}");
    let of_another = left.into_iter().find(|id| *id != machine).unwrap();
    scene.cloud.behind_our_back("TerminateInstances", &[("InstanceId.1", &of_another)]).await;
    scene.ends_clean().await;
}
