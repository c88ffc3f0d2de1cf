//! Classes with GPUs on the simulated cloud: their images, their limit, and VMs that are free only when their GPUs work.

use crate::image_scenes::wanted;
use crate::support::Bench;
use garde::Validate as _;
use sqlx::PgPool;
use vm_service::domain::image::{ImageKind, WantedImage};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::domain::task::{Executor, TaskRequest};
use vm_service::sim::{Fault, Rules, SimImage};

impl Bench {
    /// A class of two GPUs, with an image for it that is promoted.
    async fn with_gpus(&self) {
        self.set(|settings| {
            let mut class = settings.resource_classes["medium"].clone();
            class.gpus = 2;
            settings.resource_classes.insert("gpu".to_owned(), class);
        })
        .await;
        self.sim.put_image("cuda", SimImage::default());
        let cuda = WantedImage { kind: ImageKind::Gpu, ..wanted("cuda") };
        let image = self.register(vec![cuda], 0).await.unwrap()[0];
        self.promote(image).await;
    }

    fn gpu_request(&self, project: &str, executor: Executor) -> TaskRequest {
        TaskRequest { resource_class: "gpu".to_owned(), executor, ..self.request(project) }
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn both_executors_get_vms_of_the_image_for_gpus(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.with_gpus().await;
    for executor in [Executor::Machine, Executor::RemoteDocker] {
        let task = bench.ask(&bench.gpu_request("p", executor)).await.view.id;
        bench.turn_until(task, TaskState::Ready, 20).await;
        let machine = bench.task(task).await.view.vm.unwrap().provider_id.unwrap();
        assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("cuda"));
    }
    let (_, _, machine) = bench.job("other").await;
    assert_eq!(bench.sim.live()[&machine].image.as_deref(), Some("image-of-all"), "a class without GPUs does not");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_vm_whose_gpus_do_not_work_is_never_free_and_says_why(pool: PgPool) {
    for executor in [Executor::Machine, Executor::RemoteDocker] {
        let bench = Bench::new(pool.clone()).await;
        bench.with_gpus().await;
        bench.sim.inject(Fault::GpusMissing);
        let task = bench.ask(&bench.gpu_request("p", executor)).await.view.id;
        bench.turn_until(task, TaskState::Ready, 120).await;
        let failed = "select count(*) from vms.vms where start_failed_at is not null and available_at is null
                        and reason like '%GPUs: nvidia-smi shows 0 GPUs of 2%'";
        assert_eq!(bench.count(failed).await, 1);
        bench.db.release_task(task, bench.now()).await.unwrap();
        bench.turn(10).await;
        sqlx::query("delete from vms.tasks").execute(&pool).await.unwrap();
        sqlx::query("delete from vms.vms").execute(&pool).await.unwrap();
        sqlx::query("delete from vms.losses").execute(&pool).await.unwrap();
        sqlx::query("delete from vms.images").execute(&pool).await.unwrap();
        sqlx::query("delete from vms.breakers").execute(&pool).await.unwrap();
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn without_an_image_for_them_nothing_is_launched_and_the_task_is_told(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.resource_classes.get_mut("medium").unwrap().gpus = 1).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn(120).await;
    assert_eq!(bench.sim.calls("launch"), 0);
    let timeline = bench.timeline(task).await.join("\n");
    assert!(timeline.contains("needs an image of the kind gpu"), "{timeline}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_limit_counts_gpus_and_other_classes_go_on(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.with_gpus().await;
    bench.set(|settings| settings.limits.gpus = Some(5)).await;
    let mut tasks = Vec::new();
    for n in 0..4 {
        tasks.push(bench.ask(&bench.gpu_request(&format!("p{n}"), Executor::Machine)).await.view.id);
    }
    bench.turn(20).await;
    let ready = "select count(*) from vms.tasks where state = 'ready' and resource_class = 'gpu'";
    assert_eq!(bench.count(ready).await, 2, "two of two GPUs each, of five");
    let waits = bench.timeline(tasks[3]).await.join("\n");
    assert!(waits.contains("As many GPUs are in use as may be"), "{waits}");
    bench.job("other").await;
    bench.db.release_task(tasks[0], bench.now()).await.unwrap();
    bench.turn(20).await;
    assert_eq!(bench.count(ready).await, 2, "the next one came when one went");
    assert_eq!(bench.sim.calls("launch"), 4, "nothing was launched past it");
}

/// The account's own limit of GPUs: no room, and no failed start.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_clouds_own_limit_of_gpus_is_no_room(pool: PgPool) {
    let bench = Bench::with(pool, Rules { gpus: Some(2), ..Rules::obliging() }).await;
    bench.with_gpus().await;
    for n in 0..2 {
        bench.ask(&bench.gpu_request(&format!("p{n}"), Executor::Machine)).await;
    }
    bench.turn(60).await;
    assert_eq!(bench.count("select count(*) from vms.tasks where state = 'ready'").await, 1);
    assert_eq!(bench.count("select count(*) from vms.vms where start_failed_at is not null").await, 0);
}

#[test]
fn a_host_has_no_gpus_for_its_vms() {
    let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
    settings.validate().unwrap();
    settings.resource_classes.get_mut("large").unwrap().gpus = 1;
    let said = settings.validate().unwrap_err().to_string();
    assert!(said.contains("the class \"large\" has GPUs, and VMs on this host have none"), "{said}");
    settings.provider = ProviderChoice::Ec2;
    settings.validate().unwrap();
}
