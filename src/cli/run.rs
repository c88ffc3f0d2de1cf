//! `vm-service run`: a command with a VM of its own; however it ends, the task is released before the process does.
//!
//! A command *runs* in the VM (`machine`) or here with the VM's Docker engine (`remote_docker`). The exit code is the command's own,
//! or [`SERVICE_FAILED`], or 128 and the number of the signal that stopped it. A killed process sends no heartbeats any more, and the
//! service takes the VM back when the lease ends.
//!
//! Reads: the task. Writes: its output; a task. Calls: the API, then `over_ssh` or `with_docker`. Runs: once, from `main`.
//!
//! ```text
//! PUT ─▶ wait until ready (reasons on stderr) ─▶ command ─▶ DELETE ─▶ timings
//!        └──────── heartbeats; a signal or the end of the task stops ────┘
//! ```
//!
//! Not here: signals (`signals`), what is shown meanwhile (`progress`).

use super::outcome::{Outcome, Stop};
use super::progress::{self, Times};
use super::{Client, ClientError, Connect, Defaults, Interrupt, Io, Pace, over_ssh, with_docker};
use crate::domain::api::{Connection, TaskView};
use crate::domain::ids::TaskId;
use crate::domain::lifecycle::TaskState;
use crate::domain::lineage::Trust;
use crate::domain::resource_class::DEFAULT_CLASS;
use crate::domain::task::{Executor, TaskRequest};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The exit code when the service or the VM failed, not the command.
pub const SERVICE_FAILED: u8 = 125;
/// The lease of the task: how long a VM outlives a killed `run`.
const LEASE_SECONDS: u32 = 60;
/// After a heartbeat that did not arrive, the next follows sooner.
const HURRY: Duration = Duration::from_secs(3);

/// `vm-service run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vm-service run -- uname -a
  vm-service run -- sh -c 'make test; echo done in $PWD'
  tar c . | vm-service run -- sh -c 'tar x && make test'
  vm-service run --executor remote_docker -- docker build -t app .
  vm-service run --class large --max-run-seconds 600 --timings -- ./heavy

The arguments reach the command as they are; for $VARIABLES, pipes and ; of the VM use sh -c '…'.

Exit codes:
  the command's own  it ran; 128 and the number when a signal ended it
  125                the service or the VM failed; run it again
  126, 127           remote_docker: the local command cannot be executed, was not found
  129, 130, 143      stopped by SIGHUP, Ctrl-C, SIGTERM
The VM is given back in every case.")]
pub struct Args {
    #[command(flatten)]
    pub(super) connect: Connect,
    /// machine: run the command in the VM. remote_docker: run it here, with DOCKER_HOST set to the VM's Docker engine.
    #[arg(long, default_value = "machine", value_name = "machine|remote_docker")]
    executor: Executor,
    /// The project; VMs and caches are never shared between projects.
    #[arg(long, default_value = "command-line")]
    project: String,
    /// The resource class: how large the VM is.
    #[arg(long, default_value = DEFAULT_CLASS)]
    class: String,
    /// The longest the command may take, seconds; the settings may say less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    max_run_seconds: Option<u32>,
    /// The project's Docker layers are on the VM's disk, and what the command adds to them is kept for the next one.
    #[arg(long)]
    docker_layer_caching: bool,
    /// The command is code from outside: it reads a copy of the project's layers, and nothing of what it writes is kept.
    #[arg(long)]
    untrusted: bool,
    /// Print at the end how long each phase took.
    #[arg(long)]
    timings: bool,
    /// Do not tell why the task waits.
    #[arg(long, short)]
    quiet: bool,
    /// The command and its arguments, after --.
    #[arg(last = true, required = true)]
    pub(super) command: Vec<String>,
}

impl Args {
    /// The client that these options mean.
    ///
    /// # Errors
    /// A sentence that says which option is wrong.
    pub fn client(&self, defaults: &Defaults) -> Result<Client, String> {
        self.connect.client(defaults)
    }

    fn request(&self) -> TaskRequest {
        TaskRequest {
            executor: self.executor,
            project_id: self.project.clone(),
            resource_class: self.class.clone(),
            ssh_public_keys: Vec::new(),
            max_run_seconds: self.max_run_seconds,
            lease_seconds: Some(LEASE_SECONDS),
            docker_layer_caching: self.docker_layer_caching,
            cache_trust: if self.untrusted { Trust::Untrusted } else { Trust::Trusted },
            priority: 0,
            labels: BTreeMap::new(),
        }
    }
}

/// Runs the command with the VM of task `id` and returns the exit code; `interrupt` ends it early. The task is released in any case.
pub async fn run(
    args: &Args,
    client: &Client,
    id: TaskId,
    io: &mut Io,
    interrupt: impl Future<Output = Interrupt>,
    pace: Pace,
) -> u8 {
    let job = Job { args, client, id, pace };
    let mut so_far = SoFar::default();
    let outcome = AssertUnwindSafe(job.work(io, interrupt, &mut so_far))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Outcome::Failed("This is a defect of vm-service: please report the message above.".to_owned()));
    if so_far.asked {
        job.release(io, &mut so_far.times).await;
    }
    let code = match outcome {
        Outcome::Code(code) => code,
        Outcome::Stopped(interrupt) => interrupt.exit_code(),
        Outcome::Failed(why) => {
            io.say(&why).await;
            SERVICE_FAILED
        }
    };
    if so_far.asked && args.timings {
        progress::show_times(client, id, io, &so_far.times, pace.release).await;
    }
    code
}

