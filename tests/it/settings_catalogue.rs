//! The catalogue of settings is the schema of `Settings`, field by field; it has the guide's names and defaults; a form made of it gives back
//! what it was made of; and the page of the documentation is made of it.

use garde::Validate as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{PartialSchema as _, ToSchema as _};
use vm_service::domain::catalogue::{self, Control, Draft};
use vm_service::domain::ec2::{AccessKey, Authentication};
use vm_service::domain::preallocated::{Pool, Schedule};
use vm_service::domain::resource_class::Price;
use vm_service::domain::settings::{ProjectSettings, Settings};
use vm_service::domain::task::Executor;

/// Paths of the schema: `a.b` for a field, `a[].b` for one in a row.
struct Walk {
    schemas: BTreeMap<String, Value>,
    found: BTreeSet<String>,
}

impl Walk {
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        if let Some(name) = node["$ref"].as_str() {
            return self.resolve(&self.schemas[name.rsplit('/').next().unwrap()]);
        }
        for word in ["allOf", "oneOf", "anyOf"] {
            let parts: Vec<&Value> = node[word].as_array().into_iter().flatten().filter(|part| part["type"] != "null").collect();
            if let [one] = parts[..] {
                return self.resolve(one);
            }
        }
        node
    }

    fn go(&mut self, path: String, node: &Value) {
        let node = self.resolve(node).clone();
        let row = [&node["items"], &node["additionalProperties"]].map(|row| self.resolve(row).clone());
        if let Some(row) = row.iter().find(|row| row["properties"].is_object()) {
            return self.go(format!("{path}[]"), row);
        }
        match node["properties"].as_object() {
            Some(fields) => {
                for (name, field) in fields.clone() {
                    self.go(if path.is_empty() { name } else { format!("{path}.{name}") }, &field);
                }
            }
            None => drop(self.found.insert(path)),
        }
    }
}

#[test]
fn every_field_has_one_entry_and_every_entry_a_field() {
    let mut schemas = Vec::new();
    Settings::schemas(&mut schemas);
    let schemas = schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap())).collect();
    let mut walk = Walk { schemas, found: BTreeSet::new() };
    walk.go(String::new(), &serde_json::to_value(Settings::schema()).unwrap());
    let mut entries = Vec::new();
    for field in catalogue::all() {
        match field.control {
            Control::Rows(rows) => entries.extend(rows.columns.iter().map(|column| format!("{}[].{}", field.path, column.path))),
            _ => entries.push(field.path.to_owned()),
        }
    }
    let known: BTreeSet<String> = entries.iter().cloned().collect();
    assert_eq!(known.len(), entries.len(), "an entry is there twice");
    assert_eq!(known, walk.found);
    assert!(known.len() > 50 && known.contains("resource_classes[].ec2.market"), "{known:?}");
}

#[test]
fn names_and_defaults_are_the_guides() {
    let defaults = catalogue::defaults();
    let default = |path: &str| path.split('.').fold(&defaults, |value, part| &value[part]).clone();
    let guide: &[(&str, &str, Value)] = &[
        ("VM Provider", "provider", "none".into()),
        ("Remote Docker", "preallocated.remote_docker", 0.into()),
        ("Machine Executor", "preallocated.machine", 0.into()),
        ("AWS Region", "ec2.region", Value::Null),
        ("EC2 Subnet ID", "ec2.subnets", Value::Array(Vec::new())),
        ("EC2 Security Group ID", "ec2.security_group", Value::Null),
        ("AWS Authentication", "ec2.authentication", "instance_profile".into()),
        ("Use Instance Public IP", "ec2.public_ip", false.into()),
        ("HTTP Proxy", "guest.http_proxy", Value::Null),
        ("Timeout for waiting for ssh to connect to VM", "timeouts.ssh_connect_ms", 180_000.into()),
        ("Timeout for a new VM to start", "timeouts.vm_start_ms", 300_000.into()),
        ("Timeout for long running tasks", "timeouts.task_hours", 6.into()),
        ("Inactivity period before clearing Docker cache storage volumes", "cache.inactive_days", 14.into()),
    ];
    for (name, path, value) in guide {
        let field = catalogue::all().find(|field| field.path == *path).unwrap();
        assert_eq!((field.name, &default(path)), (*name, value));
    }
    let first: Vec<_> = catalogue::all().take(2).map(|field| field.name).collect();
    assert_eq!(first, ["Remote Docker", "Machine Executor"], "preallocation comes first");
    assert!(catalogue::all().all(|field| field.help.ends_with('.') && !field.name.is_empty()));
}

