//! The image that machines start from, and the overlay that holds what one machine changes.
//!
//! Reads: `manifest.json` in the image folder (made by `ami/build-onhost`). Writes: a machine's `disk.qcow2`. Calls: `qemu-img`.
//! The image is opened for reading only. An overlay names the image by its real path, so that a newer image does not touch it.

use super::process;
use anyhow::Context;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the builder says of an image; what it says more is not needed here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Manifest {
    /// Names the content.
    pub(super) hash: String,
    /// Of its machines.
    #[serde(default)]
    pub(super) architecture: Option<String>,
    /// Kernel command line.
    pub(super) kernel_append: String,
    /// Size of the root disk as a VM sees it.
    pub(super) disk_virtual_bytes: u64,
    /// How its machines wait for their identity; those of older images cannot, or never hear of their network.
    #[serde(default)]
    pub(super) wait_form: u32,
}

/// An image whose files are there.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) manifest: Manifest,
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// The disk's file, in the folder of the image and in that of a machine.
pub(super) const DISK: &str = "disk.qcow2";

/// QEMU takes a comma in a value doubled.
pub(super) fn value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

impl Image {
    /// The image that a folder, or a link to it, holds now.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let build = || {
            format!(
                "No usable VM image in {}; build one with: ami/build-onhost --output DIR, and name DIR/current.",
                folder.display()
            )
        };
        let real = folder.canonicalize().map_err(|error| format!("{} ({error})", build()))?;
        let text = std::fs::read(real.join("manifest.json")).map_err(|error| format!("{} (manifest.json: {error})", build()))?;
        let manifest = serde_json::from_slice(&text).map_err(|error| format!("{} (manifest.json: {error})", build()))?;
        let image = Self { manifest, disk: real.join("disk.qcow2"), kernel: real.join("vmlinuz"), initrd: real.join("initrd") };
        for file in [&image.disk, &image.kernel, &image.initrd] {
            if let Err(error) = std::fs::File::open(file) {
                return Err(format!("{} ({}: {error})", build(), file.display()));
            }
        }
        Ok(image)
    }

    /// Makes the disk of one machine over the image's, anew when there is one; never smaller than the image.
    pub(super) async fn create_overlay(&self, folder: &Path, disk_gib: u32) -> anyhow::Result<()> {
        self.create_overlay_of(&self.disk, &folder.join(DISK), disk_gib).await
    }

    /// The same over another disk of this image, which may come later.
    pub(super) async fn create_overlay_of(&self, below: &Path, overlay: &Path, disk_gib: u32) -> anyhow::Result<()> {
        let size = (u64::from(disk_gib) << 30).max(self.manifest.disk_virtual_bytes).to_string();
        // The format is said, never guessed from what a guest wrote.
        let options = format!("backing_fmt=qcow2,lazy_refcounts=on,backing_file={}", value(below));
        let arguments = ["create", "-q", "-u", "-f", "qcow2", "-o", &options, &overlay.to_string_lossy(), &size];
        process::run("qemu-img", &arguments, Duration::from_secs(2)).await.map(drop).context("creating the disk")
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let manifest = Manifest {
            hash: "h".into(),
            architecture: None,
            kernel_append: "root=/dev/vda console=ttyS0".into(),
            disk_virtual_bytes: 1 << 30,
            wait_form: 2,
        };
        Self {
            manifest,
            disk: "/images/h/disk.qcow2".into(),
            kernel: "/images/h/vmlinuz".into(),
            initrd: "/images/h/initrd".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_image_says_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Image::open(folder.path()).unwrap_err().contains("ami/build-onhost"));
        assert!(Image::open(&folder.path().join("no")).unwrap_err().contains("ami/build-onhost"));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(value(Path::new("/a,b/c")), "/a,,b/c");
    }
}
