//! The commands of `vm-service cache`: the settings in force and their keys, the provider that they name, and what was asked for.
//!
//! Reads: arguments, `config`, the database's settings, installation and generations. Writes: a generation. Calls: `admin::cache`.

use super::embedded::Embedded;
use super::look::{InForce, NO_INSTALLATION, database, folder};
use super::service::on_host_config;
use super::service_user;
use crate::admin;
use crate::admin::cache::diff::{self, Compare, Generations, Named};
use crate::admin::cache::image::{self, Wish};
use crate::clock::{Clock as _, ServiceClock};
use crate::config::Config;
use crate::db::Db;
use crate::db::seeds::{Home, Seeded};
use crate::domain::ids::{GenerationId, InstallationId};
use crate::domain::lineage::{Engine, Layer, Lineage, Store, Trust};
use crate::domain::settings::ProviderChoice;
use crate::domain::tags::SnapshotTags;
use crate::provider::Provider as _;
use crate::provider::onhost::OnHost;
use crate::provider::volumes::SnapshotSpec;
use anyhow::Context as _;
use async_trait::async_trait;
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// `vm-service cache …`
#[derive(Subcommand)]
pub(super) enum CacheCommand {
    /// Says which bytes changed between two generations of a cache, and how many in all.
    Diff(DiffArguments),
    /// Makes image archives, or named images, the first good state of a project's cache: its next job begins with them.
    Seed(SeedArguments),
}

impl CacheCommand {
    /// The data folder of the service on this host.
    pub(super) fn data(&self) -> PathBuf {
        let (Self::Diff(DiffArguments { data, .. }) | Self::Seed(SeedArguments { data, .. })) = self;
        folder(data.clone())
    }
}

#[derive(Args)]
pub(super) struct DiffArguments {
    /// The older one: a generation's id, or a snapshot of EC2 (snap-…).
    first: Named,
    /// The newer one.
    second: Named,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The data folder of `up`, whose settings are gone by.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Args)]
#[command(
    after_help = "Archives and images are put into a volume by an engine in a VM on this host, which the command starts and ends \
                        (it needs QEMU and a VM image, as for VMs on this host). Run again after an interruption, an upload to EC2 goes \
                        on when the image was kept with --keep."
)]
pub(super) struct SeedArguments {
    /// Whose cache it is; only its trusted jobs write on it.
    #[arg(long, value_name = "ID")]
    project: String,
    /// An archive of images, as `docker save` makes it, compressed or not; several may be named.
    #[arg(long = "archive", value_name = "FILE", required_unless_present_any = ["from", "image"])]
    archives: Vec<PathBuf>,
    /// The name of an image in a registry that this host can reach; several may be named.
    #[arg(long, value_name = "NAME", conflicts_with = "image")]
    from: Vec<String>,
    /// Size of the volume that is made.
    #[arg(long, value_name = "GIB", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    size_gib: u32,
    /// Keep the raw image of the volume there.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    keep: Option<PathBuf>,
    /// A finished raw image of such a volume (ext4), instead of archives.
    #[arg(long, value_name = "FILE", requires = "store", requires = "engine_major", conflicts_with = "archives")]
    image: Option<PathBuf>,
    /// Of the machines that read a finished image.
    #[arg(long, default_value = "x86_64")]
    architecture: String,
    /// How their engine keeps its layers: classic or containerd.
    #[arg(long)]
    store: Option<Store>,
    /// The major version of their engine.
    #[arg(long, value_name = "NUMBER")]
    engine_major: Option<i32>,
    /// The data folder of `up`, whose settings are gone by.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn run(command: CacheCommand, config: &Config) -> anyhow::Result<()> {
    let data = command.data();
    match command {
        CacheCommand::Diff(asked) => compare(&asked, &data, config).await,
        CacheCommand::Seed(asked) => seed(&asked, &data, config).await,
    }
}

/// The settings in force; over a data folder of `up` they name this host until others are saved.
async fn read(data: &Path, config: &Config) -> InForce {
    let mut in_force = InForce::read(data, Some(config)).await;
    if in_force.settings.provider == ProviderChoice::None && Embedded::address_in(data).is_ok() {
        in_force.settings.provider = ProviderChoice::OnHost;
    }
    in_force
}

