//! The commands of `vm-service cache`: the settings in force and their keys, the EC2 that they name, and what was asked for.
//!
//! Reads: arguments, `config`, the database's settings and installation. Calls: `admin::cache`.

use super::look::{InForce, NO_INSTALLATION, folder};
use crate::admin::cache::diff::{self, Generations, Kept, Named};
use crate::admin::cache::seed::{self, Teller};
use crate::config::Config;
use crate::domain::ids::GenerationId;
use crate::domain::lineage::{Engine, Lineage, Store, Trust};
use crate::provider::Provider as _;
use crate::provider::ec2::Ec2;
use anyhow::Context as _;
use async_trait::async_trait;
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use uuid::Uuid;

/// `vm-service cache …`
#[derive(Subcommand)]
pub(super) enum CacheCommand {
    /// Says which bytes changed between two generations of a cache, and how many in all.
    Diff(DiffArguments),
    /// Writes a finished raw image (ext4) as the newest generation of a project's cache. Run again, an interrupted upload goes on.
    Seed(SeedArguments),
}

#[derive(Args)]
pub(super) struct DiffArguments {
    /// The older one: a generation's id, or a snapshot (snap-…).
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
pub(super) struct SeedArguments {
    /// The raw image of the volume.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Whose cache it is; only its trusted jobs write on it.
    #[arg(long, value_name = "ID")]
    project: String,
    /// Of the machines that read it.
    #[arg(long, default_value = "x86_64")]
    architecture: String,
    /// How their engine keeps its layers: classic or containerd.
    #[arg(long)]
    store: Store,
    /// The major version of their engine.
    #[arg(long, value_name = "NUMBER")]
    engine_major: i32,
    /// The data folder of `up`, whose settings are gone by.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Generations have no rows in this version.
struct NoRows;

#[async_trait]
impl Generations for NoRows {
    async fn find_generation(&self, id: GenerationId) -> anyhow::Result<Option<Kept>> {
        anyhow::bail!("generation {id} cannot be looked up in this version: name its snapshot (snap-…)")
    }
}

pub(super) async fn run(command: CacheCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        CacheCommand::Diff(asked) => {
            let (in_force, ec2) = open(asked.data, config).await?;
            let region = in_force.settings.ec2.region.unwrap_or_default();
            let changes = diff::diff(&asked.first, &asked.second, &NoRows, &region, &[&ec2]).await?;
            diff::print(&changes, asked.json, &mut std::io::stdout().lock())
        }
        CacheCommand::Seed(asked) => {
            let (in_force, ec2) = open(asked.data, config).await?;
            let engine = Engine { architecture: asked.architecture, store: asked.store, major: asked.engine_major };
            let lineage = Lineage { project_id: asked.project, trust: Trust::Trusted, engine };
            let installation = in_force.installation.context(NO_INSTALLATION)?;
            let spec = seed::spec_for(&asked.image, installation, &lineage, GenerationId(Uuid::now_v7()))?;
            let teller = Teller::new(std::io::stderr());
            let snapshot = seed::seed_snapshot(&ec2, &asked.image, &spec, &|progress| teller.tell(progress)).await?;
            Ok(writeln!(std::io::stdout().lock(), "{snapshot}")?)
        }
    }
}

/// The settings in force, and the EC2 that they name.
async fn open(data: Option<PathBuf>, config: &Config) -> anyhow::Result<(InForce, Ec2)> {
    let data = folder(data);
    let in_force = InForce::read(&data, Some(config)).await;
    let region = in_force.settings.ec2.region.clone().context("ec2.region is not set: set it in the settings")?;
    let ec2 = Ec2::new(in_force.installation.context(NO_INSTALLATION)?, region, config.outbound.clone());
    ec2.configure(&in_force.settings, in_force.access_secret(&data, Some(config)).as_ref());
    Ok((in_force, ec2))
}
