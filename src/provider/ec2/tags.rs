//! What a machine carries from the call that makes it, as EC2 tags. Whoever reads them back gets [`Tags`], or nothing.

use crate::domain::tags::{Origin, Tags};
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

/// For the call.
pub(super) fn write(tags: &Tags) -> Vec<Tag> {
    let created_at = tags.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let name = format!("vm-service {} {}", tags.executor, tags.resource_class);
    [
        ("Name", name.as_str()),
        MANAGED_BY,
        (INSTALLATION, &tags.installation.to_string()),
        (LAUNCH, &tags.launch.to_string()),
        (EXECUTOR, tags.executor.as_str()),
        (CLASS, &tags.resource_class),
        (ORIGIN, tags.origin.as_str()),
        (CREATED_AT, &created_at),
    ]
    .into_iter()
    .map(|(key, value)| Tag::builder().key(key).value(value).build())
    .collect()
}

/// From an answer; none when one is missing or was changed.
pub(super) fn read(tags: &[Tag]) -> Option<Tags> {
    let by_key: BTreeMap<&str, &str> = tags.iter().filter_map(|tag| Some((tag.key()?, tag.value()?))).collect();
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
    use crate::domain::ids::{InstallationId, LaunchId};
    use uuid::Uuid;

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