async fn compare(asked: &DiffArguments, data: &Path, config: &Config) -> anyhow::Result<()> {
    let in_force = read(data, config).await;
    let rows = Rows(database(data, Some(config)).ok());
    let region = in_force.settings.ec2.region.clone().unwrap_or_default();
    let mut able: Vec<Box<dyn Compare>> = Vec::new();
    if in_force.settings.provider == ProviderChoice::OnHost {
        able.push(Box::new(host(&in_force, data, config).await?));
    }
    #[cfg(feature = "ec2")]
    if !region.is_empty() {
        able.push(Box::new(cloud(&in_force, data, config)?));
    }
    let able: Vec<&dyn Compare> = able.iter().map(AsRef::as_ref).collect();
    let changes = diff::diff(&asked.first, &asked.second, &rows, &region, &able).await?;
    diff::print(&changes, asked.json, &mut std::io::stdout().lock())
}

/// The rows of generations, where there is a database.
struct Rows(Option<Db>);

#[async_trait]
impl Generations for Rows {
    async fn find_generation(&self, id: GenerationId) -> anyhow::Result<Option<Home>> {
        match &self.0 {
            Some(db) => db.find_generation(id).await,
            None => anyhow::bail!("generation {id} cannot be looked up without the service's database: name its snapshot (snap-…)"),
        }
    }
}

/// A raw image of a volume, and what is known of it.
struct Source {
    raw: PathBuf,
    engine: Engine,
    layers: Vec<Layer>,
    used_bytes: Option<u64>,
}

/// Cancelled when this command is to end: whatever it has begun is ended first.
fn interrupted() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

async fn seed(asked: &SeedArguments, data: &Path, config: &Config) -> anyhow::Result<()> {
    let stop = interrupted()?;
    let in_force = read(data, config).await;
    anyhow::ensure!(in_force.installation.is_some(), NO_INSTALLATION);
    anyhow::ensure!(
        in_force.settings.provider != ProviderChoice::None,
        "no provider is set: choose one in the settings, so that it is known where the cache is to be"
    );
    for archive in &asked.archives {
        std::fs::File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    }
    // Gone at the end, with the image that was made in it.
    let mut folder = None;
    let source = match &asked.image {
        Some(raw) => finished(asked, raw)?,
        None => {
            // Below the data: the VM's disk does not fit into every /tmp.
            let made = tempfile::Builder::new().prefix("seed-").tempdir_in(data).context("making a folder for the volume")?;
            make(asked, folder.insert(made).path(), data, config, &stop).await?
        }
    };
    stop.run_until_cancelled(keep(asked, data, config, &in_force, &source)).await.context("stopped")?
}

/// Brings a volume's image to where jobs find it.
async fn keep(asked: &SeedArguments, data: &Path, config: &Config, in_force: &InForce, source: &Source) -> anyhow::Result<()> {
    let installation = in_force.installation.context(NO_INSTALLATION)?;
    if let Some(keep) = &asked.keep {
        std::fs::copy(&source.raw, keep).with_context(|| format!("keeping the image as {}", keep.display()))?;
    }
    let lineage = Lineage { project_id: asked.project.clone(), trust: Trust::Trusted, engine: source.engine.clone() };
    let gib =
        std::fs::metadata(&source.raw).with_context(|| format!("looking at {}", source.raw.display()))?.len().div_ceil(1 << 30);
    let size_gib = u32::try_from(gib.max(1)).context("the image is too large")?;
    let (place, generation, snapshot) = match in_force.settings.provider {
        ProviderChoice::OnHost => {
            let host = host(in_force, data, config).await?;
            let spec = fresh(installation, &lineage);
            let snapshot = host.import_snapshot(&source.raw, &spec, size_gib).await?;
            ((host.name(), host.place().to_owned()), spec.tags.generation, snapshot)
        }
        _ => upload(in_force, data, config, &source.raw, &lineage).await?,
    };
    let seeded = Seeded {
        id: generation,
        lineage: &lineage,
        place: (place.0, &place.1),
        provider_id: &snapshot,
        size_gib,
        layers: &source.layers,
        used_bytes: source.used_bytes,
    };
    let mut notes = std::io::stderr().lock();
    match database(data, Some(config)) {
        Ok(db) => {
            let kept = db.insert_seeded(&seeded, ServiceClock::new().now());
            admin::local_user().run(kept).await.context("keeping the good state")?;
        }
        Err(_) => {
            writeln!(notes, "No database is configured here: the service takes it in by its tags, and checks it at its first use.")?
        }
    }
    let Engine { architecture, store, major } = &lineage.engine;
    let of = format!("for {architecture} machines whose engine has major version {major} and the {store} store");
    writeln!(notes, "The next job of project {} begins with it, {of}.", lineage.project_id)?;
    Ok(writeln!(std::io::stdout().lock(), "{generation} {snapshot}")?)
}

