//! The file beside an image that says which of its blocks a snapshot has already, so that a repeated run sends the rest only. What it
//! says has been sent has been sent; what it lost in a crash is sent again, and changes nothing.
//!
//! The first line says what is written from what; each further one is a block's index and its checksum.

use super::image::Stamp;
use super::{Sum, written};
use crate::domain::tags::SnapshotTags;
use crate::provider::volumes::SnapshotSpec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Lines between two syncs: at most 32 MiB are sent twice after a crash.
const SYNC_EVERY: u32 = 64;

/// What is written from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) token: String,
    pub(super) tags: SnapshotTags,
    pub(super) snapshot: String,
    pub(super) image: Stamp,
}

/// The file, open for more.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) head: Head,
    /// Checksums of the blocks that were sent.
    pub(super) sent: BTreeMap<u32, Sum>,
    path: PathBuf,
    file: File,
    unsynced: u32,
}

impl Head {
    /// What the run that began it was told.
    pub(super) fn spec(&self) -> SnapshotSpec {
        SnapshotSpec { client_token: self.token.clone(), tags: self.tags.clone() }
    }
}

impl Ledger {
    /// That of an earlier run on this image; none: there was none, or it came to nothing.
    pub(super) fn open(image: &Path) -> io::Result<Option<Self>> {
        let path = beside(image);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // The last line may have been cut by a crash: without its end it does not count.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(&text[..whole]);
        let mut lines = text.lines();
        let Some(head) = lines.next().and_then(|line| serde_json::from_str(line).ok()) else { return Ok(None) };
        let sent = lines.map_while(read_line).collect();
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(whole as u64)?;
        Ok(Some(Self { head, sent, path, file, unsynced: 0 }))
    }

    /// Begins a new one.
    pub(super) fn begin(image: &Path, head: Head) -> io::Result<Self> {
        let path = beside(image);
        let mut file = File::create(&path)?;
        serde_json::to_writer(&mut file, &head)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { head, sent: BTreeMap::new(), path, file, unsynced: 0 })
    }

    /// Notes a block that the snapshot has.
    pub(super) fn note(&mut self, index: u32, sum: Sum) -> io::Result<()> {
        self.file.write_all(format!("{index} {}\n", written(sum)).as_bytes())?;
        self.sent.insert(index, sum);
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.file.sync_data()
    }

    /// The snapshot is completed: the file is not needed any more.
    pub(super) fn end(self) -> io::Result<()> {
        std::fs::remove_file(self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// `disk.raw.upload` of `disk.raw`.
fn beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".upload");
    PathBuf::from(name)
}

fn read_line(line: &str) -> Option<(u32, Sum)> {
    let (index, sum) = line.split_once(' ')?;
    Some((index.parse().ok()?, BASE64.decode(sum).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{GenerationId, InstallationId};
    use crate::domain::lineage::{Engine, Lineage, Store, Trust};
    use uuid::Uuid;

    fn head() -> Head {
        let engine = Engine { architecture: "x86_64".to_owned(), store: Store::Classic, major: 28 };
        let lineage = Lineage { project_id: "p".to_owned(), trust: Trust::Trusted, engine };
        let (installation, generation) = (InstallationId(Uuid::from_u128(1)), GenerationId(Uuid::from_u128(2)));
        let image = serde_json::from_str(r#"{"bytes":1,"modified":"2"}"#).unwrap();
        let tags = SnapshotTags { installation, generation, lineage };
        Head { token: "t".to_owned(), tags, snapshot: "snap-1".to_owned(), image }
    }

    #[test]
    fn what_was_noted_is_known_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        assert!(Ledger::open(&image).unwrap().is_none());
        let mut ledger = Ledger::begin(&image, head()).unwrap();
        ledger.note(7, [7; 32]).unwrap();
        ledger.note(3, [3; 32]).unwrap();
        // A line that was cut, and so is the next one that is written behind it.
        ledger.file.write_all(b"9 AAAA").unwrap();
        drop(ledger);
        let mut again = Ledger::open(&image).unwrap().unwrap();
        assert_eq!((&again.head, &again.sent), (&head(), &BTreeMap::from([(3, [3; 32]), (7, [7; 32])])));
        again.note(9, [9; 32]).unwrap();
        let last = Ledger::open(&image).unwrap().unwrap();
        assert_eq!(last.sent.keys().copied().collect::<Vec<_>>(), [3, 7, 9]);
        last.end().unwrap();
        assert!(Ledger::open(&image).unwrap().is_none());
    }

    #[test]
    fn one_without_a_whole_first_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        std::fs::write(beside(&image), r#"{"token":"t","#).unwrap();
        assert!(Ledger::open(&image).unwrap().is_none());
    }
}
