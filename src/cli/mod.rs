//! The client commands: everything that a person or a job runner asks of the service goes over its HTTP API, nothing beside it.
//!
//! A *client command* runs anywhere and needs a URL and a token; it reads no settings and no database.
//!
//! Reads: the API; the token and certificate files it is told of. Writes: its output; `run` also a temporary folder of Docker
//! certificates. Calls: the API; `run` also the VM (SSH) or a local child. Runs: once, from `main`, then the process ends.
//!
//! ```text
//! connect (URL, token, TLS) ─▶ client (calls, deadlines, retries) ─▶ run ─▶ over_ssh | with_docker
//!                                  └─ problem (one sentence)       ├─ tasks
//!                                                                  ├─ vms
//!                                                                  ├─ images
//!                                                                  └─ volumes ─▶ table
//! ```
//!
//! Not here: commands on the server (`admin`), which subcommand is which (`main`).

mod client;
mod connect;
mod images;
mod io;
mod outcome;
mod over_ssh;
mod problem;
mod progress;
pub mod run;
mod signals;
mod table;
mod tasks;
mod vms;
mod volumes;
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

/// The client commands, for the composition root's parser.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a command with a VM of its own, and give the VM back afterwards.
    Run(Box<run::Args>),
    /// List, show and release tasks.
    Tasks(Box<tasks::Args>),
    /// List, show, terminate and hold VMs.
    Vms(Box<vms::Args>),
    /// List, register, try, promote and retire images that VMs are made of.
    Image(Box<images::Args>),
    /// List, show, delete and hold Docker layer caches.
    Volumes(Box<volumes::Args>),
}

/// How often and how long; the defaults are the ones to use outside tests.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two heartbeats: a quarter of the lease, so that three may be lost.
    pub heartbeat: Duration,
    /// Between two looks at why the task waits.
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
        Command::Tasks(args) => {
            let answer = match args.connect.client(defaults) {
                Ok(client) => tasks::run(&args, &client).await,
                Err(e) => Err(e),
            };
            finish(&mut io, answer).await
        }
        Command::Vms(args) => {
            let answer = match args.connect.client(defaults) {
                Ok(client) => vms::run(&args, &client).await,
                Err(e) => Err(e),
            };
            finish(&mut io, answer).await
        }
        Command::Image(args) => {
            let answer = match args.connect.client(defaults) {
                Ok(client) => images::run(&args, &client).await,
                Err(e) => Err(e),
            };
            finish(&mut io, answer).await
        }
        Command::Volumes(args) => {
            let answer = match args.connect.client(defaults) {
                Ok(client) => volumes::run(&args, &client).await,
                Err(e) => Err(e),
            };
            finish(&mut io, answer).await
        }
    }
}

async fn finish(io: &mut Io, answer: Result<String, String>) -> u8 {
    match answer {
        Ok(text) => match io.print(&text).await {
            Ok(()) => 0,
            Err(e) => refuse(io, &format!("The output cannot be written: {e}."), REFUSED).await,
        },
        Err(sentence) => refuse(io, &sentence, REFUSED).await,
    }
}

async fn refuse(io: &mut Io, sentence: &str, code: u8) -> u8 {
    io.say(sentence).await;
    code
}
