//! The form of botocore's model files, `service-2.json.gz`; what is not named here is not read.

use super::params::Params;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
pub(super) struct File {
    pub(super) operations: BTreeMap<String, Operation>,
    pub(super) shapes: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
pub(super) struct Operation {
    pub(super) http: Http,
    pub(super) input: Option<Member>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Http {
    method: String,
    request_uri: String,
}

/// A structure, a list or a scalar.
#[derive(Deserialize)]
pub(super) struct Shape {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) members: BTreeMap<String, Member>,
    #[serde(default)]
    pub(super) required: Vec<String>,
    /// Of the entries of a list.
    pub(super) member: Option<Member>,
    #[serde(default, rename = "enum")]
    pub(super) values: Vec<String>,
    pub(super) pattern: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    pub(super) min: Option<i64>,
    #[serde(default, deserialize_with = "whole")]
    pub(super) max: Option<i64>,
}

/// A use of a shape.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Member {
    pub(super) shape: String,
    pub(super) location: Option<String>,
    pub(super) location_name: Option<String>,
    pub(super) query_name: Option<String>,
}

/// Limits are whole numbers; those of a floating-point shape are written with a point.
#[allow(clippy::cast_possible_truncation, reason = "the model's limits are small")]
fn whole<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<serde_json::Number>::deserialize(from)?.and_then(|n| n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))))
}

impl File {
    /// The newest model of a service in a virtual environment.
    pub(super) fn read(folder: &Path, service: &str) -> Self {
        let python = only(&folder.join("lib"));
        let versions = python.join("site-packages/botocore/data").join(service);
        let packed = std::fs::File::open(only(&versions).join("service-2.json.gz")).unwrap();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// The last folder in a folder, by name: versions are dates.
fn only(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).max().unwrap()
}

impl Http {
    /// The parameters in a path, if it is one of this template.
    pub(super) fn parse(&self, method: &str, path: &str) -> Option<Params> {
        let (template, path) = (self.request_uri.split('/'), path.split('/'));
        if method != self.method || template.clone().count() != path.clone().count() {
            return None;
        }
        let mut params = Params::default();
        for (wanted, found) in template.zip(path) {
            match wanted.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) => drop(params.0.insert(name.to_owned(), found.to_owned())),
                None if wanted == found => {}
                None => return None,
            }
        }
        Some(params)
    }
}
