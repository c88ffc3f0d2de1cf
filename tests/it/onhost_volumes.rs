//! One cache volume and a real VM on this host: found in the guest, let go, given again, and free with what was synced when QEMU is killed.
//!
//! Boots one VM, with a closed network; needs a built image (see `onhost`). Not here: volumes without a guest (`provider::onhost::volumes`).

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use crate::onhost::{installation, open, spec, wait_for};
use crate::support::lineage;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vm_service::domain::identity::{Bootstrap, USER};
use vm_service::domain::ids::{GenerationId, VolumeId};
use vm_service::domain::lineage::{Lineage, Trust};
use vm_service::domain::settings::VmNetwork;
use vm_service::domain::tags::{SnapshotTags, VolumeTags};
use vm_service::guest::user_data::cloud_config;
use vm_service::provider::onhost::OnHost;
use vm_service::provider::volumes::{SnapshotSpec, VolumeSpec, Volumes as _};
use vm_service::provider::{MachineState, Provider as _, ProviderError};
use vm_service::ssh::{Session, Target};

fn volume(token: &str, lineage: &Lineage, snapshot: Option<String>) -> VolumeSpec {
    let tags = VolumeTags { installation: installation(1), volume: VolumeId(Uuid::from_u128(5)), lineage: lineage.clone() };
    VolumeSpec { client_token: token.to_owned(), tags, zone: "host".to_owned(), size_gib: 1, snapshot }
}

async fn make(on_host: &OnHost, spec: &VolumeSpec) -> String {
    on_host.create_volume(spec).await.unwrap().provider_id
}

