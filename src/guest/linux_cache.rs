//! A cache disk is mounted where the engine keeps its layers, and taken off again, by one script (`cache/`) over one pinned session.
//!
//! Reads: what the machine says, capped and parsed strictly: a job had root in it, or wrote the disk. Writes: the inside of one VM.
//! Calls: `ssh`. Runs: from `linux`, each call with a deadline that covers everything.
//!
//! A call that was broken off goes on inside the VM to its end; the next one waits for it there.
//!
//! Not here: which layers a job used (`cache_report`); which disk it gets (`loops`).

use super::cache::{CacheContent, CacheDisk, CacheReady, CacheTrouble, Mounted, Unmounted};
use super::cache_report::{self, Used};
use super::linux::{failed, run_capped, target};
use super::{GuestError, bundle};
use crate::domain::identity::Identity;
use crate::ssh::{Session, printable};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// Functions first, in no order but the first; the call is added to them.
const SCRIPT: &str = concat!(
    include_str!("cache/engine.sh"),
    include_str!("cache/disk.sh"),
    include_str!("cache/clear.sh"),
    include_str!("cache/room.sh"),
    include_str!("cache/calls.sh"),
);
/// What is read of what the machine says, bytes; the script cuts each document shorter.
const MOST_OUTPUT: usize = 8 << 20;
/// What the script does not use of the deadline: its answer has to arrive too.
const MARGIN: Duration = Duration::from_secs(3);
/// More notes than that are not a machine's of ours.
const MOST_NOTES: usize = 20;

/// See [`super::Guest::mount_cache`].
pub(super) async fn mount(
    ssh: SocketAddr,
    identity: &Identity,
    disk: &CacheDisk,
    deadline: Duration,
) -> Result<Mounted, GuestError> {
    let until = Instant::now() + deadline;
    let act = async {
        let session = Session::connect_when_up(&target(ssh, &identity.host_public, &identity.login_private), until).await?;
        let content = match disk.content {
            CacheContent::Nothing => "nothing",
            CacheContent::Good => "good",
            CacheContent::Unchecked => "unchecked",
        };
        let major = disk.engine.major.to_string();
        let assignments = [
            ("serial", disk.serial.as_str()),
            ("content", content),
            ("architecture", &disk.engine.architecture),
            ("store", disk.engine.store.as_str()),
            ("major", &major),
        ];
        run_capped(&session, bundle::AS_ROOT, &script(&assignments, until, "mount_cache"), MOST_OUTPUT, until).await
    };
    let said = act.await.map_err(|e| failed(e, deadline))?;
    mounted(&said).ok_or_else(|| unreadable(&said))
}

/// See [`super::Guest::unmount_cache`].
pub(super) async fn unmount(ssh: SocketAddr, identity: &Identity, deadline: Duration) -> Result<Unmounted, GuestError> {
    let until = Instant::now() + deadline;
    let act = async {
        let session = Session::connect_when_up(&target(ssh, &identity.host_public, &identity.login_private), until).await?;
        let seen = run_capped(&session, bundle::AS_ROOT, &script(&[], until, "look"), MOST_OUTPUT, until).await?;
        let used = cache_report::used(&seen);
        let assignments = [("used_images", used.images().join(" "))];
        let assignments = assignments.each_ref().map(|(name, value)| (*name, value.as_str()));
        let call = script(&assignments, until, "unmount_cache");
        run_capped(&session, bundle::AS_ROOT, &call, MOST_OUTPUT, until).await.map(|said| (said, used))
    };
    let (said, used) = act.await.map_err(|e| failed(e, deadline))?;
    let unmounted = unmounted(&said, &used).ok_or_else(|| unreadable(&said))?;
    info!(used_bytes = unmounted.used_bytes, layers = unmounted.layers.len(), used = unmounted.used.len(), "cache unmounted");
    Ok(unmounted)
}

/// The script with its variables, and the one call at its end; for [`bundle::AS_ROOT`].
fn script(assignments: &[(&str, &str)], until: Instant, call: &str) -> String {
    let seconds = until.saturating_duration_since(Instant::now()).saturating_sub(MARGIN).as_secs().max(1).to_string();
    let mut script = String::with_capacity(SCRIPT.len() + 1024);
    for (name, value) in [("seconds", seconds.as_str()), ("store", "")].iter().chain(assignments) {
        script.push_str(name);
        script.push('=');
        bundle::quote(&mut script, value);
        script.push('\n');
    }
    script.push_str(SCRIPT);
    script.push_str(call);
    script.push_str(" </dev/null\n");
    script
}

fn unreadable(said: &[u8]) -> GuestError {
    GuestError::Misbehaved(format!("what the VM says of its cache cannot be read: {}", printable(said)))
}

fn mounted(said: &[u8]) -> Option<Mounted> {
    if let Some(refused) = said.strip_prefix(b"refused ") {
        let end = refused.iter().position(|byte| *byte == b' ')?;
        let trouble = match &refused[..end] {
            b"not_there" => CacheTrouble::NotThere,
            b"damaged" => CacheTrouble::Damaged,
            b"wrong_engine" => CacheTrouble::WrongEngine,
            b"full" => CacheTrouble::Full,
            _ => return None,
        };
        return Some(Mounted::Refused { trouble, detail: printable(&refused[end..]) });
    }
    let (mut notes, mut ready) = (Vec::new(), None);
    for line in lines(said) {
        if let Some(note) = line.strip_prefix(b"note ") {
            notes.push(printable(note));
        } else {
            let words = std::str::from_utf8(line).ok()?.strip_prefix("ready warm=")?;
            let (warm, rest) = words.split_once(" used=")?;
            let (used, size) = rest.split_once(" size=")?;
            let warm = match warm {
                "0" => false,
                "1" => true,
                _ => return None,
            };
            let ready_now = CacheReady { warm, used_bytes: number(used)?, size_bytes: number(size)?, notes: Vec::new() };
            if ready.replace(ready_now).is_some() {
                return None;
            }
        }
    }
    if notes.len() > MOST_NOTES {
        return None;
    }
    ready.map(|ready| Mounted::Ready(CacheReady { notes, ..ready }))
}

fn unmounted(said: &[u8], used: &Used) -> Option<Unmounted> {
    let sections = cache_report::sections(said);
    let mut head = lines(sections.first()?.1);
    let used_bytes = number(std::str::from_utf8(head.next()?.strip_prefix(b"unmounted used=")?).ok()?)?;
    let notes: Vec<String> = head.map(|line| line.strip_prefix(b"note ").map(printable)).collect::<Option<_>>()?;
    if notes.len() > MOST_NOTES {
        return None;
    }
    let (layers, used) = cache_report::layers(&sections, used);
    Some(Unmounted { used_bytes, layers, used, notes })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Decimal digits, nothing else; never more than a database's number holds.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && i64::try_from(*number).is_ok())
}

#[cfg(test)]
#[path = "linux_cache_tests.rs"]
mod tests;
