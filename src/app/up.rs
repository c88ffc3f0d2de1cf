//! `vm-service up`: everything in one process over one data folder, with nothing to configure.
//!
//! Reads, writes: `DATA/` (`lock`, `host`, `sealing.key`, `operator.token`, `postgres/`, `run/`, `onhost/`). Calls: `embedded`, `service`.

use super::embedded::{Embedded, private_folder, write_private};
use super::service::{self, Parts, Service};
use super::{ListenArguments, alone, server, service_user};
use crate::clock::{Clock as _, ServiceClock};
use crate::config::{self, Config};
use crate::db::Db;
use crate::db::connect::{Server, ensure_database};
use crate::domain::access::{Caller, Role};
use crate::domain::ids::InstallationId;
use crate::domain::secret::Secret;
use crate::domain::settings::{ProviderChoice, Settings, VmNetwork};
use crate::http::serve::Listener;
use crate::loops::Providers;
use crate::seal::Sealer;
use crate::{admin, loops};
use anyhow::{Context as _, bail};
use clap::Args;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The file of the operator's token, in the data folder.
const TOKEN: &str = "operator.token";
/// The file of the sealing keys, in the data folder.
const SEALING_KEY: &str = "sealing.key";
/// Connections of the one process.
const POOL: u32 = 16;

#[derive(Args)]
pub(super) struct UpArguments {
    /// Everything is kept here; default: a folder of the user's, for root `/var/lib/vm-service`.
    #[arg(long, value_name = "DIR", env = "VM_SERVICE_DATA")]
    data: Option<PathBuf>,
    /// What the VMs can reach, as long as no settings are saved: open or closed.
    #[arg(long, value_name = "NETWORK", default_value = "open", value_parser = network)]
    network: VmNetwork,
    #[command(flatten)]
    listen: ListenArguments,
}

fn network(text: &str) -> Result<VmNetwork, String> {
    match text {
        "open" => Ok(VmNetwork::Open),
        "closed" => Ok(VmNetwork::Closed),
        _ => Err("give open or closed".to_owned()),
    }
}

impl UpArguments {
    /// The data folder.
    pub(super) fn data_folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| config::default_data_folder(service_user::is_root()))
    }
}

/// Where `up` leaves the operator's token when no data folder is named.
pub(super) fn default_token_file() -> PathBuf {
    config::default_data_folder(service_user::is_root()).join(TOKEN)
}

/// Runs until a signal.
pub(super) async fn up(arguments: UpArguments, config: &Config) -> anyhow::Result<()> {
    let data = arguments.data_folder();
    private_folder(&data)?;
    let data = data.canonicalize().context("finding the data folder")?;
    let _lock = lock(&data)?;
    let listener = service::bind(&arguments.listen).await?;
    // From here on a signal ends what was begun, Postgres too.
    let told = service::on_signal();
    let embedded = match server(config) {
        Some(_) => None,
        None => Some(Embedded::start(&data).await?),
    };
    let address = match &embedded {
        Some(embedded) => embedded.address.clone(),
        None => server(config).context("an external Postgres is configured")?,
    };
    let done = run(&arguments, config, &data, address, listener, told).await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    done
}

async fn run(
    arguments: &UpArguments,
    config: &Config,
    data: &Path,
    server: Server,
    listener: Listener,
    told: CancellationToken,
) -> anyhow::Result<()> {
    let url = listener.url();
    let Some(service) = told.run_until_cancelled(start(arguments, config, data, server)).await else { return Ok(()) };
    let service = service?;
    tracing::info!(api = %url, console = %format!("{url}/console"), document = %format!("{url}/openapi.json"), token = %data.join(TOKEN).display(), "up");
    let mut all = service.serve_loops();
    all.extend(loops::scaler_loops(&service.world));
    all.extend(alone::gc_loops(&service.world, config)?);
    service.run(all, Some(listener), told).await
}

async fn start(arguments: &UpArguments, config: &Config, data: &Path, server: Server) -> anyhow::Result<Service> {
    ensure_database(&server.options())
        .await
        .context("looking for the database; is Postgres running, and are host, user and password right?")?;
    let db = Db::lazily(server.options(), POOL);
    db.migrate().await?;
    ensure_operator_token(data, &db, &ensure_sealer(data, config)?).await?;
    Service::new(assemble(data, config, server, db, arguments.network).await?).await
}

