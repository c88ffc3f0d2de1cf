//! Which layers are on a cache disk, and which of them a job made or used, out of the documents that `cache.sh` sends back.
//!
//! A *layer* is, in the classic store, a chain of diffs (its id is the chain's); in containerd's, a blob; in both, a record of the build
//! cache that no image shares (`build:ID`). The job *used* it when it is newer than the mount, when an image that was pulled, tagged,
//! loaded or run since the mount consists of it, or when a build used the record since then.
//!
//! Everything here was said by a machine in which a job had root: what cannot be read counts as not said, and nothing is unbounded.
//!
//! Not here: the words (`cache`), what is sent and how it is capped (`linux_cache`, `cache.sh`).

use super::linux_cache::number;
use crate::domain::lineage::Layer;
use chrono::DateTime;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A section of what the script says: its name (empty for what comes before the first), and its text.
pub(super) type Section<'a> = (&'a str, &'a [u8]);

/// More images are not asked about; each costs a call of the engine.
const MOST_IMAGES: usize = 50;
/// More layers than any disk of an honest job has.
const MOST_LAYERS: usize = 50_000;

/// What the job used, as the engine said while it lived.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// When the disk was mounted, seconds since 1970.
    since: i64,
    images: BTreeSet<String>,
}

impl Used {
    /// `sha256:` and 64 hexadecimal digits each.
    pub(super) fn images(&self) -> Vec<&str> {
        self.images.iter().map(String::as_str).collect()
    }
}

/// Splits at the lines `=== NAME`.
pub(super) fn sections(said: &[u8]) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let (mut name, mut begin, mut at) = ("", 0, 0);
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        let title = line.strip_prefix(b"=== ").and_then(|title| std::str::from_utf8(title.trim_ascii()).ok());
        if let Some(title) = title {
            sections.push((name, said.get(begin..at).unwrap_or_default()));
            (name, begin) = (title, at + line.len());
        }
        at += line.len();
    }
    sections.push((name, said.get(begin..).unwrap_or_default()));
    sections
}

/// Reads what `look` says.
pub(super) fn used(said: &[u8]) -> Used {
    let sections = sections(said);
    let since = section(&sections, "since").and_then(|text| std::str::from_utf8(text.trim_ascii()).ok()).and_then(number);
    let since = since.and_then(|it| i64::try_from(it).ok()).unwrap_or_default();
    let document = |name| section(&sections, name).and_then(|text| serde_json::from_slice(text).ok()).unwrap_or(Value::Null);
    let (images, containers) = (document("images"), document("containers"));

    let mut ids = BTreeSet::new();
    let mut names = BTreeMap::new();
    for image in array(&images) {
        let Some(id) = image["Id"].as_str().filter(|id| is_digest(id)) else { continue };
        ids.insert(id);
        for name in array(&image["RepoTags"]).iter().chain(array(&image["RepoDigests"])).filter_map(Value::as_str) {
            names.insert(name, id);
        }
    }
    let resolve = |name: &str| -> Option<&str> {
        let by_name = names.get(name).or_else(|| names.get(format!("{name}:latest").as_str())).copied();
        let short = name.strip_prefix("sha256:").unwrap_or(name);
        by_name.or_else(|| ids.iter().copied().find(|id| short.len() >= 12 && id.trim_start_matches("sha256:").starts_with(short)))
    };

    let mut mentioned: Vec<String> = Vec::new();
    let mut mention = |value: &Value| mentioned.extend(value.as_str().map(str::to_owned));
    array(&containers).iter().for_each(|container| mention(&container["ImageID"]));
    for line in section(&sections, "events").unwrap_or_default().split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
        let actor = &event["Actor"];
        match (event["Type"].as_str(), event["Action"].as_str()) {
            (Some("container"), Some("create")) => mention(&actor["Attributes"]["image"]),
            (Some("image"), Some("pull" | "tag" | "load" | "import" | "create" | "push" | "save")) => {
                mention(&actor["ID"]);
                mention(&actor["Attributes"]["name"]);
            }
            _ => {}
        }
    }
    let images = mentioned.iter().filter_map(|name| resolve(name)).take(MOST_LAYERS).map(str::to_owned).collect::<BTreeSet<_>>();
    Used { since, images: images.into_iter().take(MOST_IMAGES).collect() }
}

/// Reads what `unmount_cache` says: all layers, and those that were used; each once, in the order of their ids.
pub(super) fn layers(sections: &[Section<'_>], used: &Used) -> (Vec<Layer>, Vec<Layer>) {
    let mut all = BTreeMap::new();
    let mut of_job = BTreeSet::new();
    for line in section(sections, "layers").unwrap_or_default().split(|byte| *byte == b'\n').take(MOST_LAYERS) {
        let Some((id, bytes, new)) = layer_line(line) else { continue };
        all.insert(id.to_owned(), bytes);
        if new {
            of_job.insert(id.to_owned());
        }
    }
    for (name, text) in sections {
        let Some(id) = name.strip_prefix("image ").filter(|id| used.images.contains(*id)) else { continue };
        let Ok(image) = serde_json::from_slice::<Value>(text) else { continue };
        let diffs: Vec<&str> = array(&image["RootFS"]["Layers"]).iter().filter_map(Value::as_str).collect();
        of_job.extend(chains(&diffs));
    }
    let reached = section(sections, "reached").unwrap_or_default().split(|byte| *byte == b'\n').take(MOST_LAYERS);
    of_job.extend(reached.filter_map(|id| std::str::from_utf8(id).ok()).map(str::to_owned));
    let build = section(sections, "build").and_then(|text| serde_json::from_slice(text).ok()).unwrap_or(Value::Null);
    for record in array(&build["BuildCache"]).iter().take(MOST_LAYERS) {
        let (Some(id), Some(bytes)) = (record["ID"].as_str(), record["Size"].as_u64()) else { continue };
        let readable = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
        // What an image shares is the image's.
        if !readable || record["Shared"].as_bool() != Some(false) || i64::try_from(bytes).is_err() {
            continue;
        }
        let id = format!("build:{id}");
        let at = |field: &str| record[field].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        if at("LastUsedAt").max(at("CreatedAt")).is_some_and(|at| at.timestamp() >= used.since) {
            of_job.insert(id.clone());
        }
        all.insert(id, bytes);
    }
    let of_job = all.iter().filter(|(id, _)| of_job.contains(*id)).map(|(id, bytes)| Layer { id: id.clone(), bytes: *bytes }).collect();
    (all.into_iter().map(|(id, bytes)| Layer { id, bytes }).collect(), of_job)
}

/// `sha256:DIGEST BYTES 0` or `… 1` when it is newer than the mount.
fn layer_line(line: &[u8]) -> Option<(&str, u64, bool)> {
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    let [id, bytes, new @ ("0" | "1")] = words[..] else { return None };
    is_digest(id).then_some((id, number(bytes)?, new == "1"))
}

/// The chains that begin with the first diff: what the classic store calls a layer (OCI image specification, "Layer ChainID").
fn chains(diffs: &[&str]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for diff in diffs {
        let chain = match chains.last() {
            None => (*diff).to_owned(),
            Some(last) => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{last} {diff}").as_bytes());
                digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
            }
        };
        chains.push(chain);
    }
    chains
}

fn is_digest(id: &str) -> bool {
    id.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn section<'a>(sections: &[Section<'a>], name: &str) -> Option<&'a [u8]> {
    sections.iter().find(|(title, _)| *title == name).map(|(_, text)| *text)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
