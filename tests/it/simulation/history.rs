//! One history: a seed's operations, carried out one after the other, with rounds of all loops and every check after each.

use super::cluster::{Cluster, INSTALLATION};
use super::model::{BY_OPERATOR, Held, Job, Model, RELEASED};
use super::operations::{Change, Operation, Wish};
use super::report::Violation;
use super::{caches, checks};
use chrono::{DateTime, TimeDelta, Utc};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::collections::BTreeMap;
use uuid::Uuid;
use vm_service::clock::{Clock as _, HandClock};
use vm_service::db::Db;
use vm_service::db::settings::Versioned;
use vm_service::db::tasks::{Ensured, NewTask};
use vm_service::db::vm_list::VmFilter;
use vm_service::db::wake::Wake;
use vm_service::domain::api::{Hold, VmView};
use vm_service::domain::failure::{Failure, FailureCode};
use vm_service::domain::ids::{LaunchId, TaskId};
use vm_service::domain::preallocated::Pool;
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::{Executor, TaskRequest};
use vm_service::sim::{FaultRates, Sim};

/// A key that a job brings.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJFVYFMhlT7YTWEvJTC1Y0nWrTbGQ/u1Plu0xVKQkxJZ";
/// Jobs at a time: more only wait.
const JOBS: usize = 24;

/// A history that is being made.
pub(super) struct History {
    pub(super) seed: u64,
    pub(super) cluster: Cluster,
    pub(super) model: Model,
    /// The driver's own way to the database: the API's verbs.
    pub(super) db: Db,
    pub(super) rng: StdRng,
    pub(super) faults: bool,
}

impl History {
    /// An empty service, with default settings but small limits.
    pub(super) async fn new(seed: u64, connect: &PgConnectOptions, replicas: usize) -> Self {
        let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let clock = HandClock::at(start);
        let sim = Sim::strict(clock.clone(), caches::cloud(seed), caches::bad_day(), seed);
        let pool = PgPoolOptions::new().max_connections(2).test_before_acquire(false).connect_lazy_with(connect.clone());
        let db = Db { pool, wake: Wake::default() };
        db.ensure_installation(INSTALLATION, start).await.unwrap();
        let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        settings.limits.vms = Some(14);
        settings.limits.in_flight = Some(5);
        settings.limits.vms_per_project = Some(3);
        settings.images.keep_days = 1;
        let version = db.insert_settings(0, &settings, start, "op").await.unwrap();
        let cluster = Cluster::new(connect, sim, clock, replicas).await;
        let mut history = Self {
            seed,
            cluster,
            model: Model::new(Versioned { version, settings }),
            db,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            faults: true,
        };
        // The database is new, and known to be: its first moment is a loss in which nothing was made.
        history.cluster.clock.advance(TimeDelta::seconds(1));
        history.model.begin(history.now());
        history.cluster.round(TimeDelta::seconds(1), &mut history.rng).await;
        history
    }

    /// Lets go of the database.
    pub(super) async fn close(self) {
        self.db.pool.close().await;
        self.cluster.close().await;
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.cluster.clock.now()
    }

    /// Carries one operation out, lets all loops run, and checks.
    pub(super) async fn step(&mut self, operation: &Operation) -> Result<(), Violation> {
        self.model.begin(self.now());
        self.cluster.log.push(format!("-- operation {}: {operation:?}", self.model.operation()));
        self.carry_out(operation).await?;
        self.cluster.round(TimeDelta::seconds(3), &mut self.rng).await;
        checks::all(self).await
    }

