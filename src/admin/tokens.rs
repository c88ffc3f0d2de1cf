//! `vm-service tokens`: makes an API token and prints it once, of which only a keyed hash is kept; lists tokens, and revokes one.

use super::local_user;
use crate::clock::{Clock as _, ServiceClock};
use crate::db::Db;
use crate::db::tokens::TokenRow;
use crate::domain::access::{Caller, Role};
use crate::domain::ids::TokenId;
use crate::domain::secret::Secret;
use crate::seal::Sealer;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
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
    /// Lists all tokens, newest first, never what they are.
    List,
    /// Revokes a token: it is refused from its next request on.
    Revoke {
        /// Its id, as `create` and `list` say it.
        id: TokenId,
    },
}

/// Where a command writes.
pub struct Output<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// What a person is told beside it.
    pub notes: &'a mut dyn Write,
    /// Everything as JSON.
    pub json: bool,
}

/// Runs the command; `sealer` is asked for by that which makes a token.
///
/// # Errors
/// One sentence that says what to do.
pub async fn run(
    command: TokensCommand,
    db: &Db,
    sealer: impl FnOnce() -> anyhow::Result<Sealer>,
    mut to: Output<'_>,
) -> anyhow::Result<()> {
    let now = ServiceClock::new().now();
    match command {
        TokensCommand::Create { principal, role, untrusted } => {
            let caller = Caller { principal, role, untrusted_only: untrusted };
            let (id, token) = create(db, &sealer()?, &caller, now).await?;
            if to.json {
                let Caller { principal, role, untrusted_only } = caller;
                let token = token.expose();
                return to.json(
                    &json!({ "id": id, "principal": principal, "role": role, "untrusted_only": untrusted_only, "token": token }),
                );
            }
            writeln!(to.notes, "Token {id} of {}, role {}:", shown(&caller.principal), role.as_str())?;
            writeln!(to.out, "{}", token.expose())?;
        }
        TokensCommand::List => {
            let tokens = db.list_tokens().await?;
            if to.json {
                return to.json(&tokens);
            }
            for token in &tokens {
                writeln!(to.out, "{}", line(token))?;
            }
        }
        TokensCommand::Revoke { id } => {
            let revoked = local_user().run(db.revoke_token(id, now)).await.context("revoking the token")?;
            let token = revoked.with_context(|| format!("no token {id} is in force: `vm-service tokens list` names all"))?;
            if to.json {
                return to.json(&token);
            }
            writeln!(to.out, "Token {id} of {} is revoked.", shown(&token.principal))?;
        }
    }
    Ok(())
}

impl Output<'_> {
    fn json(&mut self, what: &impl Serialize) -> anyhow::Result<()> {
        Ok(writeln!(self.out, "{}", serde_json::to_string_pretty(what)?)?)
    }
}

fn line(token: &TokenRow) -> String {
    let time = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ");
    let revoked = token.revoked_at.map(|at| format!(", revoked {}", time(at))).unwrap_or_default();
    let untrusted = if token.untrusted_only { ", untrusted" } else { "" };
    let (id, role, made) = (token.id, token.role.as_str(), time(token.created_at));
    format!("{id}  made {made}  {role:<10}  {}{untrusted}{revoked}", shown(&token.principal))
}

/// A name moves no cursor.
fn shown(principal: &str) -> impl std::fmt::Display {
    principal.escape_debug()
}

/// Makes a token for the caller.
///
/// # Errors
/// The database's.
pub async fn create(db: &Db, sealer: &Sealer, caller: &Caller, now: DateTime<Utc>) -> anyhow::Result<(TokenId, Secret)> {
    let token = Sealer::fresh_token()?;
    let hash = sealer.token_hashes(&token).into_iter().next().context("a sealer has a key")?;
    let id = TokenId(Uuid::new_v4());
    local_user().run(db.insert_token(id, caller, &hash, now)).await.context("keeping the token")?;
    Ok((id, Secret::new(token.as_str())))
}
