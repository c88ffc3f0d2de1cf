//! `vm-service audit`: who did what, as people and programs read it, and whether the log's chain holds.
//!
//! Reads: the API. Writes: its output. Calls: the API. Runs: once.

use super::calls::{Calls, Columns};
use super::problem::printable;
use super::table::json;
use super::{Client, ClientError, Connect, Failure, Io};
use crate::domain::audit::{AuditCheck, AuditView, Party};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::io::ErrorKind;
use std::time::Duration;

/// The exit code for a log that was edited.
const EDITED: u8 = 3;
/// Between two parts of an export.
const SILENCE: Duration = Duration::from_secs(60);

/// `vm-service audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service audit --actor ada --from 2026-11-01T00:00:00Z    what one person did
  vm-service audit --target 3f1c…                             what was done to one VM, task or volume
  vm-service audit --denied                                   what was refused or did not work
  vm-service audit --format csv > audit.csv                   the whole log
  vm-service audit verify                                     was it edited?")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print JSON; the same as --format json.
    #[arg(long, global = true)]
    json: bool,
    /// How to print: a table, one JSON array, CSV, or JSON lines.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only what this principal did.
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as vm.terminate or settings.update.
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this: an id.
    #[arg(long)]
    target: Option<String>,
    /// Only what was refused or did not work.
    #[arg(long)]
    denied: bool,
    /// Not before, such as 2026-11-22T00:00:00Z.
    #[arg(long)]
    from: Option<DateTime<Utc>>,
    /// Before.
    #[arg(long)]
    to: Option<DateTime<Utc>>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Check that no row of the log was changed and none is gone; say where, if so. Exits with 3 then, and with 1 when it cannot tell.
    Verify {
        /// Only what follows this link: those before it were archived.
        #[arg(long, value_name = "LINK", default_value_t = 0)]
        after: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
    Jsonl,
}

const COLUMNS: Columns<AuditView> = Columns {
    heading: &["AT", "ACTOR", "ACTION", "TARGET", "DONE", "FROM"],
    row: |AuditView { event, .. }, _| {
        let party = |party: &Party| format!("{} {}", party.kind, party.id).trim_end().to_owned();
        let status = event.metadata.get("status").cloned().unwrap_or_default();
        vec![
            event.occurred_at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            party(&event.actor),
            event.action,
            event.target.as_ref().map(party).unwrap_or_else(|| "-".to_owned()),
            if event.success { "yes".to_owned() } else { format!("no {status}").trim_end().to_owned() },
            event.request.and_then(|request| request.ip_address).unwrap_or_else(|| "-".to_owned()),
        ]
    },
    none: "No such events.",
};

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client, io: &mut Io) -> Result<String, Failure> {
    if let Some(What::Verify { after }) = args.what {
        return verify(client, after, args.json).await;
    }
    let given = |name: &'static str, text: &Option<String>| text.as_ref().map(|text| (name, text.clone()));
    let time = |name: &'static str, at: Option<DateTime<Utc>>| {
        at.map(|at| (name, at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)))
    };
    let filters = [
        given("actor", &args.actor),
        given("action", &args.action),
        given("target", &args.target),
        args.denied.then(|| ("success", "false".to_owned())),
        time("from", args.from),
        time("to", args.to),
    ];
    let format = if args.json { Format::Json } else { args.format };
    let answer = match format {
        Format::Table | Format::Json => {
            Calls { client, as_json: format == Format::Json }.list("audit", filters, COLUMNS).await.map_err(|e| e.to_string())
        }
        Format::Csv => export(client, io, filters.into_iter().flatten().collect(), "text/csv").await,
        Format::Jsonl => export(client, io, filters.into_iter().flatten().collect(), "application/x-ndjson").await,
    };
    Ok(answer?)
}

/// Everything that fits, part by part; it ends without words when nobody reads any more.
async fn export(client: &Client, io: &mut Io, query: Vec<(&str, String)>, kind: &str) -> Result<String, String> {
    let mut stream = client.stream("audit", &query, kind).await.map_err(|e| e.to_string())?;
    while let Some(part) = stream.part(SILENCE).await.map_err(|e| e.to_string())? {
        match io.write(&part).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            Err(error) => return Err(format!("The output cannot be written: {error}.")),
        }
    }
    Ok(String::new())
}

/// Part by part to the end of the chain, or to its first fault.
async fn verify(client: &Client, after: i64, as_json: bool) -> Result<String, Failure> {
    let ask = async |after: i64| -> Result<(Value, AuditCheck), ClientError> {
        let body = client.get(&format!("audit/check?after={after}")).await?.body;
        Ok((body.clone(), client.typed(body)?))
    };
    let (mut body, mut check) = ask(after).await.map_err(|e| e.to_string())?;
    let mut checked = check.checked;
    while let Some(after) = check.next {
        (body, check) = ask(after).await.map_err(|e| e.to_string())?;
        checked += check.checked;
        body["checked"] = checked.into();
    }
    match check.broken {
        Some(broken) => {
            let which = broken.id.map(|id| format!(", event {id}")).unwrap_or_default();
            let sentence = format!("The audit log was edited: at link {}{which}: {}.", broken.link, printable(&broken.why));
            Err(Failure { printed: if as_json { json(&body) } else { String::new() }, sentence, code: EDITED })
        }
        None if as_json => Ok(json(&body)),
        None => {
            let last = check.hash.map(|hash| format!("; the last is {hash}")).unwrap_or_default();
            Ok(format!("The chain holds: {checked} links{last}. Not yet in it: {}.\n", check.unsealed))
        }
    }
}
