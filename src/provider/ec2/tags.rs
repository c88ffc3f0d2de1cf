//! What a machine carries from the call that makes it, as EC2 tags. Whoever reads them back gets [`Tags`], or nothing.

use crate::domain::ids::InstallationId;
use crate::domain::lineage::{Engine, Lineage};
use crate::domain::tags::{Origin, SnapshotTags, Tags, VolumeTags};
use crate::domain::task::Executor;
use aws_sdk_ec2::types::Tag;
use chrono::SecondsFormat;
use std::collections::BTreeMap;

/// On everything that this product makes.
const MANAGED_BY: (&str, &str) = ("ManagedBy", "vm-service");
/// Whose it is: what lists are filtered by, and what the least policy asks for.
pub(super) const INSTALLATION: &str = "vm-service:installation";
const LAUNCH: &str = "vm-service:launch";
const EXECUTOR: &str = "vm-service:executor";
const CLASS: &str = "vm-service:class";
const ORIGIN: &str = "vm-service:origin";
const CREATED_AT: &str = "vm-service:created-at";
/// Only cache volumes carry it.
pub(super) const VOLUME: &str = "vm-service:volume";
/// Only snapshots of cache volumes carry it.
pub(super) const GENERATION: &str = "vm-service:generation";
const PROJECT: &str = "vm-service:project";
const TRUST: &str = "vm-service:trust";
const ARCHITECTURE: &str = "vm-service:architecture";
const STORE: &str = "vm-service:store";
const ENGINE_MAJOR: &str = "vm-service:engine-major";
/// For calls that take no client token.
pub(super) const TOKEN: &str = "vm-service:token";

/// For the call.
pub(super) fn write(tags: &Tags) -> Vec<Tag> {
    list([
        ("Name", format!("vm-service {} {}", tags.executor, tags.resource_class)),
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (INSTALLATION, tags.installation.to_string()),
        (LAUNCH, tags.launch.to_string()),
        (EXECUTOR, tags.executor.as_str().to_owned()),
        (CLASS, tags.resource_class.clone()),
        (ORIGIN, tags.origin.as_str().to_owned()),
        (CREATED_AT, tags.created_at.to_rfc3339_opts(SecondsFormat::Micros, true)),
    ])
}

/// On what is the same in many launches.
pub(super) fn write_common(installation: InstallationId) -> Vec<Tag> {
    list([(MANAGED_BY.0, MANAGED_BY.1.to_owned()), (INSTALLATION, installation.to_string())])
}

/// On a cache volume.
pub(super) fn write_volume(tags: &VolumeTags) -> Vec<Tag> {
    let mut marks = write_lineage(tags.installation, &tags.lineage);
    marks.extend(list([(VOLUME, tags.volume.to_string())]));
    marks
}

/// On a snapshot that this token makes.
pub(super) fn write_snapshot(tags: &SnapshotTags, token: &str) -> Vec<Tag> {
    let mut marks = write_lineage(tags.installation, &tags.lineage);
    marks.extend(list([(GENERATION, tags.generation.to_string()), (TOKEN, token.to_owned())]));
    marks
}

fn write_lineage(installation: InstallationId, of: &Lineage) -> Vec<Tag> {
    list([
        ("Name", format!("vm-service cache of {}", of.project_id)),
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (INSTALLATION, installation.to_string()),
        (PROJECT, of.project_id.clone()),
        (TRUST, of.trust.to_string()),
        (ARCHITECTURE, of.engine.architecture.clone()),
        (STORE, of.engine.store.to_string()),
        (ENGINE_MAJOR, of.engine.major.to_string()),
    ])
}

