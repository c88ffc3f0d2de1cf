//! [`Guest`] for machines that run Linux with systemd: one SSH session that makes the machine what it must be, and a second one,
//! pinned to the new host key, that proves it.
//!
//! The machine's first state is *bootstrap*, its last *identity*; a service that crashed in between leaves either, or a mixture
//! for a moment. So each pair of host key and login is tried, the likely ones first, and the script is run again from its start.

use super::cache::{CacheDisk, Mounted, Unmounted};
use super::{Endpoint, Guest, GuestError, Personality, bundle, channel, engine, first_boot, gpu, linux_cache, user_data};
use crate::domain::identity::DockerIdentity;
use crate::domain::identity::{Bootstrap, Identity, USER};
use crate::domain::lineage::Engine;
use crate::domain::secret::Secret;
use crate::ssh::{ExitStatus, Session, SshError, Target, printable};
use crate::telemetry::tell;
use async_trait::async_trait;
use chrono::TimeDelta;
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tracing::{Span, field, info, instrument};

/// What is read of a command's output, bytes each.
pub(super) const MOST_OUTPUT: usize = 64 * 1024;
/// sshd may refuse every login while the machine boots (pam_nologin).
const LOGIN_SETTLES: Duration = Duration::from_secs(30);
/// sshd shows the old key until it has started anew.
const HOST_KEY_SETTLES: Duration = Duration::from_secs(5);
/// Newer servers shut out an address that comes and goes more often than once a second or so for a while.
const RETRY: Duration = Duration::from_millis(500);
/// An engine that has not answered by then is asked through SSH what is wrong.
const ENGINE_PATIENCE: Duration = Duration::from_secs(30);

/// Acts inside machines that run Linux with systemd and have the user `circleci`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxGuest;

#[async_trait]
impl Guest for LinuxGuest {
    fn user_data(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        user_data::cloud_config(bootstrap, silent_for)
    }

    fn user_data_for_bare(&self, bootstrap: &Bootstrap, silent_for: Duration) -> String {
        first_boot::cloud_config(bootstrap, silent_for)
    }

    #[instrument(
        name = "guest.personalise",
        skip_all,
        fields(ssh = %at.ssh, connect_ms = field::Empty, bundle_ms = field::Empty, verify_ms = field::Empty, engine_ms = field::Empty)
    )]
    async fn personalise(
        &self,
        at: &Endpoint,
        bootstrap: Option<&Bootstrap>,
        identity: &Identity,
        personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        let started = Instant::now();
        let until = started + deadline;
        let session = first_contact(at.ssh, bootstrap, identity, until).await.map_err(|e| failed(e, deadline))?;
        let connected = took("connect_ms", started);
        tell::answered();

        // The waiting is part of the present that the machine's clock is set to.
        let waited = TimeDelta::from_std(started.elapsed()).unwrap_or_default();
        let personality = Personality { now: personality.now + waited, ..personality.clone() };
        let script = bundle::personalise(identity, &personality);
        let said = run(&session, bundle::AS_ROOT, script.expose(), until).await.map_err(|e| failed(e, deadline))?;
        drop(session);
        let done = took("bundle_ms", connected);
        prove(at, identity, &personality, done, until, deadline).await?;
        info!(total_ms = millis(started.elapsed()), "personalised");
        Ok(engine_in(&said))
    }

    #[instrument(
        name = "guest.personalise",
        skip_all,
        fields(ssh = %at.ssh, bundle_ms = field::Empty, verify_ms = field::Empty, engine_ms = field::Empty)
    )]
    async fn personalise_over(
        &self,
        channel: UnixStream,
        at: &Endpoint,
        identity: &Identity,
        personality: &Personality,
        deadline: Duration,
    ) -> Result<Option<Engine>, GuestError> {
        let started = Instant::now();
        let until = started + deadline;
        tell::answered();
        let script = bundle::personalise(identity, personality);
        let personalised = async {
            let said = channel::run(channel, &script, until).await.map_err(|e| failed(e, deadline));
            took("bundle_ms", started);
            said
        };
        // Its sshd goes on as soon as it has its key, and the rest of the script beside the proof.
        let (said, ()) = tokio::try_join!(personalised, prove(at, identity, personality, started, until, deadline))?;
        info!(total_ms = millis(started.elapsed()), "personalised");
        Ok(engine_in(&said))
    }

    async fn authorise(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        public_keys: &[String],
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let until = Instant::now() + deadline;
        let script = bundle::authorise(public_keys).map_err(GuestError::Misbehaved)?;
        let act = async {
            let session = Session::connect_when_up(&target(ssh, &identity.host_public, &identity.login_private), until).await?;
            run(&session, bundle::AS_USER, &script, until).await.map(drop)
        };
        act.await.map_err(|e| failed(e, deadline))
    }

    async fn set_end(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        end_at: DateTime<Utc>,
        deadline: Duration,
    ) -> Result<(), GuestError> {
        let until = Instant::now() + deadline;
        let act = async {
            let session = Session::connect_when_up(&target(ssh, &identity.host_public, &identity.login_private), until).await?;
            run(&session, bundle::AS_ROOT, &bundle::set_end(end_at), until).await.map(drop)
        };
        act.await.map_err(|e| failed(e, deadline))
    }

    #[instrument(name = "guest.mount_cache", skip_all, fields(%ssh))]
    async fn mount_cache(
        &self,
        ssh: SocketAddr,
        identity: &Identity,
        disk: &CacheDisk,
        deadline: Duration,
    ) -> Result<Mounted, GuestError> {
        linux_cache::mount(ssh, identity, disk, deadline).await
    }

    #[instrument(name = "guest.unmount_cache", skip_all, fields(%ssh))]
    async fn unmount_cache(&self, ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError> {
        linux_cache::unmount(ssh, identity, deadline).await
    }
}

