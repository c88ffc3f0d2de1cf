//! `vm-service cache seed`: a finished raw image of a cache volume becomes a snapshot of a project's lineage, without any machine.
//!
//! The image is what a volume of that lineage holds: an ext4 file system with the engine's store. Nothing in it is looked at.
//!
//! Not here: the blocks and what happens when it is interrupted (`provider::ec2::ebs`); the making of the image.

use crate::domain::ids::{GenerationId, InstallationId};
use crate::domain::lineage::Lineage;
use crate::domain::tags::SnapshotTags;
use crate::provider::ec2::Ec2;
use crate::provider::ec2::ebs::Progress;
use crate::provider::volumes::{SnapshotSpec, SnapshotState, Volumes as _};
use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at a snapshot that AWS is completing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Completing takes minutes for many blocks.
const COMPLETED_WITHIN: Duration = Duration::from_secs(3600);

/// What the snapshot of this image is to be: what an interrupted run on it was told, or else `fresh`, a new generation of this lineage.
///
/// # Errors
/// The interrupted run was for another lineage or installation.
pub fn spec_for(
    image: &Path,
    installation: InstallationId,
    lineage: &Lineage,
    fresh: GenerationId,
) -> anyhow::Result<SnapshotSpec> {
    let begun = Ec2::unfinished_snapshot(image).with_context(|| format!("reading {}.upload", image.display()))?;
    let Some(begun) = begun else {
        let tags = SnapshotTags { installation, generation: fresh, lineage: lineage.clone() };
        return Ok(SnapshotSpec { client_token: format!("seed-{fresh}"), tags });
    };
    let Lineage { project_id, trust, engine } = &begun.tags.lineage;
    ensure!(
        (begun.tags.installation, &begun.tags.lineage) == (installation, lineage),
        "{}.upload is of an interrupted run for {trust} project {project_id} on {} with the {} store of engine {}: go on with that, \
         or remove the file",
        image.display(),
        engine.architecture,
        engine.store,
        engine.major
    );
    Ok(begun)
}

/// Writes the image as a snapshot, waits until volumes can be made of it, and answers its name. Run again with the same image and `spec`
/// after an interruption, it goes on. `tell` hears of each block.
///
/// # Errors
/// One sentence; what was sent by then is not sent again.
pub async fn seed_snapshot(
    ec2: &Ec2,
    image: &Path,
    spec: &SnapshotSpec,
    tell: &(dyn Fn(Progress) + Send + Sync),
) -> anyhow::Result<String> {
    let snapshot = ec2.write_snapshot(image, spec, tell).await?;
    let began = Instant::now();
    loop {
        let found = ec2.find_snapshot(&snapshot).await.with_context(|| format!("looking whether {snapshot} is completed"))?;
        match found.map(|found| found.state) {
            Some(SnapshotState::Completed) => return Ok(snapshot),
            Some(SnapshotState::Failed) | None => bail!("AWS could not complete {snapshot}: begin again with a new token"),
            Some(SnapshotState::Pending) if began.elapsed() >= COMPLETED_WITHIN => {
                bail!("{snapshot} has every block, and AWS has not completed it in an hour: look at it again later")
            }
            Some(SnapshotState::Pending) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Shows a person at a terminal how far it is.
pub struct Bar(ProgressBar);

impl Bar {
    /// On standard error.
    ///
    /// # Errors
    /// Never: the template is ours.
    pub fn new() -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {percent} % of {len} blocks, {msg}, {eta} left")?;
        Ok(Self(ProgressBar::new(0).with_style(style)))
    }

    /// Shows it.
    pub fn tell(&self, progress: Progress) {
        self.0.set_length(progress.blocks);
        self.0.set_position(progress.looked_at);
        self.0.set_message(format!("{} MiB sent", progress.sent_bytes() >> 20));
    }
}

/// Tells a log how far it is: a line for each whole percent.
pub struct Teller<W> {
    /// And the percent that was told last.
    out: Mutex<(W, Option<u64>)>,
}

impl<W: Write> Teller<W> {
    /// Tells there.
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new((out, None)) }
    }

    /// Tells it, if it is news.
    pub fn tell(&self, progress: Progress) {
        let percent = (progress.looked_at * 100).checked_div(progress.blocks).unwrap_or(100);
        let mut told = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if told.1 == Some(percent) {
            return;
        }
        told.1 = Some(percent);
        let sent_mib = progress.sent_bytes() >> 20;
        // Nobody listens any more: the snapshot is written all the same.
        drop(writeln!(told.0, "{percent} %: {} of {} blocks looked at, {sent_mib} MiB sent", progress.looked_at, progress.blocks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_percent_is_told_once() {
        let mut text = Vec::new();
        let teller = Teller::new(&mut text);
        for looked_at in [0, 0, 1, 2, 200, 399, 400] {
            teller.tell(Progress { looked_at, blocks: 400, sent: looked_at / 2 });
        }
        let expected = "0 %: 0 of 400 blocks looked at, 0 MiB sent\n50 %: 200 of 400 blocks looked at, 50 MiB sent\n\
                        99 %: 399 of 400 blocks looked at, 99 MiB sent\n100 %: 400 of 400 blocks looked at, 100 MiB sent\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
