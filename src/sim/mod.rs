//! One simulated world behind both traits: machines and their guests in memory, on a clock moved by hand, with faults that a test
//! asks for. It keeps the contract of `Provider`; the same suite runs on it and on the real ones.
//!
//! Reads, writes: its own state. Calls: nothing. Runs: in tests.

mod cloud;
mod guest;

use crate::clock::HandClock;
use crate::domain::identity::{Bootstrap, Identity};
use crate::domain::tags::Tags;
use crate::provider::MachineState;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong once, at the next call it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The launch happens, its answer is lost.
    LoseLaunchAnswer,
    /// The launch happens, and the call never returns: for a worker that is killed meanwhile.
    HangAfterLaunch,
    /// The launch is refused: no room.
    NoCapacity,
    /// The launch is refused for good.
    Refuse(String),
    /// The list misses machines, and says so.
    IncompleteList,
    /// First contact never succeeds.
    NeverAnswers,
    /// First contact meets somebody else.
    WrongHostKey,
    /// The guest takes no keys of a task.
    RefusesKeys,
    /// The terminate call is lost.
    LoseTerminate,
}

/// A simulated machine and its guest.
#[derive(Clone, Debug)]
pub struct SimMachine {
    /// What it carries.
    pub tags: Tags,
    /// Where it is.
    pub state: MachineState,
    /// When it runs.
    pub runs_at: DateTime<Utc>,
    /// Public keys it answers with and lets in: host key, logins.
    pub keys: GuestKeys,
}

/// Which keys a simulated guest has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestKeys {
    /// Its public host key.
    pub host: String,
    /// Public keys that may log in.
    pub logins: Vec<String>,
}

/// The simulated world.
#[derive(Clone)]
pub struct Sim {
    clock: HandClock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<String, SimMachine>,
    tokens: BTreeMap<String, Vec<String>>,
    faults: VecDeque<Fault>,
    calls: BTreeMap<&'static str, u32>,
    boot_takes: TimeDelta,
}

impl Sim {
    /// An empty world on this clock; machines run at once until [`Sim::set_boot_time`].
    pub fn new(clock: HandClock) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// How long new machines take to run.
    pub fn set_boot_time(&self, takes: TimeDelta) {
        self.lock().boot_takes = takes;
    }

    /// Lets this go wrong at the next call it fits.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// The machines that hold capacity, with their names: the truth, whatever our rows say.
    pub fn live(&self) -> BTreeMap<String, SimMachine> {
        self.lock()
            .machines
            .iter()
            .filter(|(_, m)| m.state != MachineState::Terminated)
            .map(|(id, m)| (id.clone(), m.clone()))
            .collect()
    }

    /// Kills a machine from outside.
    pub fn kill(&self, provider_id: &str) {
        if let Some(machine) = self.lock().machines.get_mut(provider_id) {
            machine.state = MachineState::Terminated;
        }
    }

    /// Makes the provider forget a machine, as if it had never been.
    pub fn forget(&self, provider_id: &str) {
        self.lock().machines.remove(provider_id);
    }

    /// Adds a machine that nobody launched here.
    pub fn plant(&self, provider_id: &str, tags: Tags) {
        let machine = SimMachine { tags, state: MachineState::Running, runs_at: self.now(), keys: GuestKeys::default() };
        self.lock().machines.insert(provider_id.to_owned(), machine);
    }

    /// How often the call was made.
    pub fn calls(&self, name: &'static str) -> u32 {
        self.lock().calls.get(name).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> DateTime<Utc> {
        crate::clock::Clock::now(&self.clock)
    }
}

impl State {
    /// Takes the fault away if it is the next one.
    fn strikes(&mut self, fault: &Fault) -> bool {
        let hit = self.faults.iter().position(|f| f == fault);
        hit.is_some_and(|at| self.faults.remove(at).is_some())
    }

    fn count(&mut self, call: &'static str) {
        *self.calls.entry(call).or_default() += 1;
    }
}

impl GuestKeys {
    fn bootstrap(keys: &Bootstrap) -> Self {
        Self { host: keys.host_public.clone(), logins: vec![keys.login_public.clone()] }
    }

    fn identity(keys: &Identity) -> Self {
        Self { host: keys.host_public.clone(), logins: vec![keys.login_public.clone()] }
    }
}
