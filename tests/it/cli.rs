//! The client commands against a small API in this process, with real local commands and a real SSH server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod api;
mod images;
mod lists;
mod run_docker;
mod run_life;
mod run_ssh;
mod setup;

use clap::Parser;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_service::cli::{Command, Io, Stdin};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The command that these words mean; the service is at `url`.
fn parse(url: &str, words: &[&str]) -> Command {
    let (first, rest) = words.split_first().unwrap();
    let words = ["vm-service", first, "--url", url, "--token", "t0ken"].into_iter().chain(rest.iter().copied());
    Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).command
}

fn run_args(url: &str, words: &[&str]) -> Box<vm_service::cli::run::Args> {
    let Command::Run(args) = parse(url, &[&["run"], words].concat()) else { panic!("not run") };
    args
}

/// What a command wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// An `Io` whose outputs can be looked at while it is in use.
fn io(stdin: Option<&'static [u8]>) -> (Io, Written, Written) {
    let (out, err) = (Written::default(), Written::default());
    let stdin = stdin.map(|bytes| Box::new(bytes) as Box<dyn tokio::io::AsyncRead + Send + Unpin>);
    (Io { stdin: Stdin::Given(stdin), out: collect(&out), err: collect(&err) }, out, err)
}

fn collect(into: &Written) -> Box<dyn tokio::io::AsyncWrite + Send + Unpin> {
    Box::new(Collect(into.clone()))
}

struct Collect(Written);

impl tokio::io::AsyncWrite for Collect {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.0.lock().unwrap().extend_from_slice(data);
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// Waits for a level, at most 20 s.
async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
