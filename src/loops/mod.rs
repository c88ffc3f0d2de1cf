//! The loops that carry intent out: each gathers, plans and applies in one `tick`, and may be killed at any line.
//!
//! Reads: Postgres, providers. Writes: Postgres, providers, guests. Calls: `db`, `provider`, `guest`, `seal`. Runs: `timers`, in
//! every process of the role.
//!
//! A *tick* takes no input but the world. What takes time is returned as *acts*: bounded, one leased row each, so that one slow
//! machine holds up nobody; recovery is the next tick.

pub mod assign;
pub mod audit;
mod audit_once;
pub mod audit_store;
pub mod cache;
pub mod checks;
pub mod collect;
pub mod collect_cache;
pub mod collect_images;
pub mod collect_volumes;
pub mod expire;
pub mod gauges;
pub mod generations;
pub mod history;
pub mod images;
pub mod keep;
pub mod launch;
pub mod lease;
pub mod listen;
pub mod notices;
pub mod power;
pub mod prepare;
pub mod reach;
pub mod scale;
pub mod settings;
pub mod terminate;
pub mod timers;
pub mod volumes;
mod wanted;
pub mod watch;

use crate::clock::Clock;
use crate::db::Db;
use crate::db::settings::Versioned;
use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::ids::{InstallationId, LaunchId, TaskId, VmId, VolumeId};
use crate::domain::settings::Settings;
use crate::guest::Guest;
use crate::provider::Provider;
use crate::provider::metered::Metered;
use crate::seal::Sealer;
use anyhow::Context as _;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tracing::{Instrument as _, Span, field};
use uuid::Uuid;

/// Everything a loop may touch.
#[derive(Clone)]
pub struct World {
    /// Rows.
    pub db: Db,
    /// Every provider that still has machines in care.
    pub providers: Providers,
    /// The inside of VMs.
    pub guest: Arc<dyn Guest>,
    /// Secrets at rest.
    pub sealer: Arc<Sealer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who we are.
    pub installation: InstallationId,
    /// The live settings.
    pub settings: Receiver<Versioned>,
    /// Makes ids; seeded in tests.
    pub fresh_id: Arc<dyn Fn() -> Uuid + Send + Sync>,
}

impl World {
    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.settings.borrow().settings.clone()
    }

    /// Where new VMs come from; none while no provider is set.
    pub fn provider(&self, settings: &Settings) -> Option<Arc<dyn Provider>> {
        self.providers.chosen(settings)
    }

    fn seal<T: serde::Serialize>(&self, row: Uuid, secret: &T) -> anyhow::Result<Vec<u8>> {
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(secret)?);
        Ok(self.sealer.seal(row, &plain)?)
    }

    fn open_bootstrap(&self, launch: LaunchId, sealed: &[u8]) -> anyhow::Result<Bootstrap> {
        let plain = self.sealer.open(launch.0, sealed)?;
        serde_json::from_slice(&plain).context("reading a bootstrap identity")
    }

    fn open_identity(&self, vm: VmId, sealed: &[u8]) -> anyhow::Result<Identity> {
        let plain = self.sealer.open(vm.0, sealed)?;
        serde_json::from_slice(&plain).context("reading a VM's identity")
    }
}

/// Every provider that has machines in care, shared by all loops of a process; one more joins when the settings name another region.
#[derive(Clone)]
pub struct Providers(Arc<RwLock<Vec<Arc<dyn Provider>>>>);

