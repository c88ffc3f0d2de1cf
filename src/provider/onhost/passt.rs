//! How a VM with an open network reaches the world: passt's arguments, and which resolver the VM is given.
//!
//! passt needs no rights of its own but CAP_NET_BIND_SERVICE for port 22; what it must not reach is kept from it by `keeper::filter`.
//! Reads: `/etc/resolv.conf`, systemd-resolved's. Not here: starting it (`keeper`).

use super::address::Ports;
use super::keeper::filter::{GATEWAY, GUEST, NETMASK, never};
use super::keeper::local::LocalAddresses;
use std::net::Ipv4Addr;

pub(super) const PROGRAM: &str = "passt";

/// Which resolvers a VM uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dns {
    /// Reached as any outside address.
    Direct(Vec<Ipv4Addr>),
    /// On one of this host's own addresses: the VM may use port 53 of it, and only that.
    OnHost(Ipv4Addr),
    /// On the host's loopback: passt carries UDP port 53 of its gateway there.
    Carried(Ipv4Addr),
    /// The host has none.
    None,
}

impl Dns {
    /// As this host resolves names now.
    pub(super) fn of_host() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut local = LocalAddresses::default();
        Self::choose(&read("/etc/resolv.conf"), &read("/run/systemd/resolve/resolv.conf"), |address| local.contains(address))
    }

    /// Outside resolvers first: they answer by TCP too. `upstream`: the resolvers behind systemd-resolved.
    fn choose(resolv_conf: &str, upstream: &str, mut ours: impl FnMut(Ipv4Addr) -> bool) -> Self {
        let configured = nameservers(resolv_conf);
        let mut outside =
            |servers: &[Ipv4Addr]| servers.iter().copied().filter(|server| !never(*server) && !ours(*server)).collect::<Vec<_>>();
        let mut direct = outside(&configured);
        if direct.is_empty() && configured.iter().any(Ipv4Addr::is_loopback) {
            direct = outside(&nameservers(upstream));
        }
        match configured.first() {
            _ if !direct.is_empty() => Self::Direct(direct.into_iter().take(3).collect()),
            Some(server) if never(*server) => Self::Carried(*server),
            Some(server) => Self::OnHost(*server),
            None => Self::None,
        }
    }

    /// The exception for the filter.
    pub(super) fn resolver(&self) -> Option<Ipv4Addr> {
        match self {
            Self::OnHost(server) => Some(*server),
            _ => None,
        }
    }

    /// The resolvers that a guest hears of.
    pub(super) fn servers(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Direct(servers) => servers.clone(),
            Self::OnHost(server) => vec![*server],
            Self::Carried(_) => vec![GATEWAY],
            Self::None => Vec::new(),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let servers = match self {
            Self::Direct(servers) => servers.clone(),
            Self::OnHost(server) => vec![*server],
            // The first is where passt carries to; the guest is told both, and its own loopback refuses at once.
            Self::Carried(server) => vec![*server, GATEWAY],
            Self::None => return vec!["-D".into(), "none".into()],
        };
        let mut arguments: Vec<String> = servers.iter().flat_map(|server| ["-D".to_owned(), server.to_string()]).collect();
        if matches!(self, Self::Carried(_)) {
            arguments.extend(["--dns-forward".to_owned(), GATEWAY.to_string()]);
        }
        arguments
    }
}

fn nameservers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

/// passt on its standard input (`-F 0`), forwarding the two ports of one address and nothing else.
pub(super) fn command(ip: Ipv4Addr, ports: Ports, dns: &Dns) -> Vec<String> {
    let ports = format!("{ip}/{}:22,{}:2376", ports.ssh, ports.docker);
    let (guest, netmask, gateway) = (GUEST.to_string(), NETMASK.to_string(), GATEWAY.to_string());
    let fixed = [
        PROGRAM,
        "-f",
        "-q",
        "-4",
        "-F",
        "0",
        "--no-map-gw",
        "-a",
        &guest,
        "-n",
        &netmask,
        "-g",
        &gateway,
        "-t",
        &ports,
        "-u",
        "none",
        "--no-dhcp-search",
    ];
    fixed.into_iter().map(str::to_owned).chain(dns.arguments()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_given_a_resolver_that_it_can_reach() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let choose = |resolv_conf, upstream| Dns::choose(resolv_conf, upstream, |address| address == ip("10.1.0.2"));
        assert_eq!(choose("nameserver 9.9.9.9\nnameserver ::1\n", ""), Dns::Direct(vec![ip("9.9.9.9")]));
        assert_eq!(choose("nameserver 127.0.0.1\nnameserver 10.0.0.53\n", ""), Dns::Direct(vec![ip("10.0.0.53")]));
        assert_eq!(choose("nameserver 127.0.0.53\n", "nameserver 10.0.0.53\n"), Dns::Direct(vec![ip("10.0.0.53")]));
        assert_eq!(choose("nameserver 127.0.0.1\n", ""), Dns::Carried(ip("127.0.0.1")));
        assert_eq!(choose("nameserver 169.254.169.253\n", ""), Dns::Carried(ip("169.254.169.253")));
        assert_eq!(choose("nameserver 10.1.0.2\n", ""), Dns::OnHost(ip("10.1.0.2")));
        assert_eq!(choose("# nameserver 9.9.9.9\nsearch example\n", "nameserver 10.0.0.53\n"), Dns::None);
    }

    #[test]
    fn only_the_two_ports_are_forwarded() {
        let line =
            command(Ipv4Addr::new(127, 64, 0, 5), Ports { ssh: 2222, docker: 2376 }, &Dns::Carried(Ipv4Addr::LOCALHOST)).join(" ");
        assert!(line.contains("-t 127.64.0.5/2222:22,2376:2376 -u none"), "{line}");
        assert!(line.contains("--no-map-gw"), "{line}");
        assert!(line.ends_with("-D 127.0.0.1 -D 192.0.0.1 --dns-forward 192.0.0.1"), "{line}");
    }
}