/// The machine shows its own host key, and its engine and its GPUs work where they are asked for.
async fn prove(
    at: &Endpoint,
    identity: &Identity,
    personality: &Personality,
    done: Instant,
    until: Instant,
    deadline: Duration,
) -> Result<(), GuestError> {
    let verify = async {
        let session = settled(at.ssh, &[target(at.ssh, &identity.host_public, &identity.login_private)], until).await;
        took("verify_ms", done);
        session.map_err(|e| failed(e, deadline))
    };
    let session = match &identity.docker {
        None => verify.await?,
        Some(docker) => {
            let answers = async {
                let answer = engine::answers(at.docker, docker, until.min(done + ENGINE_PATIENCE)).await;
                took("engine_ms", done);
                answer
            };
            let (session, answer) = tokio::join!(verify, answers);
            let session = session?;
            if answer.is_err() {
                engine_in_trouble(&session, at.docker, docker, until).await?;
            }
            session
        }
    };
    if personality.gpus > 0 {
        let gpus = gpu::ready(&session, personality.gpus, until).await?;
        info!(gpus, "GPUs work");
    }
    Ok(())
}

/// Meets the machine in whichever state it is.
async fn first_contact(
    ssh: SocketAddr,
    bootstrap: Option<&Bootstrap>,
    identity: &Identity,
    until: Instant,
) -> Result<Session, SshError> {
    let own = (&identity.host_public, &identity.login_private);
    let pairs = match bootstrap {
        None => vec![own],
        Some(bootstrap) => vec![
            (&bootstrap.host_public, &bootstrap.login_private),
            own,
            (&identity.host_public, &bootstrap.login_private),
            (&bootstrap.host_public, &identity.login_private),
        ],
    };
    let targets: Vec<Target> = pairs.into_iter().map(|(host, login)| target(ssh, host, login)).collect();
    settled(ssh, &targets, until).await
}

/// Logs in with the first of `targets` that the machine agrees to; refusals count only when they last.
async fn settled(ssh: SocketAddr, targets: &[Target], until: Instant) -> Result<Session, SshError> {
    let mut refused_since = None;
    loop {
        let mut refusal = SshError::WrongHostKey;
        for target in targets {
            match Session::connect_when_up(target, until).await {
                Err(SshError::LoginRefused) => refusal = SshError::LoginRefused,
                Err(SshError::WrongHostKey) => {}
                other => return other,
            }
        }
        let since = *refused_since.get_or_insert_with(Instant::now);
        let settles = if matches!(refusal, SshError::LoginRefused) { LOGIN_SETTLES } else { HOST_KEY_SETTLES };
        if since.elapsed() > settles || Instant::now() + RETRY >= until {
            return Err(refusal);
        }
        tracing::debug!(%ssh, %refusal, "refused so far");
        sleep(RETRY).await;
    }
}

