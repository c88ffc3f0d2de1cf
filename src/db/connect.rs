//! Connections to Postgres, external or embedded, and the schema that this binary serves.

use super::{Db, DbError, MIGRATOR, wake::Wake};
use crate::domain::secret::Secret;
use chrono::{DateTime, Utc};
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use std::path::PathBuf;
use std::time::Duration;

/// Where Postgres is.
#[derive(Clone, Debug)]
pub enum Server {
    /// The guide's `POSTGRES_*` names.
    External {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// User.
        user: String,
        /// Password.
        password: Secret,
        /// Whether TLS is wanted, demanded or verified, in the words of `sslmode`.
        tls: PgSslMode,
        /// Certificates to verify against; none: the system's.
        root_certificate: Option<PathBuf>,
    },
    /// Started by us; a socket in a folder that only we may enter.
    Socket {
        /// The folder.
        folder: PathBuf,
        /// Names the socket file.
        port: u16,
        /// User.
        user: String,
        /// Password.
        password: Secret,
    },
}

/// The database, in every installation.
pub const DATABASE: &str = "vms";

impl Server {
    /// How to reach it.
    pub fn options(&self) -> PgConnectOptions {
        let base = PgConnectOptions::new_without_pgpass().database(DATABASE).application_name("vm-service").options([
            // A client that died is noticed by the server within a minute; the guide asks for keep-alives behind proxies.
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
            // No statement of ours takes long; one that does must not hold a lock for ever.
            ("statement_timeout", "30s"),
            ("lock_timeout", "10s"),
            // Shorter than a lease: who is frozen in a transaction must not keep others from taking over what it has locked.
            ("idle_in_transaction_session_timeout", "5s"),
        ]);
        match self {
            Self::External { host, port, user, password, tls, root_certificate } => {
                let options = base.host(host).port(*port).username(user).password(password.expose()).ssl_mode(*tls);
                match root_certificate {
                    Some(file) => options.ssl_root_cert(file),
                    None => options,
                }
            }
            Self::Socket { folder, port, user, password } => {
                base.socket(folder).port(*port).username(user).password(password.expose()).ssl_mode(PgSslMode::Disable)
            }
        }
    }
}

impl Db {
    /// A pool that connects when it is used, and again after every loss. `size`: most connections at a time.
    pub fn lazily(options: PgConnectOptions, size: u32) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(3600))
            .connect_lazy_with(options);
        Self { pool, wake: Wake::default() }
    }

    /// Brings the schema up to date; migrations are forward only, and two callers wait for one another.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn migrate(&self) -> Result<(), SchemaError> {
        MIGRATOR.run(&self.pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => SchemaError::Newer(version),
            MigrateError::VersionMismatch(version) => SchemaError::Changed(version),
            other => SchemaError::Failed(other),
        })
    }

    /// Whether the schema is one that this binary serves: its own version or the next.
    ///
    /// # Errors
    /// `Older`, `Newer`, or the database cannot be asked.
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        let own = MIGRATOR.iter().map(|m| m.version).max().unwrap_or(0);
        let exists: bool =
            sqlx::query_scalar("-- connect::check_schema (exists)\n select to_regclass('_sqlx_migrations') is not null")
                .fetch_one(&self.pool)
                .await
                .map_err(DbError::from)?;
        let found: i64 = if exists {
            sqlx::query_scalar("-- connect::check_schema\n select coalesce(max(version), 0) from _sqlx_migrations where success")
                .fetch_one(&self.pool)
                .await
                .map_err(DbError::from)?
        } else {
            0
        };
        match found - own {
            ..=-1 => Err(SchemaError::Older { found, own }),
            0 | 1 => Ok(()),
            _ => Err(SchemaError::Newer(found)),
        }
    }

    /// Postgres' time, and half of how long the question took.
    ///
    /// # Errors
    /// See [`DbError`].
    pub async fn server_time(&self) -> Result<(DateTime<Utc>, Duration), DbError> {
        let asked = std::time::Instant::now();
        let time = sqlx::query_scalar!(
            r#"-- connect::server_time
            select clock_timestamp() as "now!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((time, asked.elapsed() / 2))
    }
}

/// Makes the database when it is missing.
///
/// # Errors
/// See [`DbError`].
pub async fn ensure_database(options: &PgConnectOptions) -> Result<(), DbError> {
    let mut connection = PgConnection::connect_with(&options.clone().database("postgres")).await?;
    let exists: bool =
        sqlx::query_scalar("-- connect::ensure_database\n select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        match sqlx::query("-- connect::ensure_database (create)\n create database vms")
            .execute(&mut connection)
            .await
            .map_err(DbError::from)
        {
            // Somebody else made it just now.
            Ok(_) | Err(DbError::Conflict(_)) => {}
            Err(DbError::Refused(error)) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("42P04") => {}
            Err(other) => return Err(other),
        }
    }
    connection.close().await?;
    Ok(())
}

/// Why this binary and this schema do not go together.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Run `vm-service migrate`, or wait for it.
    #[error("the database has schema {found}, this binary needs {own}: run `vm-service migrate`")]
    Older {
        /// The schema's version.
        found: i64,
        /// The binary's.
        own: i64,
    },
    /// A newer binary was here.
    #[error("the database has schema {0}, which is newer than this binary serves: install the newer vm-service")]
    Newer(i64),
    /// The file of an applied migration was edited.
    #[error("migration {0} is not the one that made this database: install an unmodified vm-service")]
    Changed(i64),
    /// Postgres cannot be asked.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A migration did not go through; nothing of it was kept.
    #[error("a migration failed")]
    Failed(#[source] MigrateError),
}
