//! The trouble, from a seeded plan: replicas are killed and frozen, most of them in the middle of an act or of a transaction that they
//! are known to be in, and Postgres crashes and is away for some seconds. One replica at least is always up.

use super::cloud::Cloud;
use super::fleet::{Is, Replica};
use super::postgres::Postgres;
use super::takeover::{Step, Takeover};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom as _, SliceRandom as _};
use rustix::process::Signal;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two looks at everything.
const STEP: Duration = Duration::from_millis(10);
/// For a wanted moment to come.
const MOMENT: Duration = Duration::from_secs(20);
/// A step that nobody takes over is given up.
const NEVER: Duration = Duration::from_secs(40);
/// From "Postgres takes connections" to `/health` of a replica.
const BACK: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    KillAtWork,
    FreezeAtWork,
    FreezeInTransaction,
    Kill,
    CrashPostgres,
    StopPostgres,
}

/// Each round has all of them, in an order of its own.
const ROUND: [Act; 9] = [
    Act::KillAtWork,
    Act::KillAtWork,
    Act::KillAtWork,
    Act::KillAtWork,
    Act::FreezeAtWork,
    Act::FreezeInTransaction,
    Act::Kill,
    Act::CrashPostgres,
    Act::StopPostgres,
];

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) wrong: Vec<String>,
    pub(super) takeovers: Vec<f64>,
    pub(super) locks: Vec<f64>,
    pub(super) back: Vec<f64>,
    pub(super) kills: u32,
    pub(super) freezes: u32,
}

pub(super) struct Trouble {
    pub(super) rng: StdRng,
    pub(super) replicas: Vec<Replica>,
    pub(super) postgres: Postgres,
    pub(super) cloud: Cloud,
    pub(super) pool: PgPool,
    pub(super) http: reqwest::Client,
    pub(super) token: String,
    pub(super) open: Vec<Takeover>,
    pub(super) report: Report,
    pub(super) began: Instant,
}

impl Trouble {
    /// A whole round, and more until this long has passed; everybody is up again afterwards.
    pub(super) async fn run(&mut self, length: Duration) {
        for nth in 0.. {
            let mut round = ROUND;
            round.shuffle(&mut self.rng);
            for act in round {
                if nth > 0 && self.began.elapsed() >= length {
                    break;
                }
                self.turn_for(1000..3000).await;
                self.until(|trouble| trouble.up().len() > 1, MOMENT * 2).await;
                self.say(&format!("{act:?}"));
                match act {
                    Act::KillAtWork | Act::FreezeAtWork => self.strike_at_work(act).await,
                    Act::FreezeInTransaction => self.freeze_in_transaction().await,
                    Act::Kill => {
                        let victim = self.up().into_iter().choose(&mut self.rng).unwrap();
                        self.strike(act, victim);
                    }
                    Act::CrashPostgres => self.end_postgres(Signal::QUIT, Duration::ZERO).await,
                    Act::StopPostgres => {
                        let away = Duration::from_millis(self.rng.random_range(4000..7000));
                        self.end_postgres(Signal::INT, away).await;
                    }
                }
            }
            if self.began.elapsed() >= length {
                break;
            }
        }
        self.until(|trouble| trouble.open.is_empty() && trouble.up().len() == trouble.replicas.len(), NEVER * 2).await;
    }

    /// For the log of a failed run.
    fn say(&self, what: &str) {
        println!("[{:6.2} s] {what}", self.began.elapsed().as_secs_f64());
    }

    fn up(&self) -> Vec<usize> {
        (0..self.replicas.len()).filter(|at| self.replicas[*at].is == Is::Up).collect()
    }

    /// Waits for a level, turning meanwhile; true when it came.
    async fn until(&mut self, there: impl Fn(&Self) -> bool, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        while !there(self) {
            if Instant::now() > deadline {
                return false;
            }
            self.turn().await;
        }
        true
    }

    async fn turn_for(&mut self, ms: std::ops::Range<u64>) {
        let end = Instant::now() + Duration::from_millis(self.rng.random_range(ms));
        self.until(|_| Instant::now() >= end, NEVER).await;
    }

    /// Does what is due, and looks at the steps that wait for another worker.
    async fn turn(&mut self) {
        self.turn_replicas();
        for mut takeover in std::mem::take(&mut self.open) {
            let (step, took) = takeover.look(&self.pool).await;
            if step == Step::Open && took < NEVER {
                self.open.push(takeover);
                continue;
            }
            self.say(&format!("{step:?} after {:.2} s: {}", took.as_secs_f64(), takeover.about));
            match step {
                Step::Open => self.report.wrong.push(format!("after {took:?} nobody had taken over: {}", takeover.about)),
                Step::TakenOver => self.report.takeovers.push(took.as_secs_f64()),
                Step::Freed => self.report.locks.push(took.as_secs_f64()),
                Step::Gone => {}
            }
        }
        sleep(STEP).await;
    }

