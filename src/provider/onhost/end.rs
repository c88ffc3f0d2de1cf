//! Ends machines: afterwards no process, no disk, no folder and no bound port of them is left; repeated at any line, it goes on.
//!
//! QEMU is asked first, then killed; the lock `alive` says when the last process is gone.
//! Calls: QMP, signals. Writes: removes the machine's folder. Not here: starting (`launch`).

use super::folder::is_provider_id;
use super::keeper::{self, PROCESS};
use super::process::Identity;
use super::qmp::Qmp;
use super::{OnHost, blocking};
use crate::provider::ProviderError;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// For a launch of the same machine that is under way.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const QUIT_DEADLINE: Duration = Duration::from_millis(500);
/// From the signal on; the kernel frees the memory of a large VM in well under a second.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn terminate(on_host: &OnHost, provider_ids: &[String]) -> Result<(), ProviderError> {
    let ends = provider_ids.iter().map(|id| async move {
        terminate_one(on_host, id).await.map_err(|error| ProviderError::transient(format!("ending {id}"), error))
    });
    futures::future::join_all(ends).await.into_iter().collect()
}

async fn terminate_one(on_host: &OnHost, id: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let record = if is_provider_id(id) { on_host.folders.record(id)? } else { None };
        if record.is_none_or(|record| record.tags.installation != on_host.config.installation) {
            return Ok(());
        }
        if let Some(lock) = on_host.folders.try_lock_launch(id)? {
            end(on_host, id, &lock, true).await?;
            let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(provider_id = %id, milliseconds, "machine ended");
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < LOCK_DEADLINE, "it is still being started");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends what runs and removes the folder. The lock is only there to be held.
pub(super) async fn end(on_host: &OnHost, id: &str, _held: &File, spent: bool) -> anyhow::Result<()> {
    let folder = on_host.folders.machine(id);
    if keeper::is_alive(&folder)? {
        let asked = async { Qmp::connect(&folder, QUIT_DEADLINE).await?.quit(QUIT_DEADLINE).await };
        if let Err(error) = asked.await {
            tracing::debug!(provider_id = %id, error = format!("{error:#}"), "QEMU is killed, it was not to be asked");
        }
        if !is_gone(&folder, QUIT_DEADLINE).await? {
            if let Some(identity) = identity(&folder) {
                identity.kill();
            }
            anyhow::ensure!(is_gone(&folder, GONE_DEADLINE).await?, "its processes do not end");
        }
    }
    let (folders, id) = (on_host.folders.clone(), id.to_owned());
    blocking(move || folders.remove(&id, spent)).await
}

fn identity(folder: &Path) -> Option<Identity> {
    serde_json::from_slice(&std::fs::read(folder.join(PROCESS)).ok()?).ok()
}

async fn is_gone(folder: &Path, deadline: Duration) -> anyhow::Result<bool> {
    let began = Instant::now();
    while keeper::is_alive(folder)? {
        if began.elapsed() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(true)
}
