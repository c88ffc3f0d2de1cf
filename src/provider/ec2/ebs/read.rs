//! Snapshots block by block: which they have, what is in one, and which differ.

use super::{BLOCK_BYTES, sum, written};
use crate::provider::ProviderError;
use crate::provider::ec2::Ec2;
use aws_sdk_ebs::operation::list_changed_blocks::ListChangedBlocksError;
use aws_sdk_ebs::types::ValidationExceptionReason;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks of one page, at most.
const PAGE: i32 = 10_000;
/// So often a block may come damaged.
const TRIES: u32 = 3;

/// A block that a snapshot has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// From the volume's start, in blocks.
    pub index: u32,
    /// With it AWS gives the block out; good for seven days.
    token: String,
}

/// All blocks that a snapshot has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// In the order of their indices.
    pub blocks: Vec<Block>,
    /// Of its volumes, in GiB at least.
    pub volume_gib: u64,
}

/// A block in which two snapshots differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlock {
    /// From the volume's start, in blocks.
    pub index: u32,
    /// That of the first snapshot, where it has one.
    pub first: Option<Block>,
    /// That of the second snapshot, where it has one.
    pub second: Option<Block>,
}

/// All blocks in which two snapshots differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlocks {
    /// In the order of their indices.
    pub blocks: Vec<ChangedBlock>,
    /// Of the second one's volumes, in GiB at least.
    pub volume_gib: u64,
}

impl Ec2 {
    /// The blocks that a completed snapshot has; the others are zeros.
    ///
    /// # Errors
    /// `Invalid` where there is no such snapshot, or it is still open.
    pub async fn list_blocks(&self, snapshot: &str) -> Result<Blocks, ProviderError> {
        let client = self.ebs_client().await;
        let (mut found, mut next) = (Blocks { blocks: Vec::new(), volume_gib: 0 }, None);
        loop {
            let call = || client.list_snapshot_blocks().snapshot_id(snapshot).max_results(PAGE).set_next_token(next.clone()).send();
            let page = self.patiently(&format!("listing the blocks of {snapshot}"), call).await?;
            check_block_size(snapshot, page.block_size())?;
            found.volume_gib = page.volume_size().and_then(|gib| gib.try_into().ok()).unwrap_or_default();
            found.blocks.extend(page.blocks().iter().filter_map(|it| block(it.block_index(), it.block_token())));
            // A page may be empty and have a next one all the same.
            next = page.next_token;
            if next.is_none() {
                found.blocks.sort_by_key(|block| block.index);
                return Ok(found);
            }
        }
    }

    /// The bytes of a block, as many as [`BLOCK_BYTES`].
    ///
    /// # Errors
    /// `Transient` where it came damaged more than twice; `Invalid` where the snapshot has no such block.
    pub async fn get_block(&self, snapshot: &str, block: &Block) -> Result<Vec<u8>, ProviderError> {
        let client = self.ebs_client().await;
        let what = format!("reading block {} of {snapshot}", block.index);
        let index = i32::try_from(block.index).unwrap_or(i32::MAX);
        let mut damage = String::new();
        for _ in 0..TRIES {
            let call = || client.get_snapshot_block().snapshot_id(snapshot).block_index(index).block_token(&block.token).send();
            let answer = self.patiently(&what, call).await?;
            let expected = answer.checksum.unwrap_or_default();
            match answer.block_data.collect().await {
                Ok(bytes) => {
                    let bytes = bytes.to_vec();
                    let got = written(sum(&bytes));
                    if bytes.len() == BLOCK_BYTES && got == expected {
                        return Ok(bytes);
                    }
                    damage = format!("{} bytes with the checksum {got} came, not {expected}", bytes.len());
                }
                Err(error) => damage = error.to_string(),
            }
            tracing::warn!(snapshot, block = block.index, damage, "a block came damaged: it is read again");
        }
        Err(ProviderError::transient(what, anyhow::Error::msg(damage)))
    }

    /// The blocks in which `second` differs from `first`. AWS compares only snapshots of one volume, or of volumes and snapshots that were
    /// made from one another.
    ///
    /// # Errors
    /// `Invalid` where AWS does not compare these two, or does not know one of them.
    pub async fn list_changed_blocks(&self, first: &str, second: &str) -> Result<ChangedBlocks, ProviderError> {
        let client = self.ebs_client().await;
        let unrelated = AtomicBool::new(false);
        let (mut found, mut next) = (ChangedBlocks { blocks: Vec::new(), volume_gib: 0 }, None);
        loop {
            let call = || {
                let call = client.list_changed_blocks().first_snapshot_id(first).second_snapshot_id(second);
                let answer = call.max_results(PAGE).set_next_token(next.clone()).send();
                async {
                    let answer = answer.await;
                    if let Err(error) = &answer
                        && let Some(ListChangedBlocksError::ValidationException(error)) = error.as_service_error()
                        && error.reason() == Some(&ValidationExceptionReason::UnrelatedSnapshots)
                    {
                        unrelated.store(true, Ordering::Relaxed);
                    }
                    answer
                }
            };
            let page = match self.patiently(&format!("comparing {first} and {second}"), call).await {
                Err(ProviderError::Invalid(_)) if unrelated.load(Ordering::Relaxed) => {
                    return Err(ProviderError::Invalid(format!(
                        "comparing {first} and {second}: AWS compares only snapshots of one volume and of its copies"
                    )));
                }
                page => page?,
            };
            check_block_size(second, page.block_size())?;
            found.volume_gib = page.volume_size().and_then(|gib| gib.try_into().ok()).unwrap_or_default();
            found.blocks.extend(page.changed_blocks().iter().filter_map(|it| {
                let of = |token| block(it.block_index(), token);
                let index = it.block_index()?.try_into().ok()?;
                Some(ChangedBlock { index, first: of(it.first_block_token()), second: of(it.second_block_token()) })
            }));
            next = page.next_token;
            if next.is_none() {
                found.blocks.sort_by_key(|block| block.index);
                return Ok(found);
            }
        }
    }
}

fn block(index: Option<i32>, token: Option<&str>) -> Option<Block> {
    Some(Block { index: index?.try_into().ok()?, token: token?.to_owned() })
}

fn check_block_size(snapshot: &str, bytes: Option<i32>) -> Result<(), ProviderError> {
    if bytes.and_then(|bytes| usize::try_from(bytes).ok()) == Some(BLOCK_BYTES) {
        return Ok(());
    }
    Err(ProviderError::Invalid(format!("the blocks of {snapshot} have {bytes:?} bytes, and only {BLOCK_BYTES} are understood")))
}
