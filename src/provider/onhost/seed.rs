//! The seed disk: a FAT volume named `CIDATA` with `user-data` and `meta-data`, as cloud-init's NoCloud source reads it.
//!
//! Source of the form: <https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>.
//! Reads: nothing. Writes: one file, for the owner only: user data holds keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Beside the content; FAT12 tables, the root folder and slack fit in it many times over.
const OVERHEAD_BYTES: u64 = 512 * 1024;

/// Makes the seed disk of one machine, anew when the file exists.
///
/// # Errors
/// The file could not be written.
pub(super) fn write_seed(path: &Path, provider_id: &str, user_data: &str) -> io::Result<()> {
    let mut disk = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let content = u64::try_from(user_data.len()).map_err(io::Error::other)?;
    disk.set_len((content + OVERHEAD_BYTES).next_multiple_of(4096))?;
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     "))?;
    fill(disk, provider_id, user_data)
}

fn fill(disk: File, provider_id: &str, user_data: &str) -> io::Result<()> {
    let volume = fatfs::FileSystem::new(disk, fatfs::FsOptions::new())?;
    {
        let root = volume.root_dir();
        root.create_file("user-data")?.write_all(user_data.as_bytes())?;
        let meta = format!("instance-id: {provider_id}\nlocal-hostname: {}\n", host_name(provider_id));
        root.create_file("meta-data")?.write_all(meta.as_bytes())?;
    }
    volume.unmount()
}

/// RFC 1123: at most 63 letters, digits and dashes, not ending in a dash.
fn host_name(provider_id: &str) -> &str {
    provider_id.get(..63).unwrap_or(provider_id).trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read_back(path: &Path, name: &str) -> String {
        let volume = fatfs::FileSystem::new(File::open(path).unwrap().into_rw(), fatfs::FsOptions::new()).unwrap();
        let mut text = String::new();
        volume.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    trait IntoRw {
        fn into_rw(self) -> io::Cursor<Vec<u8>>;
    }

    impl IntoRw for File {
        fn into_rw(mut self) -> io::Cursor<Vec<u8>> {
            let mut bytes = Vec::new();
            self.read_to_end(&mut bytes).unwrap();
            io::Cursor::new(bytes)
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.img");
        for user_data in ["#cloud-config\n{}\n".to_owned(), "x".repeat(300_000), String::new()] {
            write_seed(&path, "onhost-abc-0", &user_data).unwrap();
            assert_eq!(read_back(&path, "user-data"), user_data);
            assert_eq!(read_back(&path, "meta-data"), "instance-id: onhost-abc-0\nlocal-hostname: onhost-abc-0\n");
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(&bytes[43..49], b"CIDATA", "the guest looks for the label here");
        }
    }

    #[test]
    fn host_names_are_short_and_do_not_end_in_a_dash() {
        let long = format!("onhost-{}-0", "a".repeat(64));
        assert_eq!(host_name(&long).len(), 63);
        assert_eq!(host_name(&format!("{}-{}", "a".repeat(62), "b")), "a".repeat(62));
    }
}
