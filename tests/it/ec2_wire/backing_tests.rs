//! With a backing that does what it is told: what is shown is how the machines are.

use super::backing::{Backing, Stands};
use super::proxy::Cloud;
use super::requests::{code, launch, launched, made, volume};
use super::rules::Rules;
use async_trait::async_trait;
use base64::Engine as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Machines by hand.
#[derive(Default)]
struct ByHand {
    user_data: Mutex<BTreeMap<String, String>>,
    stands: Mutex<BTreeMap<String, Stands>>,
    ended: Mutex<BTreeSet<String>>,
    disks: Mutex<BTreeMap<String, Disk>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    gib: u32,
    machine: Option<String>,
    asked: u32,
    guest_is_done: bool,
}

#[async_trait]
impl Backing for ByHand {
    async fn boot(&self, instance: &str, user_data: &str) {
        self.user_data.lock().unwrap().insert(instance.to_owned(), user_data.to_owned());
    }

    async fn look(&self, instance: &str) -> Stands {
        self.stands.lock().unwrap().get(instance).copied().unwrap_or(Stands::Pending)
    }

    async fn end(&self, instance: &str) {
        self.ended.lock().unwrap().insert(instance.to_owned());
    }

    async fn console(&self, instance: &str) -> String {
        format!("{instance} says hello")
    }

    async fn make_disk(&self, volume: &str, gib: u32) {
        let disk = Disk { gib, machine: None, asked: 0, guest_is_done: false };
        self.disks.lock().unwrap().insert(volume.to_owned(), disk);
    }

    async fn plug(&self, volume: &str, instance: &str) {
        self.disks.lock().unwrap().get_mut(volume).unwrap().machine = Some(instance.to_owned());
    }

    async fn unplug(&self, volume: &str) -> bool {
        let mut disks = self.disks.lock().unwrap();
        let disk = disks.get_mut(volume).unwrap();
        disk.asked += 1;
        disk.guest_is_done
    }

    async fn delete_disk(&self, volume: &str) {
        self.disks.lock().unwrap().remove(volume);
    }
}

/// What is shown of an instance: its state and its address.
async fn shown(cloud: &Cloud, id: &str) -> (String, String) {
    let answer = cloud.ec2().describe_instances().instance_ids(id).send().await.unwrap();
    let instance = &answer.reservations()[0].instances()[0];
    let state = instance.state().unwrap().name().unwrap().as_str().to_owned();
    (state, instance.private_ip_address().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_instance_is_what_its_machine_is() {
    let hand = Arc::new(ByHand::default());
    let cloud = Cloud::by_hand_over(hand.clone(), Rules::default()).await;
    let stand = |id: &str, how| hand.stands.lock().unwrap().extend([(id.to_owned(), how)]);
    let answer = launch(&cloud, "m").max_count(2).send().await.unwrap();
    assert!(answer.instances().iter().all(|it| it.state().unwrap().name().unwrap().as_str() == "pending"));
    let ids: Vec<&str> = answer.instances().iter().map(|it| it.instance_id().unwrap()).collect();
    let data: BTreeMap<String, String> = ids.iter().map(|id| ((*id).to_owned(), "#cloud-config".to_owned())).collect();
    assert_eq!(*hand.user_data.lock().unwrap(), data);
    assert_eq!(shown(&cloud, ids[0]).await.0, "pending");

    stand(ids[0], Stands::Running("127.64.0.9".parse().unwrap()));
    assert_eq!(shown(&cloud, ids[0]).await, ("running".to_owned(), "127.64.0.9".to_owned()));
    assert_eq!(shown(&cloud, ids[1]).await.0, "pending");
    let console = cloud.ec2().get_console_output().instance_id(ids[0]).send().await.unwrap();
    let console = base64::engine::general_purpose::STANDARD.decode(console.output().unwrap()).unwrap();
    assert_eq!(String::from_utf8(console).unwrap(), format!("{} says hello", ids[0]));

    // A shutdown from inside, and an end from outside: both are clean.
    stand(ids[0], Stands::Ended);
    assert_eq!(shown(&cloud, ids[0]).await.0, "terminated");
    assert_eq!(*hand.ended.lock().unwrap(), BTreeSet::from([ids[0].to_owned()]));
    cloud.ec2().terminate_instances().instance_ids(ids[0]).instance_ids(ids[1]).send().await.unwrap();
    assert_eq!(*hand.ended.lock().unwrap(), ids.iter().map(|id| (*id).to_owned()).collect());
    assert!(cloud.instances().await.iter().all(|instance| !instance.lives()));
}

#[tokio::test]
async fn a_volume_is_detached_when_its_guest_has_let_it_go() {
    let hand = Arc::new(ByHand::default());
    let cloud = Cloud::by_hand_over(hand.clone(), Rules::default()).await;
    let (ec2, machine) = (cloud.ec2(), launched(launch(&cloud, "m")).await.remove(0));
    let id = made(volume(&cloud, 0, "v")).await;
    let attach = || ec2.attach_volume().volume_id(&id).instance_id(&machine).device("/dev/sdf").send();
    assert_eq!(code(attach().await), "IncorrectState", "it is pending");
    hand.stands.lock().unwrap().insert(machine.clone(), Stands::Running("127.64.0.9".parse().unwrap()));
    shown(&cloud, &machine).await;
    attach().await.unwrap();
    let disk = |asked, machine: &String| Disk { gib: 10, machine: Some(machine.clone()), asked, guest_is_done: false };
    assert_eq!(hand.disks.lock().unwrap()[&id], disk(0, &machine));

    ec2.detach_volume().volume_id(&id).send().await.unwrap();
    let attachment = async || {
        let answer = ec2.describe_volumes().volume_ids(&id).send().await.unwrap();
        answer.volumes()[0].attachments().first().map(|attachment| attachment.state().unwrap().as_str().to_owned())
    };
    assert_eq!(attachment().await.as_deref(), Some("detaching"));
    assert_eq!(code(ec2.delete_volume().volume_id(&id).send().await), "VolumeInUse");
    hand.disks.lock().unwrap().get_mut(&id).unwrap().guest_is_done = true;
    assert_eq!(attachment().await, None);
    ec2.delete_volume().volume_id(&id).send().await.unwrap();
    assert_eq!(hand.disks.lock().unwrap().len(), 0);
}
