//! The service at rest, after its work: memory, CPU time and wake-ups with an empty queue, from /proc.
//!
//! A *wake-up* is a voluntary context switch of one of its threads: a thread slept, and ran again.

use crate::report::{Report, load};
use crate::service::{Service, processes_in};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Before the look: what its last VM left to do is done then.
const SETTLES: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(30);
/// MiB.
const MEMORY_BAR: u32 = 64;
/// USER_HZ: what /proc counts CPU time in on every Linux that this runs on, proc(5).
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) async fn measure(service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let process = service.process()?;
    report.line(&format!("# at rest: {} s after the last VM, for {} s; load {}", SETTLES.as_secs(), WINDOW.as_secs(), load()?))?;
    sleep(SETTLES).await;
    let beside = processes_in(&service.data().join("postgres"));
    let (began, before, postgres_before) = (Instant::now(), Activity::of(process)?, cpu_of_all(&beside));
    sleep(WINDOW).await;
    let (after, postgres_after) = (Activity::of(process)?, cpu_of_all(&beside));
    let seconds = began.elapsed().as_secs_f64();

    report.figure_with_bar("rest_memory", memory(process, "VmRSS")?, MEMORY_BAR, "MiB")?;
    report.figure("rest_memory_anonymous", memory(process, "RssAnon")?, "MiB")?;
    report.figure("rest_memory_file", memory(process, "RssFile")?, "MiB")?;
    report.figure("rest_memory_highest", memory(process, "VmHWM")?, "MiB")?;
    let cpu = after.cpu - before.cpu;
    report.figure("rest_cpu", cpu, "s")?;
    report.figure("rest_cpu_of_a_core", cpu / seconds * 100.0, "%")?;
    report.figure("rest_wakeups", after.switches_since(&before) / seconds, "1/s")?;
    report.figure("rest_threads", after.threads(), "count")?;
    report.figure("rest_postgres_cpu_of_a_core", (postgres_after - postgres_before) / seconds * 100.0, "%")
}

/// What a process has done so far.
struct Activity {
    /// Seconds, in user and kernel mode.
    cpu: f64,
    /// Voluntary context switches by thread.
    switches: BTreeMap<String, f64>,
}

impl Activity {
    fn of(process: u32) -> anyhow::Result<Self> {
        let mut switches = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            // A thread that ends meanwhile is not counted.
            if let Ok(status) = std::fs::read_to_string(thread.path().join("status")) {
                let count = field(&status, "voluntary_ctxt_switches")?;
                switches.insert(thread.file_name().to_string_lossy().into_owned(), count);
            }
        }
        Ok(Self { cpu: cpu(process).context("the service ended")?, switches })
    }

    fn switches_since(&self, before: &Self) -> f64 {
        self.switches.iter().map(|(thread, count)| count - before.switches.get(thread).unwrap_or(&0.0)).sum()
    }

    fn threads(&self) -> f64 {
        u32::try_from(self.switches.len()).map_or(f64::NAN, f64::from)
    }
}

fn cpu_of_all(processes: &[u32]) -> f64 {
    processes.iter().filter_map(|process| cpu(*process)).sum()
}

/// utime and stime, fields 14 and 15 of proc(5); the name before them may have spaces and brackets.
fn cpu(process: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// MiB.
fn memory(process: u32, name: &str) -> anyhow::Result<f64> {
    Ok(field(&std::fs::read_to_string(format!("/proc/{process}/status"))?, name)? / 1024.0)
}

fn field(status: &str, name: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("/proc says no {name}"))
}
