//! The blocks of snapshots, over the EBS direct API: an image is written as a snapshot without any machine, and two snapshots are compared
//! without any volume. What is read is what was written, or an error: every block goes with its checksum, both ways.
//!
//! A *block* is 512 KiB of a volume, by its index from the volume's start; a block that a snapshot does not have is zeros. A snapshot that
//! is being written is *open*; nothing can be read of it, and no volume be made of it, before it is completed.
//!
//! | file | idea |
//! | --- | --- |
//! | `image` | a raw image with holes, as blocks |
//! | `ledger` | the file beside an image that says what of it has been sent |
//! | `write` | an image becomes a snapshot |
//! | `read` | lists, blocks, and what differs between two snapshots |
//! | `patience` | one call, until it is answered |
//!
//! Reads: a file on this host; snapshots. Writes: the ledger; open snapshots. Calls: EBS direct. Runs: from `admin`, by an operator's
//! command: it may take hours, so calls are repeated in here, which the loops' calls never are.
//!
//! Sources: <https://docs.aws.amazon.com/ebs/latest/userguide/writesnapshots.html>,
//! <https://docs.aws.amazon.com/ebs/latest/userguide/readsnapshots.html>.

mod image;
mod ledger;
mod patience;
mod read;
mod write;

pub use read::{Block, Blocks, ChangedBlock, ChangedBlocks};
pub use write::Progress;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// Of a block, or of all of them.
type Sum = [u8; 32];

fn sum(of: &[u8]) -> Sum {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, of).as_ref());
    sum
}

/// As it stands on the wire.
fn written(sum: Sum) -> String {
    BASE64.encode(sum)
}
