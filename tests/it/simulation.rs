//! The proof of the engine: the real loops of several replicas on a real Postgres against the simulated cloud, through histories that a
//! seed decides, with every check after every operation.
//!
//! A *history* is a list of operations (requests, releases, crashes between any two steps, frozen replicas, clock jumps, changed
//! settings, faults of the cloud, lost rows) and what came of them. The same seed has the same history, to the byte.
//!
//! | file | holds |
//! | --- | --- |
//! | `operations` | what befalls the service, drawn from the seed |
//! | `history` | one history, operation by operation |
//! | `cluster`, `fuse` | the replicas, driven step by step, and where each can be cut |
//! | `model` | what the driver knows: what it did and what it was told |
//! | `checks`, `limits`, `calm` | what must hold: always, always, and when it is calm |
//! | `caches`, `cache_checks`, `cache_calm` | the same of Docker layer caches: what befalls them, and what must hold |
//! | `images` | what befalls images, and that none is used after its time |
//! | `report` | what is said about a violation |

mod cache_calm;
mod cache_checks;
mod caches;
mod calm;
mod checks;
mod cluster;
mod fuse;
mod history;
mod images;
mod limits;
mod model;
mod operations;
mod report;

use history::History;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vm_service::domain::lifecycle::TaskState;

/// In the gate, each.
const OPERATIONS: usize = 1000;

/// What a history came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    digest: u64,
    answers: BTreeMap<String, TaskState>,
    operations: usize,
    cuts: u32,
    violation: Option<String>,
}

/// Runs the history of one seed in a database of its own.
async fn run(seed: u64, operations: usize) -> Outcome {
    #[allow(clippy::disallowed_methods, reason = "as #[sqlx::test] does")]
    let connect: PgConnectOptions = std::env::var("DATABASE_URL").unwrap().parse().unwrap();
    let name = format!("simulation_{}_{seed}", std::process::id());
    let mut admin = connect.connect().await.unwrap();
    admin.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
    let connect_own = connect.clone().database(&name);
    let pool = PgPoolOptions::new().max_connections(1).connect_with(connect_own.clone()).await.unwrap();
    vm_service::db::MIGRATOR.run(&pool).await.unwrap();
    pool.close().await;
    let outcome = history_of(&connect_own, seed, operations).await;
    admin.execute(sqlx::AssertSqlSafe(format!("drop database {name} with (force)"))).await.unwrap();
    admin.close().await.unwrap();
    outcome
}

async fn history_of(connect: &PgConnectOptions, seed: u64, count: usize) -> Outcome {
    let mut draws = StdRng::seed_from_u64(seed);
    let replicas = 2 + usize::try_from(seed % 2).unwrap();
    let list =
        operations::draw(count, &mut draws, &mut StdRng::seed_from_u64(seed ^ 0xcac4e), &mut StdRng::seed_from_u64(seed ^ 0x1ca9e));
    let mut history = History::new(seed, connect, replicas).await;
    let mut violation = None;
    for operation in &list {
        if let Err(broken) = history.step(operation).await {
            violation = Some(broken);
            break;
        }
    }
    if violation.is_none() {
        violation = calm::quiesce(&mut history).await.err();
    }
    let told = match &violation {
        Some(violation) => Some(violation.tell(&history).await),
        None => None,
    };
    let answers = history.model.jobs.values().map(|job| (job.id.to_string(), job.state)).collect();
    let outcome =
        Outcome { digest: digest(&history), answers, operations: list.len(), cuts: history.cluster.cuts, violation: told };
    history.close().await;
    outcome
}

/// FNV-1a, 64 bits, of the journal without the keys in it: those are real ones, and fresh in every run.
fn digest(history: &History) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut line = String::new();
    for call in history.cluster.sim.journal() {
        line.clear();
        let detail = if call.bucket.is_none() { call.detail.split(" as ").next().unwrap_or_default() } else { &call.detail };
        writeln!(line, "{} {} {detail} {:?}", call.at, call.op, call.outcome).unwrap();
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Prints what was found, and fails the test.
async fn must_hold(seed: u64) {
    if let Some(violation) = run(seed, OPERATIONS).await.violation {
        panic!("{violation}");
    }
}

#[tokio::test]
async fn the_same_seed_has_the_same_history() {
    let first = run(11, 250).await;
    assert_eq!(first, run(11, 250).await);
    assert_ne!(first.digest, run(12, 250).await.digest);
}

macro_rules! seeds {
    ($($name:ident: $seed:literal,)*) => {
        $(#[tokio::test]
        async fn $name() {
            must_hold($seed).await;
        })*
    };
}

// One test each, so that they share the cores.
seeds! {
    seed_1: 1,
    seed_2: 2,
    seed_3: 3,
    seed_4: 4,
    seed_5: 5,
    seed_6: 6,
    seed_7: 7,
    seed_8: 8,
    seed_9: 9,
    seed_10: 10,
}

/// For `.ci/sim`: the seeds from `SIM_FIRST` on, every `SIM_STRIDE`th up to `SIM_LAST`, with `SIM_OPERATIONS` each.
#[tokio::test]
#[ignore = "a long run, by make sim"]
async fn seeds_of_the_environment() {
    #[allow(clippy::disallowed_methods, reason = "`make sim` says so which histories")]
    let number = |name: &str| -> u64 { std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(1) };
    let operations = usize::try_from(number("SIM_OPERATIONS")).unwrap();
    let mut violations = 0;
    for seed in (number("SIM_FIRST")..=number("SIM_LAST")).step_by(usize::try_from(number("SIM_STRIDE")).unwrap()) {
        let began = std::time::Instant::now();
        let outcome = run(seed, operations).await;
        let (cuts, tasks, spent) = (outcome.cuts, outcome.answers.len(), began.elapsed().as_secs_f64());
        println!("seed {seed}: {} operations, {tasks} tasks, {cuts} cuts, {spent:.1} s", outcome.operations);
        if let Some(violation) = outcome.violation {
            violations += 1;
            println!("{violation}");
        }
    }
    assert_eq!(violations, 0);
}
