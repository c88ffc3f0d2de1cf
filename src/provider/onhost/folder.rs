//! One folder is one machine: what is known of it is in its files, and a folder is there whole or not at all.
//!
//! `machines/ID/` is a machine. `machines/.new-ID/` is being made and `machines/.trash-ID/` is being removed: both are rubbish unless
//! the data folder's lock is held. `spent/ID` says that ID was a machine and is gone, so that a late repetition of its launch makes none.
//! Locks (flock(2), so they end with their holder): `DATA/lock` while addresses are given, `machines/ID/launch` while one is started or
//! ended, `machines/ID/alive` while it lives (`keeper`).
//! Reads, writes: the data folder, for this user only. Not here: what runs (`keeper`), how it starts and ends (`launch`, `end`).

use super::address::{Pool, Ports, can_bind};
use super::keeper;
use crate::domain::ids::InstallationId;
use crate::domain::tags::Tags;
use crate::provider::{Address, Machine, MachineState, ProviderError};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// This host is all there is.
pub(super) const ZONE: &str = "host";
const RECORD: &str = "machine.json";
/// Longer than any launch is repeated.
const SPENT_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// `machine.json`: what a machine is, from its first moment to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) provider_id: String,
    pub(super) tags: Tags,
    pub(super) ip: Ipv4Addr,
    pub(super) ssh_port: u16,
    pub(super) docker_port: u16,
}

/// The data folder.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    data: PathBuf,
}

/// What a launch finds under its name.
#[derive(Debug)]
pub(super) enum Place {
    /// A machine, new or of an earlier try.
    Machine(Record),
    /// It was one, and is gone.
    Spent(Record),
}

impl Record {
    pub(super) fn ports(&self) -> Ports {
        Ports { ssh: self.ssh_port, docker: self.docker_port }
    }

    /// As the provider shows it.
    pub(super) fn machine(self, state: MachineState) -> Machine {
        let address = Address { ip: IpAddr::V4(self.ip), ssh_port: self.ssh_port, docker_port: self.docker_port };
        let address = (state == MachineState::Running).then_some(address);
        Machine { provider_id: self.provider_id, tags: self.tags, state, address, zone: Some(ZONE.to_owned()), why_ended: None }
    }
}

/// The provider's name for the machine that a launch makes.
pub(super) fn provider_id(client_token: &str) -> Result<String, ProviderError> {
    let plain = client_token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain || !(1..=64).contains(&client_token.len()) {
        return Err(ProviderError::Invalid("a client token has 1 to 64 ASCII letters, digits and dashes".into()));
    }
    Ok(format!("onhost-{client_token}-0"))
}

