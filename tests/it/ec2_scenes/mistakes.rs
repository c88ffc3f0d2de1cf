//! What operators get wrong: one clear sentence on the waiting task, and never a loop that spends money.

use super::scene::Scene;
use crate::ec2_wire::faults::Fault;
use sqlx::PgPool;
use vm_service::domain::ec2::Architecture;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::settings::Settings;

/// A job under these settings and faults: what its timeline says after two minutes, and how often RunInstances was called.
async fn told(pool: PgPool, fault: Option<Fault>, change: impl FnOnce(&mut Settings)) -> (String, usize) {
    let scene = Scene::new(pool).await;
    scene.set(change).await;
    if let Some(fault) = fault {
        scene.cloud.inject(fault.always());
    }
    let task = scene.bench.ask(&scene.bench.request("p")).await.view.id;
    scene.turn(120).await;
    assert_ne!(scene.bench.state(task).await, TaskState::Ready);
    let mut lines = scene.bench.timeline(task).await;
    lines.extend(scene.bench.task(task).await.view.failure.map(|failure| failure.detail));
    assert!(scene.cloud.instances().await.is_empty(), "nothing was made");
    let calls = scene.cloud.calls("RunInstances").len();
    scene.cloud.lift_all();
    (lines.join("\n"), calls)
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_image_that_does_not_exist(pool: PgPool) {
    let (lines, calls) = told(pool, None, |settings| {
        settings.ec2.images.insert("eu-west-1".to_owned(), "ami-0123456789abcdef0".to_owned());
    })
    .await;
    assert!(lines.contains("there is no image ami-0123456789abcdef0 in eu-west-1"), "{lines}");
    assert_eq!(calls, 0);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_image_at_all(pool: PgPool) {
    let (lines, calls) = told(pool, None, |settings| {
        settings.ec2.images.clear();
        settings.resource_classes.get_mut("medium").unwrap().ec2.architecture = Architecture::Arm64;
    })
    .await;
    assert!(lines.contains("no image is set for eu-west-1, and Canonical publishes none there"), "{lines}");
    assert_eq!(calls, 0);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_action_that_is_denied(pool: PgPool) {
    let (lines, calls) = told(pool, Some(Fault::unauthorized("RunInstances")), |_| {}).await;
    assert!(lines.contains("UnauthorizedOperation") && lines.contains("vm-service iam-policy"), "{lines}");
    assert!(calls <= 4, "{calls} calls");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_key_that_has_expired(pool: PgPool) {
    let (lines, calls) = told(pool, Some(Fault::expired()), |_| {}).await;
    assert!(lines.contains("out of date, or this machine's clock is wrong"), "{lines}");
    assert!(calls <= 4, "{calls} calls");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_subnet_that_does_not_exist(pool: PgPool) {
    let (lines, calls) = told(pool, None, |settings| settings.ec2.subnets = vec!["subnet-0123456789abcdef0".to_owned()]).await;
    assert!(lines.contains("InvalidSubnetID.NotFound") && lines.contains("subnet-0123456789abcdef0"), "{lines}");
    assert!(calls <= 4, "{calls} calls");
}
