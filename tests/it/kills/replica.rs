//! One replica: a process with every role's loops and the API, put together as `app::service` does it, over the cloud behind the socket.
//!
//! The test's binary starts itself again with [`a_replica`] as its only test and says in one line on its standard input what to
//! be. When that input ends, the test's process is gone, and the replica ends too.

use super::postgres::server;
use super::remote::Remote;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vm_service::clock::{Clock as _, ServiceClock};
use vm_service::db::Db;
use vm_service::db::connect::SchemaError;
use vm_service::db::settings::Versioned;
use vm_service::domain::ids::InstallationId;
use vm_service::domain::settings::Settings;
use vm_service::http;
use vm_service::http::serve::HttpConfig;
use vm_service::http::state::AppState;
use vm_service::loops::settings::TakeSettings;
use vm_service::loops::timers::{self, Crons};
use vm_service::loops::{self, Loop, Providers, World};
use vm_service::seal::Sealer;

/// As in `app::service`.
const POOL: u32 = 16;
const MEASURE_EVERY: Duration = Duration::from_secs(60);
const SCHEMA_EVERY: Duration = Duration::from_secs(1);

/// What a replica is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) postgres: PathBuf,
    pub(super) cloud: PathBuf,
    pub(super) sealing_key: String,
    pub(super) installation: InstallationId,
}

#[test]
#[ignore = "a process that the kill test starts"]
fn a_replica() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    if line.is_empty() {
        return;
    }
    let role: Role = serde_json::from_str(&line).unwrap();
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(3);
    });
    let filter = "info,sqlx=warn,tower_http=warn,tokio_cron_scheduler=warn";
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(role)).unwrap();
    panic!("a replica ended by itself");
}

async fn run(role: Role) -> anyhow::Result<()> {
    let listener = http::serve::bind(&HttpConfig::new(role.listen)).await?;
    let options = server(&role.postgres).options().application_name(&role.name);
    let db = Db::lazily(options.clone(), POOL);
    wait_for_schema(&db).await?;
    let clock = Arc::new(ServiceClock::new());
    measure(&db, &clock).await?;
    let cloud = Arc::new(Remote::new(role.cloud, role.name));
    let providers = Providers::new(vec![cloud.clone()]);
    let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
    let (problem_out, problem) = watch::channel(None);
    let sealer = Arc::new(Sealer::new([role.sealing_key.as_str()])?);
    let take = TakeSettings {
        db: db.clone(),
        providers: providers.clone(),
        open: Arc::new(|_| None),
        sealer: sealer.clone(),
        settings,
        problem: problem_out,
    };
    take.tick(clock.now(), 0).await?;
    let world = World {
        db: db.clone(),
        providers,
        guest: cloud,
        sealer,
        clock: clock.clone(),
        installation: role.installation,
        settings: follow,
        fresh_id: Arc::new(Uuid::now_v7),
    };
    let stop = CancellationToken::new();
    let skewed = clock.clone();
    let state = AppState::new(db.clone(), world.sealer.clone(), clock.clone(), world.settings.clone(), problem, stop.clone())
        .with_skew(move || skewed.skew());
    work(world, take, options, &clock, &stop, http::serve::serve(listener, state)).await
}

async fn work(
    world: World,
    take: TakeSettings,
    options: PgConnectOptions,
    clock: &Arc<ServiceClock>,
    stop: &CancellationToken,
    serving: impl Future<Output = std::io::Result<()>>,
) -> anyhow::Result<()> {
    let mut all: Vec<Arc<dyn Loop>> = loops::serve_loops(&world);
    all.extend(loops::scaler_loops(&world));
    all.extend(loops::gc_loops(&world));
    all.push(Arc::new(take));
    let crons = Crons::start().await?;
    let db = world.db.clone();
    let woken = tokio::spawn(db.wake.clone().run(options, stop.clone()));
    let measuring = async {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            if let Err(error) = measure(&db, clock).await {
                tracing::warn!(%error, "Postgres' time could not be measured");
            }
        }
    };
    // Nothing stops it: whichever of these ends is the end of a process that gave up.
    tokio::select! {
        served = serving => served?,
        () = timers::run(all, clock.clone(), &db.wake, &crons, stop.clone()) => {}
        () = measuring => {}
        ended = woken => ended?,
    }
    Ok(())
}

async fn wait_for_schema(db: &Db) -> anyhow::Result<()> {
    loop {
        match db.check_schema().await {
            Ok(()) => return Ok(()),
            Err(SchemaError::Older { .. } | SchemaError::Db(_)) => tokio::time::sleep(SCHEMA_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn measure(db: &Db, clock: &ServiceClock) -> anyhow::Result<()> {
    let (time, half) = db.server_time().await?;
    clock.measured(time, Instant::now().checked_sub(half).unwrap());
    Ok(())
}
