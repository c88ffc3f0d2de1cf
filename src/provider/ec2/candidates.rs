//! Which type, subnet and market a launch asks for next: the operator's order, without what had no room a moment ago.
//!
//! What was refused for want of capacity is not asked again for [`NO_CAPACITY_FOR`] (a whole market at its quota: [`QUOTA_FOR`]), so
//! that one pass falls through to what has room and the next passes do not begin with what has none. Each process remembers for itself:
//! it is worth a call or two, not a table.

use crate::domain::ec2::{Ec2Class, Ec2Settings, Market};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Capacity comes back within minutes.
const NO_CAPACITY_FOR: Duration = Duration::from_secs(180);
/// A quota comes back when machines end, or when AWS has answered an operator's request.
const QUOTA_FOR: Duration = Duration::from_secs(300);

/// One way to get machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) instance_type: String,
    pub(super) subnet: String,
    pub(super) spot: bool,
}

/// All that an attempt asks for beside its tags and user data: kept in the launch's row, the same in each repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parameters {
    pub(super) instance_type: String,
    pub(super) subnet: String,
    pub(super) spot: bool,
    pub(super) image: String,
    /// The image's name for its root disk.
    pub(super) root_device: String,
    pub(super) disk_gib: u32,
    pub(super) security_group: String,
    pub(super) public_ip: bool,
    pub(super) instance_profile: Option<String>,
    /// It can keep its memory while it is stopped; that is said at the launch or never.
    #[serde(default)]
    pub(super) hibernate: bool,
    /// The image is the distribution's own.
    #[serde(default)]
    pub(super) bare: bool,
    /// What a fleet may choose from, the first one included; empty: it is no fleet.
    #[serde(default)]
    pub(super) fleet: Vec<Candidate>,
}

impl Parameters {
    pub(super) fn candidate(&self) -> Candidate {
        Candidate { instance_type: self.instance_type.clone(), subnet: self.subnet.clone(), spot: self.spot }
    }
}

/// In the operator's order: market, then type, then subnet.
pub(super) fn all(settings: &Ec2Settings, class: &Ec2Class) -> Vec<Candidate> {
    let markets: &[bool] = match class.market {
        Market::OnDemand => &[false],
        Market::Spot => &[true],
        Market::SpotThenOnDemand => &[true, false],
    };
    let mut all = Vec::new();
    for &spot in markets {
        for instance_type in types(settings, class) {
            for subnet in &settings.subnets {
                all.push(Candidate { instance_type: instance_type.clone(), subnet: subnet.clone(), spot });
            }
        }
    }
    all
}

/// Puts the subnets of `near` before the others of the same market and type, each in the operator's order.
///
/// A zone is a preference among equals: what the operator said of markets and types is about the price and the speed of every job, and
/// comes first. A near zone saves one job the copy of a cache volume, which a snapshot can give it in any zone.
pub(super) fn prefer(all: &mut [Candidate], near: &str, zones: &BTreeMap<String, String>) {
    for equals in all.chunk_by_mut(|one, next| (one.spot, &one.instance_type) == (next.spot, &next.instance_type)) {
        equals.sort_by_key(|candidate| zones.get(&candidate.subnet).is_none_or(|zone| zone != near));
    }
}

/// Whether the class leaves a choice of types: then AWS chooses (`fleet`).
pub(super) fn has_choice(settings: &Ec2Settings, class: &Ec2Class) -> bool {
    let types = types(settings, class);
    types.iter().any(|name| *name != types[0])
}

/// Of this class; the one of the settings when it names none.
pub(super) fn types<'a>(settings: &'a Ec2Settings, class: &'a Ec2Class) -> &'a [String] {
    if class.instance_types.is_empty() { std::slice::from_ref(&settings.instance_type) } else { &class.instance_types }
}

/// What had no room, and until when it is not asked.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<Candidate, (Instant, String)>>);

impl Memory {
    /// This candidate had no room.
    pub(super) fn note_no_capacity(&self, candidate: &Candidate, why: &str, now: Instant) {
        self.entries().insert(candidate.clone(), (now + NO_CAPACITY_FOR, why.to_owned()));
    }

    /// The account may have no more of this type in this market, in any subnet.
    pub(super) fn note_quota(&self, all: &[Candidate], met: &Candidate, why: &str, now: Instant) {
        let alike = all.iter().filter(|it| it.spot == met.spot && it.instance_type == met.instance_type);
        for candidate in alike.chain([met]) {
            self.entries().insert(candidate.clone(), (now + QUOTA_FOR, why.to_owned()));
        }
    }

