//! `vm-service settings`: read, change and turn back the live settings; nobody's change is overwritten unseen.
//!
//! A *path* names a field: `preallocated.machine`, `resource_classes.medium.disk_gib`. A change is made on top of the version that was
//! read, shown as a list of fields, and saved only when a person says yes or `--yes` was given.
//!
//! Reads: the API, standard input (the answer), a file. Writes: its output. Calls: the API. Runs: once.

use super::calls::{Calls, Columns};
use super::table::{age, json, time};
use super::{Client, ClientError, Connect, Io};
use crate::domain::settings::Settings;
use crate::domain::settings_diff::diff;
use crate::domain::settings_history::SettingsVersion;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// `vm-service settings`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service settings                                       all of them
  vm-service settings get preallocated                      a part
  vm-service settings set preallocated.machine=2 pause_launches=false
  vm-service settings set --file settings.json --on-top-of 12 --yes
  vm-service settings history                               who saved what, and when
  vm-service settings history 12                            what version 12 changed
  vm-service settings revert 11                             back to version 11")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// Print the API's JSON, and nothing else.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the settings in force, or a part of them (the default).
    Get {
        /// A path, such as preallocated.machine; all when absent.
        path: Option<String>,
    },
    /// Change some settings, or all.
    Set {
        /// A path and its new value, as JSON or as plain text.
        #[arg(value_name = "PATH=VALUE", required_unless_present = "file", conflicts_with = "file", value_parser = assignment)]
        fields: Vec<(String, Value)>,
        /// All settings, as JSON; what is left out gets its default.
        #[arg(long)]
        file: Option<PathBuf>,
        /// The version that the file was made of, which `settings get` tells: nothing is saved when there is a newer one. Needed with
        /// --yes.
        #[arg(long, value_name = "VERSION", requires = "file")]
        on_top_of: Option<i64>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List the versions, newest first, or tell what one of them changed.
    History {
        /// The version.
        version: Option<i64>,
    },
    /// Save an earlier version once more.
    Revert {
        /// The version to go back to.
        version: i64,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

fn assignment(text: &str) -> Result<(String, Value), String> {
    let wrong = || format!("\"{text}\" is not of the form PATH=VALUE, such as preallocated.machine=2");
    let (path, value) = text.split_once('=').filter(|(path, _)| !path.is_empty()).ok_or_else(wrong)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((path.to_owned(), value))
}

/// Runs the command; the answer is what to print, or why not.
pub(super) async fn run(args: &Args, client: &Client, io: &mut Io) -> Result<String, String> {
    let calls = Calls { client, as_json: args.json };
    match args.what.as_ref().unwrap_or(&What::Get { path: None }) {
        What::Get { path } => get(client, io, path.as_deref()).await,
        What::History { version: None } => calls.list("settings/history", [], VERSIONS).await.map_err(|e| e.to_string()),
        What::History { version: Some(version) } => changed_by(calls, *version).await,
        What::Set { fields, file, on_top_of, yes } => {
            if *yes && file.is_some() && on_top_of.is_none() {
                return Err("Say with --on-top-of which version the file was made of, as `vm-service settings get` tells it: what somebody saved since would be lost unseen.".to_owned());
            }
            let (before, newest) = newest(client).await?;
            let tag = on_top_of.map_or(newest, |version| format!("\"{version}\""));
            let after = match file {
                Some(file) => read(file)?,
                None => with(before.clone(), fields)?,
            };
            save(calls, io, Some(before), after, &tag, *yes).await
        }
        What::Revert { version, yes } => {
            let earlier = client.get(&format!("settings/history/{version}")).await.map_err(|e| e.to_string())?;
            let after = earlier.body.get("settings").cloned().unwrap_or_default();
            let (before, tag) = top(client).await?;
            save(calls, io, before, after, &tag, *yes).await
        }
    }
}

const VERSIONS: Columns<SettingsVersion> = Columns {
    heading: &["VERSION", "SAVED", "AGE", "BY"],
    row: |version, now| {
        vec![version.version.to_string(), time(version.created_at), age(version.created_at, now), version.created_by]
    },
    none: "Nobody has saved settings yet: those of the configuration are in force.",
};

/// With all of them their version is told, beside the output, which is settings and nothing else.
async fn get(client: &Client, io: &mut Io, path: Option<&str>) -> Result<String, String> {
    let (all, tag) = newest(client).await?;
    let Some(path) = path else {
        io.say(&format!("These are version {}.", tag.trim_matches('"'))).await;
        return Ok(json(&all));
    };
    let none = || format!("There is no setting \"{path}\": `vm-service settings get` shows all.");
    find(&all, path).map(json).ok_or_else(none)
}

/// A name may have a dot in it: every way to split the path is tried.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields.get(path).or_else(|| {
        let inner = |(name, value): (&'a String, &'a Value)| find(value, path.strip_prefix(name.as_str())?.strip_prefix('.')?);
        fields.iter().find_map(inner)
    })
}

