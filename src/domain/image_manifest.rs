//! What builders write of the images that they made, read into what is to be registered: everything, or one sentence about the mistake.
//!
//! Source of packer's shape: <https://developer.hashicorp.com/packer/docs/post-processors/manifest>. Fields that are not named here are
//! ignored, in both.

use super::ec2::Architecture;
use super::image::{ImageFacts, ImageKind, ImageSource, RegisterRequest, WantedImage};
use super::lineage::Store;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// More in one manifest is a mistake: there are not so many regions.
const MOST: usize = 100;

#[derive(Deserialize)]
struct Manifest {
    builds: Vec<Build>,
    #[serde(default)]
    last_run_uuid: Option<String>,
}

#[derive(Deserialize)]
struct Build {
    name: String,
    #[serde(default)]
    builder_type: String,
    #[serde(default)]
    packer_run_uuid: Option<String>,
    #[serde(default)]
    artifact_id: String,
    #[serde(default)]
    custom_data: Option<Custom>,
}

/// Packer writes every value as a text.
#[derive(Clone, Default, Deserialize)]
struct Custom {
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    engine_version: Option<String>,
    #[serde(default, alias = "engine_store")]
    store: Option<String>,
    #[serde(default)]
    distribution: Option<String>,
    #[serde(default)]
    release: Option<String>,
    #[serde(default, alias = "inputs")]
    hash: Option<String>,
    #[serde(default)]
    nvidia_driver: Option<String>,
    #[serde(default)]
    cuda: Option<String>,
}

impl Custom {
    /// A value that the build was going to put in at its end.
    fn is_unfinished(&self) -> bool {
        let all =
            [&self.kind, &self.architecture, &self.engine_version, &self.store, &self.distribution, &self.release, &self.hash];
        all.into_iter().flatten().any(|value| value.starts_with('@'))
    }
}

/// What the request wants to have registered, never empty.
///
/// # Errors
/// One sentence.
pub fn wanted(request: &RegisterRequest) -> Result<Vec<WantedImage>, String> {
    let mut images = match (&request.manifest, &request.folder) {
        (Some(manifest), None) => of_packer(manifest, request.regions.as_deref())?,
        (None, Some(folder)) => vec![of_folder(folder, request.host.clone())?],
        _ => return Err("Give either \"manifest\" or \"folder\".".to_owned()),
    };
    if let Some(name) = &request.name {
        images.iter_mut().for_each(|image| image.name.clone_from(name));
    }
    for image in &mut images {
        image.name = image.name.chars().take(200).collect();
    }
    Ok(images)
}

fn of_packer(manifest: &Value, regions: Option<&[String]>) -> Result<Vec<WantedImage>, String> {
    let manifest = Manifest::deserialize(manifest).map_err(|error| format!("This is no manifest of packer's: {error}."))?;
    let last = manifest.last_run_uuid.as_deref().filter(|run| !run.is_empty());
    let of_last_run =
        |build: &&Build| last.is_none() || build.packer_run_uuid.is_none() || build.packer_run_uuid.as_deref() == last;
    let mut images = Vec::new();
    for build in manifest.builds.iter().filter(of_last_run).filter(|build| build.builder_type.starts_with("amazon")) {
        images.extend(of_build(build)?);
    }
    if images.is_empty() {
        return Err("The manifest's last run made no AMI: there is no build of a builder \"amazon-…\" in it.".to_owned());
    }
    if let Some(regions) = regions {
        let there: BTreeSet<String> = images.iter().filter_map(region).map(str::to_owned).collect();
        if let Some(missing) = regions.iter().find(|region| !there.contains(*region)) {
            return Err(format!("The manifest has no AMI in {}: it has them in {}.", plain(missing), list(&there)));
        }
        images.retain(|image| region(image).is_some_and(|region| regions.iter().any(|it| it == region)));
    }
    let names: BTreeSet<(Option<&str>, &str)> = images.iter().map(|image| (region(image), image.source.provider_id())).collect();
    if names.len() < images.len() {
        return Err("The manifest names one AMI twice.".to_owned());
    }
    if images.len() > MOST {
        return Err(format!("The manifest has {} AMIs: at most {MOST} are registered at once.", images.len()));
    }
    Ok(images)
}

