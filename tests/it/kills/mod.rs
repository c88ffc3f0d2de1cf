//! Three replicas as processes on one Postgres, under load: they are killed and frozen, Postgres crashes and is away, and nothing is
//! lost, nothing is doubled, and no process gives up.
//!
//! | file | holds |
//! | --- | --- |
//! | `replica`, `remote` | a process of the service; the cloud as it sees it |
//! | `cloud`, `wire` | the simulated cloud behind a socket, which outlives its users |
//! | `postgres`, `fleet` | the processes, and what is done to them |
//! | `dispatcher` | the load, and what it finds wrong |
//! | `trouble`, `takeover` | the plan, and how long others need to go on |
//! | `checks`, `checks_tests` | what must never be; that each check can fail |

mod checks;
mod checks_tests;
mod cloud;
mod dispatcher;
mod fleet;
pub(crate) mod postgres;
mod remote;
mod replica;
mod settle;
mod takeover;
mod trouble;
mod wire;

use cloud::Cloud;
use dispatcher::{Dispatcher, Shared};
use fleet::Replica;
use postgres::{Postgres, server};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use replica::Role;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use trouble::{Report, Trouble};
use uuid::Uuid;
use vm_service::clock::{Clock as _, ServiceClock};
use vm_service::db::Db;
use vm_service::db::connect::ensure_database;
use vm_service::domain::access::{Caller, Role as Right};
use vm_service::domain::ids::{InstallationId, TokenId};
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::seal::Sealer;

const REPLICAS: usize = 3;
const DISPATCHERS: u64 = 12;
/// VMs that are kept free.
const BASE: u32 = 4;
const TOKEN: &str = "vms_kills";
/// Who is killed or frozen is taken over within this, seconds (issue 3, point 3) …
const TAKEOVER: f64 = 10.0;
/// … on a machine that has time for it. Here three debug builds, a Postgres and other work share two cores, and the step itself takes
/// up to 0.4 s in the cloud: that much may come on top, seconds.
const NOISE: f64 = 2.0;

/// A number from the environment, for the long runs of `make proof`.
#[allow(clippy::disallowed_methods, reason = "the length of a test is no configuration of the service")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// At least a round of trouble, and `KILLS_SECONDS` of it (50 when absent), drawn from `KILLS_SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_doubled_when_replicas_and_postgres_die() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let (length, seed) = (Duration::from_secs(number("KILLS_SECONDS", 50)), number("KILLS_SEED", 1));
    let folder = tempfile::Builder::new().prefix("vm-service-kills-").tempdir_in("/var/tmp").unwrap();
    // Postgres runs as a user of its own.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut trouble = set_up(folder.path(), seed).await;
    let shared = Arc::new(Shared {
        http: trouble.http.clone(),
        replicas: trouble.replicas.iter().map(|replica| replica.role.listen).collect(),
        token: TOKEN.to_owned(),
        cloud: trouble.cloud.sim.clone(),
        enough: AtomicBool::new(false),
        failed_tries: AtomicU32::new(0),
    });
    let load: Vec<_> = (0..DISPATCHERS).map(|n| tokio::spawn(Dispatcher::new(shared.clone(), seed << 8 | n).run())).collect();
    trouble.run(length).await;
    shared.enough.store(true, Ordering::Relaxed);
    let mut tasks = Vec::new();
    for dispatcher in load {
        tasks.extend(dispatcher.await.unwrap());
    }
    let story = settle::story(&mut trouble, tasks).await;
    let mut wrong = std::mem::take(&mut trouble.report.wrong);
    wrong.extend(checks::wrongs(&story));
    wrong.extend(bars(&trouble.report));
    tell(&trouble.report, &story, &shared);
    if !wrong.is_empty() {
        let kept = folder.keep();
        panic!("{} things are wrong (logs in {}, seed {seed}):\n{}", wrong.len(), kept.display(), wrong.join("\n"));
    }
}

async fn set_up(folder: &Path, seed: u64) -> Trouble {
    let place = folder.join("postgres");
    std::fs::create_dir(&place).unwrap();
    let postgres = Postgres::start(&place);
    let options = server(&place).options();
    ensure_database(&options).await.unwrap();
    let db = Db::lazily(options, 5);
    db.migrate().await.unwrap();
    let now = ServiceClock::new().now();
    let installation = db.ensure_installation(InstallationId(Uuid::new_v4()), now).await.unwrap();
    let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
    settings.preallocated.machine = BASE;
    db.insert_settings(0, &settings, now, "kills").await.unwrap();
    let sealing_key = Sealer::fresh_key().unwrap();
    let hash = Sealer::new([sealing_key.as_str()]).unwrap().token_hashes(TOKEN).remove(0);
    let caller = Caller { principal: "kills".to_owned(), role: Right::Operator, untrusted_only: false };
    db.insert_token(TokenId(Uuid::new_v4()), &caller, &hash, now).await.unwrap();
    let socket = folder.join("cloud");
    let cloud = Cloud::start(&socket, seed);
    let role = |n: usize| Role {
        name: format!("replica-{n}"),
        listen: ([127, 0, 0, 1], crate::service::free_port()).into(),
        postgres: place.clone(),
        cloud: socket.clone(),
        sealing_key: sealing_key.to_string(),
        installation,
    };
    let replicas = (0..REPLICAS).map(|n| Replica::start(role(n), folder)).collect();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (rng, token, began) = (StdRng::seed_from_u64(seed), TOKEN.to_owned(), Instant::now());
    let (open, report) = (Vec::new(), Report::default());
    let trouble = Trouble { rng, replicas, postgres, cloud, pool: db.pool, http, token, open, report, began };
    for at in 0..REPLICAS {
        while !trouble.health(at).await {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", trouble.replicas[at].log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    trouble
}

fn worst(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

/// What is bounded in time.
fn bars(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    if report.takeovers.is_empty() {
        wrong.push("nobody was taken over: takeover was not measured".to_owned());
    }
    for (what, times) in [("a step was taken over", &report.takeovers), ("locks were taken away", &report.locks)] {
        if worst(times) > TAKEOVER + NOISE {
            wrong.push(format!("{what} only {:.1} s after its worker was killed or frozen", worst(times)));
        }
    }
    wrong
}

fn tell(report: &Report, story: &checks::Story, shared: &Shared) {
    println!("figure kills_tasks {} tasks", story.tasks.len());
    println!("figure kills_machines {} machines", story.machines.len());
    println!("figure kills_failed_tries {} requests", shared.failed_tries.load(Ordering::Relaxed));
    println!("figure kills_killed {} processes", report.kills);
    println!("figure kills_frozen {} processes", report.freezes);
    println!("figure takeover_measured {} steps", report.takeovers.len());
    println!("figure takeover_worst {:.2} s", worst(&report.takeovers));
    println!("figure locks_held_worst {:.2} s", worst(&report.locks));
    println!("figure back_after_postgres_worst {:.2} s", worst(&report.back));
}
