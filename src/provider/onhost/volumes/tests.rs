//! Volumes without machines: made once, kept apart, deleted without a trace; and the tools for the tests beside this file.

use super::store::Volume;
use super::*;
use crate::domain::ids::{GenerationId, VolumeId};
use crate::domain::lineage::{Engine, Store as EngineStore, Trust};
use crate::domain::tags::{SnapshotTags, VolumeTags};
use crate::provider::Provider;
use crate::provider::onhost::OnHostConfig;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

pub(super) const OURS: InstallationId = InstallationId(Uuid::from_u128(1));
pub(super) const MIB: u64 = 1 << 20;

pub(super) async fn open(data: &Path, installation: InstallationId) -> OnHost {
    let (images, host) = (data.join("no-images"), "test-host".to_owned());
    OnHost::open(OnHostConfig::new(data.to_owned(), installation, images, host, Vec::new())).await.unwrap()
}

pub(super) fn lineage(project: &str, trust: Trust) -> Lineage {
    let engine = Engine { architecture: "x86_64".to_owned(), store: EngineStore::Classic, major: 28 };
    Lineage { project_id: project.to_owned(), trust, engine }
}

pub(super) fn volume(token: &str, snapshot: Option<&str>) -> VolumeSpec {
    let tags = VolumeTags { installation: OURS, volume: VolumeId(Uuid::from_u128(7)), lineage: lineage("a", Trust::Trusted) };
    let (client_token, zone, snapshot) = (token.to_owned(), "host".to_owned(), snapshot.map(str::to_owned));
    VolumeSpec { client_token, tags, zone, size_gib: 1, snapshot }
}

pub(super) fn of(mut spec: VolumeSpec, lineage: Lineage) -> VolumeSpec {
    spec.tags.lineage = lineage;
    spec
}

pub(super) fn snapshot(token: &str) -> SnapshotSpec {
    let generation = GenerationId(Uuid::from_u128(8));
    let tags = SnapshotTags { installation: OURS, generation, lineage: lineage("a", Trust::Trusted) };
    SnapshotSpec { client_token: token.to_owned(), tags }
}

/// Makes a volume and answers its name.
pub(super) async fn make(on_host: &OnHost, spec: &VolumeSpec) -> String {
    on_host.create_volume(spec).await.unwrap().provider_id
}

/// `write -P 1 0 64k` and the like, in the place of a guest; false where QEMU does not do it.
pub(super) fn io(disk: &Path, words: &str) -> bool {
    let read_only: &[&str] = if words.starts_with("read") { &["-r"] } else { &[] };
    let output = Command::new("qemu-io").args(read_only).args(["-f", "qcow2", "-c", words]).arg(disk).output().unwrap();
    output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed")
}

pub(super) fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|it| if it.path().is_dir() { bytes_in(&it.path()) } else { it.metadata().unwrap().blocks() * 512 }).sum()
}

/// Whole folders, without locks.
pub(super) fn folders_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

#[track_caller]
pub(super) fn is_refused<T: std::fmt::Debug>(answer: Result<T, ProviderError>, word: &str) {
    match answer {
        Err(ProviderError::Invalid(why)) if why.starts_with(word) => {}
        other => panic!("{word}: {other:?}"),
    }
}

