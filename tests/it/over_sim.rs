//! The whole service, once or several times, in the test's own process, as `app::service` puts it together: every role's loops and the API at a port of the
//! loopback, on real time and a real Postgres, over the simulated cloud. For tools that know nothing but an address.

use crate::api_support::{CI, OPERATOR, VIEWER};
use chrono::TimeDelta;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vm_service::clock::{Clock as _, HandClock, ServiceClock};
use vm_service::db::Db;
use vm_service::db::settings::Versioned;
use vm_service::domain::access::{Caller, Role};
use vm_service::domain::ids::{InstallationId, TokenId};
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::http::serve::{self, HttpConfig};
use vm_service::http::state::{AppState, Limits};
use vm_service::loops::checks::CheckSettings;
use vm_service::loops::settings::TakeSettings;
use vm_service::loops::timers::{self, Crons};
use vm_service::loops::{self, Loop, Providers, World};
use vm_service::seal::Sealer;
use vm_service::sim::{FaultRates, Rules, Sim, Spread};

/// A second operator.
pub(crate) const COLLEAGUE: &str = "vms_colleague";
/// Between moves of the cloud's clock.
const CLOCK_STEP: Duration = Duration::from_millis(10);
/// Long enough to be seen on its way, short enough to be waited for.
const BOOT: TimeDelta = TimeDelta::milliseconds(700);

/// The service; it ends when this is dropped.
pub(crate) struct OverSim {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) sim: Arc<Sim>,
    sealer: Arc<Sealer>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _logging: tracing::subscriber::DefaultGuard,
}

impl OverSim {
    /// Starts it on a database of its own, with these settings saved and the simulated cloud as provider.
    pub(crate) async fn start(pool: &PgPool, change: impl FnOnce(&mut Settings)) -> Self {
        let options = (*pool.connect_options()).clone();
        let db = Db::lazily(options.clone(), 16);
        let clock = measured(&db).await;
        let sealer = Arc::new(Sealer::new([Sealer::fresh_key().unwrap().as_str()]).unwrap());
        let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        change(&mut settings);
        db.insert_settings(0, &settings, clock.now(), "operator").await.unwrap();
        add_tokens(&db, &sealer, &clock).await;
        let cloud_clock = HandClock::at(clock.now());
        let rules = Rules { max_batch: 3, runs_after: Spread::exactly(BOOT), ..Rules::obliging() };
        let sim = Arc::new(Sim::strict(cloud_clock.clone(), rules, FaultRates::none(), 1));
        let mut service = Self::run(db, options, sim, sealer, clock.clone()).await;
        service.tasks.spawn(follow_time(cloud_clock, clock));
        service
    }

    /// Starts another process beside it, over the same database and cloud; `wakes`: where it sends and hears wake-ups.
    pub(crate) async fn another(&self, pool: &PgPool, wakes: PgConnectOptions) -> Self {
        let db = Db::lazily((*pool.connect_options()).clone(), 16);
        let clock = measured(&db).await;
        Self::run(db, wakes, self.sim.clone(), self.sealer.clone(), clock).await
    }

    async fn run(db: Db, wakes: PgConnectOptions, sim: Arc<Sim>, sealer: Arc<Sealer>, clock: Arc<ServiceClock>) -> Self {
        let logging = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_test_writer().with_ansi(false).finish();
        let logging = tracing::subscriber::set_default(logging);
        let (take, problem, follow) = take_settings(&db, &sealer, Providers::new(vec![sim.clone()]));
        take.tick(clock.now(), 0).await.unwrap();
        let world = World {
            db: db.clone(),
            providers: take.providers.clone(),
            guest: sim.clone(),
            sealer: sealer.clone(),
            clock: clock.clone(),
            installation: InstallationId(Uuid::from_u128(42)),
            settings: follow.clone(),
            fresh_id: Arc::new(Uuid::now_v7),
        };
        let stop = CancellationToken::new();
        // A tool asks as fast as it can, and reads no stream for long.
        let often = NonZeroU32::new(100_000).unwrap();
        let limits = Limits { per_second: often, burst: often, stream: Duration::from_secs(30), ..Limits::default() };
        let state = AppState::new(db.clone(), sealer.clone(), clock.clone(), follow, problem, stop.clone()).with_limits(limits);
        let listener = serve::bind(&HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))).await.unwrap();
        let url = listener.url();
        let mut all: Vec<Arc<dyn Loop>> = loops::serve_loops(&world);
        all.extend(loops::scaler_loops(&world));
        all.extend(loops::gc_loops(&world));
        all.push(Arc::new(CheckSettings { world: world.clone(), open: take.open.clone() }));
        all.push(Arc::new(take));
        let mut tasks = JoinSet::new();
        let (wake, ended) = (db.wake.clone(), stop.clone());
        tasks.spawn(wake.clone().run(wakes, stop.clone()));
        tasks.spawn(async move { serve::serve(listener, state).await.unwrap() });
        let time = clock;
        tasks.spawn(async move {
            let crons = Crons::start().await.unwrap();
            timers::run(all, time, &wake, &crons, ended).await;
        });
        Self { url, db, sim, sealer, stop, tasks, _logging: logging }
    }

    /// Stops it, and fails when a part of it failed.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
        }
    }
}

async fn measured(db: &Db) -> Arc<ServiceClock> {
    let clock = Arc::new(ServiceClock::new());
    let (time, half) = db.server_time().await.unwrap();
    clock.measured(time, Instant::now().checked_sub(half).unwrap());
    clock
}

async fn add_tokens(db: &Db, sealer: &Sealer, clock: &ServiceClock) {
    let tokens = [(CI, Role::Dispatcher), (OPERATOR, Role::Operator), (COLLEAGUE, Role::Operator), (VIEWER, Role::Viewer)];
    for (token, role) in tokens {
        let caller = Caller { principal: token.trim_start_matches("vms_").to_owned(), role, untrusted_only: false };
        db.insert_token(TokenId(Uuid::new_v4()), &caller, &sealer.token_hashes(token)[0], clock.now()).await.unwrap();
    }
}

type Followed = (TakeSettings, watch::Receiver<Option<String>>, watch::Receiver<Versioned>);

fn take_settings(db: &Db, sealer: &Arc<Sealer>, providers: Providers) -> Followed {
    let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
    let (problem_out, problem) = watch::channel(None);
    let (db, sealer) = (db.clone(), sealer.clone());
    let take = TakeSettings { db, providers, open: Arc::new(|_| None), sealer, settings, problem: problem_out };
    (take, problem, follow)
}

async fn follow_time(cloud: HandClock, clock: Arc<ServiceClock>) {
    loop {
        cloud.advance(clock.now() - cloud.now());
        tokio::time::sleep(CLOCK_STEP).await;
    }
}
