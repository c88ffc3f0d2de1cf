//! The one composition root: arguments in, the roles and commands out.
//!
//! Reads: arguments, `config`. Calls: everything. Not here: what any of it does.

mod alone;
mod cache;
mod clouds;
mod embedded;
mod look;
mod manual;
mod service;
mod service_user;
mod tokens;
mod up;

use crate::config::{Config, ConfigError, Sources};
use crate::db::connect::Server;
use crate::telemetry::logs::{self, Logging};
use crate::{admin, cli, config, loops};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Gives every CI job a virtual machine of its own, with the project's Docker layers already on its disk.
#[derive(Parser)]
#[command(name = "vm-service", version)]
struct Arguments {
    /// Folder of the configuration files (`shared/postgresql`, `vm-service/customizations`, …).
    #[arg(long, global = true, default_value = "/etc/circleconfig", value_name = "DIR")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs everything in one process, over embedded Postgres and VMs on this host.
    Up(up::UpArguments),
    /// Serves the API and brings VMs up and down.
    Serve(ServeArguments),
    /// Keeps the base of VMs that wait for jobs, and replaces them each day.
    Scaler(AloneArguments),
    /// Ends what is past its time and collects what was left behind.
    Gc(GcArguments),
    /// Brings the database's schema up to date.
    Migrate,
    /// Makes, lists and revokes API tokens.
    Tokens(tokens::TokensArguments),
    /// Says what is missing on this machine and how to get it.
    Doctor(DoctorArguments),
    /// Prints the least that AWS must allow this installation: an IAM policy.
    #[cfg(feature = "ec2")]
    IamPolicy(IamPolicyArguments),
    /// Compares generations of the Docker layer cache, and brings one in.
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Prints what a shell needs to complete this program's words.
    Completion(manual::CompletionArguments),
    /// Prints the manual page, or writes one for each command.
    Man(manual::ManArguments),
    #[command(flatten)]
    Client(cli::Command),
}

/// Where the API listens.
#[derive(Args, Clone)]
struct ListenArguments {
    /// Address and port of the API.
    #[arg(long, default_value = "127.0.0.1:3001", value_name = "ADDR")]
    listen: SocketAddr,
    /// Certificate chain for TLS, PEM; read again when it changes.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Something in front of this service speaks TLS to its callers.
    #[arg(long)]
    behind_tls_proxy: bool,
}

#[derive(Args)]
struct ServeArguments {
    #[command(flatten)]
    listen: ListenArguments,
    #[command(flatten)]
    role: RoleArguments,
}

