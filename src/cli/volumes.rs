//! `vm-service volumes`: Docker layer caches as people and programs read them, their end, and an operator's "do not touch".
//!
//! Reads: the API. Writes: nothing but its answer. Calls: the API. Runs: once.

use super::calls::{Calls, Columns};
use super::table::{age, length, or_dash, time};
use super::vms::parse_length;
use super::{Client, Connect};
use crate::domain::api::{CacheUse, VolumeView};
use crate::domain::ids::VolumeId;
use crate::domain::lifecycle::VolumeState;
use chrono::{DateTime, TimeDelta, Utc};
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
    let calls = Calls { client, as_json: args.json };
    let answer = match args.what.as_ref().unwrap_or(&What::List { state: None, project: None }) {
        What::List { state, project } => {
            let state = state.map(|state| ("state", state.to_string()));
            let project = project.as_ref().map(|project| ("project_id", project.clone()));
            calls.list("volumes", [state, project], COLUMNS).await
        }
        What::Show { id } => calls.show(format!("volumes/{id}"), lines).await,
        What::Delete { id } => {
            let said = |_: VolumeView| format!("Volume {id} is being deleted.\n");
            calls.bare(Method::DELETE, format!("volumes/{id}"), said).await
        }
        What::Hold { id, reason, length: for_ } => {
            // A length, not a time: it counts by the service's clock.
            let hold = object!({ "reason": reason, "seconds": for_.num_seconds() });
            let until = |volume: VolumeView| or_dash(volume.hold.map(|hold| time(hold.until)));
            let said = |volume| format!("Volume {id} is held for {}, until {}.\n", length(*for_), until(volume));
            calls.change(Method::PUT, format!("volumes/{id}/hold"), Some(&hold), said).await
        }
        What::Unhold { id } => {
            let said = |_: VolumeView| format!("Volume {id} is not held any more.\n");
            calls.bare(Method::DELETE, format!("volumes/{id}/hold"), said).await
        }
    };
    answer.map_err(|e| e.to_string())
}

const COLUMNS: Columns<VolumeView> = Columns {
    heading: &["ID", "STATE", "PROJECT", "ENGINE", "USED", "JOBS", "PROJECT HITS", "LAST USE", "VM", "NOTE"],
    row: |volume, now| {
        vec![
            volume.id.to_string(),
            volume.state.to_string(),
            volume.lineage.project_id.clone(),
            engine(&volume),
            used(&volume),
            volume.jobs.to_string(),
            rate(volume.project),
            age(volume.last_used_at, now),
            or_dash(volume.vm_id),
            volume.hold.map(|hold| format!("held: {}", hold.reason)).or(volume.reason).unwrap_or_default(),
        ]
    },
    none: "No volumes.",
};

fn lines(volume: VolumeView, _: Option<DateTime<Utc>>) -> Vec<(&'static str, String)> {
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
        ("volume", format!("{} {} {}", volume.provider, or_dash(volume.provider_id.as_ref()), volume.zone)),
        ("VM", or_dash(volume.vm_id)),
        ("created", time(volume.created_at)),
        ("last use", time(volume.last_used_at)),
    ];
    if let Some(hold) = volume.hold {
        lines.push(("held", format!("until {}: {}", time(hold.until), hold.reason)));
    }
    lines
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
