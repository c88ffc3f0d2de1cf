//! `vm-service vms ssh`: this machine's ssh, into a VM whose host key is known beforehand; the login's key is a file only while it runs.
//!
//! Nothing of the user's own ssh takes part: no configuration, no agent, no other keys, no known hosts.
//!
//! Reads: the API (the way in; the service audits it). Writes: a temporary folder. Calls: ssh, which inherits our files. Runs: once.

use super::{Client, Io, command_line, signals};
use crate::domain::api::{Connection, SshConnection};
use crate::domain::ids::VmId;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use tokio::process::Command;

/// What ssh itself says of its own failures.
const SSH_FAILED: u8 = 255;

/// Runs it and returns its exit code, which is the command's.
pub(super) async fn run(client: &Client, vm: VmId, command: &[String], io: &mut Io) -> u8 {
    match enter(client, vm, command).await {
        Ok(code) => code,
        Err(sentence) => {
            io.say(&sentence).await;
            SSH_FAILED
        }
    }
}

async fn enter(client: &Client, vm: VmId, command: &[String]) -> Result<u8, String> {
    // From here on a signal no longer ends us by itself: the key is removed first.
    let interrupt = signals::catch().map_err(|e| format!("Signals cannot be caught: {e}."))?;
    let answer = client.get(&format!("vms/{vm}/connection")).await.map_err(|e| e.to_string())?;
    let connection: Connection = client.typed(answer.body).map_err(|e| e.to_string())?;
    let cannot = |e: std::io::Error| format!("The key of the VM cannot be written to the temporary folder: {e}.");
    let folder = tempfile::Builder::new().prefix("vm-service-ssh-").tempdir().map_err(cannot)?;
    let words = words(vm, &connection.ssh, folder.path(), command);
    keep(folder.path(), vm, &connection.ssh).map_err(cannot)?;
    let mut child = Command::new("ssh").args(words).kill_on_drop(true).spawn().map_err(|e| match e.kind() {
        ErrorKind::NotFound => "There is no ssh on this machine: install OpenSSH's client.".to_owned(),
        _ => format!("ssh cannot be run: {e}."),
    })?;
    tokio::pin!(interrupt);
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended,
            // Ctrl-C reaches ssh, or the VM behind it, without us.
            signal = &mut interrupt => match signal {
                super::Interrupt::Interrupted => interrupt.set(signals::catch().map_err(|e| format!("Signals cannot be caught: {e}."))?),
                other => {
                    child.kill().await.ok();
                    return Ok(other.exit_code());
                }
            },
        }
    };
    let status = ended.map_err(|e| format!("ssh cannot be waited for: {e}."))?;
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(SSH_FAILED))
}

/// The host is known by the VM's id: an address may be another VM's tomorrow.
fn alias(vm: VmId) -> String {
    format!("vm-{vm}")
}

fn keep(folder: &Path, vm: VmId, ssh: &SshConnection) -> std::io::Result<()> {
    let write = |name: &str, text: String| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name))?.write_all(text.as_bytes())
    };
    write("key", format!("{}\n", ssh.private_key.trim_end()))?;
    write("known_hosts", format!("{} {}\n", alias(vm), ssh.host_key.trim()))
}

fn words(vm: VmId, ssh: &SshConnection, folder: &Path, command: &[String]) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let options = [
        format!("HostKeyAlias={}", alias(vm)),
        format!("UserKnownHostsFile={}", file("known_hosts")),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        // It asks for no password: there is none.
        "BatchMode=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ];
    let mut words = vec!["-F".to_owned(), "none".to_owned(), "-i".to_owned(), file("key"), "-p".to_owned(), ssh.port.to_string()];
    words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    words.extend(["-l".to_owned(), ssh.user.clone(), "--".to_owned(), ssh.host.clone()]);
    if !command.is_empty() {
        words.push(command_line(command));
    }
    words
}
