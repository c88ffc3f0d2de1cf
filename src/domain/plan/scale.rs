//! Keeps the base: so many VMs of a kind stay free, in addition to those that jobs have or wait for, and each is replaced by a fresh one
//! at least once a day, replacement first.
//!
//! A free VM is *stale* when it was launched before the last cycle, has used up three quarters of the time it may idle, or is made of
//! another image or class than a new one would be. A free VM is *spare* when it is neither waited for nor part of the base. Spare VMs
//! that are not stale fill the *reserve*, where they are stopped; what it lacks is launched as the base is, and its VMs are replaced as
//! those of the base are.
//!
//! Not here: VMs for waiting tasks (`assign`); what a base is (`domain::preallocated`).

use super::room::{Kind, Launch, Limits, Planned};
use crate::domain::ids::VmId;
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;

/// How long a spare VM stays for a job that follows at once.
pub const LINGER: TimeDelta = TimeDelta::seconds(60);

/// A free VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The VM.
    pub id: VmId,
    /// Since when it is free.
    pub since: DateTime<Utc>,
    /// When its launch was decided.
    pub made_at: DateTime<Utc>,
    /// Made of another image or class than a new one would be.
    pub outdated: bool,
}

/// VMs without a task by kind, oldest first, without held ones.
pub type Pool = BTreeMap<Kind, Vec<Idle>>;

