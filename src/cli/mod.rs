//! The client commands: everything that a person or a job runner asks of the service goes over its HTTP API, nothing beside it.
//!
//! A *client command* runs anywhere and needs a URL and a token; it reads no settings and no database.
//!
//! Reads: the API; the token and certificate files it is told of. Writes: its output; `run` also a temporary folder of Docker
//! certificates, `vms ssh` one of a key. Calls: the API; `run` and `vms ssh` also the VM (SSH) or a local child. Runs: once, from `main`, then the process ends.
//!
//! ```text
//! connect (URL, token, TLS) ─▶ client (calls, deadlines, retries) ─▶ run ─▶ over_ssh | with_docker
//!                                  └─ problem (one sentence)       ├─ tasks, why, vms ─▶ vm_ssh, images, volumes, settings, audit
//!                                                                  │     └─ calls ─▶ table
//!                                                                  └─ watch, events (go on until they are stopped)
//! ```
//!
//! Not here: commands on the server (`admin`), which subcommand is which (`main`).

mod audit;
mod base;
mod calls;
mod client;
mod connect;
mod events;
mod images;
mod io;
mod outcome;
mod over_ssh;
mod problem;
mod progress;
pub mod run;
mod settings;
mod signals;
mod table;
mod tasks;
mod vm_ssh;
mod vms;
mod volumes;
mod watch;
mod why;
mod with_docker;

pub use client::{Client, ClientError};
pub use connect::{Connect, Defaults};
pub use io::{Io, Stdin};
pub use over_ssh::command_line;
pub use signals::Interrupt;

use crate::domain::ids::TaskId;
use std::time::Duration;
use uuid::Uuid;

/// The exit code of a command that was refused or got no answer. (`run` has its own: see [`run`].)
pub const REFUSED: u8 = 1;

/// Why a command did not end well.
pub(super) struct Failure {
    /// What it found all the same: an answer.
    printed: String,
    sentence: String,
    code: u8,
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self { printed: String::new(), sentence, code: REFUSED }
    }
}

/// The client commands, for the composition root's parser.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a command with a VM of its own, and give the VM back afterwards.
    Run(Box<run::Args>),
    /// List, watch, show and release tasks.
    Tasks(Box<tasks::Args>),
    /// Say what a task waits for, or where its seconds went.
    Why(Box<why::Args>),
    /// List, show, enter, terminate and hold VMs.
    Vms(Box<vms::Args>),
    /// List, register, try, promote and retire images that VMs are made of.
    Image(Box<images::Args>),
    /// List, show, delete and hold Docker layer caches.
    Volumes(Box<volumes::Args>),
    /// Read, change and turn back the live settings.
    Settings(Box<settings::Args>),
    /// Tell what happened, and what happens.
    Events(Box<events::Args>),
    /// Tell who did what, and whether the log of it was edited.
    Audit(Box<audit::Args>),
}

/// How often and how long; the defaults are the ones to use outside tests.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two heartbeats: a quarter of the lease, so that three may be lost.
    pub heartbeat: Duration,
    /// Between two looks at what changes: why the task waits, a list that is watched.
    pub reasons: Duration,
    /// For how long a service that does not answer is asked again: a restart takes seconds.
    pub patience: Duration,
    /// For the release at the end, retries and all: a person who pressed Ctrl-C waits for it.
    pub release: Duration,
    /// For a local command to end after it was signalled.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            reasons: Duration::from_secs(2),
            patience: Duration::from_secs(60),
            release: Duration::from_secs(5),
            grace: Duration::from_secs(5),
        }
    }
}

/// Runs one client command to its end and returns the exit code of the process.
pub async fn run(command: Command, defaults: &Defaults, mut io: Io) -> u8 {
    match command {
        Command::Run(args) => {
            // From here on a signal no longer ends the process by itself: the VM is given back first.
            let interrupt = match signals::catch() {
                Ok(interrupt) => interrupt,
                Err(e) => return refuse(&mut io, &format!("Signals cannot be caught: {e}."), run::SERVICE_FAILED).await,
            };
            let client = match args.connect.client(defaults) {
                Ok(client) => client,
                Err(e) => return refuse(&mut io, &e, run::SERVICE_FAILED).await,
            };
            run::run(&args, &client, TaskId(Uuid::new_v4()), &mut io, interrupt, Pace::default()).await
        }
        Command::Tasks(args) if args.watch => {
            answered(&args.connect, defaults, &mut io, async |client, io| watch::run(&args, client, io, Pace::default()).await)
                .await
        }
        Command::Tasks(args) => answered(&args.connect, defaults, &mut io, async |client, _| tasks::run(&args, client).await).await,
        Command::Why(args) => answered(&args.connect, defaults, &mut io, async |client, _| why::run(&args, client).await).await,
        Command::Vms(args) => {
            let call = match &args.what {
                Some(vms::What::Ssh { id, command }) => {
                    return match args.connect.client(defaults) {
                        Ok(client) => vm_ssh::run(&client, *id, command, &mut io).await,
                        Err(e) => refuse(&mut io, &e, REFUSED).await,
                    };
                }
                Some(vms::What::Call(call)) => call,
                None => &vms::Call::List { state: None },
            };
            answered(&args.connect, defaults, &mut io, async |client, _| vms::run(&args, call, client).await).await
        }
        Command::Image(args) => {
            answered(&args.connect, defaults, &mut io, async |client, _| images::run(&args, client).await).await
        }
        Command::Volumes(args) => {
            answered(&args.connect, defaults, &mut io, async |client, _| volumes::run(&args, client).await).await
        }
        Command::Settings(args) => {
            answered(&args.connect, defaults, &mut io, async |client, io| settings::run(&args, client, io).await).await
        }
        Command::Events(args) => {
            answered(&args.connect, defaults, &mut io, async |client, io| events::run(&args, client, io, Pace::default()).await)
                .await
        }
        Command::Audit(args) => {
            answered(&args.connect, defaults, &mut io, async |client, io| audit::run(&args, client, io).await).await
        }
    }
}

/// Does it with a client, and prints what came of it.
async fn answered<E: Into<Failure>>(
    connect: &Connect,
    defaults: &Defaults,
    io: &mut Io,
    command: impl AsyncFnOnce(&Client, &mut Io) -> Result<String, E>,
) -> u8 {
    let answer = match connect.client(defaults) {
        Ok(client) => command(&client, io).await.map_err(Into::into),
        Err(e) => Err(e.into()),
    };
    finish(io, answer).await
}

async fn finish(io: &mut Io, answer: Result<String, Failure>) -> u8 {
    let (text, failed) = match answer {
        Ok(text) => (text, None),
        Err(Failure { printed, sentence, code }) => (printed, Some((sentence, code))),
    };
    if let Err(e) = io.print(&text).await {
        return refuse(io, &format!("The output cannot be written: {e}."), REFUSED).await;
    }
    match failed {
        None => 0,
        Some((sentence, code)) => refuse(io, &sentence, code).await,
    }
}

async fn refuse(io: &mut Io, sentence: &str, code: u8) -> u8 {
    io.say(sentence).await;
    code
}
