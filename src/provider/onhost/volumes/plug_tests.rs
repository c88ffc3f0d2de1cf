//! A volume and its machine, without a guest: machines that only hold their lock, and a QEMU that never runs.

use super::store::{Link, Stage};
use super::tests::*;
use super::*;
use crate::domain::ids::LaunchId;
use crate::domain::lineage::Trust;
use crate::domain::tags::{Origin, Tags};
use crate::domain::task::Executor;
use crate::provider::Provider;
use crate::provider::onhost::address::{Pool, Ports};
use crate::provider::onhost::{keeper, qemu, qmp};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A machine of this installation that lives as long as the file; QEMU does not answer there.
fn machine(on_host: &OnHost, name: &str) -> (PathBuf, File) {
    let tags = Tags {
        installation: OURS,
        launch: LaunchId(Uuid::from_u128(2)),
        executor: Executor::Machine,
        resource_class: "medium".into(),
        origin: Origin::OnDemand,
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    let pool = Pool { first: Ipv4Addr::new(127, 98, 0, 1), count: 200 };
    on_host.folders.ensure(name, &tags, &pool, Ports { ssh: 22222, docker: 22376 }).unwrap();
    let folder = on_host.folders.machine(name);
    let alive = File::create(folder.join(keeper::ALIVE)).unwrap();
    alive.lock().unwrap();
    File::create(folder.join(keeper::STARTED)).unwrap();
    (folder, alive)
}

/// Ended with the test, however that ends.
struct Paused(Child);

impl Drop for Paused {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

/// A QEMU with the ports of a machine, whose processors never start; it has the machine's lock, as with a keeper.
fn paused(folder: &Path, alive: File) -> Paused {
    let mut line = qemu::base();
    line.extend(["-S", "-m", "64", "-accel", "tcg", "-mon", "chardev=qmp,mode=control", "-chardev"].map(str::to_owned));
    line.push(format!("socket,id=qmp,path={},server=on,wait=off", qmp::SOCKET));
    for port in 0..2 {
        line.extend(["-device".to_owned(), format!("pcie-root-port,id={}{port},chassis={port},addr=0x1{port}", qmp::PORT)]);
    }
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).current_dir(folder).stdin(alive).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Paused(command.spawn().unwrap());
    while !folder.join(qmp::SOCKET).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Looks until a volume is seen so, in both ways. At once, but that a lock is let go a moment later when another test starts a program
/// just then: until that runs, it has all our files.
async fn is_seen(on_host: &OnHost, volume: &str, machine: Option<&str>, moving: bool) {
    let began = Instant::now();
    loop {
        let found = on_host.find_volume(volume).await.unwrap().unwrap();
        let listed = on_host.list_volumes().await.unwrap().volumes.into_iter().find(|it| it.provider_id == volume);
        let is_so = |it: &ProviderVolume| (it.machine.as_deref(), it.moving) == (machine, moving);
        if is_so(&found) && listed.as_ref().is_some_and(is_so) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{found:?}, {listed:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_volume_goes_only_to_a_running_machine_of_its_owner() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let owner = lineage("a", Trust::Trusted);
    let id = make(&on_host, &volume("t", None)).await;
    is_refused(on_host.attach_volume(&id, "onhost-none-0", &owner).await, "IncorrectState");
    let (folder, alive) = machine(&on_host, "onhost-dead-0");
    drop(alive);
    while keeper::is_alive(&folder).unwrap() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    is_refused(on_host.attach_volume(&id, "onhost-dead-0", &owner).await, "IncorrectState");
    let (_, _alive) = machine(&on_host, "onhost-a-0");
    for stranger in [lineage("b", Trust::Trusted), lineage("a", Trust::Untrusted)] {
        is_refused(on_host.attach_volume(&id, "onhost-a-0", &stranger).await, "WrongOwner");
    }
    is_refused(on_host.attach_volume("vol-0123456789abcdef0", "onhost-a-0", &owner).await, "InvalidVolume.NotFound");
    is_seen(&on_host, &id, None, false).await;
}

#[tokio::test]
async fn a_wish_that_stopped_on_its_way_is_seen_by_everybody_and_ends_with_the_machine() {
    let data = tempfile::tempdir().unwrap();
    let (on_host, other) = (open(data.path(), OURS).await, open(data.path(), OURS).await);
    let owner = lineage("a", Trust::Trusted);
    let mut theirs = volume("u", None);
    theirs.tags.lineage = lineage("b", Trust::Trusted);
    let (id, second) = (make(&on_host, &volume("t", None)).await, make(&on_host, &theirs).await);
    let (_, alive) = machine(&on_host, "onhost-a-0");
    let _other_lives = machine(&on_host, "onhost-b-0");
    // QEMU does not answer.
    assert!(matches!(on_host.attach_volume(&id, "onhost-a-0", &owner).await, Err(ProviderError::Transient { .. })));
    is_seen(&other, &id, Some("onhost-a-0"), true).await;
    is_refused(other.attach_volume(&id, "onhost-b-0", &owner).await, "VolumeInUse");
    is_refused(other.attach_volume(&second, "onhost-a-0", &theirs.tags.lineage).await, "WrongOwner");
    is_refused(other.delete_volume(&id).await, "VolumeInUse");
    is_refused(other.snapshot_volume(&id, &snapshot("s")).await, "VolumeInUse");
    other.detach_volume(&id, "onhost-b-0").await.unwrap();
    is_seen(&other, &id, Some("onhost-a-0"), true).await;
    assert!(matches!(other.detach_volume(&id, "onhost-a-0").await, Err(ProviderError::Transient { .. })));
    drop(alive);
    is_seen(&other, &id, None, false).await;
    assert_eq!(on_host.store.link(&id).unwrap(), None);
    other.delete_volume(&id).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_the_disk_until_its_qemu_ends() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let owner = lineage("a", Trust::Trusted);
    let base = make(&on_host, &volume("base", None)).await;
    assert!(io(&on_host.store.disk(&base), "write -P 1 0 64k"));
    let frozen = on_host.snapshot_volume(&base, &snapshot("s")).await.unwrap();
    let id = make(&on_host, &volume("t", Some(&frozen))).await;
    let (folder, alive) = machine(&on_host, "onhost-a-0");
    let child = paused(&folder, alive);
    let here = Some("onhost-a-0");

    on_host.attach_volume(&id, "onhost-a-0", &owner).await.unwrap();
    on_host.attach_volume(&id, "onhost-a-0", &owner).await.unwrap();
    is_seen(&on_host, &id, here, false).await;
    assert!(!io(&on_host.store.disk(&id), "write -P 9 0 64k"), "QEMU keeps other writers out");

    // A process that ended between QEMU's answer and its note.
    let stage = |stage| Link { machine: "onhost-a-0".to_owned(), stage };
    on_host.store.set_link(&id, &stage(Stage::Attaching)).unwrap();
    is_seen(&on_host, &id, here, false).await;
    on_host.store.set_link(&id, &stage(Stage::Attaching)).unwrap();
    on_host.attach_volume(&id, "onhost-a-0", &owner).await.unwrap();

    on_host.detach_volume(&id, "onhost-a-0").await.unwrap();
    on_host.detach_volume(&id, "onhost-a-0").await.unwrap();
    is_seen(&on_host, &id, here, true).await;
    is_refused(on_host.attach_volume(&id, "onhost-a-0", &owner).await, "VolumeInUse");
    is_refused(on_host.delete_volume(&id).await, "VolumeInUse");

    drop(child);
    is_seen(&on_host, &id, None, false).await;
    assert!(io(&on_host.store.disk(&id), "read -P 1 0 64k") && io(&on_host.store.disk(&id), "write -P 2 0 64k"));
    assert!(io(&on_host.store.snapshot_disk(&frozen), "read -P 1 0 64k"));
}

#[tokio::test]
async fn a_wish_that_never_reached_qemu_is_taken_back() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), OURS).await;
    let id = make(&on_host, &volume("t", None)).await;
    let (folder, alive) = machine(&on_host, "onhost-a-0");
    let child = paused(&folder, alive);
    on_host.store.set_link(&id, &Link { machine: "onhost-a-0".to_owned(), stage: Stage::Attaching }).unwrap();
    is_seen(&on_host, &id, Some("onhost-a-0"), true).await;
    on_host.detach_volume(&id, "onhost-a-0").await.unwrap();
    is_seen(&on_host, &id, None, false).await;
    drop(child);
}
