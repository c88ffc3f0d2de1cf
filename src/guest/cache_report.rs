//! Which layers are on a cache disk, and which of them a job made or used, out of the documents that `cache/` sends back.
//!
//! A *layer* is, in the classic store, a chain of diffs (its id is the chain's); in containerd's, a blob; in both, a record of the build
//! cache that no image shares (`build:ID`). The job *used* it when it is newer than the mount, when an image that was pulled, tagged,
//! loaded or run since the mount consists of it, or when a build used the record since then.
//!
//! Everything here was said by a machine in which a job had root: what cannot be read counts as not said, and nothing is unbounded.
//!
//! Not here: the words (`cache`), what is sent and how it is capped (`linux_cache`, `cache/`).

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
        if !name.strip_prefix("image ").is_some_and(|id| used.images.contains(id)) {
            continue;
        }
        let Ok(image) = serde_json::from_slice::<Value>(text) else { continue };
        let diffs: Vec<&str> = array(&image["RootFS"]["Layers"]).iter().filter_map(Value::as_str).collect();
        of_job.extend(chains(&diffs));
    }
    let reached = section(sections, "reached").unwrap_or_default().split(|byte| *byte == b'\n').take(MOST_LAYERS);
    of_job.extend(reached.filter_map(|id| std::str::from_utf8(id).ok()).map(str::to_owned));
    let build = section(sections, "build").and_then(|text| serde_json::from_slice(text).ok()).unwrap_or(Value::Null);
    for record in array(&build["BuildCache"]).iter().take(MOST_LAYERS) {
        let (Some(id), Some(bytes)) = (record["ID"].as_str(), record["Size"].as_u64()) else { continue };
        let readable =
            (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
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
    let of_job =
        all.iter().filter(|(id, _)| of_job.contains(*id)).map(|(id, bytes)| Layer { id: id.clone(), bytes: *bytes }).collect();
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
    id.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn section<'a>(sections: &[Section<'a>], name: &str) -> Option<&'a [u8]> {
    sections.iter().find(|(title, _)| *title == name).map(|(_, text)| *text)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn layer(id: String, bytes: u64) -> Layer {
        Layer { id, bytes }
    }

    #[test]
    fn images_that_were_made_or_run_are_used_and_others_are_not() {
        let (a, b, c, d) = (digest('a'), digest('b'), digest('c'), digest('d'));
        let said = format!(
            "=== since\n1790000000\n=== images\n[{{\"Id\":\"{a}\",\"RepoTags\":[\"app:latest\"]}},\
             {{\"Id\":\"{b}\",\"RepoTags\":null,\"RepoDigests\":[]}},{{\"Id\":\"{c}\",\"RepoTags\":[\"base:1\"]}},\
             {{\"Id\":\"{d}\"}},{{\"Id\":\"sha256:; reboot\"}}]\n=== containers\n[{{\"ImageID\":\"{b}\"}}]\n=== events\n\
             {{\"Type\":\"container\",\"Action\":\"create\",\"Actor\":{{\"ID\":\"1\",\"Attributes\":{{\"image\":\"app\"}}}}}}\n\
             not json\n{{\"Type\":\"network\",\"Action\":\"create\",\"Actor\":{{\"ID\":\"base:1\"}}}}\n\
             {{\"Type\":\"image\",\"Action\":\"tag\",\"Actor\":{{\"ID\":\"{}\"}}}}\n",
            &d[..30]
        );
        let used = used(said.as_bytes());
        assert_eq!(used.images(), [a.as_str(), b.as_str(), d.as_str()]);
        assert_eq!(used.since, 1_790_000_000);
        for nothing in ["", "=== since\n-1\n=== images\n{}\n", "=== images\n[1,[],\"x\"]\n=== events\n[]\n{}\n"] {
            assert_eq!(super::used(nothing.as_bytes()), Used::default(), "{nothing}");
        }
    }

    #[test]
    fn layers_are_those_of_the_disk_and_used_ones_are_new_or_in_use() {
        // Docker 20.10, `docker image inspect` and layerdb of an image of two layers.
        let diffs = [
            "sha256:a1cf22e7a83da8cd7ee87fb6a0cb3d2d33d42ff1be8a6c8e6ba7b5b5bbcd2d1c",
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        ];
        let chain = &chains(&diffs)[1];
        let (image, old, new) = (digest('a'), digest('b'), digest('c'));
        let record = |id: &str, shared: bool, at: &str| {
            format!(
                "{{\"ID\":\"{id}\",\"Shared\":{shared},\"Size\":7,\"CreatedAt\":\"2026-01-01T00:00:00.5Z\",\"LastUsedAt\":{at}}}"
            )
        };
        let said = format!(
            "=== image {image}\n{{\"RootFS\":{{\"Layers\":[\"{}\",\"{}\"]}}}}\n=== image {old}\n{{\"RootFS\":{{\"Layers\":[\"{old}\"]}}}}\n\
             === build\n{{\"BuildCache\":[{},{},{},{}]}}\n=== layers\n{chain} 10 0\n{old} 20 0\n{new} 30 1\n{new}x 1 1\n{old} -1 1\n",
            diffs[0],
            diffs[1],
            record("fresh", false, "\"2026-09-22T00:00:00Z\""),
            record("stale", false, "null"),
            record("shared", true, "\"2026-09-22T00:00:00Z\""),
            record("../x", false, "null"),
        );
        let used = Used { since: 1_790_000_000, images: [image].into() };
        let (all, of_job) = layers(&sections(said.as_bytes()), &used);
        let sort = |mut layers: Vec<Layer>| {
            layers.sort();
            layers
        };
        let fresh = layer("build:fresh".to_owned(), 7);
        let mine = vec![fresh, layer(chain.clone(), 10), layer(new, 30)];
        assert_eq!(of_job, sort(mine.clone()));
        assert_eq!(all, sort([mine, vec![layer("build:stale".to_owned(), 7), layer(old, 20)]].concat()));
    }

    #[test]
    fn in_containerds_store_what_a_manifest_names_is_used() {
        let (manifest, blob, other) = (digest('a'), digest('b'), digest('c'));
        let said = format!("=== layers\n{manifest} 1 0\n{blob} 2 0\n{other} 3 0\n=== reached\n{manifest}\n{blob}\nsha256:\n");
        let (all, of_job) = layers(&sections(said.as_bytes()), &Used::default());
        assert_eq!((all.len(), of_job), (3, vec![layer(manifest, 1), layer(blob, 2)]));
    }

    /// The first is the specification's rule, the second a store's own: seen in Docker 20.10's layerdb.
    #[test]
    fn a_chain_is_the_digest_of_the_chain_before_and_the_diff() {
        assert_eq!(chains(&["sha256:aa"]), ["sha256:aa"]);
        assert_eq!(chains(&[]), [""; 0]);
        let diffs = [
            "sha256:076a028e91b260d19bebfe0200367d1d997122c0e347378b352593119907ae0f",
            "sha256:00f5765aae170567b1b80492c9e7728e96a2a336b33124592cf5965569fca979",
        ];
        assert_eq!(chains(&diffs)[1], "sha256:55ad0eb93c5c27a6b50e035409c26c19db74f0482284ef75bb5752d78999aedf");
    }
}
