//! Where values come from, merged in one order: system file, shared file, the role's own file, process environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Every mistake of the configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Where values come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Folder of the guide's files, normally `/etc/circleconfig`.
    pub folder: PathBuf,
    /// The role's own folder in it: `vm-service`, `vm-scaler`, `vm-gc` or `vm-service-db-migrator`.
    pub role: String,
    /// Normally `/etc/environment`.
    pub system: PathBuf,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// Those of this process.
    #[allow(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
    pub fn of_process(folder: &Path, role: &str) -> Self {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            folder: folder.to_owned(),
            role: role.to_owned(),
            system: "/etc/environment".into(),
            environment: environment.collect(),
        }
    }

    /// Merges them; what cannot be read is added to `mistakes`.
    pub(super) fn read(&self, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
        let files =
            [self.system.clone(), self.folder.join("shared/postgresql"), self.folder.join(&self.role).join("customizations")];
        let mut builder = config::Config::builder();
        for file in files {
            for (name, value) in lines(&file, mistakes) {
                builder = set(builder, &name, value);
            }
        }
        for (name, value) in &self.environment {
            builder = set(builder, name, value.clone());
        }
        match builder.build().and_then(config::Config::try_deserialize::<BTreeMap<String, String>>) {
            // The library folds names to lower case.
            Ok(values) => values.into_iter().map(|(name, value)| (name.to_uppercase(), value)).collect(),
            Err(error) => {
                mistakes.push(format!("the configuration cannot be merged: {error}"));
                BTreeMap::new()
            }
        }
    }
}

type Builder = config::ConfigBuilder<config::builder::DefaultState>;

/// Names that are not plain identifiers are nobody's configuration (the library would read dots and brackets as paths).
fn set(builder: Builder, name: &str, value: String) -> Builder {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return builder;
    }
    builder.clone().set_override(name, value).unwrap_or(builder)
}

/// The lines `export NAME="value"` (or without `export`) of a file; a missing file has none.
fn lines(file: &Path, mistakes: &mut Vec<String>) -> Vec<(String, String)> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            mistakes.push(format!("{} cannot be read: {error}.", file.display()));
            return Vec::new();
        }
    };
    let expands = |line: &&str| line.contains('$') && !line.trim_start().starts_with('#');
    if let Some(line) = text.lines().find(expands) {
        let name = line.split('=').next().unwrap_or_default().trim();
        mistakes.push(format!("{}: {name} has a \"$\", which is not expanded here: write the value itself.", file.display()));
        return Vec::new();
    }
    let parsed: Result<Vec<_>, _> = dotenvy::from_read_iter(text.as_bytes()).collect();
    parsed.unwrap_or_else(|_| {
        mistakes.push(format!("{}: every line must have the form export NAME=\"value\".", file.display()));
        Vec::new()
    })
}
