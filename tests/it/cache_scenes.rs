//! The layer cache from a task to the next one of its project, on the simulated cloud.

use crate::support::{Bench, lineage};
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::db::volume_list::VolumeFilter;
use vm_service::domain::ids::{TaskId, VolumeId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::TaskRequest;
use vm_service::provider::MachineState;
use vm_service::sim::{Fault, Rules, VolumeLink, VolumeTruth};

impl Bench {
    pub(crate) fn cached(&self, project: &str) -> TaskRequest {
        TaskRequest { docker_layer_caching: true, ..self.request(project) }
    }

    /// A cached task that is ready, and its machine.
    pub(crate) async fn cached_job(&self, request: &TaskRequest) -> (TaskId, String) {
        let task = self.ask(request).await.view.id;
        self.turn_until(task, TaskState::Ready, 120).await;
        (task, self.task(task).await.view.vm.unwrap().provider_id.unwrap())
    }

    /// What the task says of its cache: hit, and why.
    pub(crate) async fn cache(&self, task: TaskId) -> (bool, String) {
        let cache = self.task(task).await.view.cache.unwrap();
        (cache.hit, cache.reason)
    }

    /// The job is over; everything comes to rest.
    pub(crate) async fn over(&self, task: TaskId) {
        self.db.release_task(task, self.now()).await.unwrap();
        self.turn(10).await;
    }

    pub(crate) fn volumes(&self) -> Vec<VolumeTruth> {
        self.sim.volumes_truth().into_iter().filter(|it| it.link != VolumeLink::Deleted).collect()
    }

    /// The newest row of a project's volume.
    pub(crate) async fn volume_of(&self, project: &str) -> VolumeId {
        let filter = VolumeFilter { project: Some(project.to_owned()), limit: 1, ..VolumeFilter::default() };
        self.db.list_volume_views(&filter).await.unwrap()[0].id
    }
}

pub(crate) async fn small(pool: PgPool) -> Bench {
    Bench::with(pool, Rules::obliging()).await
}

/// Snapshots as on EC2, one zone.
async fn hourly(pool: PgPool) -> Bench {
    let rules = Rules::default();
    Bench::with(pool, Rules { copies: rules.copies, snapshot_takes: rules.snapshot_takes, ..Rules::obliging() }).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_second_job_of_a_project_finds_what_the_first_left(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    let (hit, reason) = bench.cache(first).await;
    assert!(!hit && reason.contains("is new"), "{reason}");
    bench.sim.use_layers(&machine, &[("base", 100), ("app", 10)]);
    bench.over(first).await;
    assert!(!bench.lives(&machine), "the VM does not outlive its job");
    assert_eq!(bench.volumes()[0].link, VolumeLink::Free);

    let (second, machine) = bench.cached_job(&bench.cached("p")).await;
    let (hit, reason) = bench.cache(second).await;
    assert!(hit, "{reason}");
    let volume = bench.volumes()[0].clone();
    assert_eq!((bench.volumes().len(), volume.link), (1, VolumeLink::Attached(machine)));
    assert_eq!(volume.content.layers.len(), 2);
    assert_eq!(bench.task(second).await.view.cache.unwrap().volume_id, Some(volume.tags.volume));

    let (other, machine) = bench.cached_job(&bench.cached("q")).await;
    assert!(!bench.cache(other).await.0, "another project finds nothing");
    let theirs = bench.volumes().into_iter().find(|it| it.link == VolumeLink::Attached(machine.clone())).unwrap();
    assert_eq!(theirs.content.written_by, [lineage("q")].into());
    assert_eq!(bench.sim.snapshots_truth().len(), 1, "one good state is kept");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn it_comes_while_the_vm_boots_and_late_to_a_preallocated_one(pool: PgPool) {
    let seconds = |n| vm_service::sim::Spread::exactly(TimeDelta::seconds(n));
    let bench = Bench::with(pool, Rules { volume_moves_in: seconds(4), answers_after: seconds(20), ..Rules::obliging() }).await;
    let (first, _) = bench.cached_job(&bench.cached("p")).await;
    bench.over(first).await;
    let asked_at = bench.now();
    let (second, _) = bench.cached_job(&bench.cached("p")).await;
    let waited = (bench.now() - asked_at).num_seconds();
    assert!(waited <= 23, "{waited} s with {:#?}", bench.timeline(second).await);
    bench.over(second).await;

    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 60).await;
    let asked_at = bench.now();
    let (third, _) = bench.cached_job(&bench.cached("p")).await;
    let waited = (bench.now() - asked_at).num_seconds();
    assert!((4..=7).contains(&waited), "{waited} s: the attachment, and no boot");
    assert!(bench.task(third).await.view.vm.unwrap().origin == vm_service::domain::tags::Origin::Preallocated);
}

/// Five at once, the long one in the middle: its layers are what the next one finds.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn of_parallel_jobs_the_long_ones_layers_stay(pool: PgPool) {
    for bench in [small(pool.clone()).await] {
        let (first, machine) = bench.cached_job(&bench.cached("p")).await;
        bench.sim.use_layers(&machine, &[("base", 100)]);
        bench.over(first).await;
        let mut jobs = Vec::new();
        for _ in 0..5 {
            jobs.push(bench.ask(&bench.cached("p")).await.view.id);
        }
        for job in &jobs {
            bench.turn_until(*job, TaskState::Ready, 120).await;
            assert!(bench.cache(*job).await.0, "each has a copy: {:?}", bench.cache(*job).await);
        }
        for (nth, job) in jobs.iter().enumerate() {
            let machine = bench.task(*job).await.view.vm.unwrap().provider_id.unwrap();
            let own = format!("own-{nth}");
            bench.sim.use_layers(&machine, &[("base", 100), (&own, if nth == 2 { 5000 } else { 10 })]);
        }
        for nth in [2, 0, 1, 3, 4] {
            bench.over(jobs[nth]).await;
        }
        let (next, machine) = bench.cached_job(&bench.cached("p")).await;
        let content = bench.volumes().into_iter().find(|it| it.link == VolumeLink::Attached(machine.clone())).unwrap().content;
        assert!(content.layers.contains_key("own-2"), "{content:?} {:#?}", bench.timeline(next).await);
        assert_eq!(bench.volumes().len(), 1, "copies that are worth less are gone");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn busy_volumes_are_copied_from_the_snapshot_where_copies_cost_time(pool: PgPool) {
    let bench = hourly(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    let (busy, _) = bench.cached_job(&bench.cached("p")).await;
    let (early, _) = bench.cached_job(&bench.cached("p")).await;
    assert!(!bench.cache(early).await.0, "the snapshot is not completed yet: {:?}", bench.cache(early).await);
    bench.turn_by(10, TimeDelta::seconds(70)).await;
    let (late, _) = bench.cached_job(&bench.cached("p")).await;
    assert!(bench.cache(late).await.1.contains("a copy of the good state"), "{:?}", bench.cache(late).await);
    for task in [busy, early, late] {
        bench.over(task).await;
    }
    assert_eq!(bench.volumes().len(), 3, "volumes stay where copies cost time");
    assert_eq!(bench.sim.snapshots_truth().len(), 1, "one snapshot in an hour");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_untrusted_job_reads_a_copy_and_leaves_nothing(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    let outside = TaskRequest { cache_trust: Trust::Untrusted, ..bench.cached("p") };
    let (task, machine) = bench.cached_job(&outside).await;
    assert!(bench.cache(task).await.0, "it reads: {:?}", bench.cache(task).await);
    bench.sim.use_layers(&machine, &[("poison", 100_000)]);
    bench.over(task).await;
    for request in [&outside, &bench.cached("p")] {
        let (task, machine) = bench.cached_job(request).await;
        let content = bench.volumes().into_iter().find(|it| it.link == VolumeLink::Attached(machine.clone())).unwrap().content;
        assert_eq!(content.layers.keys().collect::<Vec<_>>(), ["base"]);
        assert!(bench.cache(task).await.0);
        bench.over(task).await;
    }
    let poisoned = |content: &vm_service::sim::Content| content.layers.contains_key("poison");
    assert!(
        !bench.volumes().iter().any(|it| poisoned(&it.content))
            && !bench.sim.snapshots_truth().iter().any(|it| poisoned(&it.content))
    );
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_vm_that_dies_takes_its_volume_out_of_service_and_not_the_good_state(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    let (task, machine) = bench.cached_job(&bench.cached("p")).await;
    let volume = bench.task(task).await.view.cache.unwrap().volume_id.unwrap();
    bench.sim.kill(&machine);
    bench.turn(30).await;
    assert_eq!(bench.state(task).await, TaskState::Failed);
    let sql = "select count(*) from vms.volumes where state = 'quarantined' and mounted";
    assert_eq!(bench.count(sql).await, 1);
    let (next, _) = bench.cached_job(&bench.cached("p")).await;
    let cache = bench.task(next).await.view.cache.unwrap();
    assert!(cache.hit && cache.volume_id != Some(volume), "{cache:?}");
    assert!(!bench.volumes().iter().any(|it| it.content.mounted && it.content.torn));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_damaged_volume_is_followed_by_the_last_good_state_and_then_by_none(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    bench.sim.damage_volume(&bench.volumes()[0].provider_id);
    let (task, _) = bench.cached_job(&bench.cached("p")).await;
    let (hit, reason) = bench.cache(task).await;
    assert!(hit && reason.contains("a copy of the good state"), "{reason}");
    let timeline = bench.timeline(task).await;
    assert!(timeline.iter().any(|line| line.contains("it is damaged")), "{timeline:#?}");
    bench.over(task).await;

    bench.sim.inject(Fault::DamagedDisk);
    bench.sim.inject(Fault::DamagedDisk);
    let (task, _) = bench.cached_job(&bench.cached("p")).await;
    let (hit, reason) = bench.cache(task).await;
    assert!(!hit && reason.contains("two volumes"), "{reason} {:#?}", bench.timeline(task).await);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_does_not_come_in_time_does_not_hold_the_job_up(pool: PgPool) {
    let bench = small(pool).await;
    bench.set(|settings| settings.cache.wait_seconds = 20).await;
    for fault in [Fault::StuckAttach, Fault::LoseChange, Fault::LoseChangeAnswer] {
        bench.sim.inject(fault.clone());
        let asked_at = bench.now();
        let (task, _) = bench.cached_job(&bench.cached("p")).await;
        let waited = (bench.now() - asked_at).num_seconds();
        assert!(waited <= 30, "{fault:?}: {waited} s");
        bench.over(task).await;
        bench.turn(60).await;
    }
    assert_eq!(bench.count("select count(*) from vms.volumes where vm_id is not null").await, 0);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_detachment_that_stays_busy_holds_the_vm_for_two_minutes_and_loses_nothing(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.sim.inject(Fault::StuckDetach);
    bench.db.release_task(first, bench.now()).await.unwrap();
    bench.turn(50).await;
    assert!(bench.lives(&machine), "it waits for its volume");
    bench.turn(90).await;
    assert!(!bench.lives(&machine));
    let (next, _) = bench.cached_job(&bench.cached("p")).await;
    assert!(bench.cache(next).await.0, "{:?}", bench.cache(next).await);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_unmount_that_fails_costs_the_volume(pool: PgPool) {
    let bench = small(pool).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.sim.inject(Fault::UnmountFails);
    bench.over(first).await;
    assert!(!bench.lives(&machine));
    assert_eq!(bench.sim.snapshots_truth(), []);
    let (next, _) = bench.cached_job(&bench.cached("p")).await;
    assert!(!bench.cache(next).await.0);
}

/// The other replica takes over wherever the first one stood still; here every act is repeated.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_that_is_taken_back_leaves_a_volume_that_is_free(pool: PgPool) {
    let seconds = |n| vm_service::sim::Spread::exactly(TimeDelta::seconds(n));
    let bench = Bench::with(pool, Rules { volume_moves_in: seconds(5), answers_after: seconds(8), ..Rules::obliging() }).await;
    let (first, machine) = bench.cached_job(&bench.cached("p")).await;
    bench.sim.use_layers(&machine, &[("base", 100)]);
    bench.over(first).await;
    bench.turn(20).await;
    for rounds in [1, 3, 5, 7, 9, 11, 13, 15] {
        let task = bench.ask(&bench.cached("p")).await.view.id;
        bench.turn(rounds).await;
        bench.db.release_task(task, bench.now()).await.unwrap();
        bench.turn(140).await;
        let states = bench.states().await;
        assert_eq!(states, "", "after {rounds} s: {:#?}", bench.timeline(task).await);
        assert_eq!(bench.count("select count(*) from vms.volumes where state = 'available'").await, 1, "after {rounds} s");
    }
    let ended = |it: &vm_service::sim::MachineTruth| it.state == MachineState::Terminated;
    assert!(bench.sim.truth().iter().all(ended));
}
