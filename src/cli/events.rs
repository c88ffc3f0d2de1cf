//! `vm-service events`: what happened, and with `--follow` what happens: each event once, also after a break of the connection.
//!
//! Reads: the API (server-sent events). Writes: its output. Calls: the API. Runs: once; with `--follow` until it is stopped.

use super::calls::{Calls, Columns};
use super::client::Stream;
use super::problem::printable;
use super::table::or_dash;
use super::{Client, ClientError, Connect, Io, Pace};
use crate::domain::api::EventView;
use crate::domain::ids::{TaskId, VmId};
use std::io::ErrorKind;
use std::time::Duration;

/// The service says something every 10 s: after this silence the connection is gone.
const SILENCE: Duration = Duration::from_secs(35);

/// `vm-service events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service events --follow                  everything, as it happens
  vm-service events --task 0d8f…              what happened to one task
  vm-service events --follow --json | jq -r 'select(.kind == \"task.failed\") | .message'")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON: one array; with --follow a line an event.
    #[arg(long)]
    json: bool,
    /// Go on with what happens; without --after from now on.
    #[arg(long, short)]
    follow: bool,
    /// Only about this task.
    #[arg(long)]
    task: Option<TaskId>,
    /// Only about this VM.
    #[arg(long)]
    vm: Option<VmId>,
    /// Only after the event with this number.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
}

const COLUMNS: Columns<EventView> = Columns {
    heading: &["NUMBER", "AT", "EVENT", "TASK", "VM", "WHAT"],
    row: |event, _| {
        let at = event.at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        vec![event.id.to_string(), at, event.kind, or_dash(event.task_id), or_dash(event.vm_id), event.message]
    },
    none: "No events.",
};

/// Runs the command; it ends without words when nobody reads any more.
pub(super) async fn run(args: &Args, client: &Client, io: &mut Io, pace: Pace) -> Result<String, String> {
    let about = [args.task.map(|task| ("task_id", task.to_string())), args.vm.map(|vm| ("vm_id", vm.to_string()))];
    if !args.follow {
        let after = args.after.map(|after| ("cursor", after.to_string()));
        let [task, vm] = about;
        return Calls { client, as_json: args.json }.list("events", [task, vm, after], COLUMNS).await.map_err(|e| e.to_string());
    }
    let about: Vec<_> = about.into_iter().flatten().collect();
    let mut last = args.after;
    loop {
        match follow(args, client, io, &about, &mut last).await {
            Ok(()) => {}
            Err(Broken::Away) => return Ok(String::new()),
            Err(Broken::Output(error)) => return Err(format!("The output cannot be written: {error}.")),
            Err(Broken::Call(error)) if error.is_final() || !client.was_reached() => return Err(error.to_string()),
            Err(Broken::Call(error)) => io.say(&format!("{error} It is asked again.")).await,
        }
        tokio::time::sleep(pace.reasons).await;
    }
}

enum Broken {
    /// Nobody reads any more.
    Away,
    Output(std::io::Error),
    Call(ClientError),
}

/// One connection, to its end; the service ends each after a while.
async fn follow(args: &Args, client: &Client, io: &mut Io, about: &[(&str, String)], last: &mut Option<i64>) -> Result<(), Broken> {
    let query: Vec<_> = about.iter().cloned().chain(last.map(|last| ("cursor", last.to_string()))).collect();
    let mut stream = client.stream("events", &query, "text/event-stream").await.map_err(Broken::Call)?;
    while let Some(data) = next(&mut stream, last).await.map_err(Broken::Call)? {
        let event: EventView = client.typed(data.clone()).map_err(Broken::Call)?;
        let line = match args.json {
            true => format!("{data}\n"),
            false => {
                let cells = (COLUMNS.row)(event, None).into_iter().skip(1).map(|cell| printable(&cell)).collect::<Vec<_>>();
                format!("{}\n", cells.join("  "))
            }
        };
        match io.write(line.as_bytes()).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Broken::Away),
            Err(error) => return Err(Broken::Output(error)),
        }
    }
    Ok(())
}

/// The data of the next event; none at the end. Of the format only what this service sends is read: a number, then one `data` line.
async fn next(stream: &mut Stream<'_>, last: &mut Option<i64>) -> Result<Option<serde_json::Value>, ClientError> {
    while let Some(line) = stream.line(SILENCE).await? {
        if let Some(id) = line.strip_prefix("id:").and_then(|id| id.trim().parse::<i64>().ok()) {
            *last = Some(last.unwrap_or(0).max(id));
        }
        if let Some(data) = line.strip_prefix("data:").and_then(|data| serde_json::from_str(data).ok()) {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