fn list<const N: usize>(pairs: [(&str, String); N]) -> Vec<Tag> {
    pairs.into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// From an answer; none when one is missing or was changed.
pub(super) fn read_volume(tags: &[Tag]) -> Option<VolumeTags> {
    let by_key = by_key(tags);
    let volume = by_key.get(VOLUME)?.parse().ok()?;
    Some(VolumeTags { installation: by_key.get(INSTALLATION)?.parse().ok()?, volume, lineage: read_lineage(&by_key)? })
}

/// From an answer; none when one is missing or was changed.
pub(super) fn read_snapshot(tags: &[Tag]) -> Option<SnapshotTags> {
    let by_key = by_key(tags);
    let generation = by_key.get(GENERATION)?.parse().ok()?;
    Some(SnapshotTags { installation: by_key.get(INSTALLATION)?.parse().ok()?, generation, lineage: read_lineage(&by_key)? })
}

fn read_lineage(by_key: &BTreeMap<&str, &str>) -> Option<Lineage> {
    let get = |key: &str| by_key.get(key).copied();
    Some(Lineage {
        project_id: get(PROJECT)?.to_owned(),
        trust: get(TRUST)?.parse().ok()?,
        engine: Engine {
            architecture: get(ARCHITECTURE)?.to_owned(),
            store: get(STORE)?.parse().ok()?,
            major: get(ENGINE_MAJOR)?.parse().ok()?,
        },
    })
}

fn by_key(tags: &[Tag]) -> BTreeMap<&str, &str> {
    tags.iter().filter_map(|tag| Some((tag.key()?, tag.value()?))).collect()
}

/// From an answer; none when one is missing or was changed.
pub(super) fn read(tags: &[Tag]) -> Option<Tags> {
    let by_key = by_key(tags);
    let get = |key: &str| by_key.get(key).copied();
    Some(Tags {
        installation: get(INSTALLATION)?.parse().ok()?,
        launch: get(LAUNCH)?.parse().ok()?,
        executor: [Executor::Machine, Executor::RemoteDocker].into_iter().find(|it| get(EXECUTOR) == Some(it.as_str()))?,
        resource_class: get(CLASS)?.to_owned(),
        origin: [Origin::Preallocated, Origin::OnDemand].into_iter().find(|it| get(ORIGIN) == Some(it.as_str()))?,
        created_at: get(CREATED_AT)?.parse().ok()?,
    })
}

/// The installation that tags name, also when others of them are missing.
pub(super) fn installation(tags: &[Tag]) -> Option<&str> {
    tags.iter().find(|tag| tag.key() == Some(INSTALLATION)).and_then(Tag::value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::LaunchId;
    use crate::domain::lineage::{Store, Trust};
    use uuid::Uuid;

    #[test]
    fn what_is_written_on_a_volume_is_read() {
        let tags = VolumeTags {
            installation: InstallationId(Uuid::from_u128(1)),
            volume: crate::domain::ids::VolumeId(Uuid::from_u128(2)),
            lineage: Lineage {
                project_id: "gh/a b/c".to_owned(),
                trust: Trust::Untrusted,
                engine: Engine { architecture: "arm64".to_owned(), store: Store::Containerd, major: 29 },
            },
        };
        let written = write_volume(&tags);
        assert_eq!(read_volume(&written).unwrap(), tags);
        let not_ours: Vec<Tag> = written.into_iter().filter(|tag| tag.key() != Some(PROJECT)).collect();
        assert_eq!(read_volume(&not_ours), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let tags = Tags {
            installation: InstallationId(Uuid::from_u128(1)),
            launch: LaunchId(Uuid::from_u128(2)),
            executor: Executor::RemoteDocker,
            resource_class: "gpu-large".to_owned(),
            origin: Origin::Preallocated,
            created_at: "2026-11-22T08:00:00.123456Z".parse().unwrap(),
        };
        let written = write(&tags);
        assert_eq!(read(&written).unwrap(), tags);
        for (nth, tag) in written.iter().enumerate().filter(|(_, tag)| tag.key().is_some_and(|key| key.starts_with("vm-service:")))
        {
            let mut one_less = written.clone();
            one_less.remove(nth);
            assert_eq!(read(&one_less), None, "without {tag:?}");
        }
    }
}
