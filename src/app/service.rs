//! Puts a role together: the world, its loops, the API; runs it until it is told to stop, and stops it cleanly. VMs live on.

use super::{ListenArguments, RoleArguments, ServeArguments, clouds, external};
use crate::clock::{Clock as _, ServiceClock};
use crate::config::{self, Config, ConfigError};
use crate::db::connect::{SchemaError, Server};
use crate::db::settings::Versioned;
use crate::db::{Db, DbError};
use crate::domain::ids::InstallationId;
use crate::domain::outbound::Outbound;
use crate::domain::secret::Secret;
use crate::domain::settings::Settings;
use crate::domain::statsd;
use crate::guest::linux::LinuxGuest;
use crate::http::Hosts;
use crate::http::serve::{HttpConfig, Listener};
use crate::http::state::AppState;
use crate::loops::checks::CheckSettings;
use crate::loops::settings::TakeSettings;
use crate::loops::timers::{self, Crons};
use crate::loops::{Loop, Providers, World};
use crate::provider::Provider;
use crate::provider::onhost::{OnHost, OnHostConfig};
use crate::seal::Sealer;
use crate::telemetry::recorder;
use crate::telemetry::statsd::Relay;
use crate::{http, loops};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Connections of one process; a claim takes one for about a millisecond.
const POOL: u32 = 16;
/// Between measurements of Postgres' time.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// Between values for StatsD.
const STATSD_EVERY: Duration = Duration::from_secs(3);
/// Between looks for a schema that `migrate` has still to make.
const SCHEMA_EVERY: Duration = Duration::from_secs(1);

/// A process of the service before its loops start.
pub(super) struct Service {
    /// What the loops touch.
    pub world: World,
    /// Takes settings over.
    take: TakeSettings,
    /// One sentence while something is wrong.
    problem: watch::Receiver<Option<String>>,
    clock: Arc<ServiceClock>,
    server: Server,
    /// Metrics to the StatsD host of the settings.
    metrics: Relay,
    console_hosts: Vec<String>,
}

/// What a service is made of.
pub(super) struct Parts {
    /// Where Postgres is.
    pub server: Server,
    /// Its connections.
    pub db: Db,
    /// Secrets at rest.
    pub sealer: Arc<Sealer>,
    /// Who we are.
    pub installation: InstallationId,
    /// How it reaches the world.
    pub outbound: Outbound,
    /// The providers of this process that need no settings.
    pub providers: Providers,
    /// In force while none are saved.
    pub seed: Settings,
    /// Names under which the console answers.
    pub console_hosts: Vec<String>,
}

impl Service {
    /// Puts the parts together; the newest settings are in force afterwards.
    pub(super) async fn new(parts: Parts) -> anyhow::Result<Self> {
        let clock = Arc::new(ServiceClock::new());
        measure(&parts.db, &clock).await?;
        let (settings, follow) = watch::channel(Versioned { version: 0, settings: parts.seed.clone() });
        let (problem_out, problem) = watch::channel(None);
        let take = TakeSettings {
            db: parts.db.clone(),
            providers: parts.providers.clone(),
            open: clouds::opener(parts.installation, parts.outbound.clone()),
            sealer: parts.sealer.clone(),
            settings,
            problem: problem_out,
        };
        clouds::open_those_in_care(&parts).await?;
        // Saved settings that this binary cannot read are told by the tick, and mended over the API; the seed holds until then.
        take.tick(clock.now(), 0).await?;
        let seed = follow.borrow().clone();
        if seed.version == 0 {
            take.take(seed).await?;
        }
        let (server, console_hosts) = (parts.server.clone(), parts.console_hosts.clone());
        let world = world(parts, clock.clone(), follow);
        Ok(Self { world, take, problem, clock, server, console_hosts, metrics: recorder::install(STATSD_EVERY)? })
    }

    /// The loops of `serve`.
    pub(super) fn serve_loops(&self) -> Vec<Arc<dyn Loop>> {
        let mut all = loops::serve_loops(&self.world);
        all.push(Arc::new(CheckSettings { world: self.world.clone(), open: self.take.open.clone() }));
        all
    }

