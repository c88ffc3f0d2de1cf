//! Keeps the end of what a program writes: at least the last `limit` bytes, on disk never more than twice that.
//!
//! Two files: `NAME`, and `NAME.old` which was full. A guest that writes without end fills no disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A log that forgets its beginning.
#[derive(Debug)]
pub(super) struct BoundedLog {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

fn old(path: &Path) -> PathBuf {
    path.with_added_extension("old")
}

impl BoundedLog {
    pub(super) fn create(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = File::create(&path)?;
        Ok(Self { path, file, written: 0, limit })
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.written >= self.limit {
                std::fs::rename(&self.path, old(&self.path))?;
                self.file = File::create(&self.path)?;
                self.written = 0;
            }
            let room = usize::try_from(self.limit - self.written).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.file.write_all(now)?;
            self.written += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Takes all of `from`, also when it cannot be kept (a full disk): a program must not stop because nobody listens.
    pub(super) fn drain(mut self, mut from: impl Read) {
        let mut buffer = [0; 8192];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => drop(self.append(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// The last `limit` bytes of a log as text; empty when there is none.
///
/// # Errors
/// It is there and cannot be read.
pub(in super::super) fn read_end(path: &Path, limit: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    for part in [old(path), path.to_owned()] {
        match File::open(&part) {
            Ok(mut file) => {
                let length = file.metadata()?.len();
                file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
                file.take(limit as u64).read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(limit)..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_disk_is_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        assert_eq!(read_end(&path, 100).unwrap(), "");
        let text: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        BoundedLog::create(path.clone(), 1000).unwrap().drain(text.as_bytes());
        assert_eq!(read_end(&path, 1000).unwrap(), text[text.len() - 1000..]);
        assert_eq!(read_end(&path, 10).unwrap(), text[text.len() - 10..]);
        let kept: u64 = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(kept <= 2000, "{kept}");
    }
}