async fn said(guest: &Session, command: &str) -> String {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let output = guest.exec(command, b"", 64 * 1024, deadline).await.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The guest's disk with the serial of a volume.
async fn disk(guest: &Session, serial: &str) -> Option<String> {
    let found = said(guest, &format!("grep -lx {serial} /sys/block/*/serial || true")).await;
    found.lines().next().and_then(|path| path.split('/').nth(3)).map(str::to_owned)
}

/// Writes 64 KiB of one byte at a multiple of 64 KiB, and syncs.
async fn write(guest: &Session, disk: &str, byte: &str, at: u32) {
    let bytes = format!("head -c 65536 /dev/zero | tr '\\0' '\\{byte}'");
    said(guest, &format!("{bytes} | sudo dd of=/dev/{disk} bs=64k seek={at} iflag=fullblock conv=fsync,notrunc status=none")).await;
}

fn has(data: &Path, volume: &str, words: &str) {
    let path = data.join("volumes").join(volume).join("disk.qcow2");
    let output = Command::new("qemu-io").args(["-r", "-f", "qcow2", "-c", words]).arg(path).output().unwrap();
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed"), "{words}: {output:?}");
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ProviderError>) -> String {
    match answer {
        Err(ProviderError::Invalid(why)) => why.split(':').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn holder(on_host: &OnHost, volume: &str) -> (Option<String>, bool) {
    let found = on_host.find_volume(volume).await.unwrap().unwrap();
    (found.machine, found.moving)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one VM more than the gate may boot; make proof runs it"]
async fn a_volume_comes_to_a_guest_leaves_it_and_outlives_it() {
    let data = tempfile::tempdir().unwrap();
    let on_host = open(data.path(), installation(1), VmNetwork::Closed).await;
    let other = open(data.path(), installation(1), VmNetwork::Closed).await;
    let (owner, stranger) = (lineage("a"), lineage("b"));
    let id = make(&on_host, &volume("one", &owner, None)).await;
    let second = make(&on_host, &volume("two", &stranger, None)).await;
    let (serial, vm) = (on_host.serial(&id), "onhost-it-volumes-0".to_owned());
    assert_eq!(serial.len(), 20);

    let bootstrap = Bootstrap::generate().unwrap();
    let mut wanted = spec("it-volumes", installation(1), &cloud_config(&bootstrap, Duration::from_secs(3600)));
    wanted.class.vcpus = 2;
    let address = on_host.launch(&wanted).await.unwrap()[0].address.unwrap();
    let target = Target {
        addr: SocketAddr::new(address.ip, address.ssh_port),
        user: USER.to_owned(),
        host_key: bootstrap.host_public.clone(),
        login: bootstrap.login_private.clone(),
    };
    let guest = Session::connect_when_up(&target, tokio::time::Instant::now() + Duration::from_secs(240)).await.unwrap();
    assert_eq!(disk(&guest, &serial).await, None);

    // Only to its owner, and alone.
    assert_eq!(refused(on_host.attach_volume(&id, &vm, &stranger).await), "WrongOwner");
    let untrusted = Lineage { trust: Trust::Untrusted, ..owner.clone() };
    assert_eq!(refused(on_host.attach_volume(&id, &vm, &untrusted).await), "WrongOwner");
    let began = Instant::now();
    on_host.attach_volume(&id, &vm, &owner).await.unwrap();
    println!("figure onhost_attach {} ms", began.elapsed().as_millis());
    assert_eq!(holder(&other, &id).await, (Some(vm.clone()), false));
    let name = wait_for("the disk is in the guest", async || disk(&guest, &serial).await).await;
    println!("figure onhost_attach_seen {} ms", began.elapsed().as_millis());
    other.attach_volume(&id, &vm, &owner).await.unwrap();
    assert_eq!(refused(other.attach_volume(&second, &vm, &stranger).await), "WrongOwner", "the VM has a volume of another owner");
    assert_eq!(said(&guest, &format!("cat /sys/block/{name}/size")).await, format!("{}\n", 1 << 21));
    write(&guest, &name, "252", 0).await;

    // Off by one service, seen by another; then frozen, and the copy is what was written.
    let began = Instant::now();
    on_host.detach_volume(&id, &vm).await.unwrap();
    wait_for("the guest lets it go", async || (holder(&other, &id).await == (None, false)).then_some(())).await;
    println!("figure onhost_detach {} ms", began.elapsed().as_millis());
    assert_eq!(disk(&guest, &serial).await, None);
    on_host.detach_volume(&id, &vm).await.unwrap();
    let tags = SnapshotTags { installation: installation(1), generation: GenerationId(Uuid::from_u128(6)), lineage: owner.clone() };
    let frozen = SnapshotSpec { client_token: "frozen".to_owned(), tags };
    let frozen = on_host.snapshot_volume(&id, &frozen).await.unwrap();

    // The same again, above the snapshot.
    other.attach_volume(&id, &vm, &owner).await.unwrap();
    let name = wait_for("the disk is in the guest again", async || disk(&guest, &serial).await).await;
    let first = said(&guest, &format!("sudo head -c 65536 /dev/{name} | tr -d '\\252' | wc -c")).await;
    assert_eq!(first, "0\n", "what was written before");
    write(&guest, &name, "273", 1).await;

    // A power cut for QEMU: what was synced is there, and the volume is free without anybody's doing.
    let process = std::fs::read(data.path().join("machines").join(&vm).join("process.json")).unwrap();
    let process: serde_json::Value = serde_json::from_slice(&process).unwrap();
    assert!(Command::new("kill").args(["-9", &process["pid"].to_string()]).status().unwrap().success());
    wait_for("the machine has ended", async || {
        let state = on_host.find_machine(&vm).await.unwrap().unwrap().state;
        (state == MachineState::Terminated).then_some(())
    })
    .await;
    wait_for("the volume is free", async || (holder(&other, &id).await == (None, false)).then_some(())).await;
    has(data.path(), &id, "read -P 0xaa 0 64k");
    has(data.path(), &id, "read -P 0xbb 64k 64k");
    on_host.terminate(std::slice::from_ref(&vm)).await.unwrap();
    assert_eq!(refused(on_host.attach_volume(&id, &vm, &owner).await), "IncorrectState");

    let copy = make(&on_host, &volume("copy", &owner, Some(frozen.clone()))).await;
    has(data.path(), &copy, "read -P 0xaa 0 64k");
    has(data.path(), &copy, "read -P 0 64k 64k");
    for volume in [&id, &second, &copy] {
        on_host.delete_volume(volume).await.unwrap();
    }
    on_host.delete_snapshot(&frozen).await.unwrap();
    assert_eq!(std::fs::read_dir(data.path().join("snapshots")).unwrap().count(), 0);
}