    /// Runs these loops, and the API when there is a listener, until a signal; then finishes what was begun.
    pub(super) async fn run(
        self,
        mut loops: Vec<Arc<dyn Loop>>,
        listener: Option<Listener>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let clock = self.clock.clone();
        let World { db, sealer, settings, .. } = self.world.clone();
        let state = AppState::new(db, sealer, clock.clone(), settings, self.problem, stop.clone()).with_skew(move || clock.skew());
        loops.push(Arc::new(self.take));
        let crons = Crons::start().await.context("starting the cron library")?;
        let wake = &self.world.db.wake;
        let woken = tokio::spawn(wake.clone().run(self.server.options(), stop.clone()));
        let measured = tokio::spawn(keep_measuring(self.world.db.clone(), self.clock.clone(), stop.clone()));
        let metrics = tokio::spawn(self.metrics.run(statsd_of(self.world.settings.clone()), stop.clone().cancelled_owned()));
        let serving = async {
            match listener {
                Some(listener) => {
                    let hosts = Hosts::new(&self.console_hosts, listener.address.ip());
                    let state = state.with_console(hosts, listener.is_encrypted());
                    http::serve::serve(listener, state).await.context("serving the API")
                }
                None => Ok(()),
            }
        };
        say(sd_notify::NotifyState::Ready);
        let (served, ()) = tokio::join!(serving, timers::run(loops, self.clock.clone(), wake, &crons, stop.clone()));
        stop.cancel();
        crons.stop().await;
        for task in [woken, measured, metrics] {
            task.await.context("a task of the service panicked")?;
        }
        served
    }
}

/// Where metrics go now.
fn statsd_of(settings: watch::Receiver<Versioned>) -> impl Fn() -> Option<String> {
    move || settings.borrow().settings.statsd.as_deref().map(statsd::address)
}

/// What its loops touch.
pub(super) fn world(parts: Parts, clock: Arc<ServiceClock>, settings: watch::Receiver<Versioned>) -> World {
    World {
        db: parts.db,
        providers: parts.providers,
        guest: Arc::new(LinuxGuest),
        sealer: parts.sealer,
        clock,
        installation: parts.installation,
        settings,
        fresh_id: Arc::new(Uuid::now_v7),
    }
}

/// `vm-service serve`: listens at once, and says in its status what it waits for or what must be mended.
pub(super) async fn serve(arguments: ServeArguments, config: Result<Config, ConfigError>) -> anyhow::Result<()> {
    let told = on_signal();
    let waiting = bind(&arguments.listen).await?;
    let at = waiting.address;
    let started = async {
        match config {
            Ok(config) => start(&arguments.role, &config).await,
            Err(error) => Err(error.into()),
        }
    };
    let Some(service) = told.run_until_cancelled(while_answering(waiting, started, &told)).await else { return Ok(()) };
    let loops = service.serve_loops();
    let listener = bind(&ListenArguments { listen: at, ..arguments.listen }).await?;
    service.run(loops, Some(listener), told).await
}

/// Answers `/status` with what is awaited, then with what is wrong; returns once the service has started.
async fn while_answering(
    listener: Listener,
    started: impl Future<Output = anyhow::Result<Service>>,
    told: &CancellationToken,
) -> Service {
    let (say, problem) =
        watch::channel(Some("The service waits for its database and schema: start Postgres, run `vm-service migrate`.".to_owned()));
    let answered = told.child_token();
    let answering = tokio::spawn(http::serve::serve_router(listener, http::broken_router(problem), answered.clone()));
    let service = match started.await {
        Ok(service) => service,
        Err(error) => {
            let sentence = format!("{error:#}");
            tracing::error!(problem = sentence, "the configuration must be mended");
            say.send_replace(Some(sentence));
            std::future::pending().await
        }
    };
    answered.cancel();
    if let Ok(Err(error)) = answering.await {
        tracing::warn!(%error, "answering while starting");
    }
    service
}

/// The service, once its database answers; one that goes away in the middle of this is waited for again.
pub(super) async fn start(arguments: &RoleArguments, config: &Config) -> anyhow::Result<Service> {
    loop {
        let started = async { Service::new(parts(arguments, config).await?).await }.await;
        match started {
            Err(error) if matches!(error.downcast_ref(), Some(DbError::Unavailable(_))) => {
                tracing::warn!(error = format!("{error:#}"), "the database went away during the start; waiting for it");
                tokio::time::sleep(SCHEMA_EVERY).await;
            }
            other => return other,
        }
    }
}

