//! Rows and machines held against each other, cloud first: an absence is believed after two complete lists, an orphan after two
//! sightings, and neither without a direct look by the caller.
//!
//! A machine is an *orphan* if it carries our installation's tags and neither a row is bound to it nor its launch has a free row.
//! A VM is *lost* if it is bound to a machine that two complete lists, at least [`LOST_AFTER`] apart, did not show.

use crate::domain::ids::{LaunchId, VmId};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// Between the first complete list that misses a machine and the verdict; lists of clouds lag.
pub const LOST_AFTER: TimeDelta = TimeDelta::seconds(20);

/// Between the first sighting of an orphan and its end.
pub const ORPHAN_AFTER: TimeDelta = TimeDelta::seconds(20);

/// A row that is bound to a machine and not terminated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundVm {
    /// The VM.
    pub id: VmId,
    /// Its machine.
    pub provider_id: String,
    /// First complete list that did not show the machine.
    pub missing_at: Option<DateTime<Utc>>,
    /// Its end has begun: its machine may be gone.
    pub ending: bool,
}

/// A machine, as far as this decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMachine {
    /// The provider's name for it.
    pub provider_id: String,
    /// The launch it is tagged with.
    pub launch: LaunchId,
    /// A dead remainder.
    pub dead: bool,
}

/// What a decision is made of.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Everything the provider names.
    pub machines: Vec<SeenMachine>,
    /// Whether absence from it means anything.
    pub complete: bool,
    /// Every live row with a machine.
    pub bound: Vec<BoundVm>,
    /// Every machine that a row of any place is bound to.
    pub bound_anywhere: BTreeSet<String>,
    /// Free rows by launch.
    pub free_rows: BTreeMap<LaunchId, u32>,
    /// Launches whose call is still to be made or repeated: their machines are theirs to bind.
    pub open_launches: BTreeSet<LaunchId>,
    /// When each known orphan was first seen.
    pub orphans: BTreeMap<String, DateTime<Utc>>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Machines of launches whose answer was lost: bind them.
    pub adopt: Vec<(LaunchId, String)>,
    /// VMs whose machine the provider calls dead.
    pub dead: Vec<VmId>,
    /// VMs missed for the first time.
    pub missing: Vec<VmId>,
    /// VMs missed twice: take a direct look, then give them up.
    pub lost: Vec<(VmId, String)>,
    /// VMs that were missed and are there again.
    pub seen_again: Vec<VmId>,
    /// Orphans seen in this list.
    pub orphans: Vec<String>,
    /// Orphans seen long enough: take a direct look, then terminate.
    pub collect: Vec<String>,
}

/// Decides.
pub fn plan_gc(snapshot: &Snapshot, now: DateTime<Utc>) -> Decision {
    let mut decision = Decision::default();
    let seen: BTreeMap<&str, &SeenMachine> = snapshot.machines.iter().map(|m| (m.provider_id.as_str(), m)).collect();
    for vm in snapshot.bound.iter().filter(|vm| !vm.ending) {
        match (seen.get(vm.provider_id.as_str()), vm.missing_at) {
            (Some(machine), _) if machine.dead => decision.dead.push(vm.id),
            (Some(_), Some(_)) => decision.seen_again.push(vm.id),
            (Some(_), None) => {}
            (None, _) if !snapshot.complete => {}
            (None, None) => decision.missing.push(vm.id),
            (None, Some(since)) if now - since >= LOST_AFTER => decision.lost.push((vm.id, vm.provider_id.clone())),
            (None, Some(_)) => {}
        }
    }
    let bound: BTreeSet<&str> = snapshot.bound.iter().map(|vm| vm.provider_id.as_str()).collect();
    let mut free_rows = snapshot.free_rows.clone();
    for machine in snapshot
        .machines
        .iter()
        .filter(|m| !bound.contains(m.provider_id.as_str()) && !snapshot.bound_anywhere.contains(&m.provider_id))
    {
        if snapshot.open_launches.contains(&machine.launch) {
            continue;
        }
        if let Some(free) = free_rows.get_mut(&machine.launch).filter(|free| **free > 0 && !machine.dead) {
            *free -= 1;
            decision.adopt.push((machine.launch, machine.provider_id.clone()));
            continue;
        }
        decision.orphans.push(machine.provider_id.clone());
        if snapshot.orphans.get(&machine.provider_id).is_some_and(|since| now - *since >= ORPHAN_AFTER) {
            decision.collect.push(machine.provider_id.clone());
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn launch(n: u128) -> LaunchId {
        LaunchId(Uuid::from_u128(n))
    }

    fn machine(id: &str, of: u128) -> SeenMachine {
        SeenMachine { provider_id: id.to_owned(), launch: launch(of), dead: false }
    }

    fn bound(n: u128, id: &str, missing_at: Option<i64>) -> BoundVm {
        BoundVm { id: VmId(Uuid::from_u128(n)), provider_id: id.to_owned(), missing_at: missing_at.map(at), ending: false }
    }

    #[test]
    fn an_incomplete_list_proves_no_absence() {
        let s = Snapshot { bound: vec![bound(1, "m", Some(0))], complete: false, ..Snapshot::default() };
        assert_eq!(plan_gc(&s, at(1000)), Decision::default());
    }

    #[test]
    fn a_vm_is_lost_after_two_complete_lists_apart() {
        let mut s = Snapshot { bound: vec![bound(1, "m", None)], complete: true, ..Snapshot::default() };
        assert_eq!(plan_gc(&s, at(0)).missing, [VmId(Uuid::from_u128(1))]);
        s.bound[0].missing_at = Some(at(0));
        assert_eq!(plan_gc(&s, at(19)), Decision::default());
        assert_eq!(plan_gc(&s, at(20)).lost, [(VmId(Uuid::from_u128(1)), "m".to_owned())]);
        s.machines = vec![machine("m", 1)];
        assert_eq!(plan_gc(&s, at(20)).seen_again, [VmId(Uuid::from_u128(1))]);
    }

    #[test]
    fn a_machine_goes_to_the_free_row_of_its_launch_and_a_second_one_is_an_orphan() {
        let mut s = Snapshot { machines: vec![machine("m", 7), machine("n", 7)], complete: true, ..Snapshot::default() };
        s.free_rows.insert(launch(7), 1);
        let decision = plan_gc(&s, at(0));
        assert_eq!(decision.adopt, [(launch(7), "m".to_owned())]);
        assert_eq!(decision.orphans, ["n".to_owned()]);
        assert_eq!(decision.collect, Vec::<String>::new());
    }

    #[test]
    fn a_launch_that_is_still_open_keeps_its_machines() {
        let mut s = Snapshot { machines: vec![machine("m", 7)], complete: true, ..Snapshot::default() };
        s.open_launches.insert(launch(7));
        assert_eq!(plan_gc(&s, at(0)), Decision::default());
    }

    #[test]
    fn an_orphan_is_collected_after_its_second_sighting() {
        let mut s = Snapshot { machines: vec![machine("m", 7)], complete: true, ..Snapshot::default() };
        s.orphans.insert("m".to_owned(), at(0));
        assert_eq!(plan_gc(&s, at(19)).collect, Vec::<String>::new());
        assert_eq!(plan_gc(&s, at(20)).collect, ["m".to_owned()]);
    }
}
