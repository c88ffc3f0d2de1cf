//! Rows and machines held against each other, cloud first: an absence is believed after two complete lists, an orphan after two
//! sightings, and neither without a direct look by the caller.
//!
//! A machine is *without a row* if it carries our installation's tags and neither a row is bound to it nor its launch has a free row.
//! It is *unknown* if rows may have been lost since it was made: a job may run on it, so it is left until its own end. Otherwise it is an
//! *orphan*. A VM is *lost* if it is bound to a machine that two complete lists, at least [`LOST_AFTER`] apart, did not show.
//!
//! Not here: volumes (`gc_volumes`).

use crate::domain::ids::{LaunchId, VmId};
use crate::domain::task::Executor;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// Between the first complete list that misses a machine and the verdict; lists of clouds lag.
pub const LOST_AFTER: TimeDelta = TimeDelta::seconds(20);

/// Between the first sighting of an orphan and the second that counts.
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
    /// It may be stopped: it is in the reserve, or on its way into it or out of it.
    pub reserved: bool,
    /// It is in the reserve: its machine has stopped.
    pub asleep: bool,
    /// When it was bound: just after that a list may not show it yet.
    pub launched_at: DateTime<Utc>,
}

/// Where a machine is, as far as this decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It holds capacity.
    Alive,
    /// It holds a disk.
    Stopped,
    /// It holds nothing, or leaves remains that must be cleared away.
    Dead,
}

/// A machine, as far as this decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMachine {
    /// The provider's name for it.
    pub provider_id: String,
    /// The launch it is tagged with.
    pub launch: LaunchId,
    /// What it was made for.
    pub executor: Executor,
    /// Its class.
    pub resource_class: String,
    /// When its launch was sent.
    pub made_at: DateTime<Utc>,
    /// Where it is.
    pub seen: Seen,
    /// Why it ended, where the provider says so.
    pub why_ended: Option<String>,
}

/// What is to be done about a machine without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OrphanState {
    /// Not believed yet.
    Seen,
    /// Believed; looked at once more before its end.
    Quarantined,
    /// Asked to die.
    Terminating,
}

/// What is known of a machine without a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// First sighting.
    pub first_seen_at: DateTime<Utc>,
    /// What is done about it.
    pub state: OrphanState,
}

/// A span in which rows may have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// From.
    pub since: DateTime<Utc>,
    /// To.
    pub until: DateTime<Utc>,
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
    /// Machines without a row that are known already.
    pub orphans: BTreeMap<String, Orphan>,
    /// When rows may have been lost.
    pub losses: Vec<Loss>,
    /// The longest a machine lives when nobody touches it (its absolute end, DESIGN.md §10.5).
    pub longest_life: TimeDelta,
    /// How long a new machine may be missing from a list.
    pub settles: TimeDelta,
    /// Whether dead machines leave something behind.
    pub leaves_remains: bool,
}

/// A machine without a row, to be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rowless {
    /// The machine.
    pub machine: SeenMachine,
    /// Unknown machines have an end; orphans none but what we make.
    pub ends_at: Option<DateTime<Utc>>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Machines of launches whose answer was lost: bind them.
    pub adopt: Vec<(LaunchId, String)>,
    /// VMs whose machine the provider calls dead.
    pub dead: Vec<(VmId, String)>,
    /// VMs in the reserve whose machine runs: take a direct look, then end them.
    pub awake: Vec<(VmId, String)>,
    /// VMs missed for the first time.
    pub missing: Vec<VmId>,
    /// VMs missed twice, since then: take a direct look, then give them up.
    pub lost: Vec<(VmId, String, DateTime<Utc>)>,
    /// VMs that were missed and are there again.
    pub seen_again: Vec<VmId>,
    /// Machines without a row in this list.
    pub rowless: Vec<Rowless>,
    /// Orphans seen twice: take a direct look, then put them in quarantine.
    pub quarantine: Vec<String>,
    /// Remains of dead machines.
    pub clear: Vec<String>,
}

/// Decides.
pub fn plan_gc(snapshot: &Snapshot, now: DateTime<Utc>) -> Decision {
    let mut decision = Decision::default();
    judge_rows(snapshot, now, &mut decision);
    judge_machines(snapshot, now, &mut decision);
    decision
}

