//! Launches: one token makes machines once, whoever asks again and whenever; without room, or when a rule is broken, nothing.
//!
//! A call asked again takes from the budgets again. A token whose machines have ended answers with them as terminated: EC2 says
//! `IdempotentInstanceTerminated` there, but the contract of `Provider::launch` is to return what the token has made, so that the
//! caller finds and buries it.

use super::faults::Fault;
use super::guest::FirstWords;
use super::images::SimImage;
use super::machines::{Boot, Fate, GuestKeys, Phase, SimMachine};
use super::world::{World, broken, check_token};
use crate::provider::{LaunchSpec, Machine, MachineState, ProviderError};
use rand::Rng as _;

impl World {
    /// The effect of a launch.
    pub(super) fn launch(&mut self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        check_token(&spec.client_token)?;
        if spec.count == 0 || spec.count > self.rules.max_batch {
            return Err(broken("InvalidParameterValue", &format!("{} machines in one launch", spec.count)));
        }
        if let Some((first, made)) = self.launches.get(&spec.client_token) {
            if !is_same(first, spec) {
                return Err(broken("IdempotentParameterMismatch", "this client token was used with other parameters"));
            }
            return Ok(self.shown(&made.clone()));
        }
        if let Some(reason) = self.faults.refusal() {
            return Err(ProviderError::Invalid(reason));
        }
        let first_words = FirstWords::read(&spec.user_data)
            .map_err(|error| broken("InvalidUserData", &format!("unread by the guest: {error}")))?;
        self.check_image(spec)?;
        let (zone, room) = self.zone_with_room(&spec.tags.resource_class)?;
        let mut count = spec.count.min(room).min(self.room_for_gpus(spec)?);
        if count > 1 && self.strikes(&Fault::FewerMachines) {
            count = self.rng.random_range(1..count);
        }
        let made: Vec<usize> = (0..count).map(|_| self.make(spec, &zone, &first_words)).collect();
        self.launches.insert(spec.client_token.clone(), (spec.clone(), made.clone()));
        self.fleet.settle(self.now);
        Ok(self.shown(&made))
    }

    /// An image that a launch names must be there; the default always is.
    fn check_image(&self, spec: &LaunchSpec) -> Result<(), ProviderError> {
        let Some(name) = spec.image.as_ref().filter(|name| Some(*name) != self.rules.image.as_ref()) else { return Ok(()) };
        match self.images.get(name) {
            Some(SimImage { unusable: None, .. }) => Ok(()),
            _ => Err(broken("InvalidAMIID.NotFound", name)),
        }
    }

    /// How many machines with such GPUs the account may still have.
    fn room_for_gpus(&self, spec: &LaunchSpec) -> Result<u32, ProviderError> {
        let Some(most) = self.rules.gpus.filter(|_| spec.class.gpus > 0) else { return Ok(u32::MAX) };
        let alive = self.fleet.all().iter().filter(|machine| machine.state() != MachineState::Terminated);
        let room = most.saturating_sub(alive.map(|machine| machine.gpus).sum()) / spec.class.gpus;
        if room == 0 {
            return Err(ProviderError::NoCapacity("VcpuLimitExceeded: the account may have no more GPUs".to_owned()));
        }
        Ok(room)
    }

    /// One of the zones that have room for a machine of this class, and how much.
    fn zone_with_room(&mut self, class: &str) -> Result<(String, u32), ProviderError> {
        let struck = self.strikes(&Fault::NoCapacity);
        let mut with_room: Vec<(String, u32)> =
            self.rules.zones.iter().map(|zone| (zone.clone(), self.room(class, zone))).filter(|(_, room)| *room > 0).collect();
        if struck || with_room.is_empty() {
            return Err(no_capacity(class));
        }
        let at = if with_room.len() == 1 { 0 } else { self.rng.random_range(0..with_room.len()) };
        Ok(with_room.swap_remove(at))
    }

    fn room(&self, class: &str, zone: &str) -> u32 {
        let capacity = self.rules.capacity.get(&(class.to_owned(), zone.to_owned())).copied();
        self.fleet.room(class, zone, capacity)
    }

    fn make(&mut self, spec: &LaunchSpec, zone: &str, first_words: &FirstWords) -> usize {
        let boot = self.draw_boot_of(spec.image.as_deref());
        let fate = self.draw_fate(boot);
        self.fleet.add(SimMachine {
            provider_id: format!("i-{:08x}", self.fleet.all().len()),
            tags: spec.tags.clone(),
            zone: zone.to_owned(),
            launched_at: self.now,
            runs_at: boot.runs_at,
            image: spec.image.clone(),
            gpus: spec.class.gpus,
            address: None,
            phase: Phase::Pending(boot),
            fate,
            keys: GuestKeys { host: first_words.host.clone(), logins: vec![first_words.login.clone()] },
            personalised_as: None,
            silent_for: Some(first_words.silent_for()),
            ends_itself_at: None,
        })
    }

