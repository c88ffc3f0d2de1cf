//! What differs between two versions of the settings, and one person's changes on top of another's. No secret is ever in it, nor in what
//! is shown to somebody who may not change them ([`without_secrets`]).
//!
//! A *leaf* is a value without parts: a number, a word, or a list of them as a whole. Its *path* names it: `timeouts.task_hours`,
//! `preallocated.schedules[0].cron`.

use super::ec2::{AccessKey, Authentication};
use super::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Stands where a secret is.
const MASK: &str = "[secret]";

/// One leaf that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    /// Its path.
    pub path: String,
    /// What it was; null: it was not there.
    pub old: Value,
    /// What it is; null: it is not there.
    pub new: Value,
}

/// Every leaf that differs, by path.
pub fn diff(old: &Settings, new: &Settings) -> Vec<Change> {
    let (old, new) = (leaves(old), leaves(new));
    let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
    changed
        .map(|path| {
            let shown = |leaves: &BTreeMap<String, Value>| leaves.get(path).map_or(Value::Null, |value| masked(path, value));
            Change { path: path.clone(), old: shown(&old), new: shown(&new) }
        })
        .collect()
}

/// One person's settings on top of another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebased {
    /// All of theirs, with all of mine.
    pub settings: Settings,
    /// What both have changed, and differently: mine is in.
    pub both: Vec<String>,
}

/// Puts what `mine` changed since `base` on top of `theirs`.
///
/// # Errors
/// One sentence: the two do not go together.
pub fn rebase(base: &Settings, mine: &Settings, theirs: &Settings) -> Result<Rebased, String> {
    let mut both = Vec::new();
    let [base, mine, theirs] = [base, mine, theirs].map(|settings| serde_json::to_value(settings).unwrap_or_default());
    let merged = merge("", Some(&base), Some(&mine), Some(&theirs), &mut both).unwrap_or_default();
    match serde_json::from_value(merged) {
        Ok(settings) => Ok(Rebased { settings, both }),
        Err(error) => Err(format!("Your changes do not go together with those that were saved meanwhile: {error}.")),
    }
}

fn merge(path: &str, base: Option<&Value>, mine: Option<&Value>, theirs: Option<&Value>, both: &mut Vec<String>) -> Option<Value> {
    if mine == base {
        return theirs.cloned();
    }
    if theirs == base || theirs == mine {
        return mine.cloned();
    }
    if let (Some(Value::Object(mine)), Some(Value::Object(theirs))) = (mine, theirs) {
        let base = base.and_then(Value::as_object);
        let names: std::collections::BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let merged: Map<String, Value> = names
            .into_iter()
            .filter_map(|name| {
                let part = merge(&joined(path, name), base.and_then(|it| it.get(name)), mine.get(name), theirs.get(name), both);
                Some((name.clone(), part?))
            })
            .collect();
        return Some(Value::Object(merged));
    }
    both.push(path.to_owned());
    mine.cloned()
}

fn leaves(settings: &Settings) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    collect(String::new(), serde_json::to_value(settings).unwrap_or_default(), &mut found);
    found
}

fn collect(path: String, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(parts) => parts.into_iter().for_each(|(name, part)| collect(joined(&path, &name), part, found)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.into_iter().enumerate().for_each(|(at, item)| collect(format!("{path}[{at}]"), item, found));
        }
        // What is empty is as what is not there.
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {}
        leaf => drop(found.insert(path, leaf)),
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Sealed halves of keys, and passwords in the addresses of proxies.
fn masked(path: &str, value: &Value) -> Value {
    if path.ends_with("access_key.sealed") {
        return MASK.into();
    }
    match value {
        Value::String(text) if path.starts_with("guest.http") => without_password(text).into(),
        _ => value.clone(),
    }
}

fn without_password(address: &str) -> String {
    let parts = address.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
    match parts {
        Some((scheme, (login, host))) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:{MASK}@{host}")
        }
        None => address.to_owned(),
    }
}

/// The settings with a mask in place of each secret.
pub fn without_secrets(mut settings: Settings) -> Settings {
    for proxy in [&mut settings.guest.http_proxy, &mut settings.guest.https_proxy].into_iter().flatten() {
        *proxy = without_password(proxy);
    }
    if let Authentication::AccessKey(AccessKey { sealed: Some(sealed), .. }) = &mut settings.ec2.authentication {
        *sealed = MASK.to_owned();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::ProjectSettings;

    fn changed(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    }

    #[test]
    fn each_leaf_that_differs_is_named_once() {
        let new = changed(|s| {
            s.preallocated.machine = 2;
            s.limits.vms = Some(5);
            s.ec2.subnets = vec!["subnet-01234567".to_owned()];
            s.projects.insert("acme/app".to_owned(), ProjectSettings { weight: 3, priority: 0 });
        });
        let told: Vec<String> =
            diff(&Settings::default(), &new).iter().map(|c| format!("{}: {} -> {}", c.path, c.old, c.new)).collect();
        assert_eq!(
            told,
            [
                "ec2.subnets: null -> [\"subnet-01234567\"]",
                "limits.vms: null -> 5",
                "preallocated.machine: 0 -> 2",
                "projects.acme/app.priority: null -> 0",
                "projects.acme/app.weight: null -> 3",
            ]
        );
        assert_eq!(diff(&new, &new), []);
    }

    #[test]
    fn a_secret_that_changed_is_named_and_not_shown() {
        let with = |sealed: &str, proxy: &str| {
            changed(|s| {
                let key = AccessKey { id: "AKIAIOSFODNN7EXAMPLE".to_owned(), secret: None, sealed: Some(sealed.to_owned()) };
                s.ec2.authentication = Authentication::AccessKey(key);
                s.guest.http_proxy = Some(format!("http://me:{proxy}@proxy:3128"));
            })
        };
        let told = serde_json::to_string(&diff(&with("canary-1", "canary-2"), &with("canary-3", "canary-4"))).unwrap();
        assert!(!told.contains("canary"), "{told}");
        assert!(told.contains("access_key.sealed") && told.contains("http://me:[secret]@proxy:3128"), "{told}");
    }

    #[test]
    fn mine_goes_on_top_of_theirs_and_what_both_changed_is_named() {
        let base = Settings::default();
        let mine = changed(|s| {
            s.preallocated.machine = 2;
            s.history_days = 30;
        });
        let theirs = changed(|s| {
            s.preallocated.remote_docker = 4;
            s.history_days = 60;
            s.resource_classes.remove("large");
        });
        let rebased = rebase(&base, &mine, &theirs).unwrap();
        assert_eq!(rebased.both, ["history_days"]);
        let expected = changed(|s| {
            s.preallocated.machine = 2;
            s.preallocated.remote_docker = 4;
            s.history_days = 30;
            s.resource_classes.remove("large");
        });
        assert_eq!(rebased.settings, expected);
    }
}