    async fn carry_out(&mut self, operation: &Operation) -> Result<(), Violation> {
        let replica = |pick: &usize| pick % self.cluster.len();
        match operation {
            Operation::Request(wish) => {
                self.request(wish).await?;
            }
            Operation::AskAgain(pick) => self.ask_again(*pick).await?,
            Operation::Release(pick) => self.release(*pick).await,
            Operation::Heartbeat(pick) => self.heartbeat(*pick).await,
            Operation::Wait(ms) => self.cluster.clock.advance(TimeDelta::milliseconds(*ms)),
            Operation::Settings(change) => self.change(change).await,
            Operation::Hold { vm, seconds } => self.hold(*vm, *seconds).await,
            Operation::Unhold(pick) => self.unhold(*pick).await,
            Operation::Terminate(pick) => self.terminate(*pick).await,
            Operation::Crash { replica: pick, points, cut } => {
                let replica = replica(pick);
                self.cluster.arm(replica, *points, *cut);
            }
            Operation::Kill(pick) => {
                let replica = replica(pick);
                self.cluster.kill(replica);
            }
            Operation::Thaw(pick) => {
                let replica = replica(pick);
                self.cluster.thaw(replica).await;
            }
            Operation::PlantMachine => {
                self.plant_machine();
            }
            Operation::PlantVolume { project } => self.plant_volume(*project).await,
            Operation::KillMachine(pick) => self.kill_machine(*pick),
            Operation::Build(pick) => self.build(*pick),
            Operation::HoldVolume { volume, seconds } => self.hold_volume(*volume, *seconds).await,
            Operation::UnholdVolume(pick) => self.unhold_volume(*pick).await,
            Operation::DeleteVolume(pick) => self.delete_volume(*pick).await?,
            Operation::Image(pick) => self.image(*pick).await,
            Operation::Faults(on) => self.set_faults(*on),
            Operation::DeleteRows => self.delete_rows().await,
            Operation::LoseDatabase => self.lose_database().await,
            Operation::Calm => super::calm::calm(self).await?,
        }
        Ok(())
    }

    /// Asks for a task, unless there are enough.
    pub(super) async fn request(&mut self, wish: &Wish) -> Result<Option<TaskId>, Violation> {
        if self.model.open().len() >= JOBS {
            return Ok(None);
        }
        let request = TaskRequest {
            executor: wish.executor,
            project_id: format!("project-{}", wish.project),
            resource_class: wish.class.to_owned(),
            ssh_public_keys: if wish.keys { vec![KEY.to_owned()] } else { Vec::new() },
            max_run_seconds: None,
            lease_seconds: wish.lease_seconds,
            docker_layer_caching: wish.cache.is_some(),
            cache_trust: wish.cache.unwrap_or_default(),
            priority: wish.priority,
            labels: BTreeMap::new(),
        };
        let most = i32::try_from(self.model.settings.settings.timeouts.task().num_seconds()).unwrap();
        let job = Job {
            id: TaskId(self.cluster.fresh_id()),
            request,
            max_run_seconds: wish.max_run_seconds.min(most),
            beat_at: self.now(),
            state: vm_service::domain::lifecycle::TaskState::Queued,
            ready_at: None,
            vm: None,
            machine: None,
            let_go: None,
            bereft: false,
            overdue: None,
        };
        match self.put(&job).await {
            Ensured::Created(_) => {
                let id = job.id;
                self.model.jobs.insert(id, job);
                Ok(Some(id))
            }
            other => Err(Violation::new("a new task is made", format!("{other:?}")).task(job.id)),
        }
    }

    async fn put(&self, job: &Job) -> Ensured {
        let hash = job.id.0.as_bytes();
        let new = NewTask {
            id: job.id,
            principal: "ci",
            request: &job.request,
            request_hash: hash,
            max_run_seconds: job.max_run_seconds,
        };
        self.db.ensure_task(&new, self.now()).await.unwrap()
    }

    async fn ask_again(&mut self, pick: usize) -> Result<(), Violation> {
        let jobs: Vec<&Job> = self.model.jobs.values().filter(|job| !job.bereft).collect();
        let Some(job) = jobs.get(pick % jobs.len().max(1)) else { return Ok(()) };
        match self.put(job).await {
            Ensured::Same(row) if !job.state.is_terminal() || row.view.state == job.state => Ok(()),
            other => {
                Err(Violation::new("the same PUT has the same answer", format!("was {}, now {other:?}", job.state)).task(job.id))
            }
        }
    }

