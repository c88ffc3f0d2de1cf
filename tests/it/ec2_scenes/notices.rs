//! What AWS announces about machines is told on the task that has one, and no task is put on a machine that is about to end.

use super::scene::Scene;
use crate::ec2_wire::notices::Announced;
use sqlx::PgPool;
use vm_service::domain::ec2::Market;
use vm_service::domain::lifecycle::TaskState;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_scheduled_event_is_told_once_and_the_job_goes_on(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (task, machine) = scene.job().await;
    let description = "The instance is running on degraded hardware";
    scene.cloud.announce(&machine, Announced::Event("instance-retirement", description));
    scene.cloud.announce("i-0123456789abcdef0", Announced::Event("instance-stop", "somebody else's"));
    scene.turn(200).await;
    assert_eq!(scene.bench.state(task).await, TaskState::Ready);
    let told: Vec<String> = scene.bench.timeline(task).await.into_iter().filter(|line| line.contains("notice")).collect();
    let sentence = "AWS has scheduled instance-retirement from 2026-12-01 04:00 UTC on";
    assert_eq!(told, [format!("The provider gives notice: {sentence}: {description}")]);
    let asked = scene.cloud.calls("DescribeInstanceStatus").len();
    assert!((3..=5).contains(&asked), "{asked} calls in about 200 s");
    assert_eq!(scene.cloud.calls("DescribeSpotInstanceRequests").len(), 0, "no class uses spot");
    scene.ends_clean().await;
}

/// Two minutes of notice: a busy VM's task is told, a free VM is replaced before a task gets it.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_spot_machine_that_is_taken_back(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene
        .set(|settings| {
            settings.resource_classes.get_mut("medium").unwrap().ec2.market = Market::Spot;
            settings.preallocated.machine = 1;
        })
        .await;
    let (task, busy) = scene.job().await;
    scene.bench.turn_until_states("assigned 1, available 1", 60).await;
    let free = scene.live().await.into_iter().find(|machine| *machine != busy).unwrap();
    scene.cloud.announce(&busy, Announced::TakenBack);
    scene.cloud.announce(&free, Announced::TakenBack);
    // Somebody has told it already, and was killed before the VM left the pool.
    let sentence = "AWS takes this spot machine back within two minutes.";
    let noted = scene.bench.db.note_notice(("ec2", scene.cloud.region()), &free, sentence, scene.bench.now()).await.unwrap();
    assert!(noted.is_some_and(|(_, _, news)| news));
    scene.turn(45).await;
    let timeline = scene.bench.timeline(task).await.join("\n");
    assert!(timeline.contains("AWS takes this spot machine back within two minutes"), "{timeline}");
    assert_eq!(scene.bench.state(task).await, TaskState::Ready);
    let live = scene.live().await;
    assert!(live.contains(&busy) && !live.contains(&free), "{live:?}");
    assert!(scene.bench.states().await.contains("available 1"), "a fresh one took its place");
    scene.set(|settings| settings.preallocated.machine = 0).await;
    scene.ends_clean().await;
}
