//! What befalls the service in a history: drawn from the seed alone, before anything runs, so that a history can be cut short and run
//! again. *Picks* are numbers that choose among what there is when the operation comes.

use super::cluster::Cut;
use rand::Rng as _;
use rand::rngs::StdRng;
use vm_service::domain::lineage::Trust;
use vm_service::domain::task::Executor;

/// One thing that befalls the service.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Request(Wish),
    /// The same PUT again.
    AskAgain(usize),
    Release(usize),
    Heartbeat(usize),
    /// Nothing happens for so many milliseconds.
    Wait(i64),
    Settings(Change),
    Hold {
        vm: usize,
        seconds: i64,
    },
    Unhold(usize),
    /// An operator ends a VM.
    Terminate(usize),
    Crash {
        replica: usize,
        points: u32,
        cut: Cut,
    },
    Kill(usize),
    Thaw(usize),
    /// A machine with our tags and without a row.
    PlantMachine,
    PlantVolume {
        project: usize,
    },
    /// A machine dies.
    KillMachine(usize),
    /// A job with a cache builds or uses layers.
    Build(usize),
    HoldVolume {
        volume: usize,
        seconds: i64,
    },
    UnholdVolume(usize),
    /// An operator deletes a volume.
    DeleteVolume(usize),
    /// A builder makes an image, and an operator registers it; another promotes or retires one.
    Image(usize),
    Faults(bool),
    /// The three deletes of the runbook.
    DeleteRows,
    /// The whole database is a new one.
    LoseDatabase,
    /// Nothing goes wrong for a while, and everything must settle.
    Calm,
}

/// A task.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) executor: Executor,
    pub(super) class: &'static str,
    pub(super) project: usize,
    pub(super) priority: i16,
    pub(super) keys: bool,
    pub(super) lease_seconds: Option<u32>,
    pub(super) max_run_seconds: i32,
    /// It works on a cache, with this trust.
    pub(super) cache: Option<Trust>,
}

