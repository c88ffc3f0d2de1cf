//! A raw image of a volume, as blocks. Holes of the file are never read, and blocks of zeros are none.

use super::BLOCK_BYTES;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// An image that is open for reading.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    bytes: u64,
}

/// What changes when the image does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Its length.
    bytes: u64,
    /// When it was last written to: nanoseconds since 1970, as text.
    modified: String,
}

impl Image {
    /// Opens a file, or a block device.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, bytes })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        let modified = self.file.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Stamp { bytes: self.bytes, modified: modified.as_nanos().to_string() })
    }

    /// The blocks that may hold something, in order: those that no hole covers.
    pub(super) fn blocks(&self) -> io::Result<Vec<u32>> {
        let mut blocks: Vec<u32> = Vec::new();
        let mut at = 0;
        while at < self.bytes {
            let (from, to) = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(from) => (from, seek(&self.file, SeekFrom::Hole(from))?),
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                // This file system, or device, knows no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, self.bytes),
                Err(error) => return Err(error.into()),
            };
            let block = BLOCK_BYTES as u64;
            let first = blocks.last().map_or(0, |last| u64::from(*last) + 1).max(from / block);
            for index in first..to.min(self.bytes).div_ceil(block) {
                blocks.push(u32::try_from(index).map_err(io::Error::other)?);
            }
            at = to;
        }
        Ok(blocks)
    }

    /// A block, filled up with zeros behind the end of the image; none: it is all zeros.
    pub(super) fn read(&self, index: u32) -> io::Result<Option<Vec<u8>>> {
        let mut block = vec![0; BLOCK_BYTES];
        let start = u64::from(index) * BLOCK_BYTES as u64;
        let there = usize::try_from(self.bytes.saturating_sub(start)).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        self.file.read_exact_at(&mut block[..there], start)?;
        Ok((!is_zeros(&block)).then_some(block))
    }
}

/// A block equals itself moved by one byte, and begins with zero: one comparison of memory.
fn is_zeros(block: &[u8]) -> bool {
    block.first().is_none_or(|first| *first == 0) && block[..block.len().saturating_sub(1)] == block[1.min(block.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    #[test]
    fn holes_are_not_looked_at_and_zeros_are_no_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
        file.set_len(20 * BLOCK + 1000).unwrap();
        file.write_all_at(&[0; BLOCK_BYTES], 2 * BLOCK).unwrap();
        file.write_all_at(b"over a border", 6 * BLOCK - 4).unwrap();
        file.write_all_at(b"end", 20 * BLOCK + 997).unwrap();
        let image = Image::open(&path).unwrap();
        let blocks = image.blocks().unwrap();
        assert!(blocks.is_sorted() && blocks.len() < 10, "{blocks:?}");
        assert!([2, 5, 6, 20].iter().all(|index| blocks.contains(index)), "{blocks:?}");
        let held: Vec<u32> = blocks.into_iter().filter(|index| image.read(*index).unwrap().is_some()).collect();
        assert_eq!(held, [5, 6, 20]);
        let last = image.read(20).unwrap().unwrap();
        assert_eq!((last.len(), &last[997..1000], is_zeros(&last[1000..])), (BLOCK_BYTES, b"end".as_slice(), true));
        assert_eq!(&image.read(6).unwrap().unwrap()[..9], b" a border");
    }

    #[test]
    fn an_image_that_is_written_to_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, b"one").unwrap();
        let stamp = || Image::open(&path).unwrap().stamp().unwrap();
        let before = stamp();
        assert_eq!(stamp(), before);
        std::fs::write(&path, b"other").unwrap();
        assert_ne!(stamp(), before);
    }

    #[test]
    fn zeros_are_zeros() {
        assert!(is_zeros(&[]) && is_zeros(&[0]) && is_zeros(&[0; 9]));
        assert!(!is_zeros(&[1]) && !is_zeros(&[0, 0, 1]) && !is_zeros(&[1, 1]) && !is_zeros(&[1, 0]));
    }
}
