//! What tests stand on: a real database, a simulated world, a clock moved by hand, and a crank that turns the real loops.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use uuid::Uuid;
use vm_service::clock::{Clock, HandClock};
use vm_service::db::Db;
use vm_service::db::rows::TaskRow;
use vm_service::db::settings::Versioned;
use vm_service::db::tasks::{Ensured, NewTask};
use vm_service::db::wake::Wake;
use vm_service::domain::api::Hold;
use vm_service::domain::ids::{GenerationId, InstallationId, LaunchId, TaskId, VmId};
use vm_service::domain::lifecycle::TaskState;
use vm_service::domain::lineage::{Engine, Lineage, Store, Trust};
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::domain::tags::{Origin, SnapshotTags, Tags, VolumeTags};
use vm_service::domain::task::{Executor, TaskRequest};
use vm_service::loops::{self, Loop, Providers, World};
use vm_service::provider::Provider as _;
use vm_service::provider::volumes::{SnapshotSpec, VolumeSpec};
use vm_service::seal::Sealer;
use vm_service::sim::{FaultRates, Rules, Sim};

/// A world in a test.
pub(crate) struct Bench {
    pub(crate) db: Db,
    pub(crate) sim: Sim,
    pub(crate) clock: HandClock,
    pub(crate) world: World,
    settings: watch::Sender<Versioned>,
    next: Arc<AtomicU64>,
    tolerant: AtomicBool,
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

/// That of a project's trusted jobs on the simulated machines.
pub(crate) fn lineage(project: &str) -> Lineage {
    let engine = Engine { architecture: "x86_64".to_owned(), store: Store::Classic, major: 28 };
    Lineage { project_id: project.to_owned(), trust: Trust::Trusted, engine }
}

/// An empty cache volume.
pub(crate) fn volume(tags: &VolumeTags, zone: &str, token: &str) -> VolumeSpec {
    VolumeSpec { client_token: token.to_owned(), tags: tags.clone(), zone: zone.to_owned(), size_gib: 100, snapshot: None }
}

/// A snapshot of a volume with these tags.
pub(crate) fn snapshot(of: &VolumeTags, token: &str) -> SnapshotSpec {
    let (installation, generation) = (of.installation, GenerationId(Uuid::from_u128(88)));
    SnapshotSpec { client_token: token.to_owned(), tags: SnapshotTags { installation, generation, lineage: of.lineage.clone() } }
}

impl Bench {
    /// An empty world with the default settings and the simulated provider.
    pub(crate) async fn new(pool: PgPool) -> Self {
        Self::with(pool, Rules::obliging()).await
    }

    /// The same over the strict simulated cloud: budgets, lag and pace are those of AWS.
    pub(crate) async fn strict(pool: PgPool) -> Self {
        Self::with(pool, Rules::default()).await
    }

    /// The same over a cloud with these rules.
    pub(crate) async fn with(pool: PgPool, rules: Rules) -> Self {
        let clock = HandClock::at(start());
        let sim = Sim::strict(clock.clone(), rules, FaultRates::none(), 7);
        let db = Db { pool, wake: Wake::default() };
        let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
        let next = Arc::new(AtomicU64::new(1));
        let ids = next.clone();
        let world = World {
            db: db.clone(),
            providers: Providers::new(vec![Arc::new(sim.clone())]),
            guest: Arc::new(sim.clone()),
            sealer: Arc::new(Sealer::new([Sealer::fresh_key().unwrap().as_str()]).unwrap()),
            clock: Arc::new(clock.clone()),
            installation: InstallationId(Uuid::from_u128(42)),
            settings: follow,
            fresh_id: Arc::new(move || Uuid::from_u128(ids.fetch_add(1, Ordering::Relaxed).into())),
        };
        let bench = Self { db, sim, clock, world, settings, next, tolerant: AtomicBool::new(false) };
        bench.set(|settings| settings.provider = ProviderChoice::OnHost).await;
        bench
    }

    /// Changes the live settings.
    pub(crate) async fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut newest = self.settings.borrow().clone();
        change(&mut newest.settings);
        newest.version += 1;
        self.db.apply_limits(&newest, self.sim.capacity(), true).await.unwrap();
        self.settings.send_replace(newest);
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub(crate) fn request(&self, project: &str) -> TaskRequest {
        TaskRequest {
            executor: Executor::Machine,
            project_id: project.to_owned(),
            resource_class: "medium".to_owned(),
            ssh_public_keys: Vec::new(),
            max_run_seconds: None,
            lease_seconds: None,
            docker_layer_caching: false,
            cache_trust: Trust::Trusted,
            priority: 0,
            labels: BTreeMap::new(),
        }
    }

