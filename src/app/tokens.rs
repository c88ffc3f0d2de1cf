//! `vm-service tokens`: the database of the configuration, or else that of the `up` on this host.
//!
//! Reads: arguments, `config`, the sealing keys. Calls: `admin::tokens`.

use super::look::{database, folder};
use super::up;
use crate::admin;
use crate::config::Config;
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct TokensArguments {
    /// The data folder of `up`, whose tokens are meant; not looked at where an external Postgres is configured.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: admin::tokens::TokensCommand,
}

pub(super) async fn run(arguments: TokensArguments, config: &Config) -> anyhow::Result<()> {
    let data = folder(arguments.data);
    let db = database(&data, Some(config))?;
    db.check_schema().await.with_context(|| match config.postgres {
        Some(_) => "looking at the database".to_owned(),
        None => format!("is `vm-service up` running with {}?", data.display()),
    })?;
    let sealer = || up::read_sealer(&data, config).context("no sealing key is known: set VM_SERVICE_SEALING_KEYS");
    let to =
        admin::tokens::Output { out: &mut std::io::stdout().lock(), notes: &mut std::io::stderr().lock(), json: arguments.json };
    admin::tokens::run(arguments.command, &db, sealer, to).await
}
