//! Replicas of the whole service on one database and one simulated cloud, driven step by step: one tick or one act at a time, in an
//! order that the seed decides, with a hand on each replica's fuse.
//!
//! A *step* is one tick of one loop or one act. A *killed* replica loses what it was doing and what it had still to do, and a fresh one
//! takes its place; a *frozen* one stands where it was cut, and goes on from there when it is thawed.

use super::fuse::Fuse;
use chrono::TimeDelta;
use futures::future::BoxFuture;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;
use vm_service::clock::{Clock as _, HandClock};
use vm_service::db::settings::Versioned;
use vm_service::db::wake::Wake;
use vm_service::db::{Db, DbError};
use vm_service::domain::ids::InstallationId;
use vm_service::domain::settings::Settings;
use vm_service::loops::settings::TakeSettings;
use vm_service::loops::{self, Act, Loop, Providers, World};
use vm_service::seal::Sealer;
use vm_service::sim::Sim;

/// Who we are, in every history.
pub(super) const INSTALLATION: InstallationId = InstallationId(Uuid::from_u128(42));
/// How long a frozen replica stands still at most; long enough for its leases to end.
const FROZEN_FOR: u32 = 16;
/// Acts of one tick.
const ROOM: usize = 64;
/// Connections of one replica: one for what runs, one for what is frozen, one on its way back.
const CONNECTIONS: u32 = 3;

type Step = BoxFuture<'static, anyhow::Result<Vec<Act>>>;

/// What becomes of a replica whose fuse blows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Killed,
    Frozen,
}

/// One replica.
struct Replica {
    world: World,
    loops: Vec<Arc<dyn Loop>>,
    fuse: Arc<Fuse>,
    /// Acts that were started and not driven yet.
    acts: Vec<Act>,
    cut: Cut,
    frozen: Option<Frozen>,
}

/// Where a replica stands still.
struct Frozen {
    name: String,
    step: Step,
    /// Goes on by itself after so many rounds.
    rounds: u32,
}

/// All replicas.
pub(super) struct Cluster {
    pub(super) sim: Sim,
    pub(super) clock: HandClock,
    pub(super) sealer: Arc<Sealer>,
    next: Arc<AtomicU64>,
    replicas: Vec<Replica>,
    /// What was done, and what it said: for a report.
    pub(super) log: Vec<String>,
    /// Errors that no fault explains.
    pub(super) defects: Vec<String>,
    /// Cuts since the beginning.
    pub(super) cuts: u32,
    /// Numbers, in the cloud's order, of machines that a thawed replica made: late, and nobody could have known.
    pub(super) made_late: BTreeSet<usize>,
}

impl Cluster {
    /// So many replicas of everything.
    pub(super) async fn new(connect: &PgConnectOptions, sim: Sim, clock: HandClock, replicas: usize) -> Self {
        let key = Sealer::fresh_key().unwrap();
        let mut cluster = Self {
            sim,
            clock,
            sealer: Arc::new(Sealer::new([key.as_str()]).unwrap()),
            next: Arc::new(AtomicU64::new(1)),
            replicas: Vec::new(),
            log: Vec::new(),
            defects: Vec::new(),
            cuts: 0,
            made_late: BTreeSet::new(),
        };
        for _ in 0..replicas {
            let fuse = Arc::new(Fuse::default());
            let pool = pool(connect, fuse.clone());
            cluster.replicas.push(cluster.replica(pool, fuse));
        }
        cluster
    }

