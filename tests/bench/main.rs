//! `make bench`: from a PUT to a VM that is ready, beside a bare QEMU that boots the same image, and the service at rest.
//!
//! *Service*: from sending the PUT to `ready` seen by a client that polls long; a VM that starts for this task, closed network. It goes on
//! from a snapshot, or with `--boot` it boots.
//! *Bare*: the same image and the QEMU command of the service's own VM, from the start of its process to the end of `true` over SSH.
//! *Own share*: all of *service* in which the guest was not being worked on, that is, less `guest.personalise`.
//! A *bar* is what a figure should stay below; it is printed beside it and never checked, since a shared host is no judge.
//!
//! The two alternate in pairs, the order turned in every other pair, so that a host that slows down slows both. One service serves the
//! whole run. One boot of each comes first and is not counted: it fills the page cache.
//!
//! ```text
//! service ─ task ─▶ spans (events, log) ─┐
//! bare (the VM's own plan) ──────────────┼─▶ report ─▶ figure lines, reports/bench-TIME.txt
//! idle (/proc) ──────────────────────────┘
//! ```
//!
//! Writes: the report; folders under /var/tmp, removed with all that runs in them at the end, at a failure and at a signal.

mod bare;
mod engine;
mod idle;
mod report;
mod service;
mod spans;
mod summary;

use anyhow::{Context as _, bail};
use bare::{Boot, Recipe};
use report::{Machine, Report};
use service::Service;
use spans::Spans;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// Between two boots, so that the end of one is not in the other.
const BREATH: Duration = Duration::from_secs(1);

/// Bars of the service's own share, milliseconds.
const OWN_SHARE_OF_A_BOOT: u32 = 500;
const OWN_SHARE_OF_A_RESTORE: u32 = 100;

struct Arguments {
    pairs: usize,
    /// None: the engine alone.
    images: Option<PathBuf>,
    report: PathBuf,
    /// The service's VMs boot.
    boot: bool,
}

/// One pair.
struct Pair {
    service: Spans,
    bare: Boot,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::read()?;
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let Some(images) = &arguments.images else {
        let mut report = Report::create(&arguments.report)?;
        Machine::look(None)?.tell(&mut report)?;
        return engine::run(&mut report).await;
    };
    let work = tempfile::Builder::new().prefix("vm-service-bench-bare-").tempdir_in("/var/tmp")?;
    let data = tempfile::Builder::new().prefix("vm-service-bench-").tempdir_in("/var/tmp")?;
    let mut service = Service::start(data.path(), &work.path().join("service.log"), images, !arguments.boot).await?;
    let done = tokio::select! {
        done = run(&arguments, images, &service, work.path()) => done,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    if done.is_err() {
        service.tell_log();
    }
    service.end().await;
    done
}

async fn run(arguments: &Arguments, images: &Path, service: &Service, work: &Path) -> anyhow::Result<()> {
    let machine = Machine::look(Some(images))?;
    let (first, recipe) = service.serve_one().await.context("the first boot, not counted")?;
    let bare = recipe.boot(work).await.context("the first bare boot, not counted")?;
    if !arguments.boot {
        service.wait_for_snapshot().await?;
        service.serve_one().await.context("the first restore, not counted")?;
    }
    let mut report = Report::create(&arguments.report)?;
    machine.tell(&mut report)?;
    report.line(&format!("# VMs: {}; {} pairs", recipe.describe(), arguments.pairs))?;
    report.line(&format!("# not counted: the first boot of each: service {:.0} ms, bare {:.0} ms", first.total, bare.command))?;

    let mut pairs = Vec::new();
    for number in 1..=arguments.pairs {
        let service_first = number % 2 == 1;
        let pair = match one_pair(service, work, &recipe, service_first).await {
            Ok(pair) => pair,
            Err(error) => {
                report.line(&format!("# pair {number} failed, and is in no figure but failed_pairs: {error:#}"))?;
                service.give_up_machines().await?;
                continue;
            }
        };
        report.line(&format!(
            "# pair {number} ({}): service {:.0} ms, bare {:.0} ms, own share {:.0} ms, load {}",
            if service_first { "service first" } else { "bare first" },
            pair.service.total,
            pair.bare.command,
            pair.service.own_share(),
            report::load()?,
        ))?;
        pairs.push(pair);
    }
    report.figure("failed_pairs", arguments.pairs.abs_diff(pairs.len()).to_string().parse()?, "count")?;
    anyhow::ensure!(!pairs.is_empty(), "every pair failed");
    summary::tell(&mut report, &pairs, if arguments.boot { OWN_SHARE_OF_A_BOOT } else { OWN_SHARE_OF_A_RESTORE })?;
    idle::measure(service, &mut report).await.context("the service at rest")?;
    report.line(&format!("# load at the end: {}", report::load()?))?;
    report.line(&format!("# report: {}", arguments.report.display()))
}

async fn one_pair(service: &Service, work: &Path, recipe: &Recipe, service_first: bool) -> anyhow::Result<Pair> {
    sleep(BREATH).await;
    if service_first {
        let (spans, _) = service.serve_one().await?;
        sleep(BREATH).await;
        Ok(Pair { service: spans, bare: recipe.boot(work).await? })
    } else {
        let bare = recipe.boot(work).await?;
        sleep(BREATH).await;
        Ok(Pair { service: service.serve_one().await?.0, bare })
    }
}

impl Arguments {
    /// `--pairs N --images DIR --report FILE`, with or without `--boot`, or `--engine --report FILE`; cargo adds `--bench`.
    fn read() -> anyhow::Result<Self> {
        let (mut pairs, mut images, mut report) = (9, None, None);
        let asked = |name: &str| std::env::args().any(|word| word == name);
        let (engine, boot) = (asked("--engine"), asked("--boot"));
        let mut words = std::env::args().skip(1).filter(|word| !["--bench", "--engine", "--boot"].contains(&word.as_str()));
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--pairs" => pairs = value.parse().context("--pairs is a number")?,
                "--images" => images = Some(PathBuf::from(value)),
                "--report" => report = Some(PathBuf::from(value)),
                _ => bail!("{name} is unknown; there are --engine, --boot, --pairs, --images and --report"),
            }
        }
        anyhow::ensure!(pairs > 0, "--pairs is at least 1");
        let report = report.context("--report is missing")?;
        if engine {
            return Ok(Self { pairs, images: None, report, boot });
        }
        // Its real path: an image that is built meanwhile is not used.
        let images =
            images.context("--images is missing")?.canonicalize().context("finding the image; build it with ami/build-onhost")?;
        Ok(Self { pairs, images: Some(images), report, boot })
    }
}