fn of_build(build: &Build) -> Result<Vec<WantedImage>, String> {
    let about = |what: String| format!("Build \"{}\" of the manifest: {what}.", plain(&build.name));
    let custom = build.custom_data.clone().unwrap_or_default();
    let (kind, architecture, facts) = read(&custom).map_err(about)?;
    let artifacts = build.artifact_id.split(',').map(|artifact| {
        let (region, id) =
            artifact.trim().split_once(':').filter(|(region, id)| is_region(region) && is_ami(id)).ok_or_else(|| {
                about(format!("its artifact is \"{}\", and not such as \"eu-west-1:ami-0123456789abcdef0\"", plain(artifact)))
            })?;
        let source = ImageSource::Ami { region: region.to_owned(), id: id.to_owned() };
        Ok(WantedImage { source, name: build.name.clone(), kind, architecture, facts: facts.clone() })
    });
    artifacts.collect()
}

/// An on-host image's own manifest has the same words at its top, and more.
fn of_folder(manifest: &Value, host: Option<String>) -> Result<WantedImage, String> {
    let custom = Custom::deserialize(manifest).map_err(|error| format!("This is no manifest of an image folder: {error}."))?;
    let (kind, architecture, facts) = read(&custom).map_err(|what| format!("The folder's manifest: {what}."))?;
    let plainly = |hash: &String| {
        (1..=128).contains(&hash.len())
            && !hash.starts_with('.')
            && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let Some(hash) = custom.hash.filter(plainly) else {
        return Err("The folder's manifest has no \"hash\" that could name a folder.".to_owned());
    };
    let name = facts.distribution.clone().unwrap_or_else(|| hash.clone());
    Ok(WantedImage { source: ImageSource::Folder { hash, host }, name, kind, architecture, facts })
}

fn read(custom: &Custom) -> Result<(ImageKind, Architecture, ImageFacts), String> {
    if custom.is_unfinished() {
        return Err("it did not come to its end, so its image is not one to register".to_owned());
    }
    if let Some(other) = custom.format.as_deref().filter(|format| *format != "1") {
        return Err(format!("its format is \"{}\", which this vm-service does not know: use a newer one", plain(other)));
    }
    let kind = match custom.kind.as_deref() {
        None | Some("base") => ImageKind::Base,
        Some("gpu") => ImageKind::Gpu,
        Some(other) => return Err(format!("its kind is \"{}\", and not base or gpu", plain(other))),
    };
    let architecture = match custom.architecture.as_deref() {
        Some(text) => text.parse().map_err(|_| format!("its architecture is \"{}\", and not x86_64 or arm64", plain(text)))?,
        None => return Err("it does not say its architecture (custom_data.architecture: x86_64 or arm64)".to_owned()),
    };
    let store = match custom.store.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let read = text.parse::<Store>();
            Some(read.map_err(|_| format!("its store is \"{}\", and not classic or containerd", plain(text)))?)
        }
    };
    let kept = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(plain);
    let facts = ImageFacts {
        distribution: match (kept(&custom.distribution), kept(&custom.release)) {
            (Some(name), Some(release)) => Some(format!("{name}-{release}")),
            (name, _) => name,
        },
        engine_version: kept(&custom.engine_version),
        store,
        hash: kept(&custom.hash),
        nvidia_driver: kept(&custom.nvidia_driver),
        cuda: kept(&custom.cuda),
        ..ImageFacts::default()
    };
    Ok((kind, architecture, facts))
}

fn region(image: &WantedImage) -> Option<&str> {
    match &image.source {
        ImageSource::Ami { region, .. } => Some(region),
        ImageSource::Folder { .. } => None,
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn is_region(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    plain && (3..=32).contains(&text.len()) && text.contains('-')
}

fn is_ami(text: &str) -> bool {
    let digits =
        text.strip_prefix("ami-").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    matches!(digits.map(str::len), Some(8 | 17))
}

/// Fit for a sentence and for a table: of somebody else's file nothing more is believed.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
#[path = "image_manifest_tests.rs"]
mod tests;