    pub(super) fn len(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn fresh_id(&self) -> Uuid {
        fresh_id(&self.next)
    }

    fn replica(&self, pool: PgPool, fuse: Arc<Fuse>) -> Replica {
        let sim = self.sim.handle(fuse.clone());
        let db = Db { pool, wake: Wake::default() };
        let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
        let next = self.next.clone();
        let providers = Providers::new(vec![Arc::new(sim.clone())]);
        let world = World {
            db: db.clone(),
            providers: providers.clone(),
            guest: Arc::new(sim),
            sealer: self.sealer.clone(),
            clock: Arc::new(self.clock.clone()),
            installation: INSTALLATION,
            settings: follow,
            fresh_id: Arc::new(move || fresh_id(&next)),
        };
        let take = TakeSettings {
            db,
            providers,
            open: Arc::new(|_| None),
            sealer: self.sealer.clone(),
            settings,
            problem: watch::channel(None).0,
        };
        let mut all: Vec<Arc<dyn Loop>> = vec![Arc::new(take)];
        all.extend(loops::serve_loops(&world));
        all.extend(loops::scaler_loops(&world));
        all.extend(loops::gc_loops(&world));
        Replica { world, loops: all, fuse, acts: Vec::new(), cut: Cut::Killed, frozen: None }
    }

    /// Cuts this replica after `points` more points.
    pub(super) fn arm(&mut self, replica: usize, points: u32, cut: Cut) {
        let replica = &mut self.replicas[replica];
        if replica.frozen.is_none() {
            replica.cut = cut;
            replica.fuse.arm(points);
        }
    }

    /// Kills this replica between two steps, or where it is frozen.
    pub(super) fn kill(&mut self, replica: usize) {
        let old = &mut self.replicas[replica];
        old.frozen = None;
        old.acts.clear();
        old.fuse.mend();
        let (pool, fuse) = (old.world.db.pool.clone(), old.fuse.clone());
        self.replicas[replica] = self.replica(pool, fuse);
        self.log.push(format!("replica {replica} is killed; a fresh one starts"));
    }

    /// Lets a frozen replica go on: with what it was doing, then with what it had still to do.
    pub(super) async fn thaw(&mut self, replica: usize) {
        let thawed = &mut self.replicas[replica];
        thawed.fuse.mend();
        let Some(Frozen { name, step, .. }) = thawed.frozen.take() else { return };
        self.log.push(format!("replica {replica} goes on with: {name}"));
        let made = self.sim.truth().len();
        self.drive(replica, name, step).await;
        self.made_late.extend(made..self.sim.truth().len());
        for act in std::mem::take(&mut self.replicas[replica].acts) {
            self.act(replica, act).await;
        }
    }

    /// Nothing is frozen, and nothing is going to be.
    pub(super) async fn heal(&mut self) {
        for replica in 0..self.replicas.len() {
            self.replicas[replica].fuse.mend();
            self.thaw(replica).await;
        }
    }

    /// Lets go of the database, whatever was going on.
    pub(super) async fn close(self) {
        for replica in self.replicas {
            let pool = replica.world.db.pool.clone();
            drop(replica);
            pool.close().await;
        }
    }

    pub(super) fn is_frozen(&self, replica: usize) -> bool {
        self.replicas[replica].frozen.is_some()
    }

    /// Every loop once, each on any replica that does not stand still, in any order, with the clock moving up to `most` in all.
    pub(super) async fn round(&mut self, most: TimeDelta, rng: &mut StdRng) {
        self.thaw_some().await;
        let mut loops: Vec<usize> = (0..self.replicas[0].loops.len()).collect();
        loops.shuffle(rng);
        let step = most.num_milliseconds() / i64::try_from(loops.len()).unwrap_or(1);
        for nth in loops {
            self.clock.advance(TimeDelta::milliseconds(rng.random_range(0..=step.max(0))));
            let mut awake: Vec<usize> = (0..self.replicas.len()).filter(|replica| !self.is_frozen(*replica)).collect();
            let replica = awake.swap_remove(rng.random_range(0..awake.len()));
            self.tick(replica, nth, rng).await;
        }
        for replica in 0..self.replicas.len() {
            for act in std::mem::take(&mut self.replicas[replica].acts) {
                if self.is_frozen(replica) || rng.random_bool(0.2) {
                    self.replicas[replica].acts.push(act);
                } else {
                    self.act(replica, act).await;
                }
            }
        }
    }

    /// Those that stood still for long enough go on.
    async fn thaw_some(&mut self) {
        for replica in 0..self.replicas.len() {
            match &mut self.replicas[replica].frozen {
                Some(Frozen { rounds: 0, .. }) => self.thaw(replica).await,
                Some(frozen) => frozen.rounds -= 1,
                None => {}
            }
        }
    }

    async fn tick(&mut self, replica: usize, nth: usize, rng: &mut StdRng) {
        let (work, now) = (self.replicas[replica].loops[nth].clone(), self.clock.now());
        let name = format!("tick of {}", work.name());
        let step: Step = Box::pin(async move { work.tick(now, ROOM).await });
        let mut acts = self.drive(replica, name, step).await;
        acts.sort_by(|a, b| a.name.cmp(&b.name));
        acts.shuffle(rng);
        for act in acts {
            // A few begin late, as on a busy host.
            if rng.random_bool(0.1) || self.is_frozen(replica) {
                self.replicas[replica].acts.push(act);
            } else {
                self.act(replica, act).await;
            }
        }
    }

    async fn act(&mut self, replica: usize, act: Act) {
        let Act { name, run, .. } = act;
        let step: Step = Box::pin(async move { run.await.map(|()| Vec::new()) });
        self.drive(replica, name, step).await;
    }

    async fn drive(&mut self, replica: usize, name: String, mut step: Step) -> Vec<Act> {
        let fuse = self.replicas[replica].fuse.clone();
        let at = self.clock.now().format("%dT%H:%M:%S%.3f");
        match fuse.drive(&mut step).await {
            Some(Ok(acts)) => {
                self.log.push(format!("{at} replica {replica}: {name}"));
                acts
            }
            Some(Err(error)) => {
                let line = format!("{at} replica {replica}: {name}: {error:#}");
                if matches!(error.downcast_ref(), Some(DbError::Refused(_))) {
                    self.defects.push(line.clone());
                }
                self.log.push(line);
                Vec::new()
            }
            None => {
                self.cuts += 1;
                // Somebody is always awake.
                let alone = (0..self.replicas.len()).all(|other| other == replica || self.is_frozen(other));
                let cut = if alone { Cut::Killed } else { self.replicas[replica].cut };
                self.log.push(format!("{at} replica {replica}: cut in: {name}: {cut:?}"));
                match cut {
                    Cut::Killed => {
                        drop(step);
                        self.kill(replica);
                    }
                    Cut::Frozen => self.replicas[replica].frozen = Some(Frozen { name, step, rounds: FROZEN_FOR }),
                }
                Vec::new()
            }
        }
    }
}

fn fresh_id(next: &AtomicU64) -> Uuid {
    Uuid::from_u128(next.fetch_add(1, Ordering::Relaxed).into())
}

/// A pool whose every connection, new or idle, is a point of this fuse.
fn pool(connect: &PgConnectOptions, fuse: Arc<Fuse>) -> PgPool {
    let (first, again) = (fuse.clone(), fuse);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        // Of real time: a frozen replica waits for long.
        .acquire_timeout(Duration::from_secs(600))
        .test_before_acquire(false)
        .after_connect(move |_, _| {
            let fuse = first.clone();
            Box::pin(async move {
                fuse.point().await;
                Ok(())
            })
        })
        .before_acquire(move |_, _| {
            let fuse = again.clone();
            Box::pin(async move {
                fuse.point().await;
                Ok(true)
            })
        })
        .connect_lazy_with(connect.clone())
}