async fn newest(client: &Client) -> Result<(Value, String), String> {
    let answer = client.get("settings").await.map_err(|e| e.to_string())?;
    let tag = answer.etag.ok_or("The service did not say which version its settings are: is it another version of vm-service?")?;
    Ok((answer.body, tag))
}

/// The newest version's tag, and its settings unless the service says that it cannot read them.
async fn top(client: &Client) -> Result<(Option<Value>, String), String> {
    match client.get("settings").await {
        Err(ClientError::Problem(problem)) if problem.status == 409 => {
            let list = client.get("settings/history?limit=1").await.map_err(|e| e.to_string())?.body;
            let version = list.pointer("/items/0/version").ok_or_else(|| problem.to_string())?;
            Ok((None, format!("\"{version}\"")))
        }
        _ => newest(client).await.map(|(settings, tag)| (Some(settings), tag)),
    }
}

fn read(file: &std::path::Path) -> Result<Value, String> {
    let at = file.display();
    let text = std::fs::read(file).map_err(|error| format!("{at} cannot be read: {error}."))?;
    serde_json::from_slice(&text).map_err(|error| format!("{at} is not JSON: {error}."))
}

fn with(mut settings: Value, fields: &[(String, Value)]) -> Result<Value, String> {
    for (path, value) in fields {
        put(&mut settings, path, value.clone())
            .ok_or_else(|| format!("\"{path}\" leads into a value that has no parts: set that value as a whole, as JSON."))?;
    }
    Ok(settings)
}

