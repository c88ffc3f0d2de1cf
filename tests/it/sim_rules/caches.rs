//! Cache disks inside the simulated guest: mounted by serial, checked when nobody knows how they ended, and let go before they are detached.

use super::{Cloud, after, bootstrap, easy, identity};
use crate::support::lineage;
use chrono::TimeDelta;
use std::net::SocketAddr;
use std::time::Duration;
use vm_service::clock::Clock as _;
use vm_service::domain::lineage::{Engine, Layer, Store};
use vm_service::domain::settings::Settings;
use vm_service::guest::cache::{CacheContent, CacheDisk, CacheReady, CacheTrouble, Mounted, Unmounted};
use vm_service::guest::{Endpoint, Guest as _, GuestError, Personality};
use vm_service::provider::Machine;
use vm_service::provider::volumes::Volumes as _;
use vm_service::sim::{Fault, Rules};

const DEADLINE: Duration = Duration::from_secs(60);

impl Cloud {
    fn door(&self, machine: &Machine) -> SocketAddr {
        SocketAddr::new(machine.address.unwrap().ip, 22)
    }

    /// First contact, as often as one likes.
    async fn greeted(&self, machine: &Machine) {
        let ssh = self.door(machine);
        let at = Endpoint { ssh, docker: SocketAddr::new(ssh.ip(), 2376) };
        let end_at = self.clock.now() + TimeDelta::hours(2);
        let personality =
            Personality { settings: Settings::default().guest, gpus: 0, absolute_end_at: end_at, now: self.clock.now() };
        let met = self.sim.personalise(&at, Some(&bootstrap("batch")), &identity("vm"), &personality, DEADLINE).await;
        assert_eq!(met.unwrap(), Some(lineage("p").engine));
    }

    async fn mounts(&self, machine: &Machine, volume: &str, content: CacheContent) -> Mounted {
        let disk = CacheDisk { serial: self.sim.serial(volume), engine: lineage("p").engine, content };
        self.sim.mount_cache(self.door(machine), &identity("vm"), &disk, DEADLINE).await.unwrap()
    }

    async fn unmounts(&self, machine: &Machine) -> Result<Unmounted, GuestError> {
        self.sim.unmount_cache(self.door(machine), &identity("vm"), DEADLINE).await
    }

    /// A job on this machine that makes these layers on the volume, which is free before and after.
    pub(super) async fn works_on(&self, volume: &str, machine: &Machine, layers: &[(&str, u64)]) {
        self.greeted(machine).await;
        self.attach(volume, machine).await.unwrap();
        assert!(matches!(self.mounts(machine, volume, CacheContent::Good).await, Mounted::Ready(_)));
        self.sim.use_layers(&machine.provider_id, layers);
        self.unmounts(machine).await.unwrap();
        self.sim.detach_volume(volume, &machine.provider_id).await.unwrap();
    }
}

/// Of a file system, which takes some for itself, with layers of so many bytes.
fn ready(warm: bool, layers: u64) -> Mounted {
    Mounted::Ready(CacheReady { warm, used_bytes: (1 << 20) + layers, size_bytes: 100 << 30, notes: Vec::new() })
}

fn trouble(mounted: Mounted) -> CacheTrouble {
    match mounted {
        Mounted::Refused { trouble, .. } => trouble,
        Mounted::Ready(ready) => panic!("mounted: {ready:?}"),
    }
}

/// The first job finds it empty, the next one finds its layers, and is told which it used itself.
#[tokio::test]
async fn the_layers_of_a_job_are_there_for_the_next() {
    let cloud = Cloud::easy();
    let (volume, first) = (cloud.volume("v").await, cloud.one("a").await);
    cloud.greeted(&first).await;
    cloud.attach(&volume, &first).await.unwrap();
    assert_eq!(cloud.mounts(&first, &volume, CacheContent::Nothing).await, ready(false, 0));
    cloud.sim.use_layers(&first.provider_id, &[("base", 100), ("app", 10)]);
    assert_eq!(cloud.mounts(&first, &volume, CacheContent::Nothing).await, ready(true, 110), "once more is fine");
    let layer = |id: &str, bytes| Layer { id: id.to_owned(), bytes };
    let made = cloud.unmounts(&first).await.unwrap();
    let all = vec![layer("app", 10), layer("base", 100)];
    assert_eq!(made, Unmounted { used_bytes: (1 << 20) + 110, layers: all.clone(), used: all.clone(), notes: Vec::new() });
    cloud.sim.detach_volume(&volume, &first.provider_id).await.unwrap();

    let second = cloud.one("b").await;
    cloud.greeted(&second).await;
    cloud.attach(&volume, &second).await.unwrap();
    assert_eq!(cloud.mounts(&second, &volume, CacheContent::Good).await, ready(true, 110));
    cloud.sim.use_layers(&second.provider_id, &[("base", 100)]);
    let used = cloud.unmounts(&second).await.unwrap();
    assert_eq!((used.layers, used.used), (all, vec![layer("base", 100)]));
    let content = cloud.volume_truth(&volume).content;
    assert_eq!((content.engine, content.mounted, content.torn), (Some(lineage("p").engine), false, false));
}

