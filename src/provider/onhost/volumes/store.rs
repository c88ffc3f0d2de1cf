//! What is on disk of volumes and snapshots: one folder each, whole from its first moment to its last.
//!
//! `volumes/ID/` has `volume.json`, `disk.qcow2` and, while it is on a machine, `attached.json`; `snapshots/ID/` has `snapshot.json`,
//! `disk.qcow2` and, when it was deleted, `deleted`. `.new-ID` is being made and `.trash-ID` removed: rubbish unless the store's lock is
//! held. `spent/ID` says that ID was one and is gone (as in `folder`).
//! A *deleted* snapshot is shown to nobody; its files go when no volume and no other snapshot is backed by it.
//! Locks (flock(2)): `volumes/ID/lock` while something is done with a volume, and inside it `volumes/lock` while folders come and go.
//! Reads, writes: the data folder. Not here: what is in a disk (`disk`), and on which machine one is (`plug`).

use super::disk;
use crate::domain::ids::InstallationId;
use crate::domain::tags::{SnapshotTags, VolumeTags};
use crate::provider::ProviderError;
use crate::provider::ProviderVolume;
use crate::provider::onhost::folder::{Folders, ZONE, write_whole};
use crate::provider::onhost::image::DISK;
use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VOLUME: &str = "volume.json";
const SNAPSHOT: &str = "snapshot.json";
const ATTACHED: &str = "attached.json";
const DELETED: &str = "deleted";
const NEW: &str = ".new-";
const TRASH: &str = ".trash-";
/// Longer than anything but flattening takes.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);

/// `volume.json`; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) provider_id: String,
    pub(super) tags: VolumeTags,
    pub(super) client_token: String,
    /// What was asked for; the disk is as large as its snapshot at least.
    pub(super) asked_gib: u32,
    pub(super) size_gib: u32,
    /// What it was made of; what it is backed by now is in its disk's header.
    pub(super) snapshot: Option<String>,
}

/// `snapshot.json`; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) provider_id: String,
    pub(super) tags: SnapshotTags,
    /// What it was made of.
    pub(super) volume: String,
    pub(super) size_gib: u32,
    /// The snapshot that its disk is backed by.
    pub(super) parent: Option<String>,
}

/// How far a volume is on its way to a machine, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Wished there; QEMU may know of it or not.
    Attaching,
    /// QEMU has it.
    Attached,
    /// Wished off; the guest lets go when it likes.
    Detaching,
}

/// `attached.json`: written before QEMU is told, removed when QEMU has let go of the disk or is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) machine: String,
    pub(super) stage: Stage,
}

/// The folders of volumes and snapshots.
#[derive(Clone, Debug)]
pub(in crate::provider::onhost) struct Store {
    data: PathBuf,
    folders: Folders,
}

impl Volume {
    /// As the provider shows it.
    pub(super) fn shown(self, link: Option<Link>) -> ProviderVolume {
        let moving = link.as_ref().is_some_and(|link| link.stage != Stage::Attached);
        let machine = link.map(|link| link.machine);
        ProviderVolume { provider_id: self.provider_id, tags: self.tags, zone: ZONE.to_owned(), machine, moving }
    }
}

