//! The simulated guest's part of a cache: an engine that is moved onto a disk and off it, and what a job leaves there.
//!
//! A disk's [`Content`] is the truth that tests look at: who wrote on it, which layers it holds, and whether it was ever torn off.

use super::Sim;
use super::faults::Fault;
use super::ops;
use super::world::World;
use crate::domain::identity::Identity;
use crate::domain::lineage::{Engine, Layer, Lineage};
use crate::guest::GuestError;
use crate::guest::cache::{CacheContent, CacheDisk, CacheReady, CacheTrouble, Mounted, Unmounted};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// What a file system takes for itself: nothing is used only where nothing is mounted.
const OVERHEAD: u64 = 1 << 20;

/// What is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The engine that formatted it; none: empty.
    pub engine: Option<Engine>,
    /// Layers by name, with their bytes.
    pub layers: BTreeMap<String, u64>,
    /// Everyone whose job wrote on it, or on what it was copied from.
    pub written_by: BTreeSet<Lineage>,
    /// Of the job that has it mounted: what it made or used.
    pub used: BTreeSet<String>,
    /// An engine works on it.
    pub mounted: bool,
    /// It was mounted when its machine ended.
    pub torn: bool,
    /// A check finds fault with it.
    pub damaged: bool,
}

impl Sim {
    /// The job in this machine builds or uses layers; without a mounted cache it changes nothing that lasts.
    pub fn use_layers(&self, machine: &str, layers: &[(&str, u64)]) {
        let mut world = self.world();
        let Some(content) = world.mounted_on(machine) else { return };
        for (id, bytes) in layers {
            content.layers.insert((*id).to_owned(), *bytes);
            content.used.insert((*id).to_owned());
        }
    }

    /// Damages the disk, so that the next check of it finds fault.
    pub fn damage_volume(&self, volume: &str) {
        if let Some(content) = self.world().volumes.content(volume) {
            content.damaged = true;
        }
    }

    pub(super) async fn mount(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        disk: &CacheDisk,
        deadline: Duration,
    ) -> Result<Mounted, GuestError> {
        self.through(&ops::MOUNT_CACHE, |world| {
            let mut mounted = None;
            world.contact(
                &ops::MOUNT_CACHE,
                || format!("{ssh} {}", disk.serial),
                |world| {
                    mounted = Some(world.mount(ssh, identity, disk, deadline)?);
                    Ok(())
                },
            )?;
            mounted.ok_or_else(|| GuestError::Misbehaved("it did not say what became of the disk".to_owned()))
        })
        .await
    }

    pub(super) async fn unmount(&self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError> {
        self.through(&ops::UNMOUNT_CACHE, |world| {
            let mut unmounted = None;
            world.contact(
                &ops::UNMOUNT_CACHE,
                || ssh.to_string(),
                |world| {
                    unmounted = Some(world.unmount(ssh, identity, deadline)?);
                    Ok(())
                },
            )?;
            unmounted.ok_or_else(|| GuestError::Misbehaved("it did not say what became of the disk".to_owned()))
        })
        .await
    }
}

impl World {
    fn mount(&mut self, ssh: SocketAddr, identity: &Identity, disk: &CacheDisk, deadline: Duration) -> Result<Mounted, GuestError> {
        let machine = self.logged_in(ssh, identity, deadline)?;
        let refused = |trouble, detail: &str| Ok(Mounted::Refused { trouble, detail: detail.to_owned() });
        let struck = self.strikes(&Fault::DamagedDisk);
        let Some(volume) = self.attached_by_serial(&machine, &disk.serial) else {
            return refused(CacheTrouble::NotThere, "No disk of that serial is there.");
        };
        let Some((lineage, content)) = self.volumes.lineage_and_content(&volume) else {
            return refused(CacheTrouble::NotThere, "No disk of that serial is there.");
        };
        if content.damaged || struck || (content.torn && disk.content == CacheContent::Unchecked) {
            content.damaged = true;
            return refused(CacheTrouble::Damaged, "The file system is damaged.");
        }
        match &content.engine {
            Some(engine) if *engine != disk.engine => return refused(CacheTrouble::WrongEngine, "Another engine wrote it."),
            Some(_) => {}
            None => content.engine = Some(disk.engine.clone()),
        }
        if !content.mounted {
            content.used.clear();
        }
        content.mounted = true;
        content.written_by.insert(lineage);
        let used_bytes = OVERHEAD + content.layers.values().sum::<u64>();
        Ok(Mounted::Ready(CacheReady { warm: !content.layers.is_empty(), used_bytes, size_bytes: 100 << 30, notes: Vec::new() }))
    }

    fn unmount(&mut self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError> {
        let machine = self.logged_in(ssh, identity, deadline)?;
        if self.strikes(&Fault::UnmountFails) {
            return Err(GuestError::Misbehaved("a step inside the VM failed: the disk is busy".to_owned()));
        }
        let mut unmounted = Unmounted { used_bytes: 0, layers: Vec::new(), used: Vec::new(), notes: Vec::new() };
        let Some(content) = self.mounted_on(&machine) else { return Ok(unmounted) };
        content.mounted = false;
        let layer = |(id, bytes): (&String, &u64)| Layer { id: id.clone(), bytes: *bytes };
        unmounted.layers = content.layers.iter().map(layer).collect();
        unmounted.used = unmounted.layers.iter().filter(|layer| content.used.contains(&layer.id)).cloned().collect();
        unmounted.used_bytes = OVERHEAD + content.layers.values().sum::<u64>();
        Ok(unmounted)
    }
}