/// A disk that is not there yet is not mounted, and without one there is nothing to unmount.
#[tokio::test]
async fn a_disk_is_mounted_when_it_has_come() {
    let cloud = Cloud::with(Rules { volume_moves_in: after(3), ..easy() });
    let (volume, machine) = (cloud.volume("v").await, cloud.one("t").await);
    cloud.greeted(&machine).await;
    let nothing = Unmounted { used_bytes: 0, layers: Vec::new(), used: Vec::new(), notes: Vec::new() };
    assert_eq!(cloud.unmounts(&machine).await.unwrap(), nothing);
    cloud.attach(&volume, &machine).await.unwrap();
    assert_eq!(trouble(cloud.mounts(&machine, &volume, CacheContent::Nothing).await), CacheTrouble::NotThere);
    cloud.pass(3);
    assert_eq!(cloud.mounts(&machine, &volume, CacheContent::Nothing).await, ready(false, 0));
    let disk = CacheDisk { serial: cloud.sim.serial(&volume), engine: lineage("p").engine, content: CacheContent::Good };
    let stranger = cloud.sim.mount_cache(cloud.door(&machine), &identity("stranger"), &disk, DEADLINE).await;
    assert!(matches!(stranger, Err(GuestError::WrongHostKey)), "{stranger:?}");
}

/// What another engine wrote is not for this one.
#[tokio::test]
async fn another_engines_disk_is_refused() {
    let cloud = Cloud::easy();
    let (volume, machine) = (cloud.volume("v").await, cloud.one("t").await);
    cloud.works_on(&volume, &machine, &[("base", 100)]).await;
    cloud.attach(&volume, &machine).await.unwrap();
    let engine = Engine { store: Store::Containerd, ..lineage("p").engine };
    let disk = CacheDisk { serial: cloud.sim.serial(&volume), engine, content: CacheContent::Good };
    let refused = cloud.sim.mount_cache(cloud.door(&machine), &identity("vm"), &disk, DEADLINE).await.unwrap();
    assert_eq!(trouble(refused), CacheTrouble::WrongEngine);
    assert!(!cloud.volume_truth(&volume).content.mounted);
}

/// A machine that ends with the disk mounted tears it: a check of the whole finds that, one that is not asked for does not.
#[tokio::test]
async fn a_disk_that_was_torn_off_fails_its_check() {
    let cloud = Cloud::easy();
    let (volume, first) = (cloud.volume("v").await, cloud.one("a").await);
    cloud.greeted(&first).await;
    cloud.attach(&volume, &first).await.unwrap();
    assert_eq!(cloud.mounts(&first, &volume, CacheContent::Nothing).await, ready(false, 0));
    cloud.terminate(&first).await;
    let torn = cloud.volume_truth(&volume).content;
    assert_eq!((torn.mounted, torn.torn, torn.damaged), (false, true, false));
    let second = cloud.one("b").await;
    cloud.greeted(&second).await;
    cloud.attach(&volume, &second).await.unwrap();
    assert_eq!(trouble(cloud.mounts(&second, &volume, CacheContent::Unchecked).await), CacheTrouble::Damaged);
    assert!(cloud.volume_truth(&volume).content.damaged);
    assert_eq!(trouble(cloud.mounts(&second, &volume, CacheContent::Good).await), CacheTrouble::Damaged, "it stays so");
}

/// As injected: a damaged disk, one that a check finds fault with, and one that stays busy.
#[tokio::test]
async fn mounting_and_unmounting_may_fail() {
    let cloud = Cloud::easy();
    let (struck, damaged) = (cloud.volume("v").await, cloud.volume("w").await);
    let machine = cloud.one("t").await;
    cloud.greeted(&machine).await;
    for volume in [&struck, &damaged] {
        cloud.attach(volume, &machine).await.unwrap();
    }
    cloud.sim.damage_volume(&damaged);
    assert_eq!(trouble(cloud.mounts(&machine, &damaged, CacheContent::Good).await), CacheTrouble::Damaged);
    cloud.sim.inject(Fault::DamagedDisk);
    assert_eq!(trouble(cloud.mounts(&machine, &struck, CacheContent::Good).await), CacheTrouble::Damaged);
    let whole = cloud.volume("x").await;
    cloud.attach(&whole, &machine).await.unwrap();
    assert_eq!(cloud.mounts(&machine, &whole, CacheContent::Nothing).await, ready(false, 0));
    cloud.sim.inject(Fault::UnmountFails);
    assert!(matches!(cloud.unmounts(&machine).await, Err(GuestError::Misbehaved(_))));
    assert!(cloud.volume_truth(&whole).content.mounted);
    cloud.unmounts(&machine).await.unwrap();
    assert!(!cloud.volume_truth(&whole).content.mounted);
}