    /// Asks for a task as the principal `ci`.
    pub(crate) async fn ask(&self, request: &TaskRequest) -> TaskRow {
        let id = TaskId(Uuid::from_u128(u128::from(self.next.fetch_add(1, Ordering::Relaxed)) << 64));
        let new = NewTask { id, principal: "ci", request, request_hash: b"hash", max_run_seconds: 3600 };
        match self.db.ensure_task(&new, self.now()).await.unwrap() {
            Ensured::Created(row) => *row,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn task(&self, id: TaskId) -> TaskRow {
        self.db.find_task(id).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, id: TaskId) -> TaskState {
        self.task(id).await.view.state
    }

    /// One tick of one loop, and its acts one by one; errors are for the next tick to mend, as in life.
    pub(crate) async fn tick(&self, work: &dyn Loop) {
        let acts = match work.tick(self.now(), 64).await {
            Ok(acts) => acts,
            Err(error) if self.tolerant.load(Ordering::Relaxed) => return println!("{}: {error:#}", work.name()),
            Err(error) => panic!("{}: {error:#}", work.name()),
        };
        for act in acts {
            if let Err(error) = act.run.await {
                println!("{}: {error:#}", act.name);
            }
        }
    }

    /// Every loop once, `rounds` times, with a second between.
    pub(crate) async fn turn(&self, rounds: usize) {
        self.turn_by(rounds, TimeDelta::seconds(1)).await;
    }

    /// The same with another time between.
    pub(crate) async fn turn_by(&self, rounds: usize, step: TimeDelta) {
        for _ in 0..rounds {
            let (serve, scaler) = (loops::serve_loops(&self.world), loops::scaler_loops(&self.world));
            for work in serve.into_iter().chain(scaler).chain(loops::gc_loops(&self.world)) {
                self.tick(work.as_ref()).await;
            }
            self.clock.advance(step);
        }
    }

    /// From now on a tick may fail, as it does in life when the provider or the database does not answer.
    pub(crate) fn tolerate(&self) {
        self.tolerant.store(true, Ordering::Relaxed);
    }

    /// A task of this project that is ready, and its VM and machine.
    pub(crate) async fn job(&self, project: &str) -> (TaskId, VmId, String) {
        let task = self.ask(&self.request(project)).await.view.id;
        self.turn_until(task, TaskState::Ready, 60).await;
        let vm = self.task(task).await.view.vm.unwrap();
        (task, vm.id, vm.provider_id.unwrap())
    }

    /// Tags of a machine of ours that no row knows.
    pub(crate) fn tags(&self) -> Tags {
        Tags {
            installation: self.world.installation,
            launch: LaunchId(Uuid::from_u128(999)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            origin: Origin::OnDemand,
            created_at: self.now(),
        }
    }

    /// The operator `op` holds the VM for so long.
    pub(crate) async fn hold(&self, vm: VmId, time: TimeDelta) {
        let hold = Hold { reason: "a look".to_owned(), until: self.now() + time };
        assert!(self.db.set_vm_hold(vm, Some(&hold), "op", self.now()).await.unwrap());
    }

    pub(crate) fn lives(&self, machine: &str) -> bool {
        self.sim.live().contains_key(machine)
    }

    /// One number, by SQL.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db.pool).await.unwrap()
    }

    /// What there is, by state: `available 3, booting 1`.
    pub(crate) async fn states(&self) -> String {
        let sql = "select coalesce(string_agg(state || ' ' || n, ', ' order by state), '')
                   from (select state, count(*) as n from vms.vms where state <> 'terminated' group by state) s";
        sqlx::query_scalar(sql).fetch_one(&self.db.pool).await.unwrap()
    }

    /// Turns until [`Bench::states`] says so; fails after `rounds`.
    pub(crate) async fn turn_until_states(&self, wanted: &str, rounds: usize) {
        for _ in 0..rounds {
            if self.states().await == wanted {
                return;
            }
            self.turn(1).await;
        }
        assert_eq!(self.states().await, wanted, "after {rounds} s");
    }

    /// Turns until the task is there; fails after `rounds`.
    pub(crate) async fn turn_until(&self, id: TaskId, state: TaskState, rounds: usize) {
        for _ in 0..rounds {
            if self.state(id).await == state {
                return;
            }
            self.turn(1).await;
        }
        let timeline = self.timeline(id).await.join("\n");
        panic!("task is {} and not {state} after {rounds} s:\n{timeline}", self.state(id).await);
    }

    /// A VM that is available and that no task waits for: its task went away while it booted.
    pub(crate) async fn spare_vm(&self) -> VmId {
        self.sim.set_boot_time(TimeDelta::seconds(5));
        let gone = self.ask(&self.request("gone")).await.view.id;
        self.turn(2).await;
        self.db.release_task(gone, self.now()).await.unwrap();
        self.turn(8).await;
        self.db.list_available(self.now()).await.unwrap()[0].id
    }

    pub(crate) async fn timeline(&self, id: TaskId) -> Vec<String> {
        let filter = vm_service::db::events::EventFilter { task: Some(id), limit: 1000, ..Default::default() };
        self.db.list_events(&filter).await.unwrap().into_iter().map(|event| event.message).collect()
    }
}
