//! One engine: a database of its own, the simulated cloud, and a clock that is moved by hand.

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use uuid::Uuid;
use vm_service::clock::{Clock as _, HandClock};
use vm_service::db::tasks::{Ensured, NewTask};
use vm_service::db::{Db, settings::Versioned, wake::Wake};
use vm_service::domain::ids::{InstallationId, TaskId};
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::domain::task::{Executor, TaskRequest};
use vm_service::loops::{self, Loop, Providers, World};
use vm_service::provider::Provider as _;
use vm_service::seal::Sealer;
use vm_service::sim::{Bucket, Sim};

/// More acts than a process starts at a time: here nothing waits for a network.
const ROOM: usize = 4096;

/// See the module.
pub(crate) struct Engine {
    pub(crate) world: World,
    pub(crate) sim: Sim,
    pub(crate) clock: HandClock,
    pub(crate) loops: Vec<Arc<dyn Loop>>,
    settings: watch::Sender<Versioned>,
    next: AtomicU64,
}

impl Engine {
    /// Over a fresh database of this name; `sim` makes the cloud.
    pub(crate) async fn new(name: &str, sim: impl FnOnce(HandClock) -> Sim) -> anyhow::Result<Self> {
        let clock = HandClock::at(DateTime::from_timestamp(1_790_000_000, 0).context("a time")?);
        let sim = sim(clock.clone());
        sim.set_journal(false);
        let db = Db { pool: database(name).await?, wake: Wake::default() };
        let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
        let ids = Arc::new(AtomicU64::new(1));
        let world = World {
            db,
            providers: Providers::new(vec![Arc::new(sim.clone())]),
            guest: Arc::new(sim.clone()),
            sealer: Arc::new(Sealer::new([Sealer::fresh_key()?.as_str()])?),
            clock: Arc::new(clock.clone()),
            installation: InstallationId(Uuid::from_u128(42)),
            settings: follow,
            fresh_id: Arc::new(move || Uuid::from_u128(ids.fetch_add(1, Ordering::Relaxed).into())),
        };
        let loops = [loops::serve_loops(&world), loops::scaler_loops(&world), loops::gc_loops(&world)].concat();
        let engine = Self { world, sim, clock, loops, settings, next: AtomicU64::new(1) };
        engine.set(|settings| settings.provider = ProviderChoice::OnHost).await?;
        Ok(engine)
    }

    /// Changes the live settings.
    pub(crate) async fn set(&self, change: impl FnOnce(&mut Settings)) -> anyhow::Result<()> {
        let mut newest = self.settings.borrow().clone();
        change(&mut newest.settings);
        newest.version += 1;
        self.world.db.apply_limits(&newest, self.sim.capacity(), true).await?;
        self.settings.send_replace(newest);
        Ok(())
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Asks for a machine VM.
    pub(crate) async fn ask(&self, project: &str) -> anyhow::Result<TaskId> {
        self.ask_cached(project, false).await
    }

    /// The same, with the project's layers or without.
    pub(crate) async fn ask_cached(&self, project: &str, docker_layer_caching: bool) -> anyhow::Result<TaskId> {
        let request = TaskRequest {
            executor: Executor::Machine,
            project_id: project.to_owned(),
            resource_class: "medium".to_owned(),
            ssh_public_keys: Vec::new(),
            max_run_seconds: None,
            lease_seconds: None,
            docker_layer_caching,
            cache_trust: vm_service::domain::lineage::Trust::Trusted,
            priority: 0,
            labels: BTreeMap::new(),
        };
        let id = TaskId(Uuid::from_u128(u128::from(self.next.fetch_add(1, Ordering::Relaxed)) << 64));
        let new = NewTask { id, principal: "ci", request: &request, request_hash: b"hash", max_run_seconds: 3600 };
        let made = self.world.db.ensure_task(&new, self.now()).await?;
        anyhow::ensure!(matches!(made, Ensured::Created(_)), "{made:?}");
        Ok(id)
    }

    /// One tick of one loop and its acts.
    pub(crate) async fn tick(&self, work: &dyn Loop) -> anyhow::Result<()> {
        // As in life: a tick that failed is followed by the next one.
        let acts = work.tick(self.now(), ROOM).await.unwrap_or_else(|error| {
            tracing::debug!(name = work.name(), error = format!("{error:#}"), "a tick failed");
            Vec::new()
        });
        for done in join_all(acts.into_iter().map(|act| act.run)).await {
            if let Err(error) = done {
                tracing::debug!(error = format!("{error:#}"), "an act failed");
            }
        }
        Ok(())
    }

    /// Those that a wake-up follows at once.
    pub(crate) async fn woken(&self) -> anyhow::Result<()> {
        for name in ["assign", "launch", "scale"] {
            for work in self.loops.iter().filter(|work| work.name() == name) {
                self.tick(work.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// Every loop once, then the clock.
    pub(crate) async fn turn(&self, then: TimeDelta) -> anyhow::Result<()> {
        for work in &self.loops {
            self.tick(work.as_ref()).await?;
        }
        self.clock.advance(then);
        Ok(())
    }

    /// Calls that the cloud counted so far.
    pub(crate) fn calls(&self) -> Calls {
        let totals = self.sim.totals();
        let of = |bucket: Bucket| totals.get(&bucket).map_or((0, 0), |total| (total.taken, total.throttled));
        let calls = [Bucket::LaunchCalls, Bucket::Terminate, Bucket::CreateTags, Bucket::Mutating, Bucket::Describe];
        Calls {
            all: calls.iter().map(|bucket| of(*bucket).0 + of(*bucket).1).sum(),
            throttled: calls.iter().map(|bucket| of(*bucket).1).sum(),
            launches: of(Bucket::LaunchCalls).0,
            machines: of(Bucket::LaunchMachines).0,
            reads: of(Bucket::Describe).0,
        }
    }

    pub(crate) async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.world.db.pool).await?)
    }
}

/// What the cloud counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) all: u64,
    pub(crate) throttled: u64,
    pub(crate) launches: u64,
    pub(crate) machines: u64,
    pub(crate) reads: u64,
}

/// A fresh database with the schema.
pub(crate) async fn database(name: &str) -> anyhow::Result<PgPool> {
    #[allow(clippy::disallowed_methods, reason = "a benchmark is told its server as tests are")]
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL names a server")?;
    let server = PgConnectOptions::from_str(&url)?;
    let admin = PgPool::connect_with(server.clone()).await?;
    let name = format!("bench_{name}");
    sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).execute(&admin).await?;
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&admin).await?;
    let pool = PgPoolOptions::new().max_connections(16).connect_with(server.database(&name)).await?;
    vm_service::db::MIGRATOR.run(&pool).await?;
    Ok(pool)
}