    async fn release(&mut self, pick: usize) {
        let open = self.model.open();
        if let Some(id) = open.get(pick % open.len().max(1)) {
            self.release_job(*id).await;
        }
    }

    pub(super) async fn release_job(&mut self, id: TaskId) {
        self.build_at_the_end(id);
        self.db.release_task(id, self.now()).await.unwrap();
        if let Some(job) = self.model.jobs.get_mut(&id) {
            job.let_go = Some(RELEASED);
        }
    }

    async fn heartbeat(&mut self, pick: usize) {
        let now = self.now();
        let leased = |job: &&mut Job| job.is_open() && job.request.lease_seconds.is_some();
        let mut jobs: Vec<&mut Job> = self.model.jobs.values_mut().filter(leased).collect();
        let at = pick % jobs.len().max(1);
        // Every other dispatcher beats too; the one picked falls silent for this while.
        for (nth, job) in jobs.iter_mut().enumerate() {
            if (nth != at || pick.is_multiple_of(2)) && self.db.heartbeat(job.id, now).await.unwrap() {
                job.beat_at = now;
            }
        }
    }

    async fn change(&mut self, change: &Change) {
        let mut settings = self.model.settings.settings.clone();
        match *change {
            Change::Base { executor: Executor::Machine, count } => settings.preallocated.machine = count,
            Change::Base { executor: Executor::RemoteDocker, count } => settings.preallocated.remote_docker = count,
            Change::LargePool(count) => {
                settings.preallocated.pools = vec![Pool { executor: Executor::Machine, resource_class: "large".to_owned(), count }];
            }
            Change::Vms(limit) => settings.limits.vms = Some(limit),
            Change::InFlight(limit) => settings.limits.in_flight = Some(limit),
            Change::PerProject(limit) => settings.limits.vms_per_project = limit,
            Change::OfClass { class, limit } => settings.resource_classes.get_mut(class).unwrap().limit = limit,
            Change::Disk { class, gib } => settings.resource_classes.get_mut(class).unwrap().disk_gib = gib,
            Change::Pause(on) => settings.pause_launches = on,
            Change::TaskHours(hours) => settings.timeouts.task_hours = hours,
            Change::IdleHours(hours) => settings.timeouts.vm_idle_hours = hours,
            Change::Cycle { hour } => settings.preallocated.cycle = format!("0 {hour} * * *"),
            Change::Reserve { executor, class, count } => {
                let reserve = &mut settings.resource_classes.get_mut(class).unwrap().reserve;
                match executor {
                    Executor::Machine => reserve.machine = count,
                    Executor::RemoteDocker => reserve.remote_docker = count,
                }
            }
            Change::CacheWait(seconds) => settings.cache.wait_seconds = seconds,
            Change::Volumes(limit) => settings.limits.volumes = limit,
            Change::InactiveDays(days) => settings.cache.inactive_days = days,
            Change::Weight { project, weight } => {
                settings.projects.entry(format!("project-{project}")).or_default().weight = weight;
            }
        }
        self.save(settings).await;
    }

    /// Saves settings as the API does.
    pub(super) async fn save(&mut self, settings: Settings) {
        let seen = self.model.settings.version;
        let version = self.db.insert_settings(seen, &settings, self.now(), "op").await.unwrap();
        self.model.saved(Versioned { version, settings });
    }

    /// VMs that have not ended, as the API lists them.
    pub(super) async fn vms(&self) -> Vec<VmView> {
        let vms = self.db.list_vms(&VmFilter { limit: 1000, ..VmFilter::default() }).await.unwrap();
        vms.into_iter().filter(|vm| !vm.state.is_terminal()).collect()
    }

    async fn bound_vms(&self) -> Vec<VmView> {
        self.vms().await.into_iter().filter(|vm| vm.provider_id.is_some()).collect()
    }