#[test]
fn names_come_from_tokens_and_fit_a_serial() {
    let of = |token| name("vol", OURS, token).unwrap();
    assert_eq!(of("a-1"), of("a-1"));
    assert_ne!(of("a-1"), of("a-2"));
    assert_ne!(of("a-1"), name("vol", InstallationId(Uuid::from_u128(2)), "a-1").unwrap());
    assert_eq!(plug::serial(&of("a-1")).len(), 20, "as long as a serial of virtio-blk can be");
    assert!(store::is_name("vol", &of("a-1")) && !store::is_name("snap", &of("a-1")));
    for bad in ["vol-../../../../etc/x", "vol-", "vol-0123456789ABCDEF0", ".new-vol-0123456789abcdef0"] {
        assert!(!store::is_name("vol", bad), "{bad}");
    }
    for token in ["", "a/b", "a b", &"x".repeat(65)] {
        assert!(name("vol", OURS, token).is_err(), "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_one_volume_from_many_services_and_none_after_its_deletion() {
    let data = tempfile::tempdir().unwrap();
    let (one, two) = (open(data.path(), OURS).await, open(data.path(), OURS).await);
    let spec = volume("t", None);
    let calls = (0..8).map(|n| if n % 2 == 0 { one.create_volume(&spec) } else { two.create_volume(&spec) });
    let made: Vec<_> = futures::future::join_all(calls).await.into_iter().map(|made| made.unwrap()).collect();
    assert!(made.iter().all(|it| it == &made[0] && it.machine.is_none() && !it.moving && it.tags == spec.tags), "{made:?}");
    assert_eq!(two.list_volumes().await.unwrap(), VolumeListing { volumes: vec![made[0].clone()], complete: true });
    let id = made[0].provider_id.clone();

    is_refused(one.create_volume(&VolumeSpec { size_gib: 2, ..spec.clone() }).await, "IdempotentParameterMismatch");
    is_refused(one.create_volume(&of(spec.clone(), lineage("b", Trust::Trusted))).await, "IdempotentParameterMismatch");
    is_refused(one.create_volume(&VolumeSpec { zone: "eu".to_owned(), ..volume("z", None) }).await, "InvalidParameterValue");

    // Another installation neither sees it nor deletes it.
    let stranger = open(data.path(), InstallationId(Uuid::from_u128(2))).await;
    assert_eq!(stranger.list_volumes().await.unwrap(), VolumeListing { volumes: vec![], complete: true });
    stranger.delete_volume(&id).await.unwrap();
    assert!(one.find_volume(&id).await.unwrap().is_some());

    one.delete_volume(&id).await.unwrap();
    two.delete_volume(&id).await.unwrap();
    assert_eq!(one.find_volume(&id).await.unwrap(), None);
    is_refused(two.create_volume(&spec).await, "IdempotentParameterMismatch");
    is_refused(two.detach_volume(&id, "onhost-a-0").await, "InvalidVolume.NotFound");
    is_refused(two.snapshot_volume(&id, &snapshot("s")).await, "InvalidVolume.NotFound");
    assert_eq!(folders_in(&data.path().join("volumes")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_anywhere_is_finished_by_its_repetition() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let mut given_up = 0;
    for micros in (0..).step_by(500) {
        let spec = volume("t", None);
        let call = on_host.create_volume(&spec);
        if tokio::time::timeout(Duration::from_micros(micros), call).await.is_ok_and(|made| made.is_ok()) {
            break;
        }
        given_up += 1;
        assert!(on_host.list_volumes().await.unwrap().complete);
    }
    assert!(given_up > 3, "{given_up}");
    let listing = on_host.list_volumes().await.unwrap();
    assert_eq!((listing.volumes.len(), folders_in(&data.path().join("volumes"))), (1, 1));
    assert!(io(&on_host.store.disk(&listing.volumes[0].provider_id), "write -P 1 0 64k"));
}

#[tokio::test]
async fn what_is_half_made_or_unreadable_is_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let volumes = data.path().join("volumes");
    for rubbish in ["volumes/.new-vol-1", "volumes/.trash-vol-2", "snapshots/.new-snap-3"] {
        std::fs::create_dir_all(data.path().join(rubbish).join("disk")).unwrap();
    }
    assert_eq!(on_host.list_volumes().await.unwrap(), VolumeListing { volumes: vec![], complete: true });
    assert_eq!((folders_in(&volumes), folders_in(&data.path().join("snapshots"))), (0, 0));

    let id = make(&on_host, &volume("t", None)).await;
    std::fs::write(volumes.join(&id).join("volume.json"), "{").unwrap();
    assert_eq!(on_host.list_volumes().await.unwrap(), VolumeListing { volumes: vec![], complete: false });
    assert!(on_host.find_volume(&id).await.is_err());
    assert_eq!(on_host.find_volume("vol-../../x").await.unwrap(), None);
}

#[tokio::test]
async fn a_deleted_volume_gives_its_room_back() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let space = on_host.space().await.unwrap().unwrap();
    assert!(space.free_bytes > 0 && space.free_bytes < space.total_bytes, "{space:?}");
    let id = make(&on_host, &volume("t", None)).await;
    assert!(bytes_in(data.path()) < MIB, "it is thin");
    assert!(io(&on_host.store.disk(&id), "write -P 1 0 16M"));
    assert!(bytes_in(data.path()) > 16 * MIB);
    on_host.delete_volume(&id).await.unwrap();
    assert!(bytes_in(data.path()) < MIB);
    let spent: Volume = on_host.store.spent(&id).unwrap().unwrap();
    assert_eq!(spent.provider_id, id);
}