/// A name of ours, `vol-` or `snap-` and 17 hexadecimal digits, that leads to no other folder.
pub(super) fn is_name(kind: &str, name: &str) -> bool {
    let digits = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
    digits.is_some_and(|digits| digits.len() == 17 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

impl Store {
    /// Makes what is missing.
    pub(in crate::provider::onhost) fn open(data: &Path, folders: &Folders) -> anyhow::Result<Self> {
        // QEMU runs in another folder.
        let store = Self { data: data.canonicalize().with_context(|| data.display().to_string())?, folders: folders.clone() };
        for folder in [store.volumes(), store.snapshots()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        }
        Ok(store)
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// A file of a volume.
    pub(super) fn of_volume(&self, volume: &str, file: &str) -> PathBuf {
        self.volumes().join(volume).join(file)
    }

    pub(super) fn disk(&self, volume: &str) -> PathBuf {
        self.of_volume(volume, DISK)
    }

    pub(super) fn snapshot_disk(&self, snapshot: &str) -> PathBuf {
        self.snapshots().join(snapshot).join(DISK)
    }

    /// The record of a volume, of any installation.
    pub(super) fn volume(&self, id: &str) -> anyhow::Result<Option<Volume>> {
        if is_name("vol", id) { read(&self.of_volume(id, VOLUME)) } else { Ok(None) }
    }

    /// The record of a volume of this installation.
    pub(super) fn our_volume(&self, id: &str, ours: InstallationId) -> anyhow::Result<Option<Volume>> {
        Ok(self.volume(id)?.filter(|volume| volume.tags.installation == ours))
    }

    /// The record of a snapshot, deleted or not.
    pub(super) fn any_snapshot(&self, id: &str) -> anyhow::Result<Option<Snapshot>> {
        if is_name("snap", id) { read(&self.snapshots().join(id).join(SNAPSHOT)) } else { Ok(None) }
    }

    /// The record of a snapshot of this installation that is not deleted.
    pub(super) fn our_snapshot(&self, id: &str, ours: InstallationId) -> anyhow::Result<Option<Snapshot>> {
        let found = self.any_snapshot(id)?.filter(|snapshot| snapshot.tags.installation == ours);
        Ok(found.filter(|_| !self.snapshots().join(id).join(DELETED).exists()))
    }

    /// The record of a volume or snapshot that is gone.
    pub(super) fn spent<T: DeserializeOwned>(&self, id: &str) -> anyhow::Result<Option<T>> {
        read(&self.folders.spent(id))
    }

    pub(super) fn volume_names(&self) -> anyhow::Result<Vec<String>> {
        names(&self.volumes(), "vol")
    }

    pub(super) fn snapshot_names(&self) -> anyhow::Result<Vec<String>> {
        names(&self.snapshots(), "snap")
    }

    pub(super) fn link(&self, volume: &str) -> anyhow::Result<Option<Link>> {
        read(&self.of_volume(volume, ATTACHED))
    }

    pub(super) fn set_link(&self, volume: &str, link: &Link) -> anyhow::Result<()> {
        write_whole(&self.of_volume(volume, ATTACHED), &serde_json::to_vec(link)?)
    }

    pub(super) fn remove_link(&self, volume: &str) -> anyhow::Result<()> {
        gone(std::fs::remove_file(self.of_volume(volume, ATTACHED)))
    }

    /// An empty folder, aside, for what is being made.
    pub(super) fn prepare_volume(&self, id: &str) -> anyhow::Result<PathBuf> {
        anew(self.volumes().join(format!("{NEW}{id}")))
    }

    /// The folder becomes a volume.
    pub(super) fn place_volume(&self, prepared: &Path, record: &Volume) -> anyhow::Result<()> {
        write_whole(&prepared.join(VOLUME), &serde_json::to_vec(record)?)?;
        Ok(std::fs::rename(prepared, self.volumes().join(&record.provider_id))?)
    }

    /// A snapshot is there, with the disk that `fill` puts at the path it is given.
    pub(super) fn place_snapshot(&self, record: &Snapshot, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
        let prepared = anew(self.snapshots().join(format!("{NEW}{}", record.provider_id)))?;
        write_whole(&prepared.join(SNAPSHOT), &serde_json::to_vec(record)?)?;
        fill(&prepared.join(DISK))?;
        Ok(std::fs::rename(prepared, self.snapshots().join(&record.provider_id))?)
    }

    /// The snapshot is not shown any more. Under the store's lock.
    pub(super) fn mark_deleted(&self, snapshot: &str) -> anyhow::Result<()> {
        File::create(self.snapshots().join(snapshot).join(DELETED)).map(drop).map_err(Into::into)
    }

    /// Removes a volume's folder with its disk. Under its lock and the store's.
    pub(super) fn remove_volume(&self, id: &str) -> anyhow::Result<()> {
        self.remove(&self.volumes(), id, VOLUME)
    }

    fn remove(&self, parent: &Path, id: &str, record: &str) -> anyhow::Result<()> {
        self.folders.keep_spent(id, &parent.join(id).join(record))?;
        let trash = parent.join(format!("{TRASH}{id}"));
        std::fs::rename(parent.join(id), &trash)?;
        gone(std::fs::remove_dir_all(&trash))?;
        self.folders.forget_spent(id)
    }

    /// Removes what an ended process left half made or half removed, and deleted snapshots that back nothing. Under the store's lock.
    ///
    /// # Errors
    /// Something cannot be read; then what backs what is not known, and nothing that could back something is removed.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        for parent in [self.volumes(), self.snapshots()] {
            for entry in std::fs::read_dir(parent)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.starts_with(NEW) || name.starts_with(TRASH) {
                    gone(std::fs::remove_dir_all(entry.path()))?;
                }
            }
        }
        let mut backs = BTreeSet::new();
        for volume in self.volume_names()? {
            backs.extend(disk::backing(&self.disk(&volume))?);
        }
        let mut deleted = Vec::new();
        for name in self.snapshot_names()? {
            let record = self.any_snapshot(&name)?.with_context(|| format!("{name} has no {SNAPSHOT}"))?;
            if self.snapshots().join(&name).join(DELETED).exists() { deleted.push(record) } else { backs.extend(record.parent) }
        }
        // From the last of a chain to its first.
        loop {
            let needed = |id: &str, rest: &[Snapshot]| backs.contains(id) || rest.iter().any(|it| it.parent.as_deref() == Some(id));
            let Some(at) = deleted.iter().position(|it| !needed(&it.provider_id, &deleted)) else { return Ok(()) };
            self.remove(&self.snapshots(), &deleted.swap_remove(at).provider_id, SNAPSHOT)?;
        }
    }

    /// How many snapshots are below a disk.
    pub(super) fn depth(&self, volume: &str) -> anyhow::Result<usize> {
        let (mut depth, mut next) = (0, disk::backing(&self.disk(volume))?);
        while let Some(snapshot) = next {
            depth += 1;
            next = self.any_snapshot(&snapshot)?.with_context(|| format!("there is no {snapshot}"))?.parent;
        }
        Ok(depth)
    }

    /// Held while folders come and go.
    pub(super) async fn lock(&self) -> anyhow::Result<File> {
        lock(&self.volumes().join("lock"), LOCK_DEADLINE).await?.context("the volumes' folder is gone")
    }

    /// The same, if nobody has it.
    pub(super) fn try_lock(&self) -> anyhow::Result<Option<File>> {
        try_lock(&self.volumes().join("lock")).map(Result::ok)
    }

    /// Held while something is done with a volume. `None`: there is no such volume.
    pub(super) async fn lock_volume(&self, id: &str, ours: InstallationId) -> anyhow::Result<Option<(File, Volume)>> {
        if self.our_volume(id, ours)?.is_none() {
            return Ok(None);
        }
        let lock = lock(&self.of_volume(id, "lock"), LOCK_DEADLINE).await?;
        // It may have been removed, and its folder with this lock, since the lock was opened.
        Ok(lock.zip(self.our_volume(id, ours)?))
    }

    /// The same, if nobody has it.
    pub(super) fn try_lock_volume(&self, id: &str) -> anyhow::Result<Option<File>> {
        let path = self.of_volume(id, "lock");
        Ok(try_lock(&path)?.ok().filter(|_| path.exists()))
    }
}

