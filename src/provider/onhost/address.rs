//! Every machine has an address of its own with the standard ports; an address in use is never given twice.
//!
//! An address is *taken* when a machine folder names it or when one of its ports cannot be bound (another data folder, or any other
//! program). After its end a machine's address comes round last, so that a late client does not meet the next machine.
//! Reads: the folders' addresses. Writes: nothing. Calls: `bind`. Runs: under the folder lock (`folder`).

use crate::domain::network;
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};

/// A TCP port.
pub(super) type Port = u16;

/// A run of addresses on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    /// The first.
    pub(super) first: Ipv4Addr,
    /// How many, at least 1.
    pub(super) count: u32,
}

/// Where machines answer: on which addresses, and on which ports of them or why on none.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    pub(super) pool: Pool,
    pub(super) ports: Result<Ports, String>,
}

impl Doors {
    /// Where VMs answer, or why nowhere, for logs and checks.
    pub(super) fn explain(&self) -> String {
        match &self.ports {
            Ok(ports) => format!("{}, on {} addresses from {} on", ports.explain(), self.pool.count, self.pool.first),
            Err(why) => why.clone(),
        }
    }

    /// Those of the addresses, where `taken` are taken.
    pub(super) fn find(pool: Pool, taken: &HashSet<Ipv4Addr>) -> Self {
        Self { pool, ports: Ports::find(&pool, taken) }
    }
}

/// The ports that all machines of this process get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) ssh: Port,
    pub(super) docker: Port,
}

/// Standard first; the others for a host where it cannot be bound: no right to ports below 1024, or a server on `0.0.0.0:22`.
const SSH_PORTS: [Port; 3] = [22, 2222, 22022];
const DOCKER_PORTS: [Port; 2] = [2376, 23760];

impl Pool {
    /// The addresses of a network as the settings have it; valid ones name one.
    pub(super) fn of(network: &str) -> Option<Self> {
        network::addresses(network).map(|(first, count)| Self { first, count })
    }

    /// The first free address behind `last`, going round once.
    pub(super) fn next_free(
        &self,
        last: Option<Ipv4Addr>,
        taken: &HashSet<Ipv4Addr>,
        free: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let first = u32::from(self.first);
        let begin = match last.map(|last| u32::from(last).wrapping_sub(first)) {
            Some(offset) if offset < self.count => offset + 1,
            _ => 0,
        };
        // Past this many taken addresses in a row something else is wrong than a full pool.
        (0..self.count.min(100_000))
            .map(|step| Ipv4Addr::from(first + (begin + step) % self.count))
            .find(|address| !matches!(address.octets()[3], 0 | 255) && !taken.contains(address) && free(*address))
    }
}

/// A listener can be bound there now.
pub(super) fn can_bind(ip: Ipv4Addr, port: Port) -> bool {
    TcpListener::bind((ip, port)).is_ok()
}

impl Ports {
    /// The ports that can be bound on this host, looked at on an address of the pool that no machine has; one sentence else.
    pub(super) fn find(pool: &Pool, taken: &HashSet<Ipv4Addr>) -> Result<Self, String> {
        let Some(ip) = pool.next_free(None, taken, |_| true) else {
            return Err(format!(
                "The {} addresses from {} on are all taken: give the VMs a larger network, with the setting on_host.addresses.",
                pool.count, pool.first
            ));
        };
        let pick = |ports: &[Port]| ports.iter().copied().find(|port| can_bind(ip, *port));
        match (pick(&SSH_PORTS), pick(&DOCKER_PORTS)) {
            (Some(ssh), Some(docker)) => Ok(Self { ssh, docker }),
            _ => Err(format!(
                "None of the ports {SSH_PORTS:?} or none of {DOCKER_PORTS:?} can be bound on {ip}: is it an address of this host? The setting \
                 on_host.addresses says which the VMs have."
            )),
        }
    }

    /// Why the standard SSH port is not used, for logs and checks.
    fn explain(self) -> String {
        if self.ssh == SSH_PORTS[0] {
            return format!("VMs answer on the ports {} and {}", self.ssh, self.docker);
        }
        format!(
            "VMs answer on the ports {} and {}: port 22 cannot be bound. It needs the capability CAP_NET_BIND_SERVICE (or the sysctl \
             net.ipv4.ip_unprivileged_port_start=22), and no other server on 0.0.0.0:22 (for sshd: set ListenAddress).",
            self.ssh, self.docker
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_skip_what_is_taken() {
        let pool = Pool { first: Ipv4Addr::new(127, 64, 0, 254), count: 5 };
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let none = HashSet::new();
        assert_eq!(pool.next_free(None, &none, |_| true), Some(ip("127.64.0.254")));
        assert_eq!(pool.next_free(Some(ip("127.64.0.254")), &none, |_| true), Some(ip("127.64.1.1")), "neither .255 nor .0");
        assert_eq!(pool.next_free(Some(ip("127.64.1.2")), &none, |_| true), Some(ip("127.64.0.254")), "round");
        assert_eq!(pool.next_free(Some(ip("10.0.0.1")), &none, |_| true), Some(ip("127.64.0.254")), "of another pool");
        let taken = HashSet::from([ip("127.64.0.254"), ip("127.64.1.1")]);
        assert_eq!(pool.next_free(None, &taken, |_| true), Some(ip("127.64.1.2")));
        assert_eq!(pool.next_free(None, &taken, |_| false), None);
    }

    #[test]
    fn a_listener_on_all_addresses_takes_the_port_everywhere() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!can_bind(Ipv4Addr::new(127, 64, 0, 1), port));
        drop(listener);
        assert!(can_bind(Ipv4Addr::new(127, 64, 0, 1), port));
    }
}
