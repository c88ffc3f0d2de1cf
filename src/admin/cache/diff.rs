//! `vm-service cache diff A B`: which bytes of a cache volume changed between two generations, and how many in all.
//!
//! Changes are found in whole blocks of the provider (EC2: 512 KiB), so a changed byte counts as a changed block.

use crate::db::Db;
use crate::db::seeds::Home;
use crate::domain::ids::GenerationId;
use crate::provider::Provider as _;
use crate::provider::onhost::OnHost;
use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use serde::Serialize;
use std::io::Write;
use std::str::FromStr;

/// What a person calls a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its row.
    Generation(GenerationId),
    /// By EC2's name of its snapshot, such as `snap-0123456789abcdef0`: also where the row is gone.
    Snapshot(String),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.strip_prefix("snap-").is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric())) {
            return Ok(Self::Snapshot(text.to_owned()));
        }
        text.parse()
            .map(Self::Generation)
            .map_err(|_| format!("\"{text}\" is neither the id of a generation nor a snapshot (snap-…)"))
    }
}

/// The rows of generations.
#[async_trait]
pub trait Generations: Send + Sync {
    /// Where this generation is kept; none: no row has this id.
    ///
    /// # Errors
    /// The rows cannot be read.
    async fn find_generation(&self, id: GenerationId) -> anyhow::Result<Option<Home>>;
}

#[async_trait]
impl Generations for Db {
    async fn find_generation(&self, id: GenerationId) -> anyhow::Result<Option<Home>> {
        self.find_generation_home(id).await.context("looking the generation up")
    }
}

/// A run of bytes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Its first byte.
    pub from: u64,
    /// How many.
    pub bytes: u64,
}

/// In what two generations differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Bytes of the second one's volume.
    pub volume_bytes: u64,
    /// In pieces of so many bytes they were compared.
    pub block_bytes: u64,
    /// Changed bytes in all.
    pub changed_bytes: u64,
    /// In order; none touches another.
    pub ranges: Vec<Range>,
}

impl Changes {
    /// Of the changed blocks' indices, in order.
    pub fn of_blocks(volume_bytes: u64, block_bytes: u64, indices: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges: Vec<Range> = Vec::new();
        for index in indices {
            let from = u64::from(index) * block_bytes;
            match ranges.last_mut() {
                Some(last) if last.from + last.bytes == from => last.bytes += block_bytes,
                _ => ranges.push(Range { from, bytes: block_bytes }),
            }
        }
        let changed_bytes = ranges.iter().map(|range| range.bytes).sum();
        Self { volume_bytes, block_bytes, changed_bytes, ranges }
    }
}

/// What can compare two generations of one provider in one place.
#[async_trait]
pub trait Compare: Send + Sync {
    /// Whether it knows generations that are kept there.
    fn can_read(&self, provider: &str, place: &str) -> bool;

    /// In what `second` differs from `first`, by the provider's own names.
    ///
    /// # Errors
    /// One of them is not there, or they cannot be compared.
    async fn compare(&self, first: &str, second: &str) -> anyhow::Result<Changes>;
}

/// In pieces of the disk's clusters, where the newer one still stands on the older.
#[async_trait]
impl Compare for OnHost {
    fn can_read(&self, provider: &str, place: &str) -> bool {
        (provider, place) == (self.name(), self.place())
    }

    async fn compare(&self, first: &str, second: &str) -> anyhow::Result<Changes> {
        let (volume_bytes, changed) = self.changed_since(first, second).await?.with_context(|| {
            format!("{second} does not stand on {first}: name them the other way round, or take one that was made later from it")
        })?;
        let ranges: Vec<Range> = changed.into_iter().map(|(from, bytes)| Range { from, bytes }).collect();
        let changed_bytes = ranges.iter().map(|range| range.bytes).sum();
        Ok(Changes { volume_bytes, block_bytes: crate::provider::onhost::CLUSTER_BYTES, changed_bytes, ranges })
    }
}

#[cfg(feature = "ec2")]
#[async_trait]
impl Compare for crate::provider::ec2::Ec2 {
    fn can_read(&self, provider: &str, place: &str) -> bool {
        (provider, place) == (self.name(), self.place())
    }

    async fn compare(&self, first: &str, second: &str) -> anyhow::Result<Changes> {
        let changed = self.list_changed_blocks(first, second).await?;
        let block_bytes = crate::provider::ec2::ebs::BLOCK_BYTES as u64;
        Ok(Changes::of_blocks(changed.volume_gib << 30, block_bytes, changed.blocks.iter().map(|block| block.index)))
    }
}

/// Compares two generations. Bare names of snapshots are EC2's, in `region`.
///
/// # Errors
/// One of them is not known, or they are kept in different places, or nothing here can compare them; one sentence each.
pub async fn diff(
    first: &Named,
    second: &Named,
    rows: &dyn Generations,
    region: &str,
    able: &[&dyn Compare],
) -> anyhow::Result<Changes> {
    let (first, second) = (kept(first, rows, region).await?, kept(second, rows, region).await?);
    let there = |kept: &Home| format!("{} is kept by {} in {}", kept.provider_id, kept.provider, kept.place);
    ensure!(
        (&first.provider, &first.place) == (&second.provider, &second.place),
        "only generations of one place can be compared: {}, and {}",
        there(&first),
        there(&second)
    );
    let Some(able) = able.iter().find(|it| it.can_read(&first.provider, &first.place)) else {
        bail!("{}: this command cannot read it there", there(&first));
    };
    able.compare(&first.provider_id, &second.provider_id).await
}

async fn kept(named: &Named, rows: &dyn Generations, region: &str) -> anyhow::Result<Home> {
    match named {
        Named::Snapshot(id) => Ok(Home { provider: "ec2".to_owned(), place: region.to_owned(), provider_id: id.clone() }),
        Named::Generation(id) => rows.find_generation(*id).await?.with_context(|| format!("there is no generation {id}")),
    }
}

/// Prints a line for each run of changed bytes and one for all, or JSON.
///
/// # Errors
/// `out` is closed.
pub fn print(changes: &Changes, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, changes)?;
        writeln!(out)?;
        return Ok(());
    }
    for Range { from, bytes } in &changes.ranges {
        writeln!(out, "bytes {from} to {}: {}", from + bytes - 1, readable(*bytes))?;
    }
    let blocks = changes.changed_bytes / changes.block_bytes.max(1);
    let (changed, volume, block) = (readable(changes.changed_bytes), readable(changes.volume_bytes), readable(changes.block_bytes));
    writeln!(out, "{changed} of {volume} changed: {blocks} blocks of {block} in {} places.", changes.ranges.len())?;
    Ok(())
}

/// In KiB, MiB or GiB, with one digit after the point.
fn readable(bytes: u64) -> String {
    let tenths = |unit: u64| bytes.saturating_mul(10) / unit;
    let (unit, name) = match bytes {
        _ if bytes >= 1 << 30 => (1 << 30, "GiB"),
        _ if bytes >= 1 << 20 => (1 << 20, "MiB"),
        _ => (1 << 10, "KiB"),
    };
    match tenths(unit) {
        whole if whole % 10 == 0 => format!("{} {name}", whole / 10),
        parts => format!("{}.{} {name}", parts / 10, parts % 10),
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
