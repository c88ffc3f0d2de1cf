//! The files that hold what is on volumes and snapshots: thin qcow2 images, each at most one step above another.
//!
//! A disk names what it is backed by relative to its own folder, so that the data folder can be moved; only this file writes such a name.
//! A guest writes into an image and never the image itself, so its header is ours and may be read. What is in it is never looked at.
//! Calls: `qemu-img`, with every format said. Not here: which disk is whose (`store`), and when one is frozen (`freeze`).

use crate::provider::onhost::image::DISK;
use crate::provider::onhost::process;
use anyhow::Context;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// A disk is made in well under 100 ms.
const CREATE_DEADLINE: Duration = Duration::from_secs(5);
/// The whole of a large cache, on a slow disk.
const FLATTEN_DEADLINE: Duration = Duration::from_secs(600);
/// Small enough for the files of layers, large enough that 256 GiB are known by 32 MiB of memory. Lazy: reference counts need no flush of
/// their own; QEMU mends them when a disk was torn off.
const OPTIONS: &str = "cluster_size=64k,lazy_refcounts=on";
/// As in [`OPTIONS`].
pub(super) const CLUSTER_BYTES: u64 = 64 << 10;
const SNAPSHOTS: &str = "../../snapshots/";

/// Makes a disk that reads as its snapshot, or as nothing. It costs the same whatever is in the snapshot.
///
/// # Errors
/// `qemu-img` failed; half a file may be there.
pub(super) async fn create(path: &Path, size_gib: u32, snapshot: Option<&str>) -> anyhow::Result<()> {
    let backing =
        snapshot.map(|snapshot| format!(",backing_fmt=qcow2,backing_file={SNAPSHOTS}{snapshot}/{DISK}")).unwrap_or_default();
    let (options, size) = (format!("{OPTIONS}{backing}"), (u64::from(size_gib) << 30).to_string());
    let arguments = ["create", "-q", "-f", "qcow2", "-o", &options, &path.to_string_lossy(), &size];
    process::run("qemu-img", &arguments, CREATE_DEADLINE).await.context("creating the disk")?;
    Ok(File::open(path)?.sync_all()?)
}

/// Writes what a disk reads as into one of its own that is backed by nothing, without what is zero.
///
/// # Errors
/// `qemu-img` failed, or took ten minutes; half a file may be there.
pub(super) async fn flatten(from: &Path, to: &Path) -> anyhow::Result<()> {
    // -W: in any order; -t none is not for every file system, so the file is synced when it is whole.
    let (from, whole) = (from.to_string_lossy(), to.to_owned());
    let arguments = ["convert", "-q", "-W", "-f", "qcow2", "-O", "qcow2", "-o", OPTIONS, &from, &to.to_string_lossy()];
    process::run("qemu-img", &arguments, FLATTEN_DEADLINE).await.context("flattening the disk")?;
    crate::provider::onhost::blocking(move || Ok(File::open(whole)?.sync_all()?)).await
}

/// Writes what a disk reads as in another format, without what is zero.
///
/// # Errors
/// `qemu-img` failed, or took ten minutes; half a file may be there.
pub(super) async fn convert(from: &Path, format: &str, to: &Path, wanted: &str) -> anyhow::Result<()> {
    let (source, target) = (from.to_string_lossy(), to.to_string_lossy());
    let arguments = ["convert", "-q", "-W", "-f", format, "-O", wanted, &source, &target];
    process::run("qemu-img", &arguments, FLATTEN_DEADLINE).await.context("writing the disk in another format").map(drop)
}

/// The snapshot that a disk is backed by, by its header (docs/interop/qcow2.txt of QEMU).
///
/// # Errors
/// It cannot be read, or is not one of ours.
pub(super) fn backing(disk: &Path) -> anyhow::Result<Option<String>> {
    let what = || disk.display().to_string();
    let file = File::open(disk).with_context(what)?;
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0).with_context(what)?;
    let [b'Q', b'F', b'I', 0xfb, _, _, _, _, offset @ .., a, b, c, d] = header else {
        anyhow::bail!("{}: not a qcow2 image", disk.display());
    };
    let (offset, length) = (u64::from_be_bytes(offset), u32::from_be_bytes([a, b, c, d]));
    if offset == 0 {
        return Ok(None);
    }
    let mut name = vec![0; usize::try_from(length.min(1023))?];
    file.read_exact_at(&mut name, offset).with_context(what)?;
    let name = String::from_utf8(name).with_context(what)?;
    let snapshot = name.strip_prefix(SNAPSHOTS).and_then(|rest| rest.strip_suffix(DISK)?.strip_suffix('/'));
    snapshot.map(|snapshot| Some(snapshot.to_owned())).with_context(|| format!("{} is backed by {name}", disk.display()))
}

/// Whether two names are one file; `false` where the second is not there.
///
/// # Errors
/// The first cannot be looked at.
pub(super) fn is_same(disk: &Path, other: &Path) -> anyhow::Result<bool> {
    let this = std::fs::metadata(disk).with_context(|| disk.display().to_string())?;
    Ok(std::fs::metadata(other).is_ok_and(|other| (other.dev(), other.ino()) == (this.dev(), this.ino())))
}

/// Whether a disk has a second name: it is being frozen, or was when a process ended.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn has_two_names(disk: &Path) -> anyhow::Result<bool> {
    Ok(std::fs::metadata(disk).with_context(|| disk.display().to_string())?.nlink() > 1)
}
