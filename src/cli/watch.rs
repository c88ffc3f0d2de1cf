//! `vm-service tasks --watch`: the list drawn again in place on a terminal; elsewhere a line for each task that changed.
//!
//! A service that does not answer is told of and asked again; it ends when the service says no, or nobody reads any more.
//!
//! Reads: the API. Writes: its output. Calls: the API. Runs: until it is stopped.

use super::client::most_a_page;
use super::problem::printable;
use super::table::{table, time};
use super::tasks::{Args, COLUMNS, What, Which};
use super::{Client, Io, Pace};
use crate::domain::api::TaskView;
use crate::domain::ids::TaskId;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// Top left, and nothing below.
const HOME: &str = "\x1b[H\x1b[J";

/// Runs the command; it ends without words when nobody reads any more.
pub(super) async fn run(args: &Args, client: &Client, io: &mut Io, pace: Pace) -> Result<String, String> {
    let which = match &args.what {
        None => Which::default(),
        Some(What::List(which)) => which.clone(),
        Some(_) => return Err("--watch goes with the list of tasks: leave the other word out.".to_owned()),
    };
    let query: Vec<_> = which.filters().into_iter().flatten().chain([most_a_page()]).collect();
    let in_place = io.is_terminal() && !args.json;
    let mut known = BTreeMap::new();
    let mut troubled = false;
    loop {
        let text = match client.get_with("tasks", &query).await {
            Ok(answer) => {
                troubled = false;
                let items = answer.body.get("items").cloned().unwrap_or_default();
                let tasks: Vec<TaskView> = client.typed(items.clone()).map_err(|e| e.to_string())?;
                match in_place {
                    true => drawn(tasks, answer.at),
                    false => changed(tasks, &items, &mut known, answer.at, args.json),
                }
            }
            Err(error) if error.is_final() || !client.was_reached() => return Err(error.to_string()),
            Err(error) => {
                if !std::mem::replace(&mut troubled, true) {
                    io.say(&error.to_string()).await;
                }
                String::new()
            }
        };
        match io.write(text.as_bytes()).await {
            Ok(()) => tokio::time::sleep(pace.reasons).await,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(String::new()),
            Err(error) => return Err(format!("The output cannot be written: {error}.")),
        }
    }
}

fn drawn(tasks: Vec<TaskView>, now: Option<DateTime<Utc>>) -> String {
    let heading = format!("{HOME}{} tasks, {}\n\n", tasks.len(), now.map_or_else(|| "now".to_owned(), time));
    heading + &table(COLUMNS.heading, tasks.into_iter().map(|task| (COLUMNS.row)(task, now)).collect())
}

/// Those that are not as they were, oldest first.
fn changed(
    tasks: Vec<TaskView>,
    items: &Value,
    known: &mut BTreeMap<TaskId, Value>,
    now: Option<DateTime<Utc>>,
    json: bool,
) -> String {
    let mut text = String::new();
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    for (task, item) in tasks.into_iter().zip(items).rev() {
        if known.insert(task.id, item.clone()).as_ref() == Some(item) {
            continue;
        }
        if json {
            text += &format!("{item}\n");
            continue;
        }
        let at = now.map(time).unwrap_or_default();
        let row: Vec<String> = (COLUMNS.row)(task, now).iter().map(|cell| printable(cell)).collect();
        text += &format!("{at}  {}\n", row.join("  ").trim_end());
    }
    text
}
