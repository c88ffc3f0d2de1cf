//! A volume through the provider's own calls: made, attached, found in the guest by its serial, written, let go, deleted.

use super::lab::{Lab, deadline, wait_for};
use std::io::Read as _;
use uuid::Uuid;
use vm_service::domain::api::VmView;
use vm_service::domain::ids::VolumeId;
use vm_service::domain::tags::VolumeTags;
use vm_service::provider::Provider as _;
use vm_service::provider::ec2::Ec2;
use vm_service::provider::volumes::{VolumeSpec, Volumes as _};
use vm_service::ssh::Session;

const GIB: u32 = 1;
const WORDS: &str = "layers of a job";

/// The whole way of one volume to a VM that runs, and from it.
pub(super) async fn comes_and_goes(lab: &Lab, vm: &VmView) {
    let (ec2, guest) = (lab.ec2(), lab.guest(vm).await);
    let instance = vm.provider_id.clone().unwrap();
    let zone = lab.cloud.instances().await.into_iter().find(|it| it.id == instance).unwrap().zone;
    let made = ec2.create_volume(&spec(lab, zone)).await.unwrap();
    let (id, serial) = (made.provider_id.clone(), made.provider_id.replace('-', ""));
    assert_eq!(serial.len(), 20, "as long as a serial of virtio-blk can be");
    assert_eq!(disks(&guest, &serial).await, Vec::<String>::new());

    ec2.attach_volume(&id, &instance, &made.tags.lineage).await.unwrap();
    assert_eq!(holder(&ec2, &id).await, Some(instance.clone()));
    let name = wait_for("the disk is in the guest", lab, async || disks(&guest, &serial).await.pop()).await;
    assert_eq!(said(&guest, &format!("cat /sys/block/{name}/size")).await, format!("{}\n", u64::from(GIB) << 21));
    said(&guest, &format!("echo {WORDS} | sudo dd of=/dev/{name} conv=fsync status=none")).await;

    ec2.detach_volume(&id, &instance).await.unwrap();
    wait_for("the guest lets it go", lab, async || holder(&ec2, &id).await.is_none().then_some(())).await;
    assert_eq!(disks(&guest, &serial).await, Vec::<String>::new());
    let mut begin = vec![0; WORDS.len()];
    std::fs::File::open(lab.vms.disk(&id)).unwrap().read_exact(&mut begin).unwrap();
    assert_eq!(String::from_utf8(begin).unwrap(), WORDS, "what the guest wrote outlives its machine");
    ec2.delete_volume(&id).await.unwrap();
    assert_eq!(ec2.find_volume(&id).await.unwrap(), None);
}

fn spec(lab: &Lab, zone: String) -> VolumeSpec {
    let tags =
        VolumeTags { installation: lab.installation(), volume: VolumeId(Uuid::new_v4()), lineage: crate::support::lineage("b") };
    VolumeSpec { client_token: "lab-volume".to_owned(), tags, zone, size_gib: GIB, snapshot: None }
}

async fn holder(ec2: &Ec2, volume: &str) -> Option<String> {
    ec2.find_volume(volume).await.unwrap().unwrap().machine
}

/// Names of the guest's disks with this serial.
async fn disks(guest: &Session, serial: &str) -> Vec<String> {
    let found = said(guest, &format!("grep -lx {serial} /sys/block/*/serial || true")).await;
    found.lines().filter_map(|path| Some(path.split('/').nth(3)?.to_owned())).collect()
}

async fn said(guest: &Session, command: &str) -> String {
    let output = guest.exec(command, b"", 64 * 1024, deadline()).await.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
