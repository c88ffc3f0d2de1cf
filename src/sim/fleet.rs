//! All machines there ever were, brought up to any moment in the order of time; room and addresses are held exactly as long as
//! a machine is.
//!
//! What is due stands in an agenda; [`Fleet::settle`] works it off up to now. An entry that no longer holds is passed over.

use super::machines::{Boot, EndCause, Phase, SimMachine};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Addresses count up from here; the block is wide enough for any [`super::Rules::addresses`] in use.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

#[derive(Debug)]
pub(super) struct Fleet {
    machines: Vec<SimMachine>,
    by_id: BTreeMap<String, usize>,
    by_address: BTreeMap<Ipv4Addr, usize>,
    /// Those that the provider has not wiped from its memory.
    shown: BTreeSet<usize>,
    agenda: BTreeSet<(DateTime<Utc>, usize)>,
    /// Machines per class and zone.
    room_taken: BTreeMap<(String, String), u32>,
    /// Addresses that were in use and are free; the last one freed is the next one taken.
    freed: Vec<Ipv4Addr>,
    never_used: u32,
    addresses: u32,
    shown_for: TimeDelta,
}

impl Fleet {
    pub(super) const fn new(addresses: u32, shown_for: TimeDelta) -> Self {
        Self {
            machines: Vec::new(),
            by_id: BTreeMap::new(),
            by_address: BTreeMap::new(),
            shown: BTreeSet::new(),
            agenda: BTreeSet::new(),
            room_taken: BTreeMap::new(),
            freed: Vec::new(),
            never_used: 0,
            addresses,
            shown_for,
        }
    }

    /// Lets everything happen that is due by `now`.
    pub(super) fn settle(&mut self, now: DateTime<Utc>) {
        while let Some(&(at, no)) = self.agenda.first() {
            if at > now {
                return;
            }
            self.agenda.pop_first();
            if self.machines.get(no).and_then(SimMachine::next_change) == Some(at) {
                self.move_on(no, at);
            }
        }
    }

    fn move_on(&mut self, no: usize, at: DateTime<Utc>) {
        let Some(machine) = self.machines.get_mut(no) else { return };
        match machine.phase {
            Phase::Pending(boot) => {
                machine.phase = Phase::Running(boot);
                let silent_end = machine.silent_for.and_then(|silent| at.checked_add_signed(silent));
                machine.ends_itself_at = machine.ends_itself_at.or(silent_end);
            }
            Phase::Running(_) if machine.fate.dies_at.is_some_and(|dies_at| dies_at <= at) => self.end(no, at, EndCause::Died),
            Phase::Running(_) => {
                machine.phase = Phase::ShuttingDown { until: at + machine.fate.shuts_down_in, cause: EndCause::OwnEnd };
            }
            Phase::Stopping { .. } => {
                self.let_go(no);
                self.set_phase(no, Phase::Stopped);
            }
            Phase::ShuttingDown { cause, .. } => self.end(no, at, cause),
            Phase::Terminated { at, cause, .. } => {
                self.shown.remove(&no);
                machine.phase = Phase::Terminated { at, cause, shown_until: None };
            }
            Phase::Stopped => {}
        }
        self.schedule(no);
    }

    /// Ends a machine at once.
    pub(super) fn end(&mut self, no: usize, at: DateTime<Utc>, cause: EndCause) {
        if !matches!(self.machines.get(no), Some(SimMachine { phase: Phase::Terminated { .. }, .. }) | None) {
            self.let_go(no);
            self.set_phase(no, Phase::Terminated { at, cause, shown_until: Some(at + self.shown_for) });
        }
    }

    /// Wipes a machine from the provider's memory.
    pub(super) fn forget(&mut self, no: usize, at: DateTime<Utc>) {
        self.end(no, at, EndCause::Killed);
        if let Some(SimMachine { phase: Phase::Terminated { shown_until, .. }, .. }) = self.machines.get_mut(no) {
            *shown_until = None;
            self.shown.remove(&no);
        }
    }

