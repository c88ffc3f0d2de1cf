//! The commands that only look, `doctor` and `iam-policy`: they read the settings in force and change nothing, here or in a cloud.
//!
//! Reads: arguments, `config`, the database's settings and installation. Calls: `admin`, `provider`.

use super::embedded::Embedded;
use super::{DoctorArguments, clouds, server, service, service_user, up};
use crate::config::{self, Config, ConfigError};
use crate::db::connect::Server;
use crate::db::{Db, DbError};
use crate::domain::ids::InstallationId;
use crate::domain::plan::images::Registered;
use crate::domain::secret::Secret;
use crate::domain::settings::{ProviderChoice, Settings};
use crate::provider::{Finding, Provider};
use crate::{admin, loops};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const NO_INSTALLATION: &str =
    "the installation's id is not known: start the service once, or set VM_SERVICE_INSTALLATION to a UUID of your own";

/// What a service on this machine would go by now.
pub(super) struct InForce {
    pub(super) settings: Settings,
    /// None before the service has run for the first time, unless it is configured.
    pub(super) installation: Option<InstallationId>,
    /// Where the settings come from, or why the saved ones could not be read.
    finding: Finding,
}

impl InForce {
    /// Reads the settings that are saved, else those of the configuration.
    pub(super) async fn read(data: &Path, config: Option<&Config>) -> Self {
        let seed = config.and_then(|config| config.settings_seed.clone());
        let configured = config.and_then(|config| config.installation);
        let found = match (config.and_then(server), Embedded::address_in(data)) {
            (Some(external), _) => saved(&external).await,
            (None, Ok(embedded)) => saved(&embedded).await,
            (None, Err(_)) => Ok((None, None)),
        };
        let source = if seed.is_some() { "those of VM_SERVICE_SETTINGS" } else { "the defaults" };
        let (ok, detail, saved, known) = match found {
            Ok((Some((version, settings)), known)) => (true, format!("version {version}"), Some(settings), known),
            Ok((None, known)) => (true, format!("none are saved; {source} are in force"), None, known),
            Err(error @ DbError::UnreadableSettings { .. }) => {
                (false, format!("{error} Until then {source} are looked at"), None, None)
            }
            Err(error) => (true, format!("the saved ones are not looked at: {error}; {source} are"), None, None),
        };
        let settings = saved.or(seed).unwrap_or_default();
        let finding = Finding::new(ok, "settings", format!("{detail}; VMs come from {}", word(settings.provider)));
        Self { settings, installation: configured.or(known), finding }
    }

    /// The EC2 that the settings name, ready to be asked.
    fn open_cloud(&self, data: &Path, config: Option<&Config>) -> anyhow::Result<Arc<dyn Provider>> {
        anyhow::ensure!(self.settings.ec2.region.is_some(), "ec2.region is not set: set it in the settings");
        let open = clouds::opener(
            self.installation.context(NO_INSTALLATION)?,
            config.map(|config| config.outbound.clone()).unwrap_or_default(),
        );
        let provider = open(&self.settings).context("this build has no EC2 provider: use one with the feature ec2")?;
        provider.configure(&self.settings, self.access_secret(data, config).as_ref());
        Ok(provider)
    }

    /// The secret half of the settings' access key; without the keys the provider says what is missing.
    pub(super) fn access_secret(&self, data: &Path, config: Option<&Config>) -> Option<Secret> {
        let sealer = config.and_then(|config| up::read_sealer(data, config).ok())?;
        loops::settings::access_secret(&sealer, &self.settings)
    }
}

fn word(provider: ProviderChoice) -> &'static str {
    match provider {
        ProviderChoice::None => "nowhere",
        ProviderChoice::OnHost => "this host",
        ProviderChoice::Ec2 => "EC2",
    }
}

type Saved = (Option<(i64, Settings)>, Option<InstallationId>);

async fn saved(server: &Server) -> Result<Saved, DbError> {
    let db = Db::lazily(server.options(), 1);
    let newest = db.find_settings().await?.map(|newest| (newest.version, newest.settings));
    Ok((newest, db.find_installation().await?))
}

/// The database of the service on this host, or the external one.
///
/// # Errors
/// None is configured, and none runs over this folder.
pub(super) fn database(data: &Path, config: Option<&Config>) -> anyhow::Result<Db> {
    let server = match config.and_then(server) {
        Some(external) => external,
        None => Embedded::address_in(data)
            .with_context(|| format!("no service runs over {}: name its folder with --data", data.display()))?,
    };
    Ok(Db::lazily(server.options(), 2))
}

pub(super) fn folder(data: Option<PathBuf>) -> PathBuf {
    data.unwrap_or_else(|| config::default_data_folder(service_user::is_root()))
}

/// The images that launches choose from; none where the database cannot be asked, which is told by itself.
async fn registered_at(provider: &dyn Provider, data: &Path, config: Option<&Config>) -> Vec<Registered> {
    let Ok(db) = database(data, config) else { return Vec::new() };
    db.list_registered((provider.name(), provider.place())).await.unwrap_or_default()
}

/// `vm-service doctor`.
pub(super) async fn doctor(arguments: DoctorArguments, config: Result<Config, ConfigError>) -> anyhow::Result<ExitCode> {
    let data = folder(arguments.data);
    let (config, mistakes) = match config {
        Ok(config) => (Some(config), None),
        Err(mistakes) => (None, Some(mistakes)),
    };
    let in_force = InForce::read(&data, config.as_ref()).await;
    let provider = match in_force.settings.provider {
        ProviderChoice::Ec2 => in_force.open_cloud(&data, config.as_ref()),
        ProviderChoice::None | ProviderChoice::OnHost => {
            let images = config.as_ref().and_then(|config| config.images.clone());
            let host = config.as_ref().map(|config| config.host.clone()).unwrap_or_default();
            service::on_host(&data, images, host, InstallationId(Uuid::nil())).await
        }
    };
    let provider = match provider {
        Ok(provider) => Ok((provider.clone(), registered_at(&*provider, &data, config.as_ref()).await)),
        Err(error) => Err(error),
    };
    let external = config.as_ref().and_then(server);
    let findings = admin::doctor::look(mistakes.as_ref(), external.as_ref(), in_force.finding, provider).await;
    admin::doctor::print(&findings, arguments.json, &mut std::io::stdout().lock())?;
    Ok(if findings.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `vm-service iam-policy`.
#[cfg(feature = "ec2")]
pub(super) async fn iam_policy(arguments: super::IamPolicyArguments, config: &Config) -> anyhow::Result<()> {
    use std::io::Write as _;

    let in_force = InForce::read(&folder(arguments.data), Some(config)).await;
    let installation = in_force.installation.context(NO_INSTALLATION)?;
    let mut notes = std::io::stderr().lock();
    writeln!(notes, "# Settings: {}.", in_force.finding.detail)?;
    let wanted = admin::iam_policy::Wanted { all: arguments.all, more: arguments.with, region: arguments.region };
    admin::iam_policy::print(&in_force.settings, installation, &wanted, &mut std::io::stdout().lock(), &mut notes)
}
