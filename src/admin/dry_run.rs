//! `vm-service gc --dry-run`: says what the garbage collection would do now, and why; changes nothing.
//!
//! It gathers and plans as the loops do. What needs a second sighting or a direct look is told as such.

use crate::domain::plan::gc::plan_gc;
use crate::domain::plan::gc_cache::plan_gc_cache;
use crate::domain::plan::gc_volumes::plan_gc_volumes;
use crate::loops::{World, collect, collect_cache, collect_images, collect_volumes};
use crate::provider::Provider;
use chrono::{DateTime, Utc};
use std::io::Write;

/// One thing that would be done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Intention {
    /// Such as `terminate` or `expire`.
    pub action: &'static str,
    /// The machine, VM, task or volume.
    pub what: String,
    /// Why, in one sentence.
    pub why: String,
}

/// Looks at everything that the garbage collection looks at.
///
/// # Errors
/// A provider or the database cannot be read: nothing can be said.
pub async fn look(world: &World, now: DateTime<Utc>) -> anyhow::Result<Vec<Intention>> {
    let mut found = Vec::new();
    let mut add = |action, what: String, why: String| found.push(Intention { action, what, why });
    for (task, failure) in world.db.list_expired_tasks(now).await? {
        add("expire", format!("task {task}"), failure.detail);
    }
    for (vm, reason) in world.db.list_overdue_vms(now).await? {
        add("terminate", format!("VM {vm}"), format!("{reason}."));
    }
    for provider in world.providers.all() {
        machines(world, provider.as_ref(), now, &mut add).await?;
        volumes(world, provider.as_ref(), now, &mut add).await?;
        if provider.images().is_some() {
            for (image, why) in collect_images::decide(world, provider.as_ref(), now).await?.delete {
                add("delete", format!("image {}", image.provider_id), format!("{why}."));
            }
        }
    }
    Ok(found)
}

async fn machines(
    world: &World,
    provider: &dyn Provider,
    now: DateTime<Utc>,
    add: &mut impl FnMut(&'static str, String, String),
) -> anyhow::Result<()> {
    let decision = plan_gc(&collect::gather(world, provider, now).await?, now);
    let due = collect::list_due(world, provider, now).await?;
    for orphan in &due {
        add("terminate", format!("machine {}", orphan.provider_id), format!("It has no row: {}.", orphan.reason));
    }
    for (launch, machine) in decision.adopt {
        add("adopt", format!("machine {machine}"), format!("Launch {launch} has a row for it; its answer was lost."));
    }
    for (vm, machine) in decision.dead {
        add("give up", format!("VM {vm}"), format!("The provider says that its machine {machine} is dead."));
    }
    for (vm, machine) in decision.awake {
        let why = format!("It is in the reserve, and its machine {machine} runs; a direct look decides.");
        add("terminate", format!("VM {vm}"), why);
    }
    for vm in decision.missing {
        add("watch", format!("VM {vm}"), "This list does not show its machine; one more and a direct look decide.".to_owned());
    }
    for (vm, machine, since) in decision.lost {
        add("give up", format!("VM {vm}"), format!("No list since {since} shows its machine {machine}; a direct look decides."));
    }
    let is_due = |machine: &str| due.iter().any(|orphan| orphan.provider_id == machine);
    for rowless in decision.rowless.into_iter().filter(|rowless| !is_due(&rowless.machine.provider_id)) {
        let machine = format!("machine {}", rowless.machine.provider_id);
        match rowless.ends_at {
            Some(ends_at) => {
                add("leave", machine, format!("Its row may have been lost and a job may run on it: it ends at {ends_at}."))
            }
            None if decision.quarantine.contains(&rowless.machine.provider_id) => {
                add("terminate", machine, "It has no row for the second time: after a direct look it is ended.".to_owned());
            }
            None => add("watch", machine, "It has no row; seen once more, it is ended.".to_owned()),
        }
    }
    for remains in decision.clear {
        add("clear", format!("machine {remains}"), "It is dead, and its remains are still there.".to_owned());
    }
    Ok(())
}

async fn volumes(
    world: &World,
    provider: &dyn Provider,
    now: DateTime<Utc>,
    add: &mut impl FnMut(&'static str, String, String),
) -> anyhow::Result<()> {
    let decision = plan_gc_volumes(&collect_volumes::gather(world, provider).await?, now);
    for (row, volume) in decision.bind {
        add("adopt", format!("volume {volume}"), format!("Row {row} waits for it; its answer was lost."));
    }
    for volume in decision.adopt {
        let why = format!("It has no row: project {} gets it back, in quarantine.", volume.tags.lineage.project_id);
        add("adopt", format!("volume {}", volume.provider_id), why);
    }
    for (row, volume) in decision.lost {
        add("end", format!("volume {row}"), format!("No list shows {volume} any more; a direct look decides."));
    }
    let Some(keeps) = provider.volumes() else { return Ok(()) };
    let decision = plan_gc_cache(&collect_cache::gather(world, provider, keeps, now).await?, now);
    for (volume, reason) in decision.volumes {
        add("delete", format!("volume {volume}"), format!("{reason}."));
    }
    for (generation, reason) in decision.generations {
        add("delete", format!("good state {generation}"), format!("{reason}."));
    }
    Ok(())
}

/// Prints one line each, or JSON.
///
/// # Errors
/// `out` is closed.
pub fn print(found: &[Intention], json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, found)?;
        writeln!(out)?;
        return Ok(());
    }
    for Intention { action, what, why } in found {
        writeln!(out, "{action:<10} {what}: {why}")?;
    }
    if found.is_empty() {
        writeln!(out, "Nothing to do.")?;
    }
    Ok(())
}