/// The machine's own words about its engine, if there are any; else the engine gets the rest of the time.
async fn engine_in_trouble(session: &Session, at: SocketAddr, docker: &DockerIdentity, until: Instant) -> Result<(), GuestError> {
    const ASK: &str = "set -- docker.service vm-service-docker-tls.service\n\
                       sudo -n systemctl start \"$@\" >&2 || { systemctl --no-pager --full --lines=5 status \"$@\" >&2; exit 1; }\n";
    let asked = run(session, bundle::AS_USER, ASK, until).await;
    match asked {
        Err(Failed::Command(text)) => Err(GuestError::Misbehaved(format!("the engine does not start: {text}"))),
        _ => engine::answers(at, docker, until)
            .await
            .map_err(|last| GuestError::Misbehaved(format!("the engine does not answer over TLS: {last}"))),
    }
}

/// The engine that the script names in its line `engine ARCHITECTURE STORE MAJOR`; none where there is none, or anything else is said.
fn engine_in(said: &[u8]) -> Option<Engine> {
    let text = std::str::from_utf8(said).ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("engine "));
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [architecture, store, major] = words[..] else { return None };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let readable = (1..=20).contains(&architecture.len()) && architecture.bytes().all(plain) && lines.next().is_none();
    let digits = (1..=4).contains(&major.len()) && major.bytes().all(|byte| byte.is_ascii_digit());
    if !readable || !digits {
        return None;
    }
    Some(Engine { architecture: architecture.to_owned(), store: store.parse().ok()?, major: major.parse().ok()? })
}

/// Why a step failed.
pub(super) enum Failed {
    Ssh(SshError),
    /// How the command ended and what it said, printable.
    Command(String),
}

impl From<SshError> for Failed {
    fn from(error: SshError) -> Self {
        Self::Ssh(error)
    }
}

/// What the command said on its standard output.
async fn run(session: &Session, command: &str, script: &str, until: Instant) -> Result<Vec<u8>, Failed> {
    run_capped(session, command, script, MOST_OUTPUT, until).await
}

/// The same, when it may say more: `most` bytes.
pub(super) async fn run_capped(
    session: &Session,
    command: &str,
    script: &str,
    most: usize,
    until: Instant,
) -> Result<Vec<u8>, Failed> {
    let output = session.exec(command, script.as_bytes(), most, until).await?;
    match output.status {
        ExitStatus::Code(0) => Ok(output.stdout),
        status => Err(Failed::Command(format!("{status}: {}", printable(&output.stderr)))),
    }
}

/// What the caller of a guest does next.
pub(super) fn failed(why: impl Into<Failed>, deadline: Duration) -> GuestError {
    match why.into() {
        Failed::Ssh(SshError::NotReachable) => GuestError::NotReachable(deadline),
        Failed::Ssh(SshError::WrongHostKey) => GuestError::WrongHostKey,
        Failed::Ssh(SshError::LoginRefused) => GuestError::LoginRefused,
        Failed::Ssh(other) => GuestError::Misbehaved(other.to_string()),
        Failed::Command(text) => GuestError::Misbehaved(format!("a step inside the VM failed: {text}")),
    }
}

/// The login of a machine that has its identity, or the bootstrap's.
pub(super) fn target(addr: SocketAddr, host_key: &str, login: &Secret) -> Target {
    Target { addr, user: USER.to_owned(), host_key: host_key.to_owned(), login: login.clone() }
}

/// Notes a step's length in the span and the log; the next one begins now.
fn took(step: &'static str, since: Instant) -> Instant {
    let ms = millis(since.elapsed());
    Span::current().record(step, ms);
    info!(step, ms, "step done");
    Instant::now()
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lineage::Store;

    #[test]
    fn an_engine_is_read_only_as_the_script_writes_it() {
        let engine = |store| Some(Engine { architecture: "x86_64".to_owned(), store, major: 20 });
        assert_eq!(engine_in(b"engine x86_64 classic 20\n"), engine(Store::Classic));
        assert_eq!(engine_in(b"other\nengine x86_64 containerd 20\n"), engine(Store::Containerd));
        for unreadable in [
            "",
            "engine",
            "engine x86_64 classic",
            "engine x86_64 classic 20 1",
            "engine x86_64 classic -20",
            "engine x86_64 classic 20000",
            "engine x86_64 zfs 20",
            "engine x86/64 classic 20",
            "engine  classic 20",
            " engine x86_64 classic 20",
            "engine x86_64 classic 20\nengine x86_64 classic 21",
        ] {
            assert_eq!(engine_in(unreadable.as_bytes()), None, "{unreadable}");
        }
        assert_eq!(engine_in(b"engine \xff classic 20\n"), None);
    }
}