    /// The first that may be asked, or why there is none.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn first<'a>(&self, all: &'a [Candidate], now: Instant) -> Result<&'a Candidate, String> {
        let mut entries = self.entries();
        entries.retain(|_, (until, _)| *until > now);
        if let Some(free) = all.iter().find(|candidate| !entries.contains_key(candidate)) {
            return Ok(free);
        }
        let next = all.iter().filter_map(|candidate| entries.get(candidate)).min_by_key(|(until, _)| *until);
        let Some((_, why)) = next else { return Err("no instance type and subnet is set".to_owned()) };
        Err(format!("there is no room in any of {} places: {why}", all.len()))
    }

    /// Those of a market that may be asked.
    pub(super) fn open(&self, all: &[Candidate], spot: bool) -> Vec<Candidate> {
        let entries = self.entries();
        all.iter().filter(|candidate| candidate.spot == spot && !entries.contains_key(candidate)).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Candidate, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &[Candidate]) -> Vec<String> {
        list.iter().map(|it| format!("{} {}{}", it.instance_type, it.subnet, if it.spot { " spot" } else { "" })).collect()
    }

    fn settings() -> Ec2Settings {
        Ec2Settings { subnets: vec!["a".to_owned(), "b".to_owned()], ..Ec2Settings::default() }
    }

    #[test]
    fn the_operators_order_holds() {
        assert_eq!(named(&all(&settings(), &Ec2Class::default())), ["m5.large a", "m5.large b"]);
        let class = Ec2Class {
            instance_types: vec!["c5.large".to_owned(), "c6i.large".to_owned()],
            market: Market::SpotThenOnDemand,
            ..Ec2Class::default()
        };
        let expected = [
            "c5.large a spot",
            "c5.large b spot",
            "c6i.large a spot",
            "c6i.large b spot",
            "c5.large a",
            "c5.large b",
            "c6i.large a",
            "c6i.large b",
        ];
        assert_eq!(named(&all(&settings(), &class)), expected);
    }

    #[test]
    fn a_near_zone_comes_first_among_equals() {
        let subnets = ["a", "b1", "c", "b2"].map(str::to_owned).to_vec();
        let settings = Ec2Settings { subnets, ..Ec2Settings::default() };
        let zones = [("a", "za"), ("b1", "zb"), ("b2", "zb")].map(|(subnet, zone)| (subnet.to_owned(), zone.to_owned())).into();
        let class = Ec2Class {
            instance_types: vec!["c5.large".to_owned(), "c6i.large".to_owned()],
            market: Market::SpotThenOnDemand,
            ..Ec2Class::default()
        };
        let mut all = all(&settings, &class);
        let before = all.clone();
        prefer(&mut all, "zb", &zones);
        let of = |name: &str, market: &str| ["b1", "b2", "a", "c"].map(|subnet| format!("{name} {subnet}{market}"));
        let expected = [of("c5.large", " spot"), of("c6i.large", " spot"), of("c5.large", ""), of("c6i.large", "")].concat();
        assert_eq!(named(&all), expected);
        all.sort_by_key(|it| before.iter().position(|other| other == it));
        prefer(&mut all, "elsewhere", &zones);
        assert_eq!(all, before);
    }

    #[test]
    fn what_had_no_room_is_asked_again_after_its_time() {
        let (memory, now) = (Memory::default(), Instant::now());
        let all = all(&settings(), &Ec2Class::default());
        memory.note_no_capacity(&all[0], "none in a", now);
        assert_eq!(memory.first(&all, now), Ok(&all[1]));
        memory.note_no_capacity(&all[1], "none in b", now + Duration::from_secs(60));
        let why = memory.first(&all, now + Duration::from_secs(80)).unwrap_err();
        assert_eq!(why, "there is no room in any of 2 places: none in a");
        assert_eq!(memory.first(&all, now + NO_CAPACITY_FOR), Ok(&all[0]));
    }

    #[test]
    fn a_quota_closes_a_market_in_every_subnet() {
        let (memory, now) = (Memory::default(), Instant::now());
        let class = Ec2Class { market: Market::SpotThenOnDemand, ..Ec2Class::default() };
        let all = all(&settings(), &class);
        memory.note_quota(&all, &all[0], "no more spot", now);
        assert_eq!(memory.first(&all, now).map(|it| it.spot), Ok(false));
    }
}