impl Providers {
    /// These.
    pub fn new(providers: Vec<Arc<dyn Provider>>) -> Self {
        Self(Arc::new(RwLock::new(providers.into_iter().map(metered).collect())))
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Arc<dyn Provider>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that the settings name.
    pub fn chosen(&self, settings: &Settings) -> Option<Arc<dyn Provider>> {
        self.all().into_iter().find(|provider| provider.is_chosen(settings))
    }

    /// One more.
    pub fn add(&self, provider: Arc<dyn Provider>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(metered(provider));
    }
}

fn metered(provider: Arc<dyn Provider>) -> Arc<dyn Provider> {
    Arc::new(Metered::new(provider))
}

/// One bounded piece of work on one leased row (or one batch).
pub struct Act {
    /// For logs: what it does, to which row.
    pub name: String,
    /// Around each line that it logs: the ids that it is about.
    pub span: Span,
    /// Does it. An error is logged once, by whoever drives the act; the row's lease ends by itself.
    pub run: BoxFuture<'static, anyhow::Result<()>>,
}

impl Act {
    fn new(name: String, about: About<'_>, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> Self {
        let span = about.span();
        Self { name, run: Box::pin(run.instrument(span.clone())), span }
    }
}

/// What an act, or a line of the log, is about.
#[derive(Clone, Copy, Debug, Default)]
struct About<'a> {
    task: Option<TaskId>,
    vm: Option<VmId>,
    volume: Option<VolumeId>,
    launch: Option<LaunchId>,
    /// Anything else, by a name.
    what: Option<&'a str>,
}

impl<'a> About<'a> {
    fn task(task: TaskId) -> Self {
        Self { task: Some(task), ..Self::default() }
    }

    fn vm(vm: VmId) -> Self {
        Self { vm: Some(vm), ..Self::default() }
    }

    fn volume(volume: VolumeId) -> Self {
        Self { volume: Some(volume), ..Self::default() }
    }

    fn launch(launch: LaunchId) -> Self {
        Self { launch: Some(launch), ..Self::default() }
    }

    fn what(what: &'a str) -> Self {
        Self { what: Some(what), ..Self::default() }
    }

    fn span(self) -> Span {
        let Self { task, vm, volume, launch, what } = self;
        let (task, vm) = (task.map(field::display), vm.map(field::display));
        tracing::info_span!("act", task, vm, volume = volume.map(field::display), launch = launch.map(field::display), about = what)
    }
}

/// One that resists does not hide those behind it: it is told, and tried again at the next tick.
fn told<T>(done: anyhow::Result<T>, about: About<'_>) {
    if let Err(error) = done {
        about.span().in_scope(|| tracing::warn!(error = format!("{error:#}"), "could not be done this time"));
    }
}

/// A loop.
#[async_trait]
pub trait Loop: Send + Sync {
    /// For logs and metrics.
    fn name(&self) -> &'static str;

    /// How long it may sleep when nothing wakes it.
    fn interval(&self) -> Duration;

    /// One pass. `room`: how many acts may be started.
    ///
    /// # Errors
    /// Anything: the next tick is the recovery.
    async fn tick(&self, now: DateTime<Utc>, room: usize) -> anyhow::Result<Vec<Act>>;
}

/// The loops of `serve`.
pub fn serve_loops(world: &World) -> Vec<Arc<dyn Loop>> {
    vec![
        Arc::new(assign::Assign(world.clone())),
        Arc::new(launch::Launch(world.clone())),
        Arc::new(watch::Watch(world.clone())),
        Arc::new(reach::Reach(world.clone())),
        Arc::new(cache::Cache(world.clone())),
        Arc::new(volumes::MoveVolumes(world.clone())),
        Arc::new(generations::Generations(world.clone())),
        Arc::new(prepare::Prepare(world.clone())),
        Arc::new(keep::Keep(world.clone())),
        Arc::new(power::Power(world.clone())),
        Arc::new(notices::Notices(world.clone())),
        Arc::new(terminate::Terminate(world.clone())),
        Arc::new(images::Images(world.clone())),
        Arc::new(listen::Listen(world.clone())),
        Arc::new(gauges::Gauges::new(world.clone())),
    ]
}

/// The loops of `scaler`.
pub fn scaler_loops(world: &World) -> Vec<Arc<dyn Loop>> {
    vec![Arc::new(scale::Scale(world.clone()))]
}

/// The loops of `gc`.
pub fn gc_loops(world: &World) -> Vec<Arc<dyn Loop>> {
    vec![
        Arc::new(expire::Expire(world.clone())),
        Arc::new(collect::Collect(world.clone())),
        Arc::new(collect_volumes::CollectVolumes(world.clone())),
        Arc::new(collect_cache::CollectCache(world.clone())),
        Arc::new(collect_images::CollectImages(world.clone())),
        Arc::new(history::History(world.clone())),
        Arc::new(audit::Seal(world.clone())),
    ]
}