fn judge_rows(snapshot: &Snapshot, now: DateTime<Utc>, decision: &mut Decision) {
    let seen: BTreeMap<&str, Seen> = snapshot.machines.iter().map(|m| (m.provider_id.as_str(), m.seen)).collect();
    for vm in snapshot.bound.iter().filter(|vm| !vm.ending) {
        match (seen.get(vm.provider_id.as_str()), vm.missing_at) {
            (Some(Seen::Dead), _) => decision.dead.push((vm.id, vm.provider_id.clone())),
            (Some(Seen::Stopped), _) if !vm.reserved => decision.dead.push((vm.id, vm.provider_id.clone())),
            (Some(Seen::Alive), _) if vm.asleep => decision.awake.push((vm.id, vm.provider_id.clone())),
            (Some(_), Some(_)) => decision.seen_again.push(vm.id),
            (Some(_), None) => {}
            (None, _) if !snapshot.complete || now - vm.launched_at < snapshot.settles => {}
            (None, None) => decision.missing.push(vm.id),
            (None, Some(since)) if now - since >= LOST_AFTER => decision.lost.push((vm.id, vm.provider_id.clone(), since)),
            (None, Some(_)) => {}
        }
    }
}

fn judge_machines(snapshot: &Snapshot, now: DateTime<Utc>, decision: &mut Decision) {
    let bound: BTreeSet<&str> = snapshot.bound.iter().map(|vm| vm.provider_id.as_str()).collect();
    let mut free_rows = snapshot.free_rows.clone();
    let without = |m: &&SeenMachine| {
        !bound.contains(m.provider_id.as_str())
            && !snapshot.bound_anywhere.contains(&m.provider_id)
            && !snapshot.open_launches.contains(&m.launch)
    };
    for machine in snapshot.machines.iter().filter(without) {
        if machine.seen == Seen::Dead {
            if snapshot.leaves_remains {
                decision.clear.push(machine.provider_id.clone());
            }
            continue;
        }
        if let Some(free) = free_rows.get_mut(&machine.launch).filter(|free| **free > 0) {
            *free -= 1;
            decision.adopt.push((machine.launch, machine.provider_id.clone()));
            continue;
        }
        let unknown = snapshot.losses.iter().any(|loss| loss.since <= machine.made_at && machine.made_at <= loss.until);
        let ends_at = unknown.then(|| machine.made_at + snapshot.longest_life);
        let known = snapshot.orphans.get(&machine.provider_id);
        if !unknown && known.is_some_and(|o| o.state == OrphanState::Seen && now - o.first_seen_at >= ORPHAN_AFTER) {
            decision.quarantine.push(machine.provider_id.clone());
        }
        decision.rowless.push(Rowless { machine: machine.clone(), ends_at });
    }
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

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    fn machine(id: &str, of: u128) -> SeenMachine {
        SeenMachine {
            provider_id: id.to_owned(),
            launch: launch(of),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            made_at: at(0),
            seen: Seen::Alive,
            why_ended: None,
        }
    }

    fn bound(n: u128, id: &str, missing_at: Option<i64>) -> BoundVm {
        BoundVm {
            id: vm(n),
            provider_id: id.to_owned(),
            missing_at: missing_at.map(at),
            ending: false,
            reserved: false,
            asleep: false,
            launched_at: at(0),
        }
    }

    fn complete() -> Snapshot {
        Snapshot { complete: true, longest_life: TimeDelta::hours(30), ..Snapshot::default() }
    }

    fn seen(at: DateTime<Utc>) -> Orphan {
        Orphan { first_seen_at: at, state: OrphanState::Seen }
    }

    #[test]
    fn an_incomplete_list_proves_no_absence() {
        let s = Snapshot { bound: vec![bound(1, "m", Some(0))], complete: false, ..Snapshot::default() };
        assert_eq!(plan_gc(&s, at(1000)), Decision::default());
    }

    #[test]
    fn a_vm_is_lost_after_two_complete_lists_apart() {
        let mut s = Snapshot { bound: vec![bound(1, "m", None)], ..complete() };
        assert_eq!(plan_gc(&s, at(0)).missing, [vm(1)]);
        s.bound[0].missing_at = Some(at(0));
        assert_eq!(plan_gc(&s, at(19)), Decision::default());
        assert_eq!(plan_gc(&s, at(20)).lost, [(vm(1), "m".to_owned(), at(0))]);
        s.machines = vec![machine("m", 1)];
        assert_eq!(plan_gc(&s, at(20)).seen_again, [vm(1)]);
    }

    #[test]
    fn a_new_machine_may_be_missing_for_a_while() {
        let s = Snapshot { bound: vec![bound(1, "m", None)], settles: TimeDelta::minutes(5), ..complete() };
        assert_eq!(plan_gc(&s, at(299)), Decision::default());
        assert_eq!(plan_gc(&s, at(300)).missing, [vm(1)]);
    }

    #[test]
    fn a_stopped_machine_is_dead_unless_it_is_in_the_reserve() {
        let stopped = SeenMachine { seen: Seen::Stopped, ..machine("m", 1) };
        let mut s = Snapshot { bound: vec![bound(1, "m", None)], machines: vec![stopped], ..complete() };
        assert_eq!(plan_gc(&s, at(1)).dead, [(vm(1), "m".to_owned())]);
        (s.bound[0].reserved, s.bound[0].asleep) = (true, true);
        assert_eq!(plan_gc(&s, at(1)), Decision::default());
        s.machines[0].seen = Seen::Alive;
        assert_eq!(plan_gc(&s, at(1)).awake, [(vm(1), "m".to_owned())], "it costs what a running one costs");
    }

    #[test]
    fn a_machine_goes_to_the_free_row_of_its_launch_and_a_second_one_is_without() {
        let mut s = Snapshot { machines: vec![machine("m", 7), machine("n", 7)], ..complete() };
        s.free_rows.insert(launch(7), 1);
        let decision = plan_gc(&s, at(0));
        assert_eq!(decision.adopt, [(launch(7), "m".to_owned())]);
        assert_eq!(decision.rowless, [Rowless { machine: machine("n", 7), ends_at: None }]);
        assert_eq!(decision.quarantine, Vec::<String>::new());
    }

    #[test]
    fn a_launch_that_is_still_open_keeps_its_machines() {
        let mut s = Snapshot { machines: vec![machine("m", 7)], ..complete() };
        s.open_launches.insert(launch(7));
        assert_eq!(plan_gc(&s, at(0)), Decision::default());
    }

    #[test]
    fn an_orphan_is_believed_at_its_second_sighting_stopped_or_not() {
        for state in [Seen::Alive, Seen::Stopped] {
            let mut s = Snapshot { machines: vec![SeenMachine { seen: state, ..machine("m", 7) }], ..complete() };
            s.orphans.insert("m".to_owned(), seen(at(0)));
            assert_eq!(plan_gc(&s, at(19)).quarantine, Vec::<String>::new());
            assert_eq!(plan_gc(&s, at(20)).quarantine, ["m".to_owned()]);
        }
    }

    #[test]
    fn what_was_made_before_rows_were_lost_is_unknown_and_has_its_own_end() {
        let mut s = Snapshot { machines: vec![machine("m", 7)], losses: vec![Loss { since: at(-9), until: at(1) }], ..complete() };
        s.orphans.insert("m".to_owned(), seen(at(2)));
        let decision = plan_gc(&s, at(100));
        assert_eq!(decision.rowless[0].ends_at, Some(at(0) + TimeDelta::hours(30)));
        assert_eq!(decision.quarantine, Vec::<String>::new());
        s.machines[0].made_at = at(2);
        assert_eq!(plan_gc(&s, at(100)).quarantine, ["m".to_owned()], "made after the loss: an orphan as any other");
    }

    #[test]
    fn the_dead_hold_nothing_but_may_leave_remains() {
        let mut s = Snapshot { machines: vec![SeenMachine { seen: Seen::Dead, ..machine("m", 7) }], ..complete() };
        s.free_rows.insert(launch(7), 1);
        assert_eq!(plan_gc(&s, at(0)), Decision::default());
        s.leaves_remains = true;
        assert_eq!(plan_gc(&s, at(0)).clear, ["m".to_owned()]);
    }
}
