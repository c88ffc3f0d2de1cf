//! `vm-service tokens create`: makes an API token and prints it once; only its keyed hash is kept.

use crate::clock::{Clock as _, ServiceClock};
use crate::db::Db;
use crate::db::audit::Behind;
use crate::db::connect::Server;
use crate::domain::access::{Caller, Role};
use crate::domain::audit::Party;
use crate::domain::ids::TokenId;
use crate::domain::secret::Secret;
use crate::seal::Sealer;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use std::io::Write;
use uuid::Uuid;

/// `vm-service tokens …`
#[derive(Subcommand)]
pub enum TokensCommand {
    /// Makes a token and prints it; it is never shown again.
    Create {
        /// The name that its tasks belong to; several tokens may share one.
        principal: String,
        /// dispatcher, operator or viewer.
        #[arg(long, default_value = "dispatcher")]
        role: Role,
        /// Its tasks may only read Docker layer caches, for code from outside: they must say cache_trust "untrusted".
        #[arg(long)]
        untrusted: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// One sentence that says what to do.
pub async fn run(command: TokensCommand, server: &Server, sealer: &Sealer, out: &mut impl Write) -> anyhow::Result<()> {
    let TokensCommand::Create { principal, role, untrusted } = command;
    let db = Db::lazily(server.options(), 1);
    db.check_schema().await?;
    let token = create(&db, sealer, &Caller { principal, role, untrusted_only: untrusted }, ServiceClock::new().now()).await?;
    writeln!(out, "{}", token.expose())?;
    Ok(())
}

/// Makes a token for the caller.
///
/// # Errors
/// The database's.
pub async fn create(db: &Db, sealer: &Sealer, caller: &Caller, now: DateTime<Utc>) -> anyhow::Result<Secret> {
    let token = Sealer::fresh_token()?;
    let hash = sealer.token_hashes(&token).into_iter().next().context("a sealer has a key")?;
    let user = Behind::new(Party::new("local_user", rustix::process::getuid().as_raw().to_string()), None);
    user.run(db.insert_token(TokenId(Uuid::new_v4()), caller, &hash, now)).await.context("keeping the token")?;
    Ok(Secret::new(token.as_str()))
}