/// What the roles share.
#[derive(Args, Clone)]
struct RoleArguments {
    /// Folder of this host's VMs; none: this process makes no VMs on its host.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Of a role without an API.
#[derive(Args, Clone)]
struct AloneArguments {
    #[command(flatten)]
    role: RoleArguments,
    /// Serve this role's own metrics for Prometheus at this address, without a token; such as 127.0.0.1:9101.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
}

#[derive(Args)]
struct GcArguments {
    #[command(flatten)]
    alone: AloneArguments,
    /// Only say what would be done now, and why; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long, requires = "dry_run")]
    json: bool,
}

#[derive(Args)]
struct DoctorArguments {
    /// The data folder to look at.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[cfg(feature = "ec2")]
#[derive(Args)]
struct IamPolicyArguments {
    /// The data folder of `up`, whose settings are looked at.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Allow everything that the service may ever need, whatever the settings say.
    #[arg(long)]
    all: bool,
    /// Allow this beside what the settings switch on.
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    with: Vec<admin::iam_policy::More>,
    /// The region, when it is another than that of the settings.
    #[arg(long)]
    region: Option<String>,
}

/// The hidden command that stays by an on-host VM; started by the service itself, before anything of it is set up.
const KEEPER: &str = "keep-machine";

/// Runs the program.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|command| command == KEEPER) {
        return crate::provider::onhost::keeper::main();
    }
    let arguments = Arguments::parse();
    if let Command::Up(up) = &arguments.command
        && service_user::is_root()
    {
        let images = Config::read(&Sources::of_process(&arguments.config, "vm-service")).ok().and_then(|config| config.images);
        let images = images.unwrap_or_else(|| config::default_images(true));
        return failed(&service_user::continue_as_service_user(&up.data_folder(), &images));
    }
    if let Command::Cache(command) = &arguments.command
        && cache::needs_service_user(&command.data())
    {
        let images = Config::read(&Sources::of_process(&arguments.config, "vm-service")).ok().and_then(|config| config.images);
        let images = images.unwrap_or_else(|| config::default_images(true));
        return failed(&service_user::continue_as_service_user(&command.data(), &images));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("starting the runtime")),
    };
    runtime.block_on(async {
        match dispatch(arguments).await {
            Ok(code) => code,
            Err(error) => failed(&error),
        }
    })
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let sources = |role: &str| Sources::of_process(&arguments.config, role);
    let read = |role: &str| -> Result<Config, ConfigError> { Config::read(&sources(role)) };
    let log = |role: &str| -> Result<Logging, ConfigError> { Ok(logs::start(&config::read_log(&sources(role))?)) };
    match arguments.command {
        Command::Client(command) => {
            let defaults = cli::Defaults { operator_token: Some(up::default_token_file()) };
            Ok(cli::run(command, &defaults, cli::Io::process()).await.into())
        }
        Command::Completion(arguments) => manual::complete(&arguments, &mut std::io::stdout().lock()).map(|()| ExitCode::SUCCESS),
        Command::Man(arguments) => manual::man(&arguments, &mut std::io::stdout().lock()).map(|()| ExitCode::SUCCESS),
        Command::Doctor(doctor) => look::doctor(doctor, read("vm-service")).await,
        #[cfg(feature = "ec2")]
        Command::IamPolicy(arguments) => look::iam_policy(arguments, &read("vm-service")?).await.map(|()| ExitCode::SUCCESS),
        Command::Cache(command) => {
            let _logging = log("vm-service")?;
            cache::run(command, &read("vm-service")?).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Up(up) => {
            let _logging = log("vm-service")?;
            up::up(up, &read("vm-service")?).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Serve(serve) => {
            let _logging = log("vm-service")?;
            service::serve(serve, read("vm-service")).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Scaler(role) => {
            let _logging = log("vm-scaler")?;
            alone::role(&role, &read("vm-scaler")?, |world| Ok(loops::scaler_loops(world))).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Gc(gc) => {
            let _logging = log("vm-gc")?;
            let config = read("vm-gc")?;
            match gc.dry_run {
                true => alone::gc_dry_run(&gc.alone.role, &config, gc.json).await,
                false => alone::role(&gc.alone, &config, |world| alone::gc_loops(world, &config)).await,
            }
            .map(|()| ExitCode::SUCCESS)
        }
        Command::Migrate => {
            let _logging = log("vm-service-db-migrator")?;
            let server = external(&read("vm-service-db-migrator")?)?;
            admin::migrate::migrate(&server).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Tokens(arguments) => tokens::run(arguments, &read("vm-service")?).await.map(|()| ExitCode::SUCCESS),
    }
}

/// The external Postgres of the configuration.
fn server(config: &Config) -> Option<Server> {
    let postgres = config.postgres.as_ref()?;
    Some(Server::External {
        host: postgres.host.clone(),
        port: postgres.port,
        user: postgres.user.clone(),
        password: postgres.password.clone(),
        tls: postgres.tls.parse().unwrap_or_default(),
        root_certificate: postgres.root_certificate.clone(),
    })
}

fn external(config: &Config) -> anyhow::Result<Server> {
    server(config)
        .context("no Postgres is configured: set POSTGRES_HOST and POSTGRES_PASSWORD, or use `vm-service up` with its own")
}

/// One sentence for a person, and a failure for programs.
fn failed(error: &anyhow::Error) -> ExitCode {
    // Nothing can be done about a closed standard error.
    drop(writeln!(std::io::stderr(), "vm-service: {error:#}"));
    ExitCode::FAILURE
}