/// The parts of a running `up`, looked at from outside.
///
/// # Errors
/// One sentence that says what to do.
pub(super) async fn look_at(data: &Path, config: &Config) -> anyhow::Result<Parts> {
    let server = Embedded::address_in(data)?;
    let db = Db::lazily(server.options(), POOL);
    db.check_schema().await.with_context(|| format!("is `vm-service up` running with {}?", data.display()))?;
    assemble(data, config, server, db, VmNetwork::default()).await
}

async fn assemble(data: &Path, config: &Config, server: Server, db: Db, network: VmNetwork) -> anyhow::Result<Parts> {
    let sealer = Arc::new(ensure_sealer(data, config)?);
    let installation = service::ensure_installation(&db, Some(kept_installation(data, config, &db).await?)).await?;
    let host = ensure_host(data, &config.host)?;
    let provider = service::on_host(data, config.images.clone(), host, installation).await?;
    let seed = config.settings_seed.clone().unwrap_or_else(|| {
        let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        settings.on_host.network = network;
        settings
    });
    Ok(Parts {
        server,
        db,
        sealer,
        installation,
        outbound: config.outbound.clone(),
        providers: Providers::new(vec![provider]),
        seed,
        console_hosts: config.console_hosts.clone(),
    })
}

/// The name of this host at the first start: rows of its VMs carry it, so a host that is renamed keeps them.
fn ensure_host(data: &Path, name: &str) -> anyhow::Result<String> {
    let file = data.join("host");
    if !file.exists() {
        write_private(&file, name.as_bytes())?;
    }
    std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

/// Who we are, also after the database is lost: kept beside the VMs' folders.
async fn kept_installation(data: &Path, config: &Config, db: &Db) -> anyhow::Result<InstallationId> {
    if let Some(installation) = config.installation {
        return Ok(installation);
    }
    let file = data.join("installation");
    if !file.exists() {
        let known = service::ensure_installation(db, None).await?;
        write_private(&file, known.to_string().as_bytes())?;
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    text.trim().parse().with_context(|| format!("reading {}: it holds no UUID", file.display()))
}

/// Holds the data folder for this process.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::create(&path)
        .with_context(|| format!("cannot write in {}: choose a data folder that you may write, with --data", data.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another `vm-service up` uses the data folder {}: stop it, or choose another with --data", data.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// The configured keys, or one made at the first start.
fn ensure_sealer(data: &Path, config: &Config) -> anyhow::Result<Sealer> {
    let file = data.join(SEALING_KEY);
    if config.sealing_keys.is_empty() && !file.exists() {
        write_private(&file, Sealer::fresh_key()?.as_bytes())?;
    }
    read_sealer(data, config)
}

/// The configured keys, or that of the first start.
///
/// # Errors
/// There is none, or it may not be read.
pub(super) fn read_sealer(data: &Path, config: &Config) -> anyhow::Result<Sealer> {
    if !config.sealing_keys.is_empty() {
        return service::sealer(&config.sealing_keys);
    }
    let file = data.join(SEALING_KEY);
    // One key a line, newest first: a rotation adds a line at the top and removes the last one when all VMs of its time are gone.
    let text = Secret::new(std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?);
    let lines = text.expose().lines().filter(|line| !line.trim().is_empty());
    Sealer::new(lines).with_context(|| format!("reading {}", file.display()))
}

/// The operator's token is in its file and known to the database; a lost file or a lost database gives a new one.
async fn ensure_operator_token(data: &Path, db: &Db, sealer: &Sealer) -> anyhow::Result<()> {
    let file = data.join(TOKEN);
    if let Ok(token) = std::fs::read_to_string(&file)
        && db.find_caller(&sealer.token_hashes(token.trim())).await?.is_some()
    {
        return Ok(());
    }
    let caller = Caller { principal: "operator".to_owned(), role: Role::Operator, untrusted_only: false };
    let (_, token) = admin::tokens::create(db, sealer, &caller, ServiceClock::new().now()).await?;
    write_private(&file, token.expose().as_bytes())
}