fn everything() -> Settings {
    let mut some = Settings::default();
    some.preallocated.pools = vec![Pool { executor: Executor::RemoteDocker, resource_class: "large".to_owned(), count: 3 }];
    let cron = "0 8 * * 1-5".to_owned();
    some.preallocated.schedules =
        vec![Schedule { executor: Executor::Machine, resource_class: "medium".to_owned(), cron, count: 9 }];
    some.preallocated.time_zone = "Europe/Paris".to_owned();
    some.ec2.region = Some("eu-west-1".to_owned());
    some.ec2.subnets = vec!["subnet-01234567".to_owned(), "subnet-89abcdef".to_owned()];
    some.ec2.images.insert("eu-west-1".to_owned(), "ami-01234567".to_owned());
    let key = AccessKey { id: "AKIAIOSFODNN7EXAMPLE".to_owned(), secret: None, sealed: Some("c2VhbGVk".to_owned()) };
    some.ec2.authentication = Authentication::AccessKey(key);
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
    some.guest.root_certificates = vec![pem.to_owned(), pem.replace("MIIB", "MIIC")];
    some.limits.vms = Some(7);
    some.projects.insert("acme/app.x".to_owned(), ProjectSettings { weight: 2, priority: -5 });
    let medium = some.resource_classes.get_mut("medium").unwrap();
    medium.price_per_hour = Some(Price::try_from(0.096).unwrap());
    medium.ec2.instance_types = vec!["m5.large".to_owned(), "m5a.large".to_owned()];
    some.on_host.snapshots = false;
    some.pause_launches = true;
    some
}

#[test]
fn a_form_gives_back_what_it_was_made_of() {
    for settings in [Settings::default(), everything()] {
        assert_eq!(Draft::of(&settings).settings().unwrap(), settings);
    }
}

/// A form with one field of its own.
fn told(name: &str, text: &str) -> Vec<(String, String)> {
    let draft = Draft::of(&everything());
    let mut fields: BTreeMap<String, String> = draft.fields().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    fields.insert(name.to_owned(), text.to_owned());
    let errors = Draft::sent(fields).settings().err().unwrap_or_default();
    errors.into_iter().map(|error| (error.name, error.message)).collect()
}

#[test]
fn what_is_wrong_is_told_at_its_field() {
    let at = |name: &str, text: &str| {
        let errors = told(name, text);
        let [(field, message)] = &errors[..] else { panic!("{name}={text}: {errors:?}") };
        assert_eq!(field, name, "{message}");
        message.clone()
    };
    assert_eq!(told("history_days", "30"), []);
    assert_eq!(at("preallocated.machine", "many"), "is not a whole number");
    assert_eq!(at("preallocated.machine", "-1"), "is not a whole number");
    at("timeouts.task_hours", "0");
    assert!(at("preallocated.time_zone", "Mars").contains("is not a time zone"));
    assert!(at("preallocated.schedules[0].cron", "often").contains("is not a cron pattern"));
    at("ec2.subnets", "subnet-1");
    at("ec2.images", "eu-west-1");
    assert_eq!(told("ec2.authentication.id", "short")[0].0, "ec2.authentication");
    at("resource_classes[1].vcpus", "0");
    at("resource_classes[1].price_per_hour", "-1");
    at("projects[0].weight", "0");
    assert_eq!(at("projects[0].key", ""), "has no name: give it one");
    assert_eq!(at("resource_classes[1].key", "large"), "is there twice");
    assert!(told("resource_classes[1].key", "small")[0].1.contains("must contain \"medium\""));
    at("guest.http_proxy", "ftp://x");
}

#[test]
fn no_row_is_dropped_unseen() {
    let with = |count: usize| {
        let projects = (0..count).map(|n| (format!("p{n}"), ProjectSettings::default())).collect();
        Settings { projects, ..Settings::default() }
    };
    with(1000).validate().unwrap();
    assert!(with(1001).validate().unwrap_err().to_string().contains("projects"));
    assert_eq!(Draft::of(&with(1000)).settings().unwrap(), with(1000));
    let errors = Draft::of(&with(1001)).settings().unwrap_err();
    assert_eq!(errors.iter().map(|error| error.name.as_str()).collect::<Vec<_>>(), ["projects"]);
}

#[test]
fn rows_come_and_go() {
    let mut draft = Draft::of(&everything());
    draft.add_row("preallocated.schedules");
    draft.add_row("projects");
    draft.add_row("no.such");
    assert_eq!((draft.rows("preallocated.schedules"), draft.rows("projects")), (2, 2));
    assert_eq!(draft.text("preallocated.schedules[1].resource_class"), "medium");
    draft.remove_row("preallocated.schedules", 0);
    draft.remove_row("projects", 1);
    draft.remove_row("projects", 7);
    assert_eq!(draft.text("preallocated.schedules[0].count"), "0", "the second has moved up");
    let settings = draft.settings().unwrap();
    assert_eq!((settings.preallocated.schedules.len(), settings.projects.len()), (1, 1));
}

#[test]
fn the_documentation_is_made_of_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    let made = catalogue::markdown();
    if std::fs::read_to_string(path).ok().as_deref() != Some(made.as_str()) {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        std::fs::write(path, made).unwrap();
        panic!("docs/settings.md was not what the catalogue says: it is written anew, look at it and commit it");
    }
}
