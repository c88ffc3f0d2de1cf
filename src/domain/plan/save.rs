//! What a save of settings would do: which VMs start and end because of it, what the VMs that wait cost a month, and which limits
//! would be below what is there. The scaler's own plan decides, once under the settings in force and once under those proposed.
//!
//! Not here: what differs between the two (`domain::settings_diff`); whether the provider could work with them (`Provider::preflight`).

use super::room::{Kind, Room};
use super::scale::{LINGER, Pool, Snapshot, plan_scale};
use crate::domain::ids::VmId;
use crate::domain::rate::Allowance;
use crate::domain::schedule_preview::{PoolPreview, preview};
use crate::domain::settings::{Budget, ProviderChoice, Settings};
use crate::domain::settings_check::{CheckFinding, Cost, Effect, PoolEffect, Severity};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// Schedules repeat each week.
const WEEK: TimeDelta = TimeDelta::days(7);
/// Of a month of 730 hours.
const HOURS_A_MONTH: u128 = 730;
const HOURS_A_WEEK: u128 = 7 * 24;

/// What there is now, whatever the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// VMs that are not terminated, and machines without a row.
    pub vms: u32,
    /// VMs asked for and not ready yet.
    pub in_flight: u32,
    /// Cache volumes that are not deleted.
    pub volumes: u32,
    /// GPUs of those VMs.
    pub gpus: u32,
    /// VMs at work, of the project that has most.
    pub busiest_project: u32,
}

impl Taken {
    /// What these limits would leave.
    pub fn room(&self, budget: Budget, settings: &Settings) -> Room {
        Room {
            vms: budget.vms.saturating_sub(self.vms),
            in_flight: budget.in_flight.saturating_sub(self.in_flight),
            gpus: settings.limits.gpus.map(|gpus| gpus.saturating_sub(self.gpus)),
        }
    }
}

/// Decides what the save would do; both snapshots are of the same moment.
pub fn plan_save(before: &Snapshot<'_>, after: &Snapshot<'_>) -> Effect {
    let (old, new) = (before.limits.settings, after.limits.settings);
    let now = after.limits.now;
    let (starts_anyway, ends_anyway) = count(before);
    let (starts, ends) = count(after);
    let mut kinds: BTreeSet<Kind> = old.preallocated.kinds().into_iter().chain(new.preallocated.kinds()).collect();
    kinds.extend(starts.keys().chain(ends.keys()).chain(after.idle.keys()).cloned());
    let of = |counts: &BTreeMap<Kind, u32>, kind: &Kind| counts.get(kind).copied().unwrap_or_default();
    let outdated = |pool: &Pool, kind: &Kind| number(pool.get(kind).map_or(0, |vms| vms.iter().filter(|vm| vm.outdated).count()));
    let effect = |kind: Kind| {
        let supply = after.limits.supply.get(&kind).cloned().unwrap_or_default();
        PoolEffect {
            kept_before: old.preallocated.base(kind.0, &kind.1, now),
            kept_after: new.preallocated.base(kind.0, &kind.1, now),
            free: supply.available + supply.in_flight,
            starts: of(&starts, &kind).saturating_sub(of(&starts_anyway, &kind)),
            ends: of(&ends, &kind).saturating_sub(of(&ends_anyway, &kind)),
            replaced: outdated(&after.idle, &kind).saturating_sub(outdated(&before.idle, &kind)),
            executor: kind.0,
            resource_class: kind.1,
        }
    };
    let changes = |it: &PoolEffect| it.kept_before != it.kept_after || it.starts + it.ends + it.replaced > 0;
    Effect { pools: kinds.into_iter().map(effect).filter(changes).collect(), cost: cost(old, new, now) }
}

