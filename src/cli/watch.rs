//! `vm-service tasks --watch`: the list drawn again in place on a terminal; elsewhere a line for each task that changed.
//!
//! It looks at the newest tasks, as many as a page has, and says so when there are more. Where there is no terminal, an open task that has
//! left the page is followed to its end.
//!
//! A service that does not answer is told of and asked again; it ends when the service says no, or nobody reads any more.
//!
//! Reads: the API. Writes: its output. Calls: the API. Runs: until it is stopped.

use super::client::most_a_page;
use super::problem::printable;
use super::table::{table, time};
use super::tasks::{Args, COLUMNS, What, Which};
use super::{Client, ClientError, Io, Pace};
use crate::domain::api::{Page, TaskView};
use crate::domain::ids::TaskId;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

/// Top left, and nothing below.
const HOME: &str = "\x1b[H\x1b[J";

/// Tasks as they were last told.
type Known = BTreeMap<TaskId, Seen>;

/// A task, and the API's own JSON of it.
struct Seen {
    task: TaskView,
    item: Value,
}

/// What one look at the service found.
struct Look {
    /// Newest first; behind them those that are followed.
    tasks: Vec<Seen>,
    /// There are older ones.
    more: bool,
    now: Option<DateTime<Utc>>,
}

/// Runs the command; it ends without words when nobody reads any more.
pub(super) async fn run(args: &Args, client: &Client, io: &mut Io, pace: Pace) -> Result<String, String> {
    let which = match &args.what {
        None => Which::default(),
        Some(What::List(which)) => which.clone(),
        Some(_) => return Err("--watch goes with the list of tasks: leave the other word out.".to_owned()),
    };
    let in_place = io.is_terminal() && !args.json;
    let mut known = Known::new();
    let mut troubled = false;
    loop {
        let text = match look(client, &which, &known).await {
            Ok(look) if in_place => {
                troubled = false;
                drawn(look)
            }
            Ok(look) => {
                troubled = false;
                if look.more && known.is_empty() {
                    io.say("There are more tasks than these, the newest: older ones are not followed.").await;
                }
                changed(look, &mut known, args.json)
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

async fn look(client: &Client, which: &Which, known: &Known) -> Result<Look, ClientError> {
    let query: Vec<_> = which.filters().into_iter().flatten().chain([most_a_page()]).collect();
    let answer = client.get_with("tasks", &query).await?;
    let page: Page<Value> = client.typed(answer.body)?;
    let seen = |item: Value| -> Result<Seen, ClientError> { Ok(Seen { task: client.typed(item.clone())?, item }) };
    let mut tasks = page.items.into_iter().map(seen).collect::<Result<Vec<_>, _>>()?;
    let listed: BTreeSet<TaskId> = tasks.iter().map(|seen| seen.task.id).collect();
    // One of a single state leaves the list when it leaves the state.
    let left = known.values().map(|seen| &seen.task).filter(|task| which.state.is_none() && !task.state.is_terminal());
    for task in left.filter(|task| !listed.contains(&task.id)) {
        match client.get(&format!("tasks/{}", task.id)).await {
            Ok(mut answer) => {
                // As in the list, which never has the way into a VM.
                answer.body.as_object_mut().and_then(|fields| fields.remove("connection"));
                tasks.push(seen(answer.body)?);
            }
            Err(ClientError::Problem(problem)) if problem.status == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Look { tasks, more: page.next_cursor.is_some(), now: answer.at })
}

fn drawn(look: Look) -> String {
    let count = look.tasks.len();
    let which = if look.more { format!("The newest {count} of more tasks") } else { format!("{count} tasks") };
    let heading = format!("{HOME}{which}, {}\n\n", look.now.map_or_else(|| "now".to_owned(), time));
    heading + &table(COLUMNS.heading, look.tasks.into_iter().map(|seen| (COLUMNS.row)(seen.task, look.now)).collect())
}

/// Those that are not as they were, oldest first. What was not seen this time is forgotten.
fn changed(look: Look, known: &mut Known, json: bool) -> String {
    let before = std::mem::take(known);
    let mut text = String::new();
    for seen in look.tasks.into_iter().rev() {
        if before.get(&seen.task.id).is_none_or(|old| old.item != seen.item) {
            text += &if json { format!("{}\n", seen.item) } else { line(seen.task.clone(), look.now) };
        }
        known.insert(seen.task.id, seen);
    }
    text
}

fn line(task: TaskView, now: Option<DateTime<Utc>>) -> String {
    let row: Vec<String> = (COLUMNS.row)(task, now).iter().map(|cell| printable(cell)).collect();
    format!("{}  {}\n", now.map(time).unwrap_or_default(), row.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_so() {
        let heading = |more| drawn(Look { tasks: Vec::new(), more, now: None });
        assert!(heading(true).contains("The newest 0 of more tasks, now") && !heading(false).contains("newest"));
    }
}
