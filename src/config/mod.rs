//! The only reader of environment and files: what needs a restart, with all mistakes told at once.
//!
//! Later wins: `/etc/environment`; the guide's files under the configuration folder, lines `export NAME="value"`; the process
//! environment. What an option of the command line says wins over all of them.
//!
//! Not here: live settings (`domain::settings`).

mod sources;

use crate::domain::audit_place::{AuditBucket, AuditPlace};
use crate::domain::ids::InstallationId;
use crate::domain::outbound::Outbound;
use crate::domain::secret::Secret;
use crate::domain::settings::Settings;
use crate::telemetry::logs::{Format, LogConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use sources::{ConfigError, Sources};

/// What the roles share.
#[derive(Clone, Debug)]
pub struct Config {
    /// An external Postgres; none: the embedded one, for `up` only.
    pub postgres: Option<Postgres>,
    /// Sealing keys in base64, newest first; empty: `up` makes one.
    pub sealing_keys: Vec<Secret>,
    /// The settings in force while no row of settings exists.
    pub settings_seed: Option<Settings>,
    /// Folder of the on-host image.
    pub images: Option<PathBuf>,
    /// There the audit log is written by the hour; none: it is in the database alone.
    pub audit_place: Option<AuditPlace>,
    /// This machine's name, in rows of on-host VMs.
    pub host: String,
    /// How the service reaches the world.
    pub outbound: Outbound,
    /// Who we are; none: the database makes it up. With it a lost database finds its machines again.
    pub installation: Option<InstallationId>,
    /// Names under which the console answers, beside those of this machine and of the address that it listens on.
    pub console_hosts: Vec<String>,
}

/// The guide's `POSTGRES_*` names.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Name or address.
    pub host: String,
    /// Port, 5432 by default.
    pub port: u16,
    /// User, `circle` by default.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// `disable`, `prefer` (default), `require`, `verify-ca` or `verify-full`.
    pub tls: String,
    /// Certificates to verify against.
    pub root_certificate: Option<PathBuf>,
}

impl Config {
    /// Reads everything.
    ///
    /// # Errors
    /// Every mistake at once, one sentence each.
    pub fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let mut mistakes = Vec::new();
        let values = sources.read(&mut mistakes);
        let outbound = outbound(&values, &mut mistakes);
        let config = Self {
            postgres: postgres(&values, &mut mistakes),
            sealing_keys: list(&values, "VM_SERVICE_SEALING_KEYS").map(Secret::new).collect(),
            settings_seed: settings_seed(&values, &mut mistakes),
            images: values.get("VM_SERVICE_IMAGES").map(PathBuf::from),
            audit_place: audit_place(&values, &outbound, &mut mistakes),
            host: values.get("VM_SERVICE_HOST").cloned().unwrap_or_else(host_name),
            outbound,
            installation: installation(&values, &mut mistakes),
            console_hosts: list(&values, "VM_SERVICE_CONSOLE_HOSTS").collect(),
        };
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError(mistakes)) }
    }
}

fn list<'a>(values: &'a BTreeMap<String, String>, name: &str) -> impl Iterator<Item = String> + 'a {
    values
        .get(name)
        .map(String::as_str)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
}

