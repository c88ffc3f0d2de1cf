//! The embedded Postgres of `up`: the distribution's own server, on a socket that only its user may reach, with its data in one
//! folder. It outlives a killed service and is then adopted; a clean stop stops it.
//!
//! Reads, writes: `DATA/postgres/` (`data`, `password`, `complete`), `DATA/run` (the socket). Calls: `postgresql_embedded`.

use crate::db::connect::Server;
use crate::domain::secret::Secret;
use anyhow::{Context as _, bail};
use postgresql_embedded::{PostgreSQL, Settings, VersionReq};
use sqlx::Connection as _;
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names the socket file only; nothing listens on TCP.
const PORT: u16 = 5432;
const USER: &str = "postgres";
/// The oldest server that the schema is tested for.
const OLDEST: u32 = 14;
/// Linux' limit for the path of a socket, less the file name.
const SOCKET_FOLDER_MAX: usize = 90;

/// A running server.
pub(super) struct Embedded {
    server: PostgreSQL,
    /// How to reach it.
    pub address: Server,
}

impl Embedded {
    /// Starts the server, or adopts the one that an earlier, killed service left running.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) async fn start(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join("postgres");
        let sockets = data.join("run");
        if sockets.as_os_str().len() > SOCKET_FOLDER_MAX {
            bail!("the data folder's path is too long for a socket: choose one of at most {} characters", SOCKET_FOLDER_MAX - 4);
        }
        for folder in [&folder, &sockets] {
            private_folder(folder)?;
        }
        let password = ensure_password(&folder.join("password"))?;
        let bin = find_installation(&folder.join("data"))?;
        let complete = folder.join("complete");
        if folder.join("data").exists() && !complete.exists() {
            // A first start that was cut off: nothing was ever kept in it.
            std::fs::remove_dir_all(folder.join("data")).context("clearing a half-made data folder of Postgres")?;
        }
        let mut server = PostgreSQL::new(settings(&folder, &sockets, bin, &password));
        server.setup().await.context("making the embedded Postgres' data folder")?;
        write_private(&complete, b"")?;
        let address = Server::Socket { folder: sockets, port: PORT, user: USER.to_owned(), password };
        if !answers(&address).await {
            server.start().await.with_context(|| format!("starting Postgres; its log is {}/data/start.log", folder.display()))?;
        }
        Ok(Self { server, address })
    }

    /// How the server of this data folder is reached, running or not.
    ///
    /// # Errors
    /// One sentence: there is none, or it may not be looked at.
    pub(super) fn address_in(data: &Path) -> anyhow::Result<Server> {
        let password = std::fs::read_to_string(data.join("postgres/password")).with_context(|| {
            format!("there is no database of `vm-service up` in {} that you may read: name its folder with --data", data.display())
        })?;
        Ok(Server::Socket { folder: data.join("run"), port: PORT, user: USER.to_owned(), password: Secret::new(password.trim()) })
    }

    /// Stops it.
    ///
    /// # Errors
    /// It may still run; the next `up` adopts it.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await.context("stopping the embedded Postgres")
    }
}

fn settings(folder: &Path, sockets: &Path, installation: PathBuf, password: &Secret) -> Settings {
    let configuration = HashMap::from([
        ("listen_addresses".to_owned(), "''".to_owned()),
        ("unix_socket_permissions".to_owned(), "0700".to_owned()),
        // The library starts the server with -F, which gives durability up; this takes it back.
        ("fsync".to_owned(), "on".to_owned()),
        // A small server: at rest it should cost little.
        ("shared_buffers".to_owned(), "64MB".to_owned()),
        ("max_connections".to_owned(), "60".to_owned()),
    ]);
    Settings {
        releases_url: String::new(),
        version: VersionReq::STAR,
        installation_dir: installation,
        password_file: folder.join("password"),
        data_dir: folder.join("data"),
        host: "localhost".to_owned(),
        port: PORT,
        username: USER.to_owned(),
        password: password.expose().to_owned(),
        temporary: false,
        timeout: Some(Duration::from_secs(60)),
        configuration,
        trust_installation_dir: true,
        socket_dir: Some(sockets.to_owned()),
    }
}

async fn answers(address: &Server) -> bool {
    let options = address.options().database("postgres");
    let connect = sqlx::PgConnection::connect_with(&options);
    match tokio::time::timeout(Duration::from_secs(3), connect).await {
        Ok(Ok(connection)) => connection.close().await.is_ok(),
        _ => false,
    }
}

/// The installation whose major version the data folder has; for a new one the newest.
fn find_installation(data: &Path) -> anyhow::Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(major, path)| *major >= OLDEST && path.join("bin/initdb").exists())
        .collect();
    found.sort();
    if let Ok(version) = std::fs::read_to_string(data.join("PG_VERSION")) {
        let version = version.trim().to_owned();
        let same = found.into_iter().find(|(major, _)| major.to_string() == version);
        return same.map(|(_, path)| path).with_context(|| {
            format!(
                "the data folder was made by Postgres {version}, which is not installed: `apt-get install postgresql-{version}`"
            )
        });
    }
    found.pop().map(|(_, path)| path).with_context(|| {
        format!(
            "Postgres {OLDEST} or newer is not installed under {}: `apt-get install postgresql`, or set POSTGRES_HOST",
            root.display()
        )
    })
}

fn ensure_password(file: &Path) -> anyhow::Result<Secret> {
    if let Ok(text) = std::fs::read_to_string(file) {
        return Ok(Secret::new(text.trim()));
    }
    let fresh = crate::seal::Sealer::fresh_token()?;
    write_private(file, fresh.as_bytes())?;
    Ok(Secret::new(fresh.as_str()))
}

/// Makes the folder for its owner alone.
pub(super) fn private_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
        format!("cannot make the folder {}: choose a data folder that you may write, with --data", folder.display())
    })
}

/// Writes a file that only its owner may read; whole or not at all.
pub(super) fn write_private(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let fresh = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(content)?;
        out.sync_all()?;
        std::fs::rename(&fresh, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}