/// One run: what does not change.
struct Job<'a> {
    args: &'a Args,
    client: &'a Client,
    id: TaskId,
    pace: Pace,
}

/// How far a run has come; known even when it panics.
#[derive(Default)]
struct SoFar {
    /// The service may have the task.
    asked: bool,
    times: Times,
}

impl Job<'_> {
    async fn work(&self, io: &mut Io, interrupt: impl Future<Output = Interrupt>, so_far: &mut SoFar) -> Outcome {
        tokio::pin!(interrupt);
        so_far.asked = true;
        let request = self.args.request();
        let task = tokio::select! {
            biased;
            interrupt = &mut interrupt => return Outcome::Stopped(interrupt),
            made = self.client.put_task(self.id, &request, self.pace.patience) => match made {
                Ok(task) => task,
                Err(e) => {
                    // After a definite no there is nothing to release; after silence there may be.
                    so_far.asked = self.client.was_reached() && !e.is_final();
                    return Outcome::Failed(e.to_string());
                }
            },
        };
        let stop = async {
            tokio::select! {
                biased;
                interrupt = &mut interrupt => Stop::Interrupt(interrupt),
                why = self.heartbeats() => Stop::Over(why),
            }
        };
        tokio::pin!(stop);
        let connection = tokio::select! {
            biased;
            stopped = &mut stop => return stopped.into(),
            ready = self.wait_ready(task) => match ready {
                Ok(connection) => connection,
                Err(why) => return Outcome::Failed(why),
            },
            never = progress::tell_reasons(self.client, self.id, io, self.args.quiet, self.pace.reasons) => match never {},
        };
        so_far.times.command_began = Some(Instant::now());
        let outcome = self.command(&connection, io, stop).await;
        so_far.times.command_ended = Some(Instant::now());
        match outcome {
            Outcome::Failed(why) => Outcome::Failed(self.explain(why).await),
            other => other,
        }
    }

    async fn command(&self, connection: &Connection, io: &mut Io, stop: Pin<&mut impl Future<Output = Stop>>) -> Outcome {
        let command = &self.args.command;
        match (self.args.executor, &connection.docker) {
            (Executor::Machine, _) => over_ssh::run(command, &connection.ssh, io, stop).await,
            (Executor::RemoteDocker, Some(docker)) => with_docker::run(command, docker, io, stop, self.pace.grace).await,
            (Executor::RemoteDocker, None) => Outcome::Failed("The service gave a VM without a Docker engine.".to_owned()),
        }
    }

    /// Waits until the command may begin.
    async fn wait_ready(&self, mut task: TaskView) -> Result<Connection, String> {
        loop {
            match (task.state, task.connection.take()) {
                (TaskState::Ready, Some(connection)) => return Ok(connection),
                (TaskState::Ready, None) => {
                    return Err(format!("The service does not say how to reach the VM of task {}.", self.id));
                }
                (state, _) if state.is_terminal() => return Err(ended(&task)),
                _ => {}
            }
            task = self.client.wait_task(self.id, self.pace.patience).await.map_err(|e| e.to_string())?;
        }
    }

    /// Renews the lease until the task is over; why it is.
    async fn heartbeats(&self) -> String {
        let mut next = self.pace.heartbeat;
        loop {
            sleep(next).await;
            next = match self.client.heartbeat(self.id).await {
                Ok(()) => self.pace.heartbeat,
                Err(ClientError::Problem(problem)) if matches!(problem.status, 404 | 409 | 410) => {
                    return self.explain(format!("The service ended task {}: {problem}", self.id)).await;
                }
                Err(_) => HURRY.min(self.pace.heartbeat),
            };
        }
    }

    /// A better reason for an end: a VM that is lost breaks the connection first, and the service finds out why a little later.
    async fn explain(&self, why: String) -> String {
        match timeout(HURRY, self.client.get_task(self.id)).await {
            Ok(Ok(task)) if task.state.is_terminal() => ended(&task),
            _ => why,
        }
    }

    async fn release(&self, io: &mut Io, times: &mut Times) {
        times.release_began = Some(Instant::now());
        let released = timeout(self.pace.release, self.client.release_task(self.id, self.pace.release)).await;
        let why = match released {
            Ok(Ok(())) => {
                times.released = Some(Instant::now());
                return;
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the service does not answer".to_owned(),
        };
        let (id, why) = (self.id, why.trim_end_matches('.'));
        io.say(&format!(
            "Task {id} could not be released ({why}); without heartbeats its VM is taken away within {LEASE_SECONDS} s."
        ))
        .await;
    }
}

fn ended(task: &TaskView) -> String {
    match &task.failure {
        Some(failure) => format!("Task {} ended without its command: {} ({})", task.id, failure.detail, failure.code.as_str()),
        None => format!("Task {} was {} by somebody else.", task.id, task.state),
    }
}
