//! A raw image becomes a snapshot: each block that is not zeros is sent once with its checksum, many at a time, and AWS checks the sum of
//! all. A run that was interrupted is gone on with by the next one on the same image.
//!
//! Source: <https://docs.aws.amazon.com/ebs/latest/APIReference/API_CompleteSnapshot.html> (the aggregated checksum: the SHA-256 of all
//! blocks' checksums in the order of their indices, as bytes and not as text, as Amazon's own tool `coldsnap` makes it).

use super::image::Image;
use super::ledger::{Head, Ledger};
use super::{BLOCK_BYTES, Sum, sum, written};
use crate::provider::ProviderError;
use crate::provider::ec2::{Ec2, tags};
use crate::provider::volumes::{SnapshotSpec, SnapshotState};
use aws_sdk_ebs::Client;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm, Tag};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Blocks on their way at once: enough for some 100 MiB/s at 80 ms each, and 8 MiB of memory.
const AT_ONCE: usize = 16;
/// Minutes after which AWS gives an open snapshot up that nobody writes to: one goes on the next day. At most 4320.
const OPEN_FOR: i32 = 1440;
const GIB: u64 = 1 << 30;

/// How far a snapshot is that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Blocks of the image that were looked at, those of earlier runs included.
    pub looked_at: u64,
    /// Blocks of the image that are not holes.
    pub blocks: u64,
    /// Blocks that the snapshot has.
    pub sent: u64,
}

impl Progress {
    /// Bytes that the snapshot has.
    pub fn sent_bytes(&self) -> u64 {
        self.sent * BLOCK_BYTES as u64
    }
}

impl Ec2 {
    /// What an earlier run on this image was told, if it did not end: go on with the same.
    ///
    /// # Errors
    /// The file beside the image cannot be read.
    pub fn unfinished_snapshot(image: &Path) -> io::Result<Option<SnapshotSpec>> {
        Ok(Ledger::open(image)?.map(|ledger| ledger.head.spec()))
    }