    async fn hold(&mut self, pick: usize, seconds: i64) {
        let vms = self.bound_vms().await;
        let Some(vm) = vms.get(pick % vms.len().max(1)) else { return };
        let until = self.now() + TimeDelta::seconds(seconds);
        let hold = Hold { reason: "looking at it".to_owned(), until };
        if self.db.set_vm_hold(vm.id, Some(&hold), "op", self.now()).await.unwrap() {
            let held = Held { vm: vm.id, until, set: self.model.operation() };
            self.model.holds.insert(vm.provider_id.clone().unwrap_or_default(), held);
        }
    }

    async fn unhold(&mut self, pick: usize) {
        let held: Vec<String> = self.model.holds.keys().cloned().collect();
        if let Some(machine) = held.get(pick % held.len().max(1)) {
            self.let_go(machine).await;
        }
    }

    pub(super) async fn let_go(&mut self, machine: &str) {
        if let Some(held) = self.model.holds.remove(machine) {
            self.db.set_vm_hold(held.vm, None, "op", self.now()).await.unwrap();
        }
    }

    async fn terminate(&mut self, pick: usize) {
        let vms = self.bound_vms().await;
        let Some(vm) = vms.get(pick % vms.len().max(1)) else { return };
        let failure = Failure::new(FailureCode::TerminatedByOperator, "an operator ended the VM");
        let ended = self.db.terminate_vms(&[vm.id], None, &failure, self.now()).await.unwrap();
        for job in self.model.jobs.values_mut().filter(|job| job.vm.is_some_and(|vm| ended.contains(&vm))) {
            job.let_go = Some(BY_OPERATOR);
        }
        // A task that has the VM and whose answer the driver has not seen yet.
        if let Some(job) = vm.task_id.filter(|_| !ended.is_empty()).and_then(|task| self.model.jobs.get_mut(&task)) {
            job.let_go = Some(BY_OPERATOR);
        }
    }

    pub(super) fn plant_machine(&mut self) -> String {
        let id = self.cluster.fresh_id();
        let provider_id = format!("i-planted-{}", id.as_u128());
        let tags = Tags {
            installation: INSTALLATION,
            launch: LaunchId(Uuid::from_u128(id.as_u128() | 1 << 100)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            origin: Origin::OnDemand,
            created_at: self.now(),
        };
        self.cluster.sim.plant(&provider_id, tags);
        self.model.planted.insert(provider_id.clone(), self.now());
        provider_id
    }

    fn kill_machine(&mut self, pick: usize) {
        let live: Vec<String> = self.cluster.sim.live().into_keys().collect();
        if let Some(machine) = live.get(pick % live.len().max(1)) {
            self.cluster.sim.kill(machine);
        }
    }

    pub(super) fn set_faults(&mut self, on: bool) {
        self.faults = on;
        self.cluster.sim.set_faults(if on { caches::bad_day() } else { FaultRates::none() });
    }

    /// The runbook, on a live service: whatever runs may run between its lines.
    async fn delete_rows(&mut self) {
        for line in ["delete from vms.tasks", "delete from vms.volumes", "delete from vms.vms"] {
            sqlx::query(line).execute(&self.db.pool).await.unwrap();
            self.model.bereave(self.now());
            self.cluster.round(TimeDelta::seconds(1), &mut self.rng).await;
        }
    }

    /// What a new database knows: settings (as seeds of the configuration), who we are, and that it is new.
    async fn lose_database(&mut self) {
        sqlx::query(
            "truncate vms.tasks, vms.volumes, vms.vms, vms.launches, vms.events, vms.history, vms.orphans, vms.schedules, \
             vms.breakers, vms.call_rates, vms.turns, vms.losses, vms.pulse, vms.listening, vms.generations, vms.cache_uses, \
             vms.engines, vms.images, vms.image_boots, vms.image_orders",
        )
        .execute(&self.db.pool)
        .await
        .unwrap();
        sqlx::query("delete from vms.losses").execute(&self.db.pool).await.unwrap();
        sqlx::query("insert into vms.losses (until, reason) values ($1, 'the database was new')")
            .bind(self.now())
            .execute(&self.db.pool)
            .await
            .unwrap();
        self.model.bereave(self.now());
        self.model.retired_images.clear();
    }
}
