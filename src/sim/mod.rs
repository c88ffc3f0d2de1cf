//! One simulated world behind both traits, `Provider` and `Guest`: the same seed and the same calls make the same history, to the
//! byte, on a clock that is moved by hand.
//!
//! A world holds machines, the guests in them, and cache volumes. It never waits: every answer is immediate, and what takes time
//! shows when the clock has moved. It obliges ([`Sim::new`]: no budgets, no lag, nothing goes wrong unless injected) or is strict
//! ([`Sim::strict`]: the rules of AWS, with its numbers, and faults by chance). What it *shows* through the traits may lag and
//! lie as a cloud's answers do; what it *is* stands in [`Sim::truth`].
//!
//! Reads, writes: its own state. Calls: nothing. Runs: in tests, proofs and benchmarks.
//!
//! | file | holds |
//! | --- | --- |
//! | `rules`, `faults` | the numbers, and what goes wrong |
//! | `world` | the state, and the door of every call: budget, loss, effect, journal |
//! | `ops`, `buckets`, `gate`, `journal` | the parts of that door |
//! | `machines`, `fleet` | the life of one machine; all machines in the order of time |
//! | `cloud`, `launch`, `volumes`, `images` | what a provider does |
//! | `guest` | what a guest does |

mod buckets;
mod cache;
mod cloud;
mod faults;
mod fleet;
mod gate;
mod guest;
mod images;
mod journal;
mod launch;
mod machines;
mod ops;
mod rules;
mod snapshots;
mod volumes;
mod world;

pub use buckets::{Bucket, Totals};
pub use cache::Content;
pub use faults::{Fault, FaultRates};
pub use gate::Gate;
pub use images::SimImage;
pub use journal::{Call, Outcome};
pub use machines::{EndCause, GuestKeys, MachineTruth};
pub use rules::{Rules, Spread};
pub use snapshots::SnapshotTruth;
pub use volumes::{VolumeLink, VolumeTruth};

use crate::clock::{Clock as _, HandClock};
use crate::domain::tags::Tags;
use crate::provider::MachineState;
use chrono::TimeDelta;
use machines::{Boot, Fate, Phase, SimMachine};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use world::World;

/// A handle of a simulated world.
#[derive(Clone)]
pub struct Sim {
    clock: HandClock,
    world: Arc<Mutex<World>>,
    gate: Arc<dyn Gate>,
}

impl Sim {
    /// An empty world that obliges; machines run at once until [`Sim::set_boot_time`].
    pub fn new(clock: HandClock) -> Self {
        Self::strict(clock, Rules::obliging(), FaultRates::none(), 0)
    }

    /// An empty world that keeps these rules, and in which things go wrong at these rates; `seed` decides what and when.
    pub fn strict(clock: HandClock, rules: Rules, faults: FaultRates, seed: u64) -> Self {
        let world = World::new(rules, faults, seed, clock.now());
        Self { clock, world: Arc::new(Mutex::new(world)), gate: Arc::new(gate::Open) }
    }

    /// Another handle of the same world, all of whose calls pass this gate: one replica's view.
    #[must_use]
    pub fn handle(&self, gate: Arc<dyn Gate>) -> Self {
        Self { gate, ..self.clone() }
    }

    /// How long machines take to run, from now on.
    pub fn set_boot_time(&self, takes: TimeDelta) {
        self.world().rules.runs_after = Spread::exactly(takes);
    }

    /// How many machines one launch may ask for, from now on.
    pub fn set_max_batch(&self, machines: u32) {
        self.world().rules.max_batch = machines;
    }

    /// Lets this go wrong once.
    pub fn inject(&self, fault: Fault) {
        self.world().faults.inject(fault);
    }

    /// How often things go wrong, from now on.
    pub fn set_faults(&self, rates: FaultRates) {
        self.world().faults.set_rates(rates);
    }

    /// Keeps the calls made from now on, or does not: a long benchmark has no memory for them.
    pub fn set_journal(&self, on: bool) {
        self.world().journal.switch(on);
    }

    /// Kills a machine from outside.
    pub fn kill(&self, provider_id: &str) {
        let mut world = self.world();
        if let Some(no) = world.fleet.by_id(provider_id) {
            let now = world.now;
            world.fleet.end(no, now, EndCause::Killed);
        }
    }

    /// Kills a machine and wipes it from the provider's memory.
    pub fn forget(&self, provider_id: &str) {
        let mut world = self.world();
        if let Some(no) = world.fleet.by_id(provider_id) {
            let now = world.now;
            world.fleet.forget(no, now);
        }
    }

    /// Adds a running machine that nobody launched here; its guest knows nobody.
    pub fn plant(&self, provider_id: &str, tags: Tags) {
        let mut world = self.world();
        let now = world.now;
        let zone = world.rules.zones.first().cloned().unwrap_or_default();
        world.fleet.add(SimMachine {
            provider_id: provider_id.to_owned(),
            tags,
            zone,
            launched_at: now,
            runs_at: now,
            address: None,
            phase: Phase::Running(Boot { runs_at: now, answers_at: Some(now) }),
            fate: Fate::plain(now),
            image: None,
            gpus: 0,
            keys: GuestKeys::default(),
            personalised_as: None,
            silent_for: None,
            ends_itself_at: None,
        });
    }

    /// The machines that are not gone, by the provider's names.
    pub fn live(&self) -> BTreeMap<String, MachineTruth> {
        let alive = |machine: &MachineTruth| machine.state != MachineState::Terminated;
        self.truth().into_iter().filter(alive).map(|machine| (machine.provider_id.clone(), machine)).collect()
    }

    /// All machines that there ever were, oldest first.
    pub fn truth(&self) -> Vec<MachineTruth> {
        let world = self.world();
        world.fleet.all().iter().map(|machine| machine.truth(world.now)).collect()
    }

    /// All calls, in the order of their effects.
    pub fn journal(&self) -> Vec<Call> {
        self.world().journal.calls().to_vec()
    }

    /// The calls after the first `seen`, in the order of their effects.
    pub fn journal_from(&self, seen: usize) -> Vec<Call> {
        self.world().journal.calls().get(seen..).unwrap_or_default().to_vec()
    }

    /// A hash of [`Sim::journal`], the same on every machine and in every version of this program that keeps its format.
    pub fn journal_digest(&self) -> u64 {
        self.world().journal.digest()
    }

    /// How often the call was made, whatever became of it.
    pub fn calls(&self, name: &'static str) -> u32 {
        self.world().journal.times(name)
    }

    /// How many calls this bucket refused.
    pub fn throttled(&self, bucket: Bucket) -> u64 {
        self.totals().get(&bucket).map_or(0, |totals| totals.throttled)
    }

    /// What went through each bucket that was used.
    pub fn totals(&self) -> BTreeMap<Bucket, Totals> {
        self.world().buckets.totals()
    }

    /// The world as it is now.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that no call goes back in time.
        world.settle(self.clock.now());
        world
    }

    /// One call through both gates; its whole effect lies between them.
    async fn through<T: Send>(&self, op: &ops::Op, effect: impl FnOnce(&mut World) -> T + Send) -> T {
        self.gate.pass(op.before).await;
        let answer = effect(&mut self.world());
        self.gate.pass(op.after).await;
        answer
    }
}
