//! What can go wrong: each fault strikes once when a test injects it, and by chance at its rate; nothing else goes wrong here.
//!
//! A fault of a *call* strikes the next call it fits; a fault of a *machine* strikes the next machine that is launched and
//! shows later.

use rand::Rng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, VecDeque};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Call: the cloud says that it is asked too fast, and does nothing.
    Throttle,
    /// Call: a launch is lost before it has an effect.
    LoseLaunch,
    /// Call: a launch happens, its answer is lost.
    LoseLaunchAnswer,
    /// Call: a launch happens, and the call never returns: for a worker that is killed meanwhile.
    HangAfterLaunch,
    /// Call: a launch reaches the cloud twice, and the second answer is the one that comes back.
    DoubleAnswer,
    /// Call: a launch or a start is refused: no room.
    NoCapacity,
    /// Call: a launch of several machines makes fewer.
    FewerMachines,
    /// Call: a launch is refused for good.
    Refuse(String),
    /// Call: a terminate call is lost before it has an effect.
    LoseTerminate,
    /// Call: a terminate call happens, its answer is lost.
    LoseTerminateAnswer,
    /// Call: any other change is lost before it has an effect.
    LoseChange,
    /// Call: any other change happens, its answer is lost.
    LoseChangeAnswer,
    /// Call: a list or a look fails.
    LoseLook,
    /// Call: the list of machines is empty, and says that it is incomplete.
    IncompleteList,
    /// Call: one page of a list of machines or volumes is missing, and it says that it is incomplete.
    ListMissesPage,
    /// Call: an attachment never ends, until the volume is detached or the machine has ended.
    StuckAttach,
    /// Call: a detachment never ends, until the machine has ended.
    StuckDetach,
    /// Call: a snapshot never completes.
    StuckSnapshot,
    /// Call: a check of a cache disk finds fault with it.
    DamagedDisk,
    /// Call: a cache disk cannot be unmounted.
    UnmountFails,
    /// Call: nobody answers first contact.
    NeverAnswers,
    /// Call: first contact meets somebody else.
    WrongHostKey,
    /// Call: the GPUs of a machine cannot be used.
    GpusMissing,
    /// Call: the guest takes no keys of a task.
    RefusesKeys,
    /// Machine: lists hold it only after minutes.
    ListLags,
    /// Machine: it loses its tags; it is in no list then, and still found by its name.
    LoseTags,
    /// Machine: it runs, and never answers.
    BootHangs,
    /// Machine: it dies.
    Dies,
    /// Machine: it is not known any more as soon as it is to end, although it still has its machine for a while.
    UnknownWhileEnding,
}

/// How often each fault strikes: a probability per call or per machine that it fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultRates(BTreeMap<Fault, f64>);

impl FaultRates {
    /// Nothing goes wrong by chance.
    pub fn none() -> Self {
        Self::default()
    }

    /// A bad day: everything goes wrong at times, nothing so often that no progress is made.
    /// [`Fault::HangAfterLaunch`] and [`Fault::Refuse`] are left to tests: nothing mends them by itself.
    pub fn usual() -> Self {
        let calls = [
            (Fault::Throttle, 0.02),
            (Fault::LoseLaunch, 0.02),
            (Fault::LoseLaunchAnswer, 0.03),
            (Fault::DoubleAnswer, 0.02),
            (Fault::NoCapacity, 0.02),
            (Fault::FewerMachines, 0.05),
            (Fault::LoseTerminate, 0.02),
            (Fault::LoseTerminateAnswer, 0.02),
            (Fault::LoseChange, 0.02),
            (Fault::LoseChangeAnswer, 0.02),
            (Fault::LoseLook, 0.02),
            (Fault::IncompleteList, 0.01),
            (Fault::ListMissesPage, 0.02),
            (Fault::StuckAttach, 0.01),
            (Fault::StuckDetach, 0.01),
            (Fault::StuckSnapshot, 0.02),
            (Fault::DamagedDisk, 0.01),
            (Fault::UnmountFails, 0.01),
            (Fault::NeverAnswers, 0.01),
            (Fault::WrongHostKey, 0.002),
            (Fault::RefusesKeys, 0.01),
            (Fault::GpusMissing, 0.02),
        ];
        let machines = [
            (Fault::ListLags, 0.02),
            (Fault::LoseTags, 0.002),
            (Fault::BootHangs, 0.01),
            (Fault::Dies, 0.01),
            (Fault::UnknownWhileEnding, 0.05),
        ];
        Self(calls.into_iter().chain(machines).collect())
    }

    /// The same with another probability, from 0 to 1, of one fault.
    #[must_use]
    pub fn with(mut self, fault: Fault, probability: f64) -> Self {
        self.0.insert(fault, probability.clamp(0.0, 1.0));
        self
    }
}

/// What is to go wrong in one world.
#[derive(Debug)]
pub(super) struct Faults {
    once: VecDeque<Fault>,
    rates: FaultRates,
}

impl Faults {
    pub(super) const fn at(rates: FaultRates) -> Self {
        Self { once: VecDeque::new(), rates }
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        self.once.push_back(fault);
    }

    pub(super) fn set_rates(&mut self, rates: FaultRates) {
        self.rates = rates;
    }

    /// Whether this fault strikes here; an injected one is used up by it.
    pub(super) fn strikes(&mut self, fault: &Fault, rng: &mut StdRng) -> bool {
        if let Some(at) = self.once.iter().position(|injected| injected == fault) {
            return self.once.remove(at).is_some();
        }
        let rate = self.rates.0.get(fault).copied().unwrap_or_default();
        rate > 0.0 && rng.random_bool(rate)
    }

    /// The reason of the next injected refusal, which is used up by it.
    pub(super) fn refusal(&mut self) -> Option<String> {
        let at = self.once.iter().position(|fault| matches!(fault, Fault::Refuse(_)))?;
        match self.once.remove(at) {
            Some(Fault::Refuse(reason)) => Some(reason),
            _ => None,
        }
    }
}
