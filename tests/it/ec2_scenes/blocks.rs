//! An image is written as a snapshot block by block, and read back; whatever happens on the way, what is in it is what was in the image.

use super::alone::Alone;
use super::volumes::{refusal, tags};
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::rules::Rules;
use crate::support::{lineage, snapshot, volume as spec};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Notify;
use vm_service::provider::ProviderError;
use vm_service::provider::ec2::Ec2;
use vm_service::provider::ec2::ebs::{BLOCK_BYTES, Progress};
use vm_service::provider::volumes::{SnapshotState, VolumeSpec, Volumes as _};

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
pub(super) const MIB: u64 = 1 << 20;

/// A sparse image, and what is in it.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) blocks: BTreeMap<u32, Vec<u8>>,
    _folder: TempDir,
}

impl Image {
    /// Of so many bytes, with these blocks; each has other bytes than the others.
    pub(super) fn new(bytes: u64, filled: impl IntoIterator<Item = u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        let mut image = Self { path, blocks: BTreeMap::new(), _folder: folder };
        for index in filled {
            image.fill(index, u8::try_from(index % 251).unwrap());
        }
        image
    }

    pub(super) fn fill(&mut self, index: u32, seed: u8) {
        let block: Vec<u8> = (0..249).cycle().take(BLOCK_BYTES).map(|at: u8| at ^ seed.wrapping_add(1)).collect();
        self.write(u64::from(index) * BLOCK, &block);
        self.blocks.insert(index, block);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(&self.path).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn has_ledger(&self) -> bool {
        self.path.with_extension("raw.upload").exists()
    }
}

impl Alone {
    async fn write(&self, image: &Image, token: &str) -> Result<String, ProviderError> {
        self.ec2.write_snapshot(&image.path, &snapshot(&tags("p"), token), &|_| ()).await
    }

    /// Everything that the snapshot has.
    async fn read(&self, snapshot: &str) -> BTreeMap<u32, Vec<u8>> {
        let mut found = BTreeMap::new();
        for block in self.ec2.list_blocks(snapshot).await.unwrap().blocks {
            found.insert(block.index, self.ec2.get_block(snapshot, &block).await.unwrap());
        }
        found
    }

    /// Indices of the blocks that were asked to be written, in the order of the calls.
    fn puts(&self) -> Vec<u32> {
        self.cloud.calls("PutSnapshotBlock").iter().map(|call| call.params.get("blockIndex").unwrap().parse().unwrap()).collect()
    }
}

fn same(found: &BTreeMap<u32, Vec<u8>>, expected: &BTreeMap<u32, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found.iter().all(|(index, block)| *block == expected[index]), "a block has other bytes");
}

/// 64 MiB, of which some blocks are full, some zeros on the disk, and the others holes.
#[tokio::test]
async fn an_image_is_written_and_read_back_byte_for_byte() {
    let alone = Alone::new(Rules { blocks_per_page: 7, ..Rules::default() }).await;
    let mut image = Image::new(64 * MIB, (0..128).filter(|index| index % 3 == 0));
    image.write(10 * BLOCK, &[0; 4 * BLOCK_BYTES]);
    image.fill(12, 9);
    let told = Mutex::new(Vec::new());
    let wish = snapshot(&tags("p"), "s");
    let made = alone.ec2.write_snapshot(&image.path, &wish, &|progress| told.lock().unwrap().push(progress)).await.unwrap();

    same(&alone.read(&made).await, &image.blocks);
    let sent: BTreeSet<u32> = alone.puts().into_iter().collect();
    assert_eq!((sent, alone.puts().len()), (image.blocks.keys().copied().collect(), 43), "holes and zeros are not sent");
    let told = told.into_inner().unwrap();
    let (first, last) = (told[0], told[told.len() - 1]);
    assert_eq!((first.looked_at, first.sent, last.sent, last.looked_at), (0, 0, 43, last.blocks));
    assert!((43..=50).contains(&last.blocks) && last.sent_bytes() == 43 * BLOCK, "{last:?}: the zeros on the disk are looked at");
    assert!(!image.has_ledger());
    let most = alone.cloud.most_at_once("PutSnapshotBlock");
    assert!((8..=16).contains(&most), "{most} at once");

    // It is one of ours, and volumes are made of it.
    let found = alone.ec2.find_snapshot(&made).await.unwrap().unwrap();
    assert_eq!((found.state, found.tags), (SnapshotState::Completed, wish.tags));
    let zone = alone.cloud.subnets()[0].zone.clone();
    let copy = VolumeSpec { snapshot: Some(made.clone()), ..spec(&tags("p"), &zone, "copy") };
    let copy = alone.ec2.create_volume(&copy).await.unwrap().provider_id;
    assert_eq!(alone.cloud.volumes().await.into_iter().find(|it| it.id == copy).unwrap().snapshot, made);
}