fn put(into: &mut Value, path: &str, value: Value) -> Option<()> {
    if into.is_null() {
        *into = Value::Object(Map::new());
    }
    let fields = into.as_object_mut()?;
    let known = fields.keys().filter(|name| path.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')));
    let longest = known.max_by_key(|name| name.len()).map(String::len);
    match longest.or_else(|| path.find('.')).filter(|_| !fields.contains_key(path)) {
        Some(at) => put(fields.entry(&path[..at]).or_insert(Value::Null), &path[at + 1..], value),
        None => {
            fields.insert(path.to_owned(), value);
            Some(())
        }
    }
}

/// What differs, a line a field.
fn told(before: &Value, after: &Value) -> Result<Vec<String>, String> {
    let typed = |value: &Value| {
        serde_json::from_value::<Settings>(value.clone())
            .map_err(|error| format!("These are no settings that this vm-service knows: {error}."))
    };
    let mut lines: Vec<String> = diff(&typed(before)?, &typed(after)?)
        .into_iter()
        .map(|change| format!("{}: {} -> {}", change.path, change.old, change.new))
        .collect();
    if lines.is_empty() && before != after && find(after, "ec2.authentication.access_key.secret").is_some() {
        lines.push("ec2.authentication.access_key.secret: a new one".to_owned());
    }
    Ok(lines)
}

async fn changed_by(calls: Calls<'_>, version: i64) -> Result<String, String> {
    let said = |error: ClientError| error.to_string();
    let one = calls.client.get(&format!("settings/history/{version}")).await.map_err(said)?.body;
    if calls.as_json {
        return Ok(json(&one));
    }
    let part = |body: &Value| body.get("settings").cloned().unwrap_or_default();
    let saved: SettingsVersion = calls.client.typed(one.clone()).map_err(said)?;
    let older = format!("settings/history?limit=1&cursor={version}");
    let older = calls.client.get(&older).await.map_err(said)?.body;
    let (before, since) = match older.pointer("/items/0/version").and_then(Value::as_i64) {
        Some(older) => {
            let body = calls.client.get(&format!("settings/history/{older}")).await.map_err(said)?.body;
            (part(&body), format!("since version {older}"))
        }
        None => (Value::Object(Map::new()), "beside the defaults".to_owned()),
    };
    let lines = told(&before, &part(&one))?;
    let heading = format!("Version {version}, saved by {} at {}, {since}:\n", saved.created_by, time(saved.created_at));
    let body = if lines.is_empty() { "  nothing\n".to_owned() } else { lines.iter().map(|line| format!("  {line}\n")).collect() };
    Ok(heading + &body)
}

/// `before`: none when the newest cannot be read.
async fn save(calls: Calls<'_>, io: &mut Io, before: Option<Value>, after: Value, tag: &str, yes: bool) -> Result<String, String> {
    let lines = match &before {
        Some(before) => told(before, &after)?,
        None => vec!["The newest settings were saved by another vm-service: what differs cannot be told.".to_owned()],
    };
    if let (Some(before), true) = (&before, lines.is_empty()) {
        return Ok(if calls.as_json { json(before) } else { "Nothing would change: nothing is saved.\n".to_owned() });
    }
    for line in &lines {
        io.say(line).await;
    }
    if !yes {
        match io.confirm("Save this?").await {
            Some(true) => {}
            Some(false) => return Err("Nothing was saved.".to_owned()),
            None => return Err("Nobody can be asked here, and nothing was saved: say --yes to save without asking.".to_owned()),
        }
    }
    match calls.client.save("settings", &after, tag).await {
        Ok(answer) if calls.as_json => Ok(json(&answer.body)),
        Ok(answer) => {
            let version = answer.etag.unwrap_or_default();
            Ok(format!("Saved as version {}; in force within seconds.\n", version.trim_matches('"')))
        }
        Err(ClientError::Problem(problem)) if problem.status == 412 => Err(
            "Somebody else saved settings meanwhile, and nothing of yours was saved: look at `vm-service settings history`, then run the command again."
                .to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as object;

    #[test]
    fn a_path_may_lead_through_names_with_dots_and_through_what_is_not_there_yet() {
        let mut value = object!({ "a": { "b.c": { "d": 1 } }, "n": null, "plain": 3 });
        assert_eq!(find(&value, "a.b.c.d"), Some(&object!(1)));
        assert_eq!(find(&value, "a.b"), None);
        for (path, new) in [("a.b.c.d", object!(2)), ("a.x", object!("y")), ("n.deep.er", object!([1])), ("plain", object!(4))] {
            put(&mut value, path, new.clone()).unwrap();
            assert_eq!(find(&value, path), Some(&new), "{path}");
        }
        assert_eq!(value, object!({ "a": { "b.c": { "d": 2 }, "x": "y" }, "n": { "deep": { "er": [1] } }, "plain": 4 }));
        assert!(put(&mut value, "plain.part", object!(1)).is_none());
    }

    #[test]
    fn a_value_is_json_or_text() {
        assert_eq!(assignment("a.b=2"), Ok(("a.b".to_owned(), object!(2))));
        assert_eq!(assignment("a=eu-west-1"), Ok(("a".to_owned(), object!("eu-west-1"))));
        assert_eq!(assignment("a=x=[1"), Ok(("a".to_owned(), object!("x=[1"))));
        assert_eq!(assignment("a=null"), Ok(("a".to_owned(), Value::Null)));
        assert!(assignment("a").is_err() && assignment("=1").is_err());
    }
}
