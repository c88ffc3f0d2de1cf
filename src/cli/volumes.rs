//! `vm-service volumes`: Docker layer caches as people and programs read them, their end, and an operator's "do not touch".
//!
//! Reads: the API. Writes: nothing but its answer. Calls: the API. Runs: once.

use super::client::most_a_page;
use super::table::{age, fields, json, length, or_dash, table, time};
use super::vms::parse_length;
use super::{Client, ClientError, Connect};
use crate::domain::api::{CacheUse, VolumeView};
use crate::domain::ids::VolumeId;
use crate::domain::lifecycle::VolumeState;
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json as object;

/// `vm-service volumes`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service volumes                                  list the volumes
  vm-service volumes list --project gh/acme/shop      those of one project
  vm-service volumes delete 3f1c…                     clear a project's cache
  vm-service volumes hold 3f1c… --reason 'looks damaged' --for 2h")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON: one document, for a list one array of all its items.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List volumes, newest first (the default).
    List {
        /// Only in this state, such as available, attached or quarantined.
        #[arg(long)]
        state: Option<VolumeState>,
        /// Only of this project.
        #[arg(long)]
        project: Option<String>,
    },
    /// Show one volume.
    Show {
        /// Its id.
        id: VolumeId,
    },
    /// Delete a volume that no VM has.
    Delete {
        /// Its id.
        id: VolumeId,
    },
    /// Keep a volume from being deleted or given to a job for a while.
    Hold {
        /// Its id.
        id: VolumeId,
        /// Why; shown to everybody who looks at the volume.
        #[arg(long)]
        reason: String,
        /// For how long from now, such as 30m, 2h, 1d or 1h30m.
        #[arg(long = "for", value_name = "LENGTH", value_parser = parse_length)]
        length: TimeDelta,
    },
    /// End a hold: the usual rules apply again.
    Unhold {
        /// Its id.
        id: VolumeId,
    },
}

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client) -> Result<String, String> {
    let answer = match args.what.as_ref().unwrap_or(&What::List { state: None, project: None }) {
        What::List { state, project } => list(client, *state, project.as_deref(), args.json).await,
        What::Show { id } => show(client, *id, args.json).await,
        What::Delete { id } => {
            let said = |_: VolumeView| format!("Volume {id} is being deleted.\n");
            change::<()>(client, Method::DELETE, format!("volumes/{id}"), None, args.json, said).await
        }
        What::Hold { id, reason, length: for_ } => {
            // A length, not a time: it counts by the service's clock.
            let hold = object!({ "reason": reason, "seconds": for_.num_seconds() });
            let until = |volume: VolumeView| or_dash(volume.hold.map(|hold| time(hold.until)));
            let said = |volume| format!("Volume {id} is held for {}, until {}.\n", length(*for_), until(volume));
            change(client, Method::PUT, format!("volumes/{id}/hold"), Some(&hold), args.json, said).await
        }
        What::Unhold { id } => {
            let said = |_: VolumeView| format!("Volume {id} is not held any more.\n");
            change::<()>(client, Method::DELETE, format!("volumes/{id}/hold"), None, args.json, said).await
        }
    };
    answer.map_err(|e| e.to_string())
}

async fn change<T: serde::Serialize>(
    client: &Client,
    method: Method,
    path: String,
    body: Option<&T>,
    as_json: bool,
    said: impl FnOnce(VolumeView) -> String,
) -> Result<String, ClientError> {
    let answer = client.change(method, &path, body).await?;
    Ok(if as_json { json(&answer.body) } else { said(client.typed(answer.body)?) })
}

async fn list(client: &Client, state: Option<VolumeState>, project: Option<&str>, as_json: bool) -> Result<String, ClientError> {
    let state = state.map(|state| ("state", state.to_string()));
    let project = project.map(|project| ("project_id", project.to_owned()));
    let query: Vec<_> = state.into_iter().chain(project).chain([most_a_page()]).collect();
    let answer = client.list("volumes", &query).await?;
    if as_json {
        return Ok(json(&answer.body));
    }
    let volumes: Vec<VolumeView> = client.typed(answer.body)?;
    if volumes.is_empty() {
        return Ok("No volumes.\n".to_owned());
    }
    let rows = volumes.into_iter().map(|volume| {
        vec![
            volume.id.to_string(),
            volume.state.to_string(),
            volume.lineage.project_id.clone(),
            engine(&volume),
            used(&volume),
            volume.jobs.to_string(),
            rate(volume.project),
            age(volume.last_used_at, answer.at),
            or_dash(volume.vm_id),
            volume.hold.map(|hold| format!("held: {}", hold.reason)).or(volume.reason).unwrap_or_default(),
        ]
    });
    let heading = ["ID", "STATE", "PROJECT", "ENGINE", "USED", "JOBS", "PROJECT HITS", "LAST USE", "VM", "NOTE"];
    Ok(table(&heading, rows.collect()))
}

async fn show(client: &Client, id: VolumeId, as_json: bool) -> Result<String, ClientError> {
    let answer = client.get(&format!("volumes/{id}")).await?;
    if as_json {
        return Ok(json(&answer.body));
    }
    let volume: VolumeView = client.typed(answer.body)?;
    let mut lines = vec![
        ("id", volume.id.to_string()),
        ("state", volume.state.to_string()),
        ("reason", or_dash(volume.reason.clone())),
        ("project", volume.lineage.project_id.clone()),
        ("trust", volume.lineage.trust.to_string()),
        ("engine", engine(&volume)),
        ("used", used(&volume)),
        ("good state", or_dash(volume.generation)),
        ("jobs", volume.jobs.to_string()),
        ("project's hits", rate(volume.project)),
        ("volume", format!("{} {} {}", volume.provider, or_dash(volume.provider_id), volume.zone)),
        ("VM", or_dash(volume.vm_id)),
        ("created", time(volume.created_at)),
        ("last use", time(volume.last_used_at)),
    ];
    if let Some(hold) = volume.hold {
        lines.push(("held", format!("until {}: {}", time(hold.until), hold.reason)));
    }
    Ok(fields(&lines))
}

fn engine(volume: &VolumeView) -> String {
    let engine = &volume.lineage.engine;
    let untrusted = if volume.lineage.trust == crate::domain::lineage::Trust::Untrusted { " untrusted" } else { "" };
    format!("{} {} {}{untrusted}", engine.store, engine.major, engine.architecture)
}

fn used(volume: &VolumeView) -> String {
    let used = volume.used_bytes.map(|bytes| format!("{} MiB", bytes >> 20));
    format!("{} of {} GiB", or_dash(used), volume.size_gib)
}

fn rate(of: CacheUse) -> String {
    match of.jobs {
        0 => "-".to_owned(),
        jobs => format!("{}% of {jobs}", of.hits * 100 / jobs),
    }
}