fn finished(asked: &SeedArguments, raw: &Path) -> anyhow::Result<Source> {
    let engine = Engine {
        architecture: asked.architecture.clone(),
        store: asked.store.context("say how the engine keeps its layers, with --store")?,
        major: asked.engine_major.context("say the engine's major version, with --engine-major")?,
    };
    Ok(Source { raw: raw.to_owned(), engine, layers: Vec::new(), used_bytes: None })
}

async fn make(
    asked: &SeedArguments,
    folder: &Path,
    data: &Path,
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<Source> {
    let wish = Wish {
        host: on_host_config(data, config.images.clone(), config.host.clone(), InstallationId(Uuid::nil()))?,
        folder: folder.to_owned(),
        archives: asked.archives.clone(),
        images: asked.from.clone(),
        size_gib: asked.size_gib,
    };
    let tell = |line: &str| {
        // Nobody listens any more: the volume is made all the same.
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    };
    let made = image::make(&wish, ServiceClock::new().now(), stop, &tell).await?;
    Ok(Source { raw: made.raw, engine: made.engine, layers: made.layers, used_bytes: Some(made.used_bytes) })
}

fn fresh(installation: InstallationId, lineage: &Lineage) -> SnapshotSpec {
    let generation = GenerationId(Uuid::now_v7());
    let tags = SnapshotTags { installation, generation, lineage: lineage.clone() };
    SnapshotSpec { client_token: format!("seed-{generation}"), tags }
}

type Uploaded = ((&'static str, String), GenerationId, String);

#[cfg(feature = "ec2")]
async fn upload(in_force: &InForce, data: &Path, config: &Config, raw: &Path, lineage: &Lineage) -> anyhow::Result<Uploaded> {
    use crate::admin::cache::seed::{self, Bar, Teller};
    use std::io::IsTerminal as _;

    let ec2 = cloud(in_force, data, config)?;
    let installation = in_force.installation.context(NO_INSTALLATION)?;
    let spec = seed::spec_for(raw, installation, lineage, GenerationId(Uuid::now_v7()))?;
    let (bar, teller) = (Bar::new()?, Teller::new(std::io::stderr()));
    let at_terminal = std::io::stderr().is_terminal();
    let tell = |progress| if at_terminal { bar.tell(progress) } else { teller.tell(progress) };
    let snapshot = seed::seed_snapshot(&ec2, raw, &spec, &tell).await?;
    Ok(((ec2.name(), ec2.place().to_owned()), spec.tags.generation, snapshot))
}

/// This build has no cloud.
#[cfg(not(feature = "ec2"))]
async fn upload(_: &InForce, _: &Path, _: &Config, _: &Path, _: &Lineage) -> anyhow::Result<Uploaded> {
    anyhow::bail!("this build has no EC2 provider: use one with the feature ec2")
}

/// The EC2 that the settings name.
#[cfg(feature = "ec2")]
fn cloud(in_force: &InForce, data: &Path, config: &Config) -> anyhow::Result<crate::provider::ec2::Ec2> {
    let region = in_force.settings.ec2.region.clone().context("ec2.region is not set: set it in the settings")?;
    let installation = in_force.installation.context(NO_INSTALLATION)?;
    let ec2 = crate::provider::ec2::Ec2::new(installation, region, config.outbound.clone());
    ec2.configure(&in_force.settings, in_force.access_secret(data, Some(config)).as_ref());
    Ok(ec2)
}

/// The VMs and volumes of this host.
async fn host(in_force: &InForce, data: &Path, config: &Config) -> anyhow::Result<OnHost> {
    let installation = in_force.installation.context(NO_INSTALLATION)?;
    OnHost::open(on_host_config(data, config.images.clone(), config.host.clone(), installation)?).await
}

/// Files in the data folder belong to the user that the service runs as, also those that root's commands make.
pub(super) fn needs_service_user(data: &Path) -> bool {
    service_user::is_root() && service_user::has_taken(data)
}