    /// Adds a machine that holds room and an address from now on.
    pub(super) fn add(&mut self, machine: SimMachine) -> usize {
        let no = self.machines.len();
        self.by_id.insert(machine.provider_id.clone(), no);
        self.shown.insert(no);
        self.machines.push(machine);
        self.take_hold(no);
        self.schedule(no);
        no
    }

    /// Starts a stopped machine.
    pub(super) fn start(&mut self, no: usize, boot: Boot) {
        self.take_hold(no);
        self.set_phase(no, Phase::Pending(boot));
    }

    /// Moves a machine; what it holds stays.
    pub(super) fn set_phase(&mut self, no: usize, phase: Phase) {
        if let Some(machine) = self.machines.get_mut(no) {
            if let Phase::Pending(boot) = phase {
                machine.runs_at = boot.runs_at;
            }
            machine.phase = phase;
        }
        self.schedule(no);
    }

    /// Changes when a machine shuts itself down.
    pub(super) fn set_end(&mut self, no: usize, at: DateTime<Utc>) {
        if let Some(machine) = self.machines.get_mut(no) {
            machine.ends_itself_at = Some(at);
        }
        self.schedule(no);
    }

    /// How many more machines of a class fit into a zone whose capacity is `capacity`.
    pub(super) fn room(&self, class: &str, zone: &str, capacity: Option<u32>) -> u32 {
        let taken = self.room_taken.get(&(class.to_owned(), zone.to_owned())).copied().unwrap_or_default();
        let addresses = self.addresses.saturating_sub(self.never_used) + u32::try_from(self.freed.len()).unwrap_or(u32::MAX);
        capacity.map_or(u32::MAX, |capacity| capacity.saturating_sub(taken)).min(addresses)
    }

    pub(super) fn by_id(&self, provider_id: &str) -> Option<usize> {
        self.by_id.get(provider_id).copied()
    }

    pub(super) fn get(&self, no: usize) -> Option<&SimMachine> {
        self.machines.get(no)
    }

    pub(super) fn find(&self, provider_id: &str) -> Option<&SimMachine> {
        self.get(self.by_id(provider_id)?)
    }

    /// Who has this address.
    pub(super) fn at_address(&mut self, ip: Ipv4Addr) -> Option<(usize, &mut SimMachine)> {
        let no = *self.by_address.get(&ip)?;
        Some((no, self.machines.get_mut(no)?))
    }

    /// All that the provider has not wiped from its memory.
    pub(super) fn shown(&self) -> impl Iterator<Item = &SimMachine> {
        self.shown.iter().filter_map(|no| self.machines.get(*no))
    }

    /// All there ever were.
    pub(super) fn all(&self) -> &[SimMachine] {
        &self.machines
    }

    fn schedule(&mut self, no: usize) {
        if let Some(at) = self.machines.get(no).and_then(SimMachine::next_change) {
            self.agenda.insert((at, no));
        }
    }

    fn take_hold(&mut self, no: usize) {
        let address = self.freed.pop().or_else(|| {
            let fresh = (self.never_used < self.addresses).then(|| FIRST_ADDRESS.to_bits() + self.never_used);
            self.never_used += u32::from(fresh.is_some());
            fresh.map(Ipv4Addr::from_bits)
        });
        let Some(machine) = self.machines.get_mut(no) else { return };
        machine.address = address;
        if let Some(address) = address {
            self.by_address.insert(address, no);
        }
        *self.room_taken.entry(place_of(machine)).or_default() += 1;
    }

    fn let_go(&mut self, no: usize) {
        let Some(machine) = self.machines.get_mut(no) else { return };
        if !machine.holds_room() {
            return;
        }
        if let Some(address) = machine.address.take() {
            self.by_address.remove(&address);
            self.freed.push(address);
        }
        if let Some(taken) = self.room_taken.get_mut(&place_of(machine)) {
            *taken = taken.saturating_sub(1);
        }
    }
}

fn place_of(machine: &SimMachine) -> (String, String) {
    (machine.tags.resource_class.clone(), machine.zone.clone())
}