/// What a decision is made of.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// What limits launches; its settings are those in force.
    pub limits: Limits<'a>,
    /// Free VMs.
    pub idle: Pool,
    /// VMs that are stopped, or on their way to it.
    pub reserve: Pool,
    /// Whether the provider can stop machines.
    pub keeps_reserve: bool,
    /// Tasks that wait for a VM and may have one, by kind.
    pub waiting: BTreeMap<Kind, u32>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In order.
    pub launches: Vec<Launch>,
    /// VMs that are taken out of the pool, each with its reason.
    pub drains: Vec<(VmId, &'static str)>,
    /// VMs that are taken out of the pool into the reserve.
    pub stops: Vec<VmId>,
    /// VMs that are taken out of the reserve, each with its reason.
    pub drops: Vec<(VmId, &'static str)>,
}

/// Decides.
pub fn plan_scale(snapshot: &Snapshot<'_>) -> Decision {
    let Snapshot { limits, idle, waiting, .. } = snapshot;
    let mut decision = Decision::default();
    let mut planned = Planned::new(limits.clone());
    // Tasks go first: what they still need of the limits is left to them.
    planned.leave(waiting.iter().map(|(kind, tasks)| tasks.saturating_sub(free(&planned, kind))).sum());
    let mut replacing = limits.settings.preallocated.cycle_at_a_time;
    for kind in kinds(snapshot) {
        let none = Vec::new();
        let pool = idle.get(&kind).unwrap_or(&none);
        let base = limits.settings.preallocated.base(kind.0, &kind.1, limits.now);
        let (stale, fresh): (Vec<&Idle>, Vec<&Idle>) = pool.iter().partition(|vm| base > 0 && is_stale(vm, limits));
        let tasks = waiting.get(&kind).copied().unwrap_or_default();
        // Replacement first: for a while there are more than the base.
        let surge = number(stale.len()).min(base).min(replacing);
        let reserve = Reserve::of(snapshot, &kind, replacing - surge);
        let have = free(&planned, &kind).saturating_sub(tasks);
        for _ in have..base + surge + reserve.lacks {
            if planned.one_more(&kind, None).is_err() {
                break;
            }
        }
        // A kind without room for a replacement leaves the turn to the others.
        replacing -= free(&planned, &kind).saturating_sub(tasks).saturating_sub(base).min(surge + reserve.renews);
        let spare = number(pool.len()).saturating_sub(tasks).saturating_sub(base) as usize;
        decision.drains.extend(stale.iter().take(spare).map(|vm| (vm.id, "a fresh one took its place")));
        let (fit, unfit): (Vec<&Idle>, Vec<&Idle>) = fresh.into_iter().partition(|vm| !is_stale(vm, limits));
        let spare = spare.saturating_sub(stale.len());
        let stops = spare.min(fit.len()).min(reserve.lacks as usize);
        decision.stops.extend(fit[..stops].iter().map(|vm| vm.id));
        let lingered = unfit.iter().chain(&fit[stops..]).filter(|vm| limits.now - vm.since >= LINGER);
        decision.drains.extend(lingered.take(spare - stops).map(|vm| (vm.id, "it is not needed any more")));
        decision.drops.extend(reserve.drops);
    }
    decision.launches = planned.into_launches();
    decision
}

/// What becomes of one kind's reserve.
struct Reserve {
    /// So many more are to be stopped.
    lacks: u32,
    /// Of them, so many in the place of stale ones.
    renews: u32,
    drops: Vec<(VmId, &'static str)>,
}

impl Reserve {
    fn of(snapshot: &Snapshot<'_>, kind: &Kind, replacing: u32) -> Self {
        let limits = &snapshot.limits;
        let class = limits.settings.resource_classes.get(&kind.1).filter(|_| snapshot.keeps_reserve);
        let size = class.map_or(0, |class| class.reserve.size(kind.0));
        let none = Vec::new();
        let pool = snapshot.reserve.get(kind).unwrap_or(&none);
        let (stale, fresh): (Vec<&Idle>, Vec<&Idle>) = pool.iter().partition(|vm| is_stale(vm, limits));
        let renews = number(stale.len()).min(size.saturating_sub(number(fresh.len()))).min(replacing);
        let lacks = size.saturating_sub(number(pool.len())) + renews;
        let replaced = stale.iter().map(|vm| (vm.id, "a fresh one took its place in the reserve"));
        let leaving = replaced.chain(fresh.iter().map(|vm| (vm.id, "the reserve is smaller now")));
        let drops = leaving.take(number(pool.len()).saturating_sub(size) as usize).collect();
        Self { lacks, renews, drops }
    }
}

const EXECUTORS: [Executor; 2] = [Executor::Machine, Executor::RemoteDocker];

/// VMs of the kind that are free or on their way.
fn free(planned: &Planned<'_>, kind: &Kind) -> u32 {
    let supply = planned.supply(kind);
    supply.in_flight + supply.available
}

fn kinds(snapshot: &Snapshot<'_>) -> Vec<Kind> {
    let settings = snapshot.limits.settings;
    let mut kinds = settings.preallocated.kinds();
    let reserved = settings.resource_classes.keys().flat_map(|class| EXECUTORS.map(|executor| (executor, class.clone())));
    kinds.extend(reserved.chain(snapshot.idle.keys().cloned()).chain(snapshot.reserve.keys().cloned()));
    kinds.sort();
    kinds.dedup();
    kinds
}

fn is_stale(vm: &Idle, limits: &Limits<'_>) -> bool {
    let settings = limits.settings;
    let before_cycle = settings.preallocated.last_cycle(limits.now).is_some_and(|cycle| vm.made_at < cycle);
    vm.outdated || before_cycle || limits.now - vm.since >= settings.timeouts.vm_idle() * 3 / 4
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::room::{Room, Supply};
    use super::*;
    use crate::domain::rate::Allowance;
    use crate::domain::settings::{ProviderChoice, Settings};
    use uuid::Uuid;

    /// Noon; the cycle is at four in the morning.
    fn noon() -> DateTime<Utc> {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn kind() -> Kind {
        (Executor::Machine, "medium".to_owned())
    }

    fn settings(base: u32) -> Settings {
        let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        settings.preallocated.machine = base;
        settings
    }

    /// `free` VMs, each launched and free since `hours` before noon, and `in_flight` on their way.
    fn snapshot(settings: &Settings, free: u32, hours: i64, in_flight: u32) -> Snapshot<'_> {
        let since = noon() - TimeDelta::hours(hours);
        let idle = (0..free).map(|n| Idle { id: id(n), since, made_at: since, outdated: false }).collect();
        let supply = Supply { in_flight, available: free, live: free + in_flight };
        let limits = Limits {
            settings,
            supply: BTreeMap::from([(kind(), supply)]),
            breakers: BTreeMap::new(),
            room: Some(Room { vms: 20, in_flight: 20, gpus: None }),
            allowance: Allowance::UNLIMITED,
            max_batch: 100,
            now: noon(),
        };
        let idle = BTreeMap::from([(kind(), idle)]);
        Snapshot { limits, idle, reserve: BTreeMap::new(), keeps_reserve: true, waiting: BTreeMap::new() }
    }

    fn id(n: u32) -> VmId {
        VmId(Uuid::from_u128(n.into()))
    }

    fn launched(decision: &Decision) -> u32 {
        decision.launches.iter().map(|launch| launch.count).sum()
    }

    #[test]
    fn the_base_is_kept_in_addition_to_what_tasks_need() {
        let settings = settings(3);
        assert_eq!(launched(&plan_scale(&snapshot(&settings, 0, 0, 0))), 3);
        assert_eq!(launched(&plan_scale(&snapshot(&settings, 1, 0, 1))), 1, "what is on its way counts");
        let mut s = snapshot(&settings, 3, 0, 0);
        s.waiting.insert(kind(), 2);
        assert_eq!(launched(&plan_scale(&s)), 2, "two are about to be claimed");
        s.waiting.insert(kind(), 5);
        assert_eq!(launched(&plan_scale(&s)), 3, "the other two are launched by assign");
    }

    #[test]
    fn tasks_go_first_when_room_is_scarce() {
        let settings = settings(3);
        let mut s = snapshot(&settings, 0, 0, 0);
        s.limits.room = Some(Room { vms: 4, in_flight: 4, gpus: None });
        s.waiting.insert(kind(), 3);
        assert_eq!(launched(&plan_scale(&s)), 1);
        s.waiting.insert(kind(), 4);
        assert_eq!(launched(&plan_scale(&s)), 0);
    }

    #[test]
    fn spare_vms_linger_and_go_and_the_base_stays() {
        let settings = settings(2);
        let mut s = snapshot(&settings, 4, 0, 0);
        assert_eq!(plan_scale(&s).drains, []);
        s.limits.now += LINGER;
        assert_eq!(plan_scale(&s).drains.iter().map(|(vm, _)| *vm).collect::<Vec<_>>(), [id(0), id(1)]);
        s.waiting.insert(kind(), 1);
        assert_eq!(plan_scale(&s).drains.len(), 1, "one is waited for");
    }

    #[test]
    fn stale_vms_are_replaced_first_and_drained_after_and_few_at_a_time() {
        let settings = settings(5);
        // Launched before four in the morning.
        let s = snapshot(&settings, 5, 10, 0);
        let decision = plan_scale(&s);
        assert_eq!((launched(&decision), decision.drains.len()), (2, 0), "replacement first, two at a time");
        let s = snapshot(&settings, 5, 10, 2);
        let decision = plan_scale(&s);
        assert_eq!((launched(&decision), decision.drains.len()), (0, 0), "the replacements are on their way");
        let mut s = snapshot(&settings, 7, 10, 0);
        for fresh in &mut s.idle.get_mut(&kind()).unwrap()[5..] {
            (fresh.since, fresh.made_at) = (noon(), noon());
        }
        assert_eq!(plan_scale(&s).drains.iter().map(|(vm, _)| *vm).collect::<Vec<_>>(), [id(0), id(1)]);
        let mut s = snapshot(&settings, 5, 1, 0);
        assert_eq!(launched(&plan_scale(&s)), 0, "launched after the cycle");
        s.idle.get_mut(&kind()).unwrap()[3].outdated = true;
        assert_eq!(launched(&plan_scale(&s)), 1, "its image or class changed");
    }

    #[test]
    fn replacements_are_few_over_all_kinds() {
        let mut settings = settings(3);
        settings.preallocated.remote_docker = 3;
        let mut s = snapshot(&settings, 3, 10, 0);
        let other = (Executor::RemoteDocker, "medium".to_owned());
        s.limits.supply.insert(other.clone(), Supply { in_flight: 0, available: 3, live: 3 });
        s.idle.insert(other, s.idle[&kind()].clone());
        assert_eq!(launched(&plan_scale(&s)), 2);
    }

    #[test]
    fn a_base_that_shrinks_lets_the_oldest_go() {
        let settings = settings(1);
        let s = snapshot(&settings, 3, 1, 0);
        assert_eq!(plan_scale(&s).drains.len(), 2);
    }
}