    /// Writes a raw image as an encrypted snapshot, and answers its name; [`crate::provider::volumes::Volumes::find_snapshot`] says when
    /// volumes can be made of it. With the same image and `spec` an interrupted run is gone on with: a file beside the image,
    /// `IMAGE.upload`, says what has been sent, and is gone at the end. `tell` hears of each block.
    ///
    /// # Errors
    /// `Invalid` where the image is empty, too large, or has changed since the interrupted run; after the others run it again.
    pub async fn write_snapshot(
        &self,
        image: &Path,
        spec: &SnapshotSpec,
        tell: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<String, ProviderError> {
        let unreadable = |error| ProviderError::transient(format!("reading {}", image.display()), error);
        let source = Arc::new(Image::open(image).map_err(unreadable)?);
        let blocks = source.blocks().map_err(unreadable)?;
        let client = self.ebs_client().await;
        let mut ledger = match Ledger::open(image).map_err(unreadable)? {
            Some(ledger) => self.go_on(ledger, &source, spec).map_err(|error| error.of(image))?,
            None => self.begin(&client, image, &source, spec).await?,
        };
        let snapshot = ledger.head.snapshot.clone();
        let all = blocks.len() as u64;
        let mut progress = Progress { looked_at: ledger.sent.len() as u64, blocks: all, sent: ledger.sent.len() as u64 };
        tell(progress);
        let unsent: Vec<u32> = blocks.into_iter().filter(|index| !ledger.sent.contains_key(index)).collect();
        let percent = |index: u32| i32::try_from(u64::from(index) * BLOCK_BYTES as u64 * 100 / source.bytes().max(1)).unwrap_or(0);
        let mut answers = stream::iter(unsent)
            .map(|index| self.send_block(&client, &snapshot, &source, index, percent(index)))
            .buffer_unordered(AT_ONCE);
        let sent = async {
            while let Some(answer) = answers.try_next().await? {
                progress.looked_at += 1;
                if let Some((index, sum)) = answer {
                    ledger.note(index, sum).map_err(|error| ProviderError::transient("noting a block that was sent", error))?;
                    progress.sent += 1;
                }
                tell(progress);
            }
            Ok(())
        };
        let sent = sent.await;
        drop(answers);
        ledger.sync().map_err(|error| ProviderError::transient("noting the blocks that were sent", error))?;
        sent.map_err(|error| given_up(error, ledger.path()))?;
        if source.stamp().map_err(unreadable)? != ledger.head.image {
            return Err(ProviderError::Invalid(format!("{} was written to while it was being sent", image.display())));
        }
        self.complete(&client, ledger).await?;
        Ok(snapshot)
    }

    /// An earlier run's ledger, if it is of the same image and wish.
    fn go_on(&self, ledger: Ledger, source: &Image, spec: &SnapshotSpec) -> Result<Ledger, NotTheSame> {
        let path = ledger.path().display().to_string();
        if (&ledger.head.token, &ledger.head.tags) != (&spec.client_token, &spec.tags) {
            return Err(NotTheSame(format!(
                "{path} is of a snapshot with another token or other tags: go on with those, or remove it"
            )));
        }
        if source.stamp().ok().as_ref() != Some(&ledger.head.image) {
            return Err(NotTheSame(format!(
                "the image has changed since {path} was begun: remove that file, and begin again with a new token"
            )));
        }
        Ok(ledger)
    }

    async fn begin(&self, client: &Client, image: &Path, source: &Image, spec: &SnapshotSpec) -> Result<Ledger, ProviderError> {
        let gib = i64::try_from(source.bytes().div_ceil(GIB)).unwrap_or(i64::MAX);
        if !(1..=65_536).contains(&gib) {
            return Err(ProviderError::Invalid(format!("{} has {gib} GiB, and a volume has 1 to 65536", image.display())));
        }
        let stamp = source.stamp().map_err(|error| ProviderError::transient("looking at the image", error))?;
        let marks = tags::write_snapshot(&spec.tags, &spec.client_token);
        let marks: Vec<Tag> = marks.into_iter().map(|tag| Tag::builder().set_key(tag.key).set_value(tag.value).build()).collect();
        let call = || {
            let call = client.start_snapshot().client_token(&spec.client_token).volume_size(gib).encrypted(true);
            call.timeout(OPEN_FOR).set_tags(Some(marks.clone())).send()
        };
        let begun = self.patiently("beginning a snapshot", call).await?;
        let snapshot = begun.snapshot_id.unwrap_or_default();
        let head = Head { token: spec.client_token.clone(), tags: spec.tags.clone(), snapshot, image: stamp };
        Ledger::begin(image, head).map_err(|error| ProviderError::transient("noting what is sent, beside the image", error))
    }

    /// Sends a block, unless it is zeros; answers what the snapshot has of it.
    async fn send_block(
        &self,
        client: &Client,
        snapshot: &str,
        source: &Arc<Image>,
        index: u32,
        percent: i32,
    ) -> Result<Option<(u32, Sum)>, ProviderError> {
        let what = format!("writing block {index} of {snapshot}");
        let image = source.clone();
        let read = tokio::task::spawn_blocking(move || {
            let block = image.read(index)?;
            io::Result::Ok(block.map(|block| (sum(&block), block)))
        });
        let read = read.await.map_err(io::Error::other).and_then(|read| read);
        let Some((sum, block)) =
            read.map_err(|error| ProviderError::transient(format!("reading block {index} of the image"), error))?
        else {
            return Ok(None);
        };
        let at = i32::try_from(index).map_err(|error| ProviderError::Invalid(format!("{what}: {error}")))?;
        let call = || {
            let call = client.put_snapshot_block().snapshot_id(snapshot).block_index(at).progress(percent.clamp(0, 100));
            let call = call.data_length(i32::try_from(BLOCK_BYTES).unwrap_or(i32::MAX)).checksum(written(sum));
            call.checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256).block_data(ByteStream::from(block.clone())).send()
        };
        let answer = self.patiently(&what, call).await?;
        match answer.checksum {
            Some(other) if other != written(sum) => {
                let why = anyhow::anyhow!("AWS has a block with the checksum {other}, and {} was sent", written(sum));
                Err(ProviderError::transient(what, why))
            }
            _ => Ok(Some((index, sum))),
        }
    }

    /// Every block is there: AWS looks whether it has them all.
    async fn complete(&self, client: &Client, ledger: Ledger) -> Result<(), ProviderError> {
        let snapshot = ledger.head.snapshot.clone();
        let count = i32::try_from(ledger.sent.len()).unwrap_or(i32::MAX);
        if count == 0 {
            return Err(ProviderError::Invalid("the image holds nothing but zeros: make a file system on it first".to_owned()));
        }
        let all: Vec<u8> = ledger.sent.values().flatten().copied().collect();
        let call = || {
            let call = client.complete_snapshot().snapshot_id(&snapshot).changed_blocks_count(count).checksum(written(sum(&all)));
            let call = call.checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256);
            call.checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear).send()
        };
        if let Err(error) = self.patiently(&format!("completing {snapshot}"), call).await {
            // The answer to an earlier one may have been lost.
            let found = self.look_at_snapshot(&snapshot).await?;
            if !found.is_some_and(|found| found.state == SnapshotState::Completed) {
                return Err(error);
            }
        }
        ledger.end().map_err(|error| ProviderError::transient("removing the file beside the image", error))
    }
}

/// AWS takes no more blocks of a snapshot that it gave up.
fn given_up(error: ProviderError, ledger: &Path) -> ProviderError {
    let ProviderError::Invalid(why) = error else { return error };
    let mend = format!("if AWS has given the snapshot up, remove {} and begin again with a new token", ledger.display());
    ProviderError::Invalid(format!("{why}: {mend}"))
}

/// Why a ledger is not gone on with.
struct NotTheSame(String);

impl NotTheSame {
    fn of(self, image: &Path) -> ProviderError {
        ProviderError::Invalid(format!("writing {} as a snapshot: {}", image.display(), self.0))
    }
}