/// Killed in the middle, the next run sends what is missing, and no more than was under way twice.
#[tokio::test]
async fn an_interrupted_run_is_gone_on_with() {
    let alone = Alone::new(Rules::default()).await;
    let image = Image::new(64 * MIB, 0..100);
    let wish = snapshot(&tags("p"), "s");
    let enough = Notify::new();
    let tell = |progress: Progress| {
        if progress.sent == 40 {
            enough.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = enough.notified() => {}
        done = alone.ec2.write_snapshot(&image.path, &wish, &tell) => panic!("{done:?}"),
    }
    assert!(image.has_ledger());
    assert_eq!(Ec2::unfinished_snapshot(&image.path).unwrap().unwrap().tags, wish.tags);
    let before = alone.puts().len();
    assert!((40..=40 + 16).contains(&before), "{before}");

    let other = refusal(alone.write(&image, "another").await);
    assert!(other.contains("another token or other tags"), "{other}");
    let told = Mutex::new(Vec::new());
    let made = alone.ec2.write_snapshot(&image.path, &wish, &|progress| told.lock().unwrap().push(progress)).await.unwrap();
    let first = told.into_inner().unwrap()[0];
    let again = alone.puts().len() - before;
    assert_eq!((first.looked_at, first.sent), (40, 40));
    // Calls of the first run may still have been on their way.
    assert!((60..=60 + 16).contains(&again), "{again}: only the rest");
    assert_eq!(alone.cloud.calls("StartSnapshot").len(), 1);
    same(&alone.read(&made).await, &image.blocks);
    assert!(!image.has_ledger() && Ec2::unfinished_snapshot(&image.path).unwrap().is_none());
}

/// What an interrupted run sent is of no use to another image.
#[tokio::test]
async fn an_image_that_has_changed_is_not_gone_on_with() {
    let alone = Alone::new(Rules::default()).await;
    let mut image = Image::new(4 * MIB, 0..8);
    alone.cloud.inject(Fault::unauthorized("CompleteSnapshot"));
    let refused = refusal(alone.write(&image, "s").await);
    assert!(refused.contains("AccessDeniedException"), "{refused}");
    image.fill(3, 77);
    let refused = refusal(alone.write(&image, "s").await);
    assert!(refused.contains("the image has changed"), "{refused}");
    assert_eq!(alone.cloud.calls("CompleteSnapshot").len(), 1);
    std::fs::remove_file(image.path.with_extension("raw.upload")).unwrap();
    let made = alone.write(&image, "t").await.unwrap();
    same(&alone.read(&made).await, &image.blocks);

    let empty = Image::new(4 * MIB, []);
    assert!(refusal(alone.write(&empty, "u").await).contains("nothing but zeros"));
    assert!(refusal(alone.write(&Image::new(0, []), "v").await).contains("0 GiB"));
}

/// Throttled, cut, failed inside, answers lost: waited for and asked again, in the middle of it.
#[tokio::test]
async fn trouble_on_the_way_is_waited_for() {
    let alone = Alone::new(Rules::default()).await;
    let image = Image::new(16 * MIB, 0..32);
    alone.cloud.inject(Fault::lose_answer("StartSnapshot"));
    alone.cloud.inject(Fault::slow("PutSnapshotBlock", Duration::from_millis(20)).times(10));
    alone.cloud.inject(Fault::throttle("PutSnapshotBlock").times(9));
    alone.cloud.inject(Fault::internal_error("PutSnapshotBlock").times(3));
    alone.cloud.inject(Fault::refuse("PutSnapshotBlock", 503, "ServiceUnavailable").times(2));
    alone.cloud.inject(Fault::lose_answer("PutSnapshotBlock").times(3));
    alone.cloud.inject(Fault::cut("PutSnapshotBlock").times(3));
    alone.cloud.inject(Fault::lose_answer("CompleteSnapshot"));
    let made = alone.write(&image, "s").await.unwrap();
    assert_eq!(alone.cloud.faults_waiting(), 0);
    assert_eq!(alone.cloud.behind_our_back("DescribeSnapshots", &[]).await.matches(&made).count(), 1);
    alone.cloud.inject(Fault::throttle("ListSnapshotBlocks").times(2));
    alone.cloud.inject(Fault::throttle("GetSnapshotBlock").times(2));
    alone.cloud.inject(Fault::internal_error("GetSnapshotBlock").times(2));
    same(&alone.read(&made).await, &image.blocks);
    let refused = alone.cloud.calls("PutSnapshotBlock").len();
    assert_eq!(refused, 32 + 9 + 3 + 2 + 3 + 3);
}

/// A wrong byte is never taken for the block.
#[tokio::test]
async fn a_damaged_answer_is_noticed() {
    let alone = Alone::new(Rules::default()).await;
    let image = Image::new(4 * MIB, [2]);
    let made = alone.write(&image, "s").await.unwrap();
    alone.cloud.inject(Fault::damaged_block());
    same(&alone.read(&made).await, &image.blocks);
    assert_eq!(alone.cloud.calls("GetSnapshotBlock").len(), 2, "it is read again");
    alone.cloud.inject(Fault::damaged_block().always());
    let block = alone.ec2.list_blocks(&made).await.unwrap().blocks.remove(0);
    let damaged = alone.ec2.get_block(&made, &block).await;
    assert!(matches!(damaged, Err(ProviderError::Transient { .. })), "{damaged:?}");
}

#[tokio::test]
async fn two_snapshots_differ_in_exactly_the_blocks_that_differ() {
    let alone = Alone::new(Rules { blocks_per_page: 2, ..Rules::default() }).await;
    let mut image = Image::new(16 * MIB, 0..20);
    let first = alone.write(&image, "one").await.unwrap();
    for index in [3, 25, 19, 30] {
        image.fill(index, 200);
    }
    image.write(7 * BLOCK, &[0; BLOCK_BYTES]);
    let second = alone.write(&image, "two").await.unwrap();
    let refused = refusal(alone.ec2.list_changed_blocks(&first, &second).await);
    assert!(refused.contains("AWS compares only snapshots of one volume and of its copies"), "{refused}");
    alone.cloud.of_one_volume(&[&first, &second]);
    let changed = alone.ec2.list_changed_blocks(&first, &second).await.unwrap();
    let shown: Vec<_> = changed.blocks.iter().map(|it| (it.index, it.first.is_some(), it.second.is_some())).collect();
    assert_eq!(shown, [(3, true, true), (7, true, false), (19, true, true), (25, false, true), (30, false, true)]);
    assert_eq!(changed.volume_gib, 1);
    let block = changed.blocks[4].second.clone().unwrap();
    assert_eq!(alone.ec2.get_block(&second, &block).await.unwrap(), image.blocks[&30]);
    assert_eq!(alone.ec2.list_changed_blocks(&first, &first).await.unwrap().blocks, []);
    let none = refusal(alone.ec2.list_changed_blocks("snap-0123456789abcdef0", &second).await);
    assert!(none.contains("ResourceNotFoundException"), "{none}");
    assert_eq!(lineage("p"), alone.ec2.find_snapshot(&second).await.unwrap().unwrap().tags.lineage);
}
