//! StatsD over UDP: the names that dashboards of the guide's product know, and the way to the host that the settings name.
//!
//! The exporter sends to one address for ever, so it sends to a socket of this process, and the [`Relay`] carries each datagram to the
//! host that is set *now*: a change of the setting needs no restart, and a name is looked up again each minute.
//!
//! | name | is |
//! | --- | --- |
//! | `vm-service.gauges.vms_by_status`, `…tasks_by_status` | VMs, tasks, with the tag `status` |
//! | `vm-service.gauges.unassigned_tasks_age` | seconds that the oldest waiting task has waited |
//! | `circle.vm-service.vm.assigned-vm` | VMs in use |
//! | `circle.vm-service.vms.{get,post,delete}.status` | answers to who looks at, asks for, and gives back VMs, with the tag `status:200` |

use metrics::{counter, gauge};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// What the guide's names contain, and names of the catalogue do not.
pub(super) const PREFIXES: [&str; 1] = ["vm-service."];

/// The largest datagram.
const LARGEST: usize = 65_535;
/// How long an address is used before its name is looked up again.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// For a name to be looked up.
const LOOKUP: Duration = Duration::from_secs(5);
/// Until a socket is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Between folds of what histograms have collected.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// VMs in this state.
#[allow(clippy::cast_precision_loss, reason = "counts of rows")]
pub fn vms_by_status(status: &'static str, count: u64) {
    gauge!("vm-service.gauges.vms_by_status", "status" => status).set(count as f64);
    if status == "assigned" {
        gauge!("circle.vm-service.vm.assigned-vm").set(count as f64);
    }
}

/// Tasks in this state.
#[allow(clippy::cast_precision_loss, reason = "counts of rows")]
pub fn tasks_by_status(status: &'static str, count: u64) {
    gauge!("vm-service.gauges.tasks_by_status", "status" => status).set(count as f64);
}

/// How long the oldest waiting task has waited, seconds.
pub fn unassigned_tasks_age(seconds: f64) {
    gauge!("vm-service.gauges.unassigned_tasks_age").set(seconds);
}

/// One answer about VMs. A task is how a VM is asked for and given back here, so its calls count as those of the guide's `vms`.
pub fn answered(method: &str, route: &str, status: u16) {
    if !["/api/v1/tasks", "/api/v1/tasks/{id}", "/api/v1/vms", "/api/v1/vms/{id}"].contains(&route) {
        return;
    }
    let name = match method {
        "GET" => "circle.vm-service.vms.get.status",
        "PUT" | "POST" => "circle.vm-service.vms.post.status",
        "DELETE" => "circle.vm-service.vms.delete.status",
        _ => return,
    };
    counter!(name, "status" => status.to_string()).increment(1);
}

/// Carries what the exporter sends to the host of the settings, or nowhere while none is set.
#[derive(Debug)]
pub struct Relay(UdpSocket);

/// Where datagrams go.
struct Target {
    name: String,
    address: Option<SocketAddr>,
    known_at: Instant,
}

impl Relay {
    pub(super) fn new(socket: std::net::UdpSocket) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// Runs until `stop`; `to` says where to, as `host:port`. Whatever hinders it, it goes on when that is over.
    pub async fn run(self, to: impl Fn() -> Option<String>, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = keep_tidy() => {}
            () = self.carry(to) => {}
        }
    }

    async fn carry(self, to: impl Fn() -> Option<String>) {
        let (mut target, mut out) = (None, None);
        let mut datagram = vec![0; LARGEST];
        loop {
            if let Err(error) = self.carry_one(&mut datagram, &to, &mut target, &mut out).await {
                tracing::warn!(%error, "nothing can be carried to StatsD: it is tried again");
                out = None;
                sleep(PAUSE).await;
            }
        }
    }

    /// An error is one of a socket; a datagram that its host did not take is gone.
    async fn carry_one(
        &self,
        datagram: &mut [u8],
        to: &impl Fn() -> Option<String>,
        target: &mut Option<Target>,
        out: &mut Option<UdpSocket>,
    ) -> std::io::Result<()> {
        let length = self.0.recv(datagram).await?;
        let Some(address) = find(target, to()).await else { return Ok(()) };
        let fits = |socket: &UdpSocket| socket.local_addr().is_ok_and(|own| own.is_ipv4() == address.is_ipv4());
        if !out.as_ref().is_some_and(fits) {
            let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            *out = Some(UdpSocket::bind((any, 0)).await?);
        }
        if let Some(socket) = out
            && let Err(error) = socket.send_to(&with_values(&datagram[..length]), address).await
        {
            tracing::debug!(%address, %error, "a datagram for StatsD could not be sent");
        }
        Ok(())
    }
}

/// Without the lines of gauges that have no value any more: StatsD knows none that is no number.
fn with_values(datagram: &[u8]) -> Vec<u8> {
    let has_value = |line: &&[u8]| !line.windows(5).any(|part| part == b":NaN|");
    datagram.split_inclusive(|byte| *byte == b'\n').filter(has_value).flatten().copied().collect()
}

async fn keep_tidy() {
    let mut turns = interval(TIDY_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        super::recorder::tidy();
    }
}

/// The address behind the name, looked up when the name is another or was looked up a while ago.
async fn find(target: &mut Option<Target>, name: Option<String>) -> Option<SocketAddr> {
    let Some(name) = name else {
        *target = None;
        return None;
    };
    if let Some(known) = target.as_ref().filter(|known| known.name == name && known.known_at.elapsed() < KNOWN_FOR) {
        return known.address;
    }
    let found = timeout(LOOKUP, lookup_host(&name)).await.unwrap_or_else(|late| Err(late.into()));
    if let Err(error) = &found {
        tracing::warn!(statsd = name, %error, "the StatsD host of the settings cannot be looked up: nothing is sent to it");
    }
    let address = found.ok().and_then(|mut all| all.next());
    *target = Some(Target { name, address, known_at: Instant::now() });
    address
}

#[cfg(test)]
mod tests {
    use super::with_values;

    #[test]
    fn what_has_no_value_is_not_told() {
        let told = |text: &str| String::from_utf8(with_values(text.as_bytes())).unwrap();
        assert_eq!(told("a:1.0|g\nb:NaN|g|#x:y\nNaN:2|c\n"), "a:1.0|g\nNaN:2|c\n");
        assert_eq!(told("a:NaN|g"), "");
    }
}
