//! Snapshots of machines that have booted and wait for their identity: a machine that goes on from one is there in a tenth of a boot.
//!
//! A snapshot is a folder with the disk, the memory and the devices of one moment, made aside and renamed: it is whole, or not there. It
//! holds no identity and no secret: it was made before there was any (`ami/onhost/wait`). Its name is a hash of everything that it
//! depends on, so another image, class, QEMU or processor finds none and boots; and so does a launch after a restore that failed.
//! Machines write to disks of their own over the snapshot's, and their memory is a private view of its file.
//!
//! | file | idea |
//! | --- | --- |
//! | `make` | boots once, aside and with less priority than the machines of jobs |
//! | `restore` | brings a machine to where the snapshot was made |
//!
//! Reads, writes: `DATA/snapshots`. Not here: what the machine is told then (`guest::channel`).

pub(super) mod make;
pub(super) mod restore;

use super::image::{DISK, Image, value};
use super::qemu::{self, Accelerator, Begin};
use super::{OnHost, host};
use crate::domain::resource_class::ResourceClass;
use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is in a snapshot's folder; the inputs are written last.
const MEMORY: &str = "memory";
const STATE: &str = "state";
/// A machine's disk over the snapshot's, as it is when nothing has been written to it.
const OVERLAY: &str = "overlay.qcow2";
const INPUTS: &str = "inputs";
/// Of these files; one of an older form is found by nobody.
const FORM: u32 = 2;
/// The oldest way of waiting that is known here (`wait_form` of an image's manifest).
const WAIT_FORM: u32 = 2;
/// Written again whenever a machine goes on from it.
const USED: &str = "used";
/// As many are kept; those that were used least recently go first.
const KEPT: usize = 8;
/// One that no machine went on from for so long is of an image, a class or a QEMU that is not used any more.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Machines boot for so long after a restore that failed, and none is made for so long after a making that failed.
const PAUSE: Duration = Duration::from_secs(600);
/// A snapshot that failed so often is made anew.
const MOST_FAILURES: u32 = 3;

/// The snapshots of this host.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    folder: PathBuf,
    failures: Arc<Mutex<HashMap<String, (u32, Instant)>>>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Its name.
    pub(super) key: String,
    folder: PathBuf,
}

impl Snapshot {
    /// Makes the disk of one machine over the snapshot's, anew when there is one: a copy, since `qemu-img` takes longer to start.
    pub(super) async fn create_overlay(&self, machine: &Path) -> anyhow::Result<()> {
        tokio::fs::copy(self.folder.join(OVERLAY), machine.join(DISK)).await.map(drop).context("creating the disk")
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.folder.join(MEMORY)
    }

    fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }
}

/// What a snapshot is made of, and all that it depends on.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    class: ResourceClass,
    image: Image,
    accelerator: Accelerator,
    /// Of the network; see [`Begin`].
    words: String,
    inputs: String,
}

/// A file, as it is now: another one of the same name is another input.
fn stamp(path: &Path) -> String {
    let found = path.metadata().ok();
    found.map_or_else(String::new, |found| format!("{} bytes of {}.{}", found.len(), found.mtime(), found.mtime_nsec()))
}

/// Everything that a snapshot depends on, one thing a line; the program by its file, since asking it takes as long as a restore.
fn inputs(folder: &Path, class: &ResourceClass, image: &Image, accelerator: Accelerator, words: &str) -> String {
    let line = qemu::command(&make::machine(class, image, accelerator, Path::new(MEMORY), words));
    let program = host::program(qemu::PROGRAM).map(|path| stamp(&path)).unwrap_or_default();
    let files = [&image.disk, &image.kernel, &image.initrd].map(|file| stamp(file)).join(", ");
    let processor = match accelerator {
        Accelerator::Tcg => String::new(),
        Accelerator::Kvm => format!("{} on {}", host::processor(), host::kernel_release()),
    };
    let disk = class.disk_gib;
    format!(
        "form {FORM} in {}\nimage {} {files}\ndisk {disk}\nprogram {program}\nprocessor {processor}\n{}\n",
        folder.display(),
        image.manifest.hash,
        line.join("\n")
    )
}