fn postgres(values: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Option<Postgres> {
    let host = values.get("POSTGRES_HOST")?.clone();
    let port = values.get("POSTGRES_PORT").map_or(Ok(5432), |text| text.parse()).unwrap_or_else(|_| {
        mistakes.push(format!("POSTGRES_PORT is \"{}\": give a port number such as 5432.", values["POSTGRES_PORT"].escape_debug()));
        0
    });
    let tls = values.get("POSTGRES_SSLMODE").cloned().unwrap_or_else(|| "prefer".to_owned());
    if !["disable", "prefer", "require", "verify-ca", "verify-full"].contains(&tls.as_str()) {
        mistakes.push(format!(
            "POSTGRES_SSLMODE is \"{}\": give disable, prefer, require, verify-ca or verify-full.",
            tls.escape_debug()
        ));
    }
    if !values.contains_key("POSTGRES_PASSWORD") {
        mistakes.push("POSTGRES_HOST is set and POSTGRES_PASSWORD is not: set both.".to_owned());
    }
    Some(Postgres {
        host,
        port,
        user: values.get("POSTGRES_USER").cloned().unwrap_or_else(|| "circle".to_owned()),
        password: Secret::new(values.get("POSTGRES_PASSWORD").cloned().unwrap_or_default()),
        tls,
        root_certificate: values.get("POSTGRES_SSLROOTCERT").map(PathBuf::from),
    })
}

fn outbound(values: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Outbound {
    let mut proxy = |name: &str| {
        let url = values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())?;
        // Often written without a scheme; then it is one.
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let is_proxy = url.parse::<axum::http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
            && ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        if !is_proxy {
            mistakes.push(format!("{name} is no address of a proxy: give one such as http://proxy.example:3128."));
        }
        is_proxy.then_some(url)
    };
    Outbound {
        http_proxy: proxy("HTTP_PROXY"),
        https_proxy: proxy("HTTPS_PROXY"),
        no_proxy: values.get("NO_PROXY").map(|text| text.trim().to_owned()),
    }
}

fn audit_place(values: &BTreeMap<String, String>, outbound: &Outbound, mistakes: &mut Vec<String>) -> Option<AuditPlace> {
    let folder = values.get("VM_SERVICE_AUDIT_FOLDER").map(|folder| AuditPlace::Folder(PathBuf::from(folder)));
    let Some(url) = values.get("VM_SERVICE_AUDIT_BUCKET") else { return folder };
    if folder.is_some() {
        mistakes.push("VM_SERVICE_AUDIT_FOLDER and VM_SERVICE_AUDIT_BUCKET are both set: leave one of them.".to_owned());
    }
    let options = values.iter().filter(|(name, _)| name.starts_with("AWS_"));
    let options = options.map(|(name, value)| (name.clone(), Secret::new(value.clone()))).collect();
    let bucket = AuditBucket::parse(url, options, outbound.clone());
    if bucket.is_none() {
        mistakes.push(format!(
            "VM_SERVICE_AUDIT_BUCKET is \"{}\": give s3:// and the name of a bucket, such as s3://ci-logs or s3://ci-logs/vm-service.",
            url.escape_debug()
        ));
    }
    bucket.map(AuditPlace::Bucket)
}

fn installation(values: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Option<InstallationId> {
    let text = values.get("VM_SERVICE_INSTALLATION")?;
    let id = text.parse().ok();
    if id.is_none() {
        mistakes.push(format!("VM_SERVICE_INSTALLATION is \"{}\": give a UUID.", text.escape_debug()));
    }
    id
}

fn settings_seed(values: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Option<Settings> {
    let text = values.get("VM_SERVICE_SETTINGS")?;
    let parsed = serde_json::from_str::<Settings>(text).map_err(|e| e.to_string()).and_then(|settings| {
        garde::Validate::validate(&settings).map_err(|report| report.to_string().trim().to_owned())?;
        Ok(settings)
    });
    match parsed {
        Ok(settings) => Some(settings),
        Err(error) => {
            mistakes.push(format!("VM_SERVICE_SETTINGS must hold settings as a JSON object: {error}."));
            None
        }
    }
}

/// The data folder of `up` when none is named: the system's for root, the user's otherwise.
#[allow(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
pub fn default_data_folder(is_root: bool) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/lib/vm-service");
    }
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    std::env::var_os("XDG_DATA_HOME").map_or_else(|| home().join(".local/share"), PathBuf::from).join("vm-service")
}

/// Where the image build leaves its images when no folder is named: the same rule as in `ami/build-onhost`.
#[allow(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
pub fn default_images(is_root: bool) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/cache/vm-service/images/current");
    }
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from).join("vm-service/images/current")
}

/// The log's part of the configuration, which is read before the rest: what is wrong there is told by [`Config::read`].
///
/// # Errors
/// The format is none.
pub fn read_log(sources: &Sources) -> Result<LogConfig, ConfigError> {
    let values = sources.read(&mut Vec::new());
    let word = |name: &str| values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let format = match word("VM_SERVICE_LOG_FORMAT").map(str::to_lowercase).as_deref() {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => {
            return Err(ConfigError(vec![format!("VM_SERVICE_LOG_FORMAT is \"{}\": give json or text.", other.escape_debug())]));
        }
    };
    let filter = word("RUST_LOG").unwrap_or("info,sqlx=warn,tower_http=warn,russh=warn,tokio_cron_scheduler=warn").to_owned();
    Ok(LogConfig { filter, format, otlp: word("OTEL_EXPORTER_OTLP_ENDPOINT").map(str::to_owned) })
}