/// `Err`: another has it, or there is no folder.
fn try_lock(path: &Path) -> anyhow::Result<Result<File, ErrorKind>> {
    let lock = match File::create(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(ErrorKind::NotFound)),
        lock => lock?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Ok(lock)),
        Err(TryLockError::WouldBlock) => Ok(Err(ErrorKind::WouldBlock)),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// `None`: there is no folder.
async fn lock(path: &Path, deadline: Duration) -> anyhow::Result<Option<File>> {
    let began = Instant::now();
    loop {
        match try_lock(path)? {
            Ok(lock) => return Ok(Some(lock)),
            Err(ErrorKind::NotFound) => return Ok(None),
            Err(_) => anyhow::ensure!(began.elapsed() < deadline, "{} is locked", path.display()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn anew(folder: PathBuf) -> anyhow::Result<PathBuf> {
    gone(std::fs::remove_dir_all(&folder))?;
    DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// What was not there is removed too.
pub(super) fn gone(removed: std::io::Result<()>) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn names(folder: &Path, kind: &str) -> anyhow::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| name.as_ref().map_or(true, |name| is_name(kind, name))).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context(path.display().to_string())),
    }
}

/// A call that cannot succeed; after every other error it may be repeated.
pub(super) fn refused<T>(why: String) -> anyhow::Result<T> {
    Err(ProviderError::Invalid(why).into())
}
