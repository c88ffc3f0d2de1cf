//! The one place where loops wait: a tick is never doubled, follows a wake-up within milliseconds, and comes at the latest after the
//! loop's interval. At shutdown it has a few seconds to end, then its acts have; what has not ended is dropped where it stands, as by
//! a crash.

use super::{Act, Loop};
use crate::clock::Clock;
use crate::db::wake::Wake;
use crate::telemetry::names;
use metrics::{counter, histogram};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Acts of one loop at a time, in one process.
const ACTS: usize = 64;
/// Between ticks, however often a loop is woken.
const BREATH: Duration = Duration::from_millis(10);
/// For a tick, and then for its acts, to end by themselves at shutdown; a boot takes longer, and is gone on with at the next start.
const GRACE: Duration = Duration::from_secs(3);
/// Loops that the database's wake-ups do not concern.
const UNWOKEN: [&str; 7] = ["expire", "collect", "collect volumes", "history", "gauges", "audit", "audit files"];

/// Runs the loops until `stop`, then waits for what they have begun.
pub async fn run(loops: Vec<Arc<dyn Loop>>, clock: Arc<dyn Clock>, wake: &Wake, crons: &Crons, stop: CancellationToken) {
    let tracker = TaskTracker::new();
    for work in loops {
        let woken = if UNWOKEN.contains(&work.name()) { None } else { Some(wake.subscribe()) };
        tracker.spawn(turn(work, clock.clone(), woken, crons.wakes.clone(), stop.clone()));
    }
    tracker.close();
    tracker.wait().await;
}

async fn turn(
    work: Arc<dyn Loop>,
    clock: Arc<dyn Clock>,
    mut woken: Option<watch::Receiver<u64>>,
    cron: Arc<Notify>,
    stop: CancellationToken,
) {
    let acts = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(ACTS));
    let drop_acts = CancellationToken::new();
    let (name, failures) = (work.name(), counter!(names::LOOP_FAILURES, "loop" => work.name()));
    drop(counter!(names::ACT_FAILURES, "loop" => name));
    let ticks = histogram!(names::LOOP_TICK, "loop" => name);
    while !stop.is_cancelled() {
        let began = Instant::now();
        let tick = work.tick(clock.now(), permits.available_permits()).instrument(tracing::info_span!("tick", name));
        let Some(ticked) = with_grace(&stop, tick).await else {
            tracing::info!(name, "a tick did not end by itself; the next start goes on with it");
            break;
        };
        ticks.record(began.elapsed().as_secs_f64());
        match ticked {
            Ok(started) => started.into_iter().for_each(|act| start(name, act, &acts, &permits, drop_acts.clone())),
            Err(error) => {
                failures.increment(1);
                tracing::warn!(name, error = format!("{error:#}"), "a tick failed; the next one tries again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(work.interval()) => {}
            () = changed(&mut woken) => tokio::time::sleep(BREATH).await,
            () = cron.notified(), if work.name() == "history" => {}
        }
    }
    acts.close();
    if with_grace(&stop, acts.wait()).await.is_none() {
        // Whoever leases their rows next goes on.
        drop_acts.cancel();
        acts.wait().await;
    }
}

/// Waits for it, after `stop` for a few seconds more; then it is dropped.
async fn with_grace<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = over => None,
    }
}

fn start(name: &'static str, act: Act, acts: &TaskTracker, permits: &Arc<Semaphore>, dropped: CancellationToken) {
    let permits = permits.clone();
    acts.spawn(async move {
        let _permit = permits.acquire_owned().await;
        let began = Instant::now();
        let done = dropped.run_until_cancelled(act.run).await;
        histogram!(names::ACT, "loop" => name).record(began.elapsed().as_secs_f64());
        if let Some(Err(error)) = done {
            counter!(names::ACT_FAILURES, "loop" => name).increment(1);
            let _within = act.span.entered();
            tracing::warn!(act = act.name, error = format!("{error:#}"), "an act failed; its row is taken up again");
        }
    });
}

async fn changed(woken: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = woken
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// The cron library, which only wakes loops: it would start a job again while the last run still works.
pub struct Crons {
    wakes: Arc<Notify>,
    scheduler: JobScheduler,
}

impl Crons {
    /// Starts it.
    ///
    /// # Errors
    /// The library's own.
    pub async fn start() -> anyhow::Result<Self> {
        let wakes = Arc::new(Notify::new());
        let scheduler = JobScheduler::new().await?;
        let wake = wakes.clone();
        scheduler.add(Job::new("0 */15 * * * *", move |_, _| wake.notify_one())?).await?;
        scheduler.start().await?;
        Ok(Self { wakes, scheduler })
    }

    /// Stops it.
    pub async fn stop(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(%error, "the cron library did not stop");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HandClock;
    use async_trait::async_trait;
    use chrono::{DateTime, Utc};

    /// A tick that waits for somebody who is away.
    struct Endless(Arc<Notify>);

    #[async_trait]
    impl Loop for Endless {
        fn name(&self) -> &'static str {
            "audit files"
        }

        fn interval(&self) -> Duration {
            Duration::from_secs(60)
        }

        async fn tick(&self, _now: DateTime<Utc>, _room: usize) -> anyhow::Result<Vec<Act>> {
            self.0.notify_one();
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_tick_that_does_not_end_holds_up_no_shutdown() {
        let (clock, wake, stop) = (HandClock::at(DateTime::UNIX_EPOCH), Wake::default(), CancellationToken::new());
        let crons = Crons::start().await.unwrap();
        let begun = Arc::new(Notify::new());
        let running = run(vec![Arc::new(Endless(begun.clone()))], Arc::new(clock), &wake, &crons, stop.clone());
        let stopping = async {
            begun.notified().await;
            stop.cancel();
        };
        let both = async { tokio::join!(running, stopping) };
        tokio::time::timeout(GRACE * 10, both).await.expect("it is waited for");
    }
}
