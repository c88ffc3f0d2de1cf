//! What stands behind the instances of a cloud, where something does: moto keeps the books, and what is shown is how the machines are.
//!
//! An instance is `pending` until its machine runs, answers where its machine answers, and is terminated when its machine has ended,
//! whoever ended it. A volume is `detaching` until the guest has let its disk go. Without a backing nothing of this happens.
//! Calls: the backing, moto. Not here: real VMs (`ec2_lab`).

use super::answer::{Answer, Stop};
use super::params::Params;
use super::upstream::numbered;
use super::wire::{Call, Wire};
use super::xml::{Edits, items, parse, text};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use roxmltree::Node;
use std::net::IpAddr;
use std::time::Duration;

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// It is being made.
    Pending,
    /// It runs, and answers there.
    Running(IpAddr),
    /// It has ended, or never came up.
    Ended,
}

/// Makes and ends machines and disks. Each method may be called again.
#[async_trait]
pub(crate) trait Backing: Send + Sync {
    /// Begins to make the machine of an instance.
    async fn boot(&self, instance: &str, user_data: &str);

    /// How it is.
    async fn look(&self, instance: &str) -> Stands;

    /// Ends it with its disk; disks that were plugged in are free afterwards.
    async fn end(&self, instance: &str);

    /// The end of its console.
    async fn console(&self, instance: &str) -> String;

    /// Makes the disk of a volume, empty.
    async fn make_disk(&self, volume: &str, gib: u32);

    /// Plugs a disk into a machine that runs; its serial is the volume's id without the dash.
    async fn plug(&self, volume: &str, instance: &str);

    /// Asks the guest to let a disk go; says whether it has.
    async fn unplug(&self, volume: &str) -> bool;

    /// Deletes a disk.
    async fn delete_disk(&self, volume: &str);
}

impl Wire {
    /// Does with machines and disks what moto has answered for them; gives the answer as they make it.
    pub(super) async fn stand_behind(&self, call: &Call, answer: Answer) -> Answer {
        let Some(backing) = &self.backing else { return answer };
        let get = |name: &str| call.params.get(name).unwrap_or_default();
        match call.action.as_str() {
            "RunInstances" => return self.boot_behind(get("UserData"), &answer).await,
            "TerminateInstances" => {
                futures::future::join_all(call.params.list("InstanceId").into_iter().map(|id| backing.end(id))).await;
            }
            "CreateVolume" => backing.make_disk(&id_of(&answer, "volumeId"), call.params.number("Size")).await,
            "AttachVolume" => backing.plug(get("VolumeId"), get("InstanceId")).await,
            "DeleteVolume" => {
                self.state.lock().unwrap().leaving.remove(get("VolumeId"));
                backing.delete_disk(get("VolumeId")).await;
            }
            "GetConsoleOutput" => {
                let console = BASE64.encode(backing.console(get("InstanceId")).await);
                return edited(&answer, |root, edits| edits.set(root, &["output"], &console));
            }
            "StopInstances" | "StartInstances" => self.violated("backing", vec![format!("{} is not done here", call.action)]),
            _ => {}
        }
        answer
    }

    /// Every instance of a launch, which is `pending` from its first word.
    async fn boot_behind(&self, user_data: &str, answer: &Answer) -> Answer {
        let Some(backing) = &self.backing else { return answer.clone() };
        let user_data = String::from_utf8(BASE64.decode(user_data).unwrap()).unwrap();
        let mut ids = Vec::new();
        let answer = edited(answer, |root, edits| {
            for item in items(root, &["instancesSet"]) {
                ids.push(text(item, &["instanceId"]).to_owned());
                edits.set(item, &["instanceState"], "<code>0</code><name>pending</name>");
            }
        });
        self.state.lock().unwrap().runs_at.extend(ids.iter().map(|id| (id.clone(), Duration::MAX)));
        for id in ids {
            backing.boot(&id, &user_data).await;
        }
        answer
    }

    /// Whether the guest still has the disk of a volume after it was asked to let it go.
    pub(super) async fn is_held_by_guest(&self, volume: &str) -> bool {
        let Some(backing) = &self.backing else { return false };
        let is_held = !backing.unplug(volume).await;
        if is_held {
            self.state.lock().unwrap().leaving.insert(volume.to_owned());
        }
        is_held
    }

    /// Before a look: what has happened to the machines since the last one goes into the books.
    pub(super) async fn look_behind(&self) -> Result<(), Stop> {
        let Some(backing) = &self.backing else { return Ok(()) };
        let _turn = self.turn.lock().await;
        for instance in self.true_instances(&[]).await?.into_iter().filter(|instance| instance.lives()) {
            match backing.look(&instance.id).await {
                Stands::Pending => {}
                Stands::Running(address) => {
                    let mut state = self.state.lock().unwrap();
                    state.runs_at.remove(&instance.id);
                    state.addresses.insert(instance.id, address);
                }
                // "InstanceInitiatedShutdownBehavior=terminate", which the policy demands of every launch.
                Stands::Ended => {
                    backing.end(&instance.id).await;
                    self.ask("TerminateInstances", &numbered("InstanceId", &[&instance.id])).await?;
                }
            }
        }
        let leaving = self.state.lock().unwrap().leaving.clone();
        for volume in leaving {
            if backing.unplug(&volume).await {
                self.detach_in_the_books(&volume).await?;
            }
        }
        Ok(())
    }

    /// Of a volume that its guest has let go, or whose machine has ended.
    async fn detach_in_the_books(&self, volume: &str) -> Result<(), Stop> {
        if let Some((instance, device)) = self.true_volumes(&[volume]).await?.remove(0).attached {
            let params: Params = [("VolumeId", volume), ("InstanceId", &instance), ("Device", &device)].into_iter().collect();
            self.ask("DetachVolume", &params).await?;
        }
        let mut state = self.state.lock().unwrap();
        state.leaving.remove(volume);
        state.stuck.remove(volume);
        Ok(())
    }
}

fn id_of(answer: &Answer, name: &str) -> String {
    text(parse(std::str::from_utf8(&answer.body).unwrap()).root_element(), &[name]).to_owned()
}

fn edited(answer: &Answer, edit: impl FnOnce(Node<'_, '_>, &mut Edits)) -> Answer {
    let source = std::str::from_utf8(&answer.body).unwrap();
    let (document, mut edits) = (parse(source), Edits::default());
    edit(document.root_element(), &mut edits);
    Answer::xml(edits.apply(source))
}