    fn turn_replicas(&mut self) {
        let now = Instant::now();
        let wrong = self.replicas.iter_mut().filter_map(|replica| replica.turn(now));
        self.report.wrong.extend(wrong);
    }

    /// Kills or freezes it for a while.
    fn strike(&mut self, act: Act, victim: usize) {
        let now = Instant::now();
        if act == Act::KillAtWork || act == Act::Kill {
            self.replicas[victim].kill(now + Duration::from_millis(self.rng.random_range(500..3000)));
            self.report.kills += 1;
        } else {
            self.replicas[victim].freeze(now + Duration::from_millis(self.rng.random_range(12_000..25_000)));
            self.report.freezes += 1;
        }
        self.say(&format!("{act:?} of {}: {:?}", self.replicas[victim].role.name, self.replicas[victim].is));
    }

    /// As soon as one is in the middle of an act.
    async fn strike_at_work(&mut self, act: Act) {
        let deadline = Instant::now() + MOMENT;
        while Instant::now() < deadline {
            let flights = self.cloud.flights();
            let is_up = |name: &str| self.up().into_iter().find(|at| self.replicas[*at].role.name == name);
            if let Some((victim, flight)) = flights.into_iter().rev().find_map(|flight| Some((is_up(&flight.from)?, flight))) {
                self.strike(act, victim);
                let about = format!("{act:?} of {} in {:?}", flight.from, flight.subject);
                self.open.extend(Takeover::of(&flight.subject, Instant::now(), about, &self.pool).await);
                return;
            }
            self.turn().await;
        }
        self.report.wrong.push(format!("{act:?}: nobody acted for {MOMENT:?}"));
    }

    /// Freezes one again and again for a moment, until it stands in the middle of a transaction; there it stays frozen.
    async fn freeze_in_transaction(&mut self) {
        let deadline = Instant::now() + MOMENT;
        while Instant::now() < deadline {
            let Some(victim) = self.up().into_iter().choose(&mut self.rng) else { continue };
            let from = Instant::now();
            self.replicas[victim].freeze(from + NEVER);
            // What it has sent is done by then, and the transaction is idle.
            sleep(STEP).await;
            let name = self.replicas[victim].role.name.clone();
            if let Some(open) = Takeover::of_transaction(&name, from, &self.pool).await {
                self.open.push(open);
                self.strike(Act::FreezeInTransaction, victim);
                return;
            }
            self.replicas[victim].thaw();
            self.turn().await;
        }
        self.say("no transaction was met; a plain freeze");
        let victim = self.up().into_iter().choose(&mut self.rng).unwrap();
        self.strike(Act::FreezeInTransaction, victim);
    }

    /// Ends Postgres, and sees each replica that is up come back after it. Takeovers are over before: their bar is for a database that works.
    async fn end_postgres(&mut self, signal: Signal, away: Duration) {
        self.until(|trouble| trouble.open.is_empty(), NEVER * 2).await;
        tokio::task::block_in_place(|| self.postgres.end(signal));
        let end = Instant::now() + away;
        while Instant::now() < end {
            self.turn_replicas();
            sleep(STEP).await;
        }
        tokio::task::block_in_place(|| self.postgres.start_again());
        let from = Instant::now();
        self.say("Postgres is back");
        let mut waited: Vec<usize> = self.up();
        while !waited.is_empty() && from.elapsed() < BACK {
            let mut still = Vec::new();
            for at in waited {
                match self.health(at).await {
                    true => self.report.back.push(from.elapsed().as_secs_f64()),
                    false => still.push(at),
                }
            }
            waited = still;
            self.turn_replicas();
            sleep(STEP * 5).await;
        }
        for at in waited {
            self.report.wrong.push(format!("{} does not work {BACK:?} after Postgres was back", self.replicas[at].role.name));
        }
    }

    /// Whether it answers, and finds its database well.
    pub(super) async fn health(&self, at: usize) -> bool {
        let get = |path: &str| {
            let url = format!("http://{}{path}", self.replicas[at].role.listen);
            self.http.get(url).bearer_auth(&self.token).timeout(Duration::from_secs(2)).send()
        };
        for path in ["/status", "/health"] {
            let Ok(response) = get(path).await else { return false };
            if !response.text().await.is_ok_and(|text| text.contains("\"status\":\"ok\"")) {
                return false;
            }
        }
        true
    }
}
