//! `vm-service tasks`: tasks as people and programs read them, and the release of one whose dispatcher is gone.
//!
//! Reads: the API. Writes: nothing but its answer. Calls: the API. Runs: once.
//!
//! Not here: making a task (`run`), looking on (`watch`), what a task waits for (`why`).

use super::calls::{Calls, Columns, Filter};
use super::table::{age, json, or_dash, table, time};
use super::{Client, ClientError, Connect};
use crate::domain::api::{EventView, TaskView};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use chrono::{DateTime, Utc};
use reqwest::Method;

/// `vm-service tasks`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service tasks                                   list the tasks
  vm-service tasks list --state queued               those that wait
  vm-service tasks timeline 0d8f…                    why one waited, and for how long
  vm-service tasks --watch                           the list as it changes
  vm-service tasks --json | jq -r '.[].id'           for programs
  vm-service tasks release 0d8f…                     its job is over: end its VM")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON: one document, for a list one array of all its items; with --watch a line for each task that changed.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Go on looking: a list that is drawn again in place, or, when the output is no terminal, a line for each task that changed.
    #[arg(long, global = true)]
    pub(super) watch: bool,
    #[command(subcommand)]
    pub(super) what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum What {
    /// List tasks, newest first (the default).
    List(Which),
    /// Show one task.
    Show {
        /// Its id.
        id: TaskId,
    },
    /// Tell what happened to a task, and when: why it waited, why this VM.
    Timeline {
        /// Its id.
        id: TaskId,
    },
    /// Say that the job is over: the VM is taken away, whatever runs on it.
    Release {
        /// Its id.
        id: TaskId,
    },
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Only in this state: queued, preparing, ready, released, failed, expired or cancelled.
    #[arg(long)]
    pub(super) state: Option<TaskState>,
    /// Only of this project.
    #[arg(long)]
    project: Option<String>,
}

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client) -> Result<String, String> {
    let calls = Calls { client, as_json: args.json };
    let answer = match args.what.as_ref().unwrap_or(&What::List(Which::default())) {
        What::List(which) => calls.list("tasks", which.filters(), COLUMNS).await,
        What::Show { id } => calls.show(format!("tasks/{id}"), lines).await,
        What::Timeline { id } => timeline(client, *id, args.json).await,
        What::Release { id } => {
            let said = |_: TaskView| format!("Task {id} is over; its VM is taken away.\n");
            calls.bare(Method::DELETE, format!("tasks/{id}"), said).await
        }
    };
    answer.map_err(|e| e.to_string())
}

impl Which {
    pub(super) fn filters(&self) -> [Filter; 2] {
        let state = self.state.map(|state| ("state", state.to_string()));
        [state, self.project.as_ref().map(|project| ("project_id", project.clone()))]
    }
}

pub(super) const COLUMNS: Columns<TaskView> = Columns {
    heading: &["ID", "STATE", "PROJECT", "EXECUTOR", "CLASS", "AGE", "VM", "FAILURE"],
    row: |task, now| {
        vec![
            task.id.to_string(),
            task.state.to_string(),
            task.request.project_id,
            task.request.executor.to_string(),
            task.request.resource_class,
            age(task.created_at, now),
            or_dash(task.vm.map(|vm| vm.id)),
            task.failure.map(|failure| failure.code.as_str().to_owned()).unwrap_or_default(),
        ]
    },
    none: "No tasks.",
};

fn lines(task: TaskView, now: Option<DateTime<Utc>>) -> Vec<(&'static str, String)> {
    let request = task.request;
    let mut lines = vec![
        ("id", task.id.to_string()),
        ("state", task.state.to_string()),
        ("project", request.project_id),
        ("executor", request.executor.to_string()),
        ("class", request.resource_class),
        ("age", age(task.created_at, now)),
        ("created", time(task.created_at)),
        ("ready", or_dash(task.ready_at.map(time))),
        ("ended", or_dash(task.ended_at.map(time))),
        ("most seconds", or_dash(request.max_run_seconds)),
        ("lease seconds", or_dash(request.lease_seconds)),
    ];
    match task.vm {
        Some(vm) => lines.extend([
            ("VM", vm.id.to_string()),
            ("provider", format!("{} {}", vm.provider, or_dash(vm.provider_id))),
            ("address", or_dash(vm.address)),
        ]),
        None => lines.push(("VM", or_dash::<String>(None))),
    }
    lines.extend(request.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
    if let Some(failure) = task.failure {
        lines.push(("failure", format!("{} ({})", failure.detail, failure.code.as_str())));
    }
    lines
}

async fn timeline(client: &Client, id: TaskId, as_json: bool) -> Result<String, ClientError> {
    let answer = client.list(&format!("tasks/{id}/timeline"), &[]).await?;
    if as_json {
        return Ok(json(&answer.body));
    }
    let events: Vec<EventView> = client.typed(answer.body)?;
    let Some(first) = events.first().map(|event| event.at) else {
        return Ok("Nothing has happened to this task.\n".to_owned());
    };
    let rows = events.into_iter().map(|event| {
        let since = (event.at - first).as_seconds_f64().max(0.0);
        vec![event.at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(), format!("+{since:.3} s"), event.kind, event.message]
    });
    Ok(table(&["AT", "SINCE", "EVENT", "WHAT"], rows.collect()))
}