    fn draw_boot(&mut self) -> Boot {
        let runs_at = self.now + self.rules.runs_after.draw(&mut self.rng);
        let answers_at = runs_at + self.rules.answers_after.draw(&mut self.rng);
        let hangs = self.strikes(&Fault::BootHangs);
        Boot { runs_at, answers_at: (!hangs).then_some(answers_at) }
    }

    /// The same, as this image's machines do it.
    fn draw_boot_of(&mut self, image: Option<&str>) -> Boot {
        let boot = self.draw_boot();
        match image.and_then(|name| self.images.get(name)) {
            Some(image) => Boot {
                runs_at: boot.runs_at + image.slower,
                answers_at: boot.answers_at.filter(|_| image.boots).map(|at| at + image.slower),
            },
            None => boot,
        }
    }

    fn draw_fate(&mut self, boot: Boot) -> Fate {
        let lags = self.strikes(&Fault::ListLags);
        let list_lag = if lags { self.rules.list_lag_struck } else { self.rules.list_lag };
        Fate {
            found_from: self.now + self.rules.look_lag.draw(&mut self.rng),
            listed_from: self.now + list_lag.draw(&mut self.rng),
            shuts_down_in: self.rules.shuts_down_in.draw(&mut self.rng),
            loses_tags_at: self.draw_strike(&Fault::LoseTags, boot),
            dies_at: self.draw_strike(&Fault::Dies, boot),
            unknown_while_ending: self.strikes(&Fault::UnknownWhileEnding),
        }
    }

    fn draw_strike(&mut self, fault: &Fault, boot: Boot) -> Option<chrono::DateTime<chrono::Utc>> {
        let struck = self.strikes(fault);
        struck.then(|| boot.runs_at + self.rules.struck_after.draw(&mut self.rng))
    }

    /// Machines in an answer to their launch: all of them, also those that are not shown elsewhere yet or any more.
    fn shown(&self, numbers: &[usize]) -> Vec<Machine> {
        numbers.iter().filter_map(|no| self.fleet.get(*no)).map(SimMachine::shown).collect()
    }

    /// The effect of a stop; the disk and its keys stay, room and address go.
    pub(super) fn stop(&mut self, provider_id: &str) -> Result<(), ProviderError> {
        let no = self.known(provider_id)?;
        match self.fleet.get(no).map(SimMachine::state) {
            Some(MachineState::Running) => {
                let until = self.now + self.rules.shuts_down_in.draw(&mut self.rng);
                self.fleet.set_phase(no, Phase::Stopping { until });
                Ok(())
            }
            Some(MachineState::Stopping | MachineState::Stopped) => Ok(()),
            _ => Err(broken("IncorrectInstanceState", provider_id)),
        }
    }

    /// The effect of a start; the machine gets another address, and there must be room for it again.
    pub(super) fn start(&mut self, provider_id: &str) -> Result<(), ProviderError> {
        let no = self.known(provider_id)?;
        let Some(machine) = self.fleet.get(no) else { return Err(not_found(provider_id)) };
        let (class, zone) = (machine.tags.resource_class.clone(), machine.zone.clone());
        match machine.state() {
            MachineState::Pending | MachineState::Running => Ok(()),
            MachineState::Stopped => {
                if self.strikes(&Fault::NoCapacity) || self.room(&class, &zone) == 0 {
                    return Err(no_capacity(&class));
                }
                let boot = self.draw_boot();
                self.fleet.start(no, boot);
                Ok(())
            }
            MachineState::Stopping | MachineState::Terminated => Err(broken("IncorrectInstanceState", provider_id)),
        }
    }

    /// A machine that the provider knows now.
    pub(super) fn known(&self, provider_id: &str) -> Result<usize, ProviderError> {
        let no = self.fleet.by_id(provider_id).ok_or_else(|| not_found(provider_id))?;
        let found = self.fleet.get(no).is_some_and(|machine| machine.is_found(self.now));
        if found { Ok(no) } else { Err(not_found(provider_id)) }
    }
}

fn not_found(provider_id: &str) -> ProviderError {
    broken("InvalidInstanceID.NotFound", provider_id)
}

fn no_capacity(class: &str) -> ProviderError {
    ProviderError::NoCapacity(format!("InsufficientInstanceCapacity: there is no room for another {class}"))
}

fn is_same(first: &LaunchSpec, again: &LaunchSpec) -> bool {
    (&first.tags, &first.class, first.count, &first.user_data, &first.image)
        == (&again.tags, &again.class, again.count, &again.user_data, &again.image)
}