/// A name that could be one of ours, and so leads to no other folder.
pub(super) fn is_provider_id(name: &str) -> bool {
    name.len() < 100 && name.starts_with("onhost-") && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Folders {
    /// Makes what is missing.
    pub(super) fn open(data: &Path) -> anyhow::Result<Self> {
        let folders = Self { data: data.to_owned() };
        for folder in [data.to_owned(), folders.machines(), data.join("spent")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        }
        Ok(folders)
    }

    fn machines(&self) -> PathBuf {
        self.data.join("machines")
    }

    pub(super) fn machine(&self, provider_id: &str) -> PathBuf {
        self.machines().join(provider_id)
    }

    pub(super) fn spent(&self, provider_id: &str) -> PathBuf {
        self.data.join("spent").join(provider_id)
    }

    /// Finds the machine of a launch, or gives it an address and a folder, complete from its first moment.
    pub(super) fn ensure(&self, provider_id: &str, tags: &Tags, pool: &Pool, ports: Ports) -> anyhow::Result<Place> {
        let lock = File::create(self.data.join("lock"))?;
        lock.lock()?;
        if let Some(record) = self.record(provider_id)? {
            return Ok(Place::Machine(record));
        }
        if let Some(record) = read_record(&self.spent(provider_id))? {
            return Ok(Place::Spent(record));
        }
        let next = self.data.join("next-address");
        let last = std::fs::read_to_string(&next).ok().and_then(|text| text.trim().parse().ok());
        let free = |ip| can_bind(ip, ports.ssh) && can_bind(ip, ports.docker);
        let ip = pool
            .next_free(last, &self.taken()?, free)
            .context("every address of the pool is taken: end VMs, or serve with fewer installations on this host")?;
        write_whole(&next, ip.to_string().as_bytes())?;
        let record =
            Record { provider_id: provider_id.to_owned(), tags: tags.clone(), ip, ssh_port: ports.ssh, docker_port: ports.docker };
        let new = self.machine(&format!(".new-{provider_id}"));
        drop(std::fs::remove_dir_all(&new));
        DirBuilder::new().mode(0o700).create(&new)?;
        write_whole(&new.join(RECORD), &serde_json::to_vec(&record)?)?;
        std::fs::rename(&new, self.machine(provider_id))?;
        Ok(Place::Machine(record))
    }

    /// Addresses that machines have, of every installation; an unreadable record makes it fail, since its address is not known.
    pub(super) fn taken(&self) -> anyhow::Result<HashSet<Ipv4Addr>> {
        self.names()?.iter().filter_map(|name| self.record(name).transpose()).map(|record| Ok(record?.ip)).collect()
    }

    pub(super) fn names(&self) -> anyhow::Result<Vec<String>> {
        let names = std::fs::read_dir(self.machines())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter(|name| name.as_ref().is_ok_and(|name| is_provider_id(name)) || name.is_err()).collect()
    }

    /// The record of a machine; `None` when there is no such machine.
    pub(super) fn record(&self, provider_id: &str) -> anyhow::Result<Option<Record>> {
        read_record(&self.machine(provider_id).join(RECORD))
    }

    /// One machine with its state, if it is this installation's.
    pub(super) fn find(&self, provider_id: &str, installation: InstallationId) -> anyhow::Result<Option<Machine>> {
        if !is_provider_id(provider_id) {
            return Ok(None);
        }
        let Some(record) = self.record(provider_id)?.filter(|record| record.tags.installation == installation) else {
            return Ok(None);
        };
        let folder = self.machine(provider_id);
        let state = if keeper::is_alive(&folder)? {
            MachineState::Running
        } else if folder.join(keeper::STARTED).exists() {
            MachineState::Terminated
        } else {
            MachineState::Pending
        };
        Ok(Some(record.machine(state)))
    }

    /// All machines of an installation, and whether every folder could be read. Removes what an ended process left half removed.
    pub(super) fn list(&self, installation: InstallationId) -> anyhow::Result<(Vec<Machine>, bool)> {
        self.sweep();
        let mut machines = Vec::new();
        let mut complete = true;
        for name in self.names()? {
            match self.find(&name, installation) {
                Ok(found) => machines.extend(found),
                Err(error) => {
                    tracing::warn!(provider_id = %name, error = format!("{error:#}"), "a machine's folder cannot be read");
                    complete = false;
                }
            }
        }
        Ok((machines, complete))
    }

    /// Under the lock, so that nothing is swept that is being made.
    fn sweep(&self) {
        let Ok(lock) = File::create(self.data.join("lock")) else { return };
        if lock.try_lock().is_err() {
            return;
        }
        for entry in std::fs::read_dir(self.machines()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if (name.starts_with(".new-") || name.starts_with(".trash-"))
                && let Err(error) = std::fs::remove_dir_all(entry.path())
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(folder = %entry.path().display(), %error, "cannot be removed");
            }
        }
    }

    /// Removes a dead machine with its disk. `spent`: a repetition of its launch makes none again.
    pub(super) fn remove(&self, provider_id: &str, spent: bool) -> anyhow::Result<()> {
        let folder = self.machine(provider_id);
        if spent {
            self.keep_spent(provider_id, &folder.join(RECORD))?;
        }
        let trash = self.machine(&format!(".trash-{provider_id}"));
        match std::fs::rename(&folder, &trash) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        match std::fs::remove_dir_all(&trash) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        if spent {
            self.forget_spent(provider_id)?;
        }
        Ok(())
    }

    /// Keeps the record of what is being removed. On a full disk too, since that is what frees it: another name needs no room.
    pub(super) fn keep_spent(&self, id: &str, record: &Path) -> anyhow::Result<()> {
        let spent = self.spent(id);
        let Err(error) = write_whole(&spent, &std::fs::read(record)?) else { return Ok(()) };
        drop(std::fs::remove_file(spent.with_added_extension("new")));
        match std::fs::hard_link(record, &spent) {
            Err(second) if second.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Ages are counted from the newest, so that no clock is read.
    pub(super) fn forget_spent(&self, newest: &str) -> anyhow::Result<()> {
        let now = std::fs::metadata(self.spent(newest))?.modified()?;
        for entry in std::fs::read_dir(self.data.join("spent"))? {
            let entry = entry?;
            if entry
                .metadata()
                .and_then(|data| data.modified())
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > SPENT_KEPT))
            {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }

    /// Held while a machine is started or ended. `None`: another holds it, or there is no such machine.
    pub(super) fn try_lock_launch(&self, provider_id: &str) -> anyhow::Result<Option<File>> {
        let path = self.machine(provider_id).join("launch");
        let lock = match File::create(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        match lock.try_lock() {
            // The machine may have been removed, and its folder with this lock, since the file was opened.
            Ok(()) => Ok(path.exists().then_some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

fn read_record(path: &Path) -> anyhow::Result<Option<Record>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context(path.display().to_string())),
    }
}

/// A file that is there has its whole content.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let aside = path.with_added_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(content)?;
    file.sync_data()?;
    std::fs::rename(&aside, path)?;
    Ok(())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
