//! One life of a real VM on this host, from its launch to nothing.
//!
//! Needs a built image (`ami/build-onhost`): `VM_SERVICE_IMAGES` names its folder, else `/var/tmp/vm-service-images/current`.
//! Boots one VM, with a closed network: its packets never leave. Not here: the open network (`onhost_isolation`).

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use chrono::DateTime;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;
use vm_service::domain::ec2::Ec2Class;
use vm_service::domain::ids::{InstallationId, LaunchId};
use vm_service::domain::resource_class::ResourceClass;
use vm_service::domain::settings::VmNetwork;
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::provider::onhost::{AcceleratorChoice, OnHost, OnHostConfig};
use vm_service::provider::{LaunchSpec, Machine, MachineState, Provider, ProviderError};

/// An emulated boot takes about 25 s on an idle host of two cores; the gate's other tests run beside it.
const BOOT: Duration = Duration::from_secs(240);

pub(crate) fn images() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the image is differs from host to host")]
    let named = std::env::var_os("VM_SERVICE_IMAGES");
    named.map_or_else(|| "/var/tmp/vm-service-images/current".into(), Into::into)
}

pub(crate) fn installation(number: u128) -> InstallationId {
    InstallationId(Uuid::from_u128(number))
}

pub(crate) async fn open(data: &Path, installation: InstallationId, network: VmNetwork) -> OnHost {
    let keeper = vec![env!("CARGO_BIN_EXE_vm-service").to_owned(), "keep-machine".to_owned()];
    let mut config = OnHostConfig::new(data.to_owned(), installation, images(), "test-host".into(), keeper);
    config.accelerator = AcceleratorChoice::Tcg;
    config.network = network;
    OnHost::open(config).await.unwrap()
}

pub(crate) fn spec(token: &str, installation: InstallationId, user_data: &str) -> LaunchSpec {
    let tags = Tags {
        installation,
        launch: LaunchId(Uuid::from_u128(77)),
        executor: Executor::Machine,
        resource_class: "test".into(),
        origin: Origin::OnDemand,
        created_at: DateTime::UNIX_EPOCH,
    };
    let class = ResourceClass {
        vcpus: 1,
        memory_mib: 1024,
        disk_gib: 10,
        limit: None,
        gpus: 0,
        ec2: Ec2Class::default(),
        reserve: Default::default(),
        price_per_hour: None,
    };
    LaunchSpec {
        client_token: token.into(),
        tags,
        class,
        count: 1,
        user_data: user_data.into(),
        candidate: String::new(),
        image: None,
    }
}

/// Looks every 100 ms until `look` finds something.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < BOOT, "not within {BOOT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Processes that have this folder as their own.
pub(crate) fn processes_in(folder: &Path) -> BTreeSet<String> {
    let in_folder = |process: &PathBuf| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.filter(in_folder)
        .map(|process| std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned())
        .collect()
}

fn zombies() -> usize {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    children.split_whitespace().filter(|pid| stat(pid).contains(") Z ")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_once_is_found_again_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let ours = installation(1);
    let first = open(data.path(), ours, VmNetwork::Closed).await;
    let findings = first.check(&[]).await;
    assert!(findings.iter().all(|finding| finding.ok), "{findings:?}");

    // From two services at once, and again: one machine.
    let spec = spec("it-life", ours, "#cloud-config\n{\"runcmd\": [\"echo SEED-SAYS-THIS >/dev/ttyS0\"]}\n");
    let second = open(data.path(), ours, VmNetwork::Closed).await;
    let began = Instant::now();
    let (one, two) = tokio::join!(first.launch(&spec), second.launch(&spec));
    println!("figure onhost_launch {} ms", began.elapsed().as_millis());
    let ids: BTreeSet<_> = [one.unwrap(), two.unwrap()].concat().into_iter().map(|machine| machine.provider_id).collect();
    assert_eq!(ids, BTreeSet::from(["onhost-it-life-0".to_owned()]));
    let id = "onhost-it-life-0".to_owned();
    let machine = first.find_machine(&id).await.unwrap().unwrap();
    assert_eq!((machine.state, &machine.tags), (MachineState::Running, &spec.tags));
    assert_eq!(first.launch(&spec).await.unwrap(), std::slice::from_ref(&machine));
    let folder = data.path().join("machines").join(&id);
    assert_eq!(processes_in(&folder).len(), 2, "the keeper and QEMU: {:?}", processes_in(&folder));

    // The service that made it is gone; another finds it. A stranger in the same folder does not.
    drop(first);
    assert_eq!(second.list_machines().await.unwrap().machines, std::slice::from_ref(&machine));
    let stranger = open(data.path(), installation(2), VmNetwork::Closed).await;
    assert_eq!(stranger.list_machines().await.unwrap().machines, []);
    stranger.terminate(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(second.find_machine(&id).await.unwrap(), Some(machine.clone()), "not the stranger's to end");

    // It answers on its address, and its console is kept.
    let began = Instant::now();
    let address = machine.address.unwrap();
    wait_for("an SSH banner", async || banner(&machine)).await;
    println!("figure onhost_ssh_banner {} ms", began.elapsed().as_millis());
    wait_for("the seed's word on the console", async || {
        second.console(&id).await.unwrap().contains("SEED-SAYS-THIS").then_some(())
    })
    .await;

    let began = Instant::now();
    second.terminate(&[id.clone(), "onhost-never-was-0".into(), "../..".into()]).await.unwrap();
    println!("figure onhost_terminate {} ms", began.elapsed().as_millis());
    assert_eq!(second.find_machine(&id).await.unwrap(), None);
    assert_eq!(processes_in(data.path()), BTreeSet::new());
    assert_eq!(zombies(), 0);
    assert_eq!(std::fs::read_dir(data.path().join("machines")).unwrap().count(), 0);
    for port in [address.ssh_port, address.docker_port] {
        drop(TcpListener::bind((address.ip, port)).unwrap());
    }
    second.terminate(std::slice::from_ref(&id)).await.unwrap();
    // A launch that comes late makes none anew.
    assert_eq!(second.launch(&spec).await.unwrap()[0].state, MachineState::Terminated);
    assert_eq!(second.list_machines().await.unwrap().machines, []);

    let pass = async || tokio::time::sleep(Duration::from_millis(200)).await;
    crate::contract::hold(&second, ours, "#cloud-config\n{}\n", "onhost-never-was-0", pass).await;
    assert_eq!(processes_in(data.path()), BTreeSet::new());
}

pub(crate) fn banner(machine: &Machine) -> Option<()> {
    let address = machine.address?;
    let mut stream = TcpStream::connect((address.ip, address.ssh_port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    // As every SSH client does; passt before April 2023 completes the handshake only when the caller speaks.
    stream.write_all(b"SSH-2.0-test\r\n").ok()?;
    let mut start = [0; 8];
    stream.read_exact(&mut start).ok()?;
    (&start == b"SSH-2.0-").then_some(())
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let provider = open(data.path(), installation(1), VmNetwork::Closed).await;
    let mut too_large = spec("it-large", installation(1), "");
    too_large.class.vcpus = 100_000;
    let Err(ProviderError::Transient { source, .. }) = provider.launch(&too_large).await else { panic!("it must fail") };
    assert!(format!("{source:#}").contains("CPUs"), "{source:#}");
    assert_eq!(provider.list_machines().await.unwrap().machines, []);
    assert_eq!(std::fs::read_dir(data.path().join("machines")).unwrap().count(), 0);
    too_large.count = 2;
    assert!(matches!(provider.launch(&too_large).await, Err(ProviderError::Invalid(_))));
}