fn host_name() -> String {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname"))
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(folder: &Path, environment: &[(&str, &str)]) -> Sources {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sources { folder: folder.to_owned(), role: "vm-service".to_owned(), system: folder.join("environment"), environment }
    }

    #[test]
    fn the_guides_files_work_and_the_environment_wins() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("shared")).unwrap();
        let text = "# a comment\nexport POSTGRES_HOST=\"db.example\"\nexport POSTGRES_PORT=\"6432\"\nexport POSTGRES_PASSWORD=\"p w\"\nexport POSTGRES_USER=\"circle\" # We advise not changing the username\n";
        std::fs::write(folder.path().join("shared/postgresql"), text).unwrap();
        let postgres = Config::read(&sources(folder.path(), &[("POSTGRES_PORT", "7000")])).unwrap().postgres.unwrap();
        assert_eq!((postgres.host.as_str(), postgres.port, postgres.user.as_str()), ("db.example", 7000, "circle"));
        assert_eq!(postgres.password.expose(), "p w");
        assert!(!format!("{postgres:?}").contains("p w"));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let environment = [
            ("POSTGRES_HOST", "db"),
            ("POSTGRES_PORT", "many"),
            ("POSTGRES_SSLMODE", "perhaps"),
            ("VM_SERVICE_SETTINGS", "{\"provider\": \"moon\"}"),
            ("VM_SERVICE_INSTALLATION", "ours"),
            ("HTTPS_PROXY", "socks5://user:hush@proxy"),
            ("VM_SERVICE_AUDIT_FOLDER", "/logs"),
            ("VM_SERVICE_AUDIT_BUCKET", "ci-logs"),
        ];
        let error = Config::read(&sources(folder.path(), &environment)).unwrap_err();
        assert_eq!(error.0.len(), 8, "{error}");
        assert!(!error.to_string().contains("hush"));
    }

    #[test]
    fn the_guides_proxies_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("vm-service")).unwrap();
        let text = "export HTTP_PROXY=\"http://u:p@proxy.example:3128\"\nexport HTTPS_PROXY=\"proxy.example:3129\"\n";
        std::fs::write(folder.path().join("vm-service/customizations"), text).unwrap();
        let outbound = Config::read(&sources(folder.path(), &[("no_proxy", "10.0.0.0/8")])).unwrap().outbound;
        assert_eq!(outbound.http_proxy.as_deref(), Some("http://u:p@proxy.example:3128"));
        assert_eq!(outbound.https_proxy.as_deref(), Some("http://proxy.example:3129"));
        assert_eq!(outbound.no_proxy.as_deref(), Some("10.0.0.0/8"));
    }

    #[test]
    fn a_bucket_is_read_with_what_leads_there() {
        let folder = tempfile::tempdir().unwrap();
        let read = |url: &str| {
            let environment = [("VM_SERVICE_AUDIT_BUCKET", url), ("aws_region", "eu-west-3"), ("AWS_SECRET_ACCESS_KEY", "hush")];
            Config::read(&sources(folder.path(), &environment)).map(|config| config.audit_place.unwrap())
        };
        for url in ["s3://ci-logs", "s3://ci-logs/vm/service"] {
            let place = read(url).unwrap();
            assert_eq!(place.to_string(), url);
            let AuditPlace::Bucket(bucket) = &place else { panic!("{place:?}") };
            assert_eq!(
                bucket.options.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                ["AWS_REGION", "AWS_SECRET_ACCESS_KEY"]
            );
            assert!(!format!("{place:?}").contains("hush"));
        }
        for url in ["s3://", "s3:///x", "gs://ci-logs", "s3://CI", "s3://a b"] {
            assert!(read(url).unwrap_err().to_string().contains("such as s3://ci-logs"), "{url}");
        }
    }

    #[test]
    fn the_log_is_configured_like_the_rest_and_knows_two_formats() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("vm-service")).unwrap();
        std::fs::write(folder.path().join("vm-service/customizations"), "export VM_SERVICE_LOG_FORMAT=\"JSON\"\n").unwrap();
        let read = |environment: &[(&str, &str)]| read_log(&sources(folder.path(), environment));
        let log = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " http://127.0.0.1:4318 ")]).unwrap();
        assert_eq!((log.format, log.otlp.as_deref()), (Format::Json, Some("http://127.0.0.1:4318")));
        assert_eq!(read(&[("VM_SERVICE_LOG_FORMAT", "text")]).unwrap().format, Format::Text);
        let refused = read(&[("VM_SERVICE_LOG_FORMAT", "yaml\n")]).unwrap_err();
        assert_eq!(refused.0, ["VM_SERVICE_LOG_FORMAT is \"yaml\": give json or text."]);
    }

    #[test]
    fn a_line_that_a_shell_would_expand_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("vm-service")).unwrap();
        std::fs::write(folder.path().join("vm-service/customizations"), "export VM_SERVICE_HOST=\"$HOSTNAME\"\n").unwrap();
        let error = Config::read(&sources(folder.path(), &[])).unwrap_err();
        assert!(error.0[0].contains("customizations"), "{error}");
    }
}
