//! A local command that uses the VM's Docker engine: its certificates exist as files only while it runs, readable by nobody else.
//!
//! Reads: nothing. Writes: a temporary folder. Calls: the command, which inherits our files. Runs: in `run`, for `remote_docker`.

use super::outcome::{Outcome, Stop};
use super::{Interrupt, Io};
use crate::domain::api::DockerConnection;
use std::fs::{DirBuilder, OpenOptions};
use std::future::Future;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use uuid::Uuid;

/// As shells say it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the command until it ends; when `stop` does, the command is signalled and has `grace` to end.
pub(super) async fn run(
    command: &[String],
    docker: &DockerConnection,
    io: &mut Io,
    stop: Pin<&mut impl Future<Output = Stop>>,
    grace: Duration,
) -> Outcome {
    let certificates = match Certificates::write(&std::env::temp_dir(), docker) {
        Ok(certificates) => certificates,
        Err(e) => return Outcome::Failed(format!("The Docker certificates cannot be written to the temporary folder: {e}.")),
    };
    let Some((program, words)) = command.split_first() else {
        return Outcome::Failed("There is no command.".to_owned());
    };
    let spawned = Command::new(program)
        .args(words)
        .env("DOCKER_HOST", &docker.host)
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", certificates.path())
        // It would go before DOCKER_HOST.
        .env_remove("DOCKER_CONTEXT")
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            io.say(&format!("{program} cannot be run here: {e}.")).await;
            return Outcome::Code(if e.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    tokio::select! {
        biased;
        stopped = stop => {
            end(&mut child, &stopped, grace).await;
            stopped.into()
        }
        ended = child.wait() => match ended {
            Ok(status) => Outcome::Code(exit_code(status)),
            Err(e) => Outcome::Failed(format!("{program} cannot be waited for: {e}.")),
        },
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Asks the command to end, and kills it after `grace`.
async fn end(child: &mut Child, why: &Stop, grace: Duration) {
    let signal = match why {
        // The terminal has sent it to the command as well; Docker's client takes a second one for impatience.
        Stop::Interrupt(Interrupt::Interrupted) if std::io::stdin().is_terminal() => None,
        Stop::Interrupt(interrupt) => Some(interrupt.name()),
        Stop::Over(_) => Some("TERM"),
    };
    if let (Some(signal), Some(pid)) = (signal, child.id()) {
        // The shell's own `kill`: it has no need of unsafe code here, and the id is valid until `child` has been waited for.
        let sent =
            Command::new("/bin/sh").args(["-c", "kill -\"$0\" \"$1\"", signal, &pid.to_string()]).kill_on_drop(true).status();
        timeout(grace, sent).await.ok();
    }
    if timeout(grace, child.wait()).await.is_err() {
        child.kill().await.ok();
    }
}

/// A folder as `DOCKER_CERT_PATH` wants it, gone when dropped.
struct Certificates(PathBuf);

impl Certificates {
    fn write(parent: &Path, docker: &DockerConnection) -> std::io::Result<Self> {
        let path = parent.join(format!("vm-service-docker-{}", Uuid::new_v4()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self(path);
        for (name, text) in [("ca.pem", &docker.ca), ("cert.pem", &docker.cert), ("key.pem", &docker.key)] {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.0.join(name))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(folder)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // What cannot be removed holds a key whose authority is gone with the VM.
        std::fs::remove_dir_all(&self.0).ok();
    }
}
