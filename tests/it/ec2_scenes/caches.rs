//! Cached jobs over the foreign wire: what a project's second job costs, and that nothing is torn off.

use super::scene::Scene;
use sqlx::PgPool;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::task::TaskRequest;

/// Calls that change something, other than for machines.
const CHANGES: [&str; 5] = ["CreateVolume", "AttachVolume", "DetachVolume", "CreateSnapshot", "DeleteVolume"];

impl Scene {
    async fn cached(&self) -> TaskId {
        let request = TaskRequest { docker_layer_caching: true, ..self.bench.request("p") };
        let task = self.bench.ask(&request).await.view.id;
        self.ready(task, 120).await;
        task
    }

    fn changes(&self) -> Vec<usize> {
        CHANGES.iter().map(|action| self.cloud.calls(action).len()).collect()
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_project_keeps_its_volume_and_the_second_job_costs_one_change_on_its_path(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let first = scene.cached().await;
    assert_eq!(scene.changes(), [1, 1, 0, 0, 0]);
    // The roots of machines are volumes too.
    let volumes = scene.cloud.volumes().await;
    let made = volumes.iter().find(|volume| volume.tags.contains_key("vm-service:project")).unwrap();
    let tag = |name: &str| made.tags.get(name).cloned().unwrap_or_default();
    assert_eq!((tag("vm-service:project"), tag("vm-service:trust"), made.encrypted), ("p".into(), "trusted".into(), true));
    let machine = scene.bench.task(first).await.view.vm.unwrap().provider_id.unwrap();
    assert_eq!(made.attached.as_ref().map(|(on, _)| on), Some(&machine));
    scene.bench.db.release_task(first, scene.bench.now()).await.unwrap();
    scene.turn(40).await;
    assert_eq!(scene.changes(), [1, 1, 1, 1, 0], "unmounted, detached, kept as a snapshot");
    let order = ["DetachVolume", "TerminateInstances"].map(|action| scene.cloud.calls(action)[0].at);
    assert!(order[0] <= order[1], "detached before its machine ends");

    let second = scene.cached().await;
    assert_eq!(scene.changes(), [1, 2, 1, 1, 0], "one change on the path of a job that finds a free volume");
    let cache = |row: vm_service::db::rows::TaskRow| row.view.cache.unwrap().volume_id.unwrap();
    assert_eq!(cache(scene.bench.task(first).await), cache(scene.bench.task(second).await));
    scene.bench.db.release_task(second, scene.bench.now()).await.unwrap();
    scene.turn(40).await;
    assert_eq!(scene.changes(), [1, 2, 2, 1, 0], "one snapshot an hour");
    assert_eq!(scene.bench.state(second).await, TaskState::Released);
    scene.ends_clean().await;
    assert!(scene.cloud.volumes().await.iter().all(|volume| volume.attached.is_none()));
}
