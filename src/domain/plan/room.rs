//! How many more VMs may be launched, and of which kinds: every planner takes from here, so that no limit is passed by two of them.
//!
//! What is planned here can be late; the transaction that writes the rows checks the limits again (`migrations/0003_engine.sql`).

use super::breaker::Breaker;
use crate::domain::rate::Allowance;
use crate::domain::settings::{ProviderChoice, Settings};
use crate::domain::task::Executor;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

const UNCOUNTED: &str = "Rows were lost: it waits until the provider's machines have been counted.";
const STARTING: &str = "As many VMs are starting as may at a time; it is next.";

/// A kind of VM: what for, and the name of its class.
pub type Kind = (Executor, String);

/// What there is of one kind of VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Asked for and not ready yet, without held ones.
    pub in_flight: u32,
    /// Free for a task, without held ones.
    pub available: u32,
    /// Not terminated, in any state; machines without a row too.
    pub live: u32,
}

/// How many more VMs the limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub vms: u32,
    /// In flight.
    pub in_flight: u32,
    /// GPUs; none: they have no limit of their own.
    pub gpus: Option<u32>,
}

/// A launch to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What for.
    pub executor: Executor,
    /// Which class.
    pub resource_class: String,
    /// How many machines.
    pub count: u32,
    /// VMs of the kind that were free or on their way when this was decided: more by then, and the decision is out of date.
    pub seen: u32,
    /// A zone that is better than others: a volume of the waiting task's project is there.
    pub near: Option<String>,
}

/// What limits launches at a moment.
#[derive(Clone, Debug)]
pub struct Limits<'a> {
    /// The settings in force.
    pub settings: &'a Settings,
    /// By kind.
    pub supply: BTreeMap<Kind, Supply>,
    /// By kind; a kind without one has had no failed start lately.
    pub breakers: BTreeMap<Kind, Breaker>,
    /// What the limits of the database leave; none: rows were lost a moment ago, and what machines there are is not known yet.
    pub room: Option<Room>,
    /// What the provider's call budget leaves.
    pub allowance: Allowance,
    /// How many machines one launch may ask for.
    pub max_batch: u32,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Launches as they are decided, one VM at a time.
pub struct Planned<'a> {
    limits: Limits<'a>,
    launches: Vec<Launch>,
}

impl<'a> Planned<'a> {
    /// Nothing is planned yet.
    pub fn new(limits: Limits<'a>) -> Self {
        Self { limits, launches: Vec::new() }
    }

    /// What there was of the kind.
    pub fn supply(&self, kind: &Kind) -> Supply {
        self.limits.supply.get(kind).cloned().unwrap_or_default()
    }

    /// Leaves so much to somebody who goes first.
    pub fn leave(&mut self, vms: u32) {
        let limits = &mut self.limits;
        if let Some(room) = &mut limits.room {
            *room = Room { vms: room.vms.saturating_sub(vms), in_flight: room.in_flight.saturating_sub(vms), ..*room };
        }
        limits.allowance.machines = limits.allowance.machines.saturating_sub(vms);
    }

    /// Plans one more VM of this kind, best in the zone `near`.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub fn one_more(&mut self, kind: &Kind, near: Option<&str>) -> Result<(), String> {
        self.may_come_up(kind)?;
        let limits = &mut self.limits;
        let settings = limits.settings;
        let of_class: u32 = limits.supply.iter().filter(|((_, class), _)| *class == kind.1).map(|(_, supply)| supply.live).sum();
        let supply = limits.supply.entry(kind.clone()).or_default();
        let class_limit = settings.resource_classes.get(&kind.1).and_then(|class| class.limit);
        if class_limit.is_some_and(|limit| of_class >= limit) {
            return Err(format!("There are as many VMs of class {} as there may be.", kind.1));
        }
        let Some(room) = &mut limits.room else {
            return Err(UNCOUNTED.to_owned());
        };
        if room.vms == 0 {
            return Err("There are as many VMs as there may be; it is next when one ends.".to_owned());
        }
        if room.in_flight == 0 {
            return Err(STARTING.to_owned());
        }
        let gpus = settings.resource_classes.get(&kind.1).map_or(0, |class| class.gpus);
        if gpus > 0 && room.gpus.is_some_and(|left| left < gpus) {
            return Err("As many GPUs are in use as may be; it is next when one comes free.".to_owned());
        }
        let seen = supply.in_flight + supply.available;
        let open = self.launches.iter_mut().find(|l| {
            (l.executor, &l.resource_class, l.near.as_deref()) == (kind.0, &kind.1, near) && l.count < limits.max_batch.max(1)
        });
        if limits.allowance.machines == 0 || (open.is_none() && limits.allowance.calls == 0) {
            return Err("The provider is asked as fast as it may be; it is next.".to_owned());
        }
        match open {
            Some(launch) => launch.count += 1,
            None => {
                self.launches.push(Launch {
                    executor: kind.0,
                    resource_class: kind.1.clone(),
                    count: 1,
                    seen,
                    near: near.map(str::to_owned),
                });
                limits.allowance.calls -= 1;
            }
        }
        limits.allowance.machines -= 1;
        supply.live += 1;
        supply.in_flight += 1;
        room.vms -= 1;
        room.in_flight -= 1;
        room.gpus = room.gpus.map(|left| left.saturating_sub(gpus));
        Ok(())
    }

    /// Plans the start of one stopped VM of this kind: it is counted among the VMs already, and takes no launch.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub fn one_start(&mut self, kind: &Kind) -> Result<(), String> {
        self.may_come_up(kind)?;
        match &mut self.limits.room {
            Some(room) if room.in_flight > 0 => room.in_flight -= 1,
            Some(_) => return Err(STARTING.to_owned()),
            None => return Err(UNCOUNTED.to_owned()),
        }
        self.limits.supply.entry(kind.clone()).or_default().in_flight += 1;
        Ok(())
    }

    fn may_come_up(&self, kind: &Kind) -> Result<(), String> {
        let settings = self.limits.settings;
        if settings.provider == ProviderChoice::None {
            return Err("No VM provider is set: choose one in the settings.".to_owned());
        }
        if settings.pause_launches {
            return Err("Launches are paused in the settings.".to_owned());
        }
        settings.class(kind.0, &kind.1)?;
        self.limits.breakers.get(kind).map_or(Ok(()), |breaker| breaker.allows(self.supply(kind).in_flight, self.limits.now))
    }

    /// What was planned, in order.
    pub fn into_launches(self) -> Vec<Launch> {
        self.launches
    }
}