fn key_of(inputs: &str) -> String {
    digest(&SHA256, inputs.as_bytes()).as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

impl Snapshots {
    /// Makes what is missing.
    pub(super) fn open(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join("snapshots-of-machines");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let snapshots = Self { folder: folder.canonicalize()?, failures: Arc::default() };
        if let Some(_held) = snapshots.try_lock()? {
            snapshots.tidy()?;
        }
        Ok(snapshots)
    }

    /// Held by who makes one, and by who removes what nobody uses; none: somebody of this host holds it.
    fn try_lock(&self) -> std::io::Result<Option<File>> {
        let lock = File::create(self.folder.join("lock"))?;
        Ok(lock.try_lock().is_ok().then_some(lock))
    }

    /// The snapshot of these inputs; none: there is none, or it failed lately.
    pub(super) fn find(&self, inputs: &str) -> Option<Snapshot> {
        let key = key_of(inputs);
        let folder = self.folder.join(&key);
        let kept = std::fs::read_to_string(folder.join(INPUTS)).ok()?;
        (kept == inputs && !self.rests(&key)).then_some(Snapshot { key, folder })
    }

    /// It could not be made, or a machine did not go on from it, a short while ago.
    fn rests(&self, key: &str) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(key).is_some_and(|(_, at)| at.elapsed() < PAUSE)
    }

    /// Lets it rest; answers how often in a row.
    fn rest(&self, key: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.get(key).map_or(1, |(count, _)| count + 1);
        failures.insert(key.to_owned(), (count, Instant::now()));
        count
    }

    /// A machine went on from it.
    pub(super) fn note_success(&self, snapshot: &Snapshot) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&snapshot.key);
        if let Err(error) = std::fs::write(snapshot.folder.join(USED), "") {
            tracing::debug!(snapshot = snapshot.key, %error, "a snapshot's last use cannot be kept");
        }
    }

    /// It did not: machines boot for a while.
    pub(super) fn note_failure(&self, snapshot: &Snapshot) {
        if self.rest(&snapshot.key) >= MOST_FAILURES {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&snapshot.key);
            tracing::warn!(snapshot = snapshot.key, "a snapshot that does not work is removed");
            remove(&snapshot.folder);
        }
    }

    /// Removes what is too many or was not used for long, and what a making that was killed has left; the caller holds the lock. A
    /// machine keeps what it has open.
    fn tidy(&self) -> std::io::Result<()> {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let used = path.join(USED).metadata().or_else(|_| path.join(INPUTS).metadata());
            match used.and_then(|found| found.modified()) {
                Ok(used) if !is_aside(&path) => kept.push((used, path)),
                _ => remove(&path),
            }
        }
        kept.sort();
        let many = kept.len().saturating_sub(KEPT);
        // By the clock of the file system.
        let now = File::create(self.folder.join("tidied"))?.metadata()?.modified()?;
        for (nth, (used, path)) in kept.into_iter().enumerate() {
            if nth < many || now.duration_since(used).is_ok_and(|unused| unused > UNUSED) {
                remove(&path);
            }
        }
        Ok(())
    }
}

fn is_aside(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a snapshot cannot be removed");
    }
}

impl OnHost {
    /// The snapshot that a machine of this class goes on from. Where there is none, one is made aside, for the next.
    /// `words`: of its network, see [`Begin`].
    pub(super) fn snapshot_for(
        &self,
        class: &ResourceClass,
        image: &Image,
        accelerator: Accelerator,
        words: &str,
    ) -> Option<Snapshot> {
        if !self.restores() || image.manifest.wait_form < WAIT_FORM {
            return None;
        }
        let inputs = inputs(&self.snapshots.folder, class, image, accelerator, words);
        let found = self.snapshots.find(&inputs);
        if found.is_none() && !self.snapshots.rests(&key_of(&inputs)) {
            let (class, image, words) = (class.clone(), image.clone(), words.to_owned());
            make::aside(self.snapshots.clone(), Wanted { class, image, accelerator, words, inputs });
        }
        found
    }
}

/// The memory of a machine as QEMU is told it: one file, of which each restored machine has a private view.
pub(super) fn memory(begin: Begin<'_>, mib: u32) -> Option<String> {
    let (path, share) = match begin {
        Begin::Boot => return None,
        Begin::Wait { memory, .. } => (memory, "on"),
        Begin::Restore { memory, .. } => (memory, "off"),
    };
    Some(format!("memory-backend-file,id=memory,size={mib}M,mem-path={},share={share}", value(path)))
}

#[cfg(test)]
mod tests;