/// VMs that the scaler would start, and those that it would end or stop, by kind. A spare VM lingers for a while first; and the call
/// budget of the provider spreads over time what is decided now.
fn count(snapshot: &Snapshot<'_>) -> (BTreeMap<Kind, u32>, BTreeMap<Kind, u32>) {
    let mut soon = snapshot.clone();
    soon.limits.now += LINGER;
    soon.limits.allowance = Allowance::UNLIMITED;
    let decision = plan_scale(&soon);
    let (mut starts, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for launch in decision.launches {
        *starts.entry((launch.executor, launch.resource_class)).or_default() += launch.count;
    }
    let leaving = decision.drains.iter().chain(&decision.drops).map(|(vm, _)| vm).chain(&decision.stops);
    let leaving: BTreeSet<VmId> = leaving.copied().collect();
    for (kind, vms) in snapshot.idle.iter().chain(&snapshot.reserve) {
        *ends.entry(kind.clone()).or_default() += number(vms.iter().filter(|vm| leaving.contains(&vm.id)).count());
    }
    (starts, ends)
}

fn cost(old: &Settings, new: &Settings, now: DateTime<Utc>) -> Option<Cost> {
    let weeks = [old, new].map(|settings| (settings, preview(&settings.preallocated, now, WEEK)));
    let kept = |week: &[PoolPreview]| -> BTreeSet<String> {
        week.iter().filter(|pool| pool.vm_minutes(WEEK) > 0).map(|pool| pool.resource_class.clone()).collect()
    };
    let names: BTreeSet<String> = weeks.iter().flat_map(|(_, week)| kept(week)).collect();
    // Without a price of its own the class has that of the other side: a price that is first set is no rise.
    let price = |name: &String| {
        [new, old]
            .iter()
            .find_map(|settings| settings.resource_classes.get(name)?.price_per_hour)
            .map(|price| u128::from(price.micros()))
    };
    let (priced, unpriced): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| price(name).is_some());
    if priced.is_empty() {
        return None;
    }
    let [before, after] = weeks.map(|(_, week)| {
        let micros: u128 =
            week.iter().map(|pool| u128::from(pool.vm_minutes(WEEK)) * price(&pool.resource_class).unwrap_or(0) / 60).sum();
        let cents = micros * HOURS_A_MONTH / HOURS_A_WEEK / 10_000;
        f64::from(u32::try_from(cents).unwrap_or(u32::MAX)) / 100.0
    });
    Some(Cost { before, after, unpriced })
}

/// What an operator should know before a save: limits that would be below what is there, and what would stand still.
pub fn warnings(before: &Snapshot<'_>, after: &Snapshot<'_>, taken: &Taken, budget: Budget) -> Vec<CheckFinding> {
    let (old, new) = (before.limits.settings, after.limits.settings);
    let mut found = Vec::new();
    let mut warn =
        |what: &str, detail: String| found.push(CheckFinding { severity: Severity::Warning, what: what.to_owned(), detail });
    let mut limit = |what: &str, limit: u32, there: u32, of: &str| {
        if there > limit {
            warn(
                what,
                format!(
                    "The limit would be {limit}, and there are {there} {of}: none is ended for it, and no other comes before there are fewer."
                ),
            );
        }
    };
    limit("limits.vms", budget.vms, taken.vms, "VMs");
    limit("limits.in_flight", budget.in_flight, taken.in_flight, "VMs in flight");
    limit("limits.volumes", budget.volumes, taken.volumes, "cache volumes");
    limit("limits.gpus", new.limits.gpus.unwrap_or(u32::MAX), taken.gpus, "GPUs in use");
    limit("limits.vms_per_project", new.limits.vms_per_project.unwrap_or(u32::MAX), taken.busiest_project, "VMs of one project");
    let mut of_class: BTreeMap<&str, u32> = BTreeMap::new();
    for ((_, class), supply) in &after.limits.supply {
        *of_class.entry(class).or_default() += supply.live;
    }
    for (name, class) in &new.resource_classes {
        let there = of_class.get(name.as_str()).copied().unwrap_or_default();
        limit(&format!("resource_classes.{name}.limit"), class.limit.unwrap_or(u32::MAX), there, "VMs of the class");
    }
    let kept: u32 = new.preallocated.kinds().iter().map(|kind| new.preallocated.base(kind.0, &kind.1, after.limits.now)).sum();
    if kept > budget.vms {
        warn("preallocated", format!("{kept} VMs are to wait for jobs, and the limit of all VMs is {}.", budget.vms));
    }
    for name in old.resource_classes.keys().filter(|name| !new.resource_classes.contains_key(*name)) {
        let waiting: u32 = after.waiting.iter().filter(|((_, class), _)| class == name).map(|(_, tasks)| tasks).sum();
        warn(
            "resource_classes",
            format!("The class {name} would be gone: tasks that name it are refused; {waiting} wait for it now."),
        );
    }
    let unknown =
        new.preallocated.kinds().into_iter().map(|(_, class)| class).filter(|class| !new.resource_classes.contains_key(class));
    for name in unknown.collect::<BTreeSet<_>>() {
        warn("preallocated", format!("There is no resource class {name}: no VM is kept free of it."));
    }
    if new.provider != old.provider && taken.vms > 0 {
        warn("provider", format!("{} VMs are there now: those of the provider before stay in care until they end.", taken.vms));
    }
    if new.provider == ProviderChoice::None {
        warn("provider", "No VM would be launched: tasks wait.".to_owned());
    }
    if new.pause_launches && !old.pause_launches {
        warn("pause_launches", "No VM would be launched: tasks that find none free wait.".to_owned());
    }
    if new.refuse_new_tasks && !old.refuse_new_tasks {
        warn("refuse_new_tasks", "New tasks would be refused.".to_owned());
    }
    found
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