/// What a service is made of, once its schema is there.
pub(super) async fn parts(arguments: &RoleArguments, config: &Config) -> anyhow::Result<Parts> {
    let server = external(config)?;
    let sealer = Arc::new(sealer(&config.sealing_keys)?);
    let db = Db::lazily(server.options(), POOL);
    wait_for_schema(&db).await?;
    let installation = ensure_installation(&db, config.installation).await?;
    let providers = match &arguments.data {
        Some(data) => vec![on_host(data, config.images.clone(), config.host.clone(), installation).await?],
        None => Vec::new(),
    };
    let providers = Providers::new(providers);
    let seed = config.settings_seed.clone().unwrap_or_default();
    let (outbound, console_hosts) = (config.outbound.clone(), config.console_hosts.clone());
    Ok(Parts { server, db, sealer, installation, outbound, providers, seed, console_hosts })
}

/// Who we are: as configured, or as the database says.
pub(super) async fn ensure_installation(db: &Db, wanted: Option<InstallationId>) -> anyhow::Result<InstallationId> {
    let fresh = wanted.unwrap_or_else(|| InstallationId(Uuid::new_v4()));
    let installation = db.ensure_installation(fresh, ServiceClock::new().now()).await?;
    anyhow::ensure!(
        wanted.is_none_or(|wanted| wanted == installation),
        "this database belongs to installation {installation}, not to {fresh}: set VM_SERVICE_INSTALLATION to its id, or use another"
    );
    Ok(installation)
}

/// Binds the API's socket.
pub(super) async fn bind(arguments: &ListenArguments) -> anyhow::Result<Listener> {
    let tls = arguments.tls_cert.clone().zip(arguments.tls_key.clone());
    let config = HttpConfig { tls, behind_tls_proxy: arguments.behind_tls_proxy, ..HttpConfig::new(arguments.listen) };
    Ok(http::serve::bind(&config).await?)
}

/// The sealer of these keys.
pub(super) fn sealer(keys: &[Secret]) -> anyhow::Result<Sealer> {
    Ok(Sealer::new(keys.iter().map(Secret::expose))?)
}

/// The on-host provider over a data folder.
pub(super) async fn on_host(
    data: &Path,
    images: Option<PathBuf>,
    host: String,
    installation: InstallationId,
) -> anyhow::Result<Arc<dyn Provider>> {
    Ok(Arc::new(OnHost::open(on_host_config(data, images, host, installation)?).await?))
}

/// How the VMs of this host are kept over a data folder.
pub(super) fn on_host_config(
    data: &Path,
    images: Option<PathBuf>,
    host: String,
    installation: InstallationId,
) -> anyhow::Result<OnHostConfig> {
    let images = images.unwrap_or_else(|| config::default_images(super::service_user::is_root()));
    let keeper = vec![std::env::current_exe().context("finding this program")?.display().to_string(), super::KEEPER.to_owned()];
    Ok(OnHostConfig::new(data.join("onhost"), installation, images, host, keeper))
}

/// Waits for `vm-service migrate`, as long as it takes; a newer schema than this binary serves ends the wait.
async fn wait_for_schema(db: &Db) -> anyhow::Result<()> {
    let mut told = false;
    loop {
        match db.check_schema().await {
            Ok(()) => return Ok(()),
            Err(error @ (SchemaError::Older { .. } | SchemaError::Db(_))) => {
                if !told {
                    tracing::warn!(%error, "waiting for the database");
                    told = true;
                }
                tokio::time::sleep(SCHEMA_EVERY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes over what Postgres says the time is.
pub(super) async fn measure(db: &Db, clock: &ServiceClock) -> anyhow::Result<()> {
    let (time, half) = db.server_time().await?;
    clock.measured(time, Instant::now().checked_sub(half).unwrap_or_else(Instant::now));
    Ok(())
}

async fn keep_measuring(db: Db, clock: Arc<ServiceClock>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(MEASURE_EVERY)).await.is_some() {
        if let Err(error) = measure(&db, &clock).await {
            tracing::warn!(error = format!("{error:#}"), "Postgres' time could not be measured");
        }
    }
}

/// Cancelled at SIGTERM or SIGINT.
pub(super) fn on_signal() -> CancellationToken {
    let told = CancellationToken::new();
    let tell = told.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            tracing::error!("signals cannot be caught; the service ends only by being killed");
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; VMs live on");
        say(sd_notify::NotifyState::Stopping);
        tell.cancel();
    });
    told
}

/// Tells systemd; without it nothing happens.
fn say(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}