/// What an operator changes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Base { executor: Executor, count: u32 },
    LargePool(u32),
    Vms(u32),
    InFlight(u32),
    PerProject(Option<u32>),
    OfClass { class: &'static str, limit: Option<u32> },
    Disk { class: &'static str, gib: u32 },
    Pause(bool),
    TaskHours(u32),
    IdleHours(u32),
    Cycle { hour: u32 },
    Reserve { executor: Executor, class: &'static str, count: u32 },
    Weight { project: usize, weight: u32 },
    CacheWait(u32),
    Volumes(Option<u32>),
    InactiveDays(u32),
}

/// How many projects there are.
pub(super) const PROJECTS: usize = 6;

/// A list of operations; what has to do with caches is drawn from `caches`, what has to do with images from `images`.
pub(super) fn draw(count: usize, rng: &mut StdRng, caches: &mut StdRng, images: &mut StdRng) -> Vec<Operation> {
    let mut list: Vec<Operation> = (0..count).map(|_| one(rng)).collect();
    for operation in &mut list {
        if caches.random_bool(0.14) {
            *operation = of_caches(caches);
        } else if let Operation::Request(wish) = operation {
            wish.cache = caches.random_bool(0.5).then(|| trust(caches));
            // Few projects, so that they have more than one job.
            wish.project = if wish.cache.is_some() { wish.project % 3 } else { wish.project };
        }
    }
    for operation in &mut list {
        if images.random_bool(0.02) {
            *operation = Operation::Image(images.random_range(0..1000));
        }
    }
    // The rare ones: at most one of each, and calm twice.
    if rng.random_bool(0.35) {
        put(&mut list, Operation::DeleteRows, rng);
    }
    if rng.random_bool(0.2) {
        put(&mut list, Operation::LoseDatabase, rng);
    }
    put(&mut list, Operation::Calm, rng);
    list
}

fn put(list: &mut [Operation], operation: Operation, rng: &mut StdRng) {
    if !list.is_empty() {
        let at = rng.random_range(0..list.len());
        list[at] = operation;
    }
}

fn one(rng: &mut StdRng) -> Operation {
    let pick = rng.random_range(0..1000);
    match rng.random_range(0..1000) {
        0..230 => Operation::Request(wish(rng)),
        230..250 => Operation::AskAgain(pick),
        250..440 => Operation::Release(pick),
        440..530 => Operation::Heartbeat(pick),
        530..680 => Operation::Wait(wait(rng)),
        680..730 => Operation::Settings(change(rng)),
        730..755 => Operation::Hold { vm: pick, seconds: rng.random_range(10..=7200) },
        755..780 => Operation::Unhold(pick),
        780..805 => Operation::Terminate(pick),
        805..905 => {
            let cut = if rng.random_bool(0.5) { Cut::Killed } else { Cut::Frozen };
            Operation::Crash { replica: pick, points: rng.random_range(0..40), cut }
        }
        905..915 => Operation::Kill(pick),
        915..960 => Operation::Thaw(pick),
        960..968 => Operation::PlantMachine,
        968..974 => Operation::PlantVolume { project: rng.random_range(0..PROJECTS) },
        974..986 => Operation::KillMachine(pick),
        986..990 => Operation::Faults(false),
        _ => Operation::Faults(true),
    }
}

fn of_caches(rng: &mut StdRng) -> Operation {
    let pick = rng.random_range(0..1000);
    match rng.random_range(0..100) {
        0..70 => Operation::Build(pick),
        70..78 => Operation::HoldVolume { volume: pick, seconds: rng.random_range(60..=20_000) },
        78..86 => Operation::UnholdVolume(pick),
        86..91 => Operation::DeleteVolume(pick),
        91..94 => Operation::Settings(Change::CacheWait(rng.random_range(5..=120))),
        94..98 => Operation::Settings(Change::Volumes(rng.random_bool(0.7).then(|| rng.random_range(1..=8)))),
        _ => Operation::Settings(Change::InactiveDays(rng.random_range(1..=3))),
    }
}

fn trust(rng: &mut StdRng) -> Trust {
    if rng.random_bool(0.7) { Trust::Trusted } else { Trust::Untrusted }
}

fn wish(rng: &mut StdRng) -> Wish {
    Wish {
        executor: executor(rng),
        class: class(rng),
        project: rng.random_range(0..PROJECTS),
        priority: rng.random_range(-2..=2),
        keys: rng.random_bool(0.3),
        lease_seconds: rng.random_bool(0.3).then(|| rng.random_range(10..=120)),
        max_run_seconds: if rng.random_bool(0.3) { rng.random_range(20..=600) } else { 3600 },
        cache: None,
    }
}

/// Mostly seconds, at times minutes, rarely hours.
fn wait(rng: &mut StdRng) -> i64 {
    match rng.random_range(0..100) {
        0..80 => rng.random_range(200..=15_000),
        80..98 => rng.random_range(15_000..=300_000),
        _ => rng.random_range(600_000..=4 * 3_600_000),
    }
}

fn change(rng: &mut StdRng) -> Change {
    match rng.random_range(0..19) {
        0..3 => Change::Base { executor: executor(rng), count: rng.random_range(0..=4) },
        3 => Change::LargePool(rng.random_range(0..=2)),
        4 | 13 => Change::Vms(rng.random_range(3..=16)),
        5 | 14 => Change::InFlight(rng.random_range(1..=6)),
        6 | 15 => Change::PerProject(rng.random_bool(0.7).then(|| rng.random_range(1..=3))),
        7 | 16 => Change::OfClass { class: class(rng), limit: rng.random_bool(0.6).then(|| rng.random_range(1..=10)) },
        8 => Change::Pause(rng.random_bool(0.3)),
        9 => Change::TaskHours(rng.random_range(1..=6)),
        10 => Change::IdleHours(rng.random_range(1..=24)),
        11 if rng.random_bool(0.5) => Change::Disk { class: class(rng), gib: rng.random_range(20..=22) },
        11 => Change::Cycle { hour: rng.random_range(0..24) },
        17 | 18 => Change::Reserve { executor: executor(rng), class: class(rng), count: rng.random_range(0..=2) },
        _ => Change::Weight { project: rng.random_range(0..PROJECTS), weight: rng.random_range(1..=4) },
    }
}

fn executor(rng: &mut StdRng) -> Executor {
    if rng.random_bool(0.7) { Executor::Machine } else { Executor::RemoteDocker }
}

fn class(rng: &mut StdRng) -> &'static str {
    if rng.random_bool(0.75) { "medium" } else { "large" }
}
