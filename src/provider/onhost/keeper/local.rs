//! Which addresses this host answers on, as the kernel says at most a second ago; when it cannot be read, all are.
//!
//! Reads: `/proc/net/fib_trie` (entries LOCAL and BROADCAST of every routing table, so also `ip route add local`).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// An address that is new on this host is closed to VMs after this long.
const FRESH: Duration = Duration::from_secs(1);

/// A network and its mask.
type Prefix = (u32, u32);

/// This host's IPv4 addresses, read again when they may be old.
#[derive(Debug, Default)]
pub(in super::super) struct LocalAddresses {
    prefixes: Option<Vec<Prefix>>,
    read_at: Option<Instant>,
}

impl LocalAddresses {
    /// Whether this host answers on it.
    pub(in super::super) fn contains(&mut self, address: Ipv4Addr) -> bool {
        if self.read_at.is_none_or(|at| at.elapsed() > FRESH) {
            self.prefixes =
                std::fs::read_to_string("/proc/net/fib_trie").ok().map(|text| parse(&text)).filter(|found| !found.is_empty());
            self.read_at = Some(Instant::now());
        }
        let address = u32::from(address);
        self.prefixes.as_ref().is_none_or(|prefixes| prefixes.iter().any(|(network, mask)| address & mask == *network))
    }
}

/// Lines `|-- 10.1.0.2`, each followed by one line `/32 host LOCAL` for every entry of that address.
fn parse(fib_trie: &str) -> Vec<Prefix> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if let (Some(leaf), Some(entry)) = (leaf, line.strip_prefix('/')) {
            let mut words = entry.split_whitespace();
            let length = words.next().and_then(|word| word.parse::<u32>().ok());
            if let (Some(length @ 1..=32), Some("LOCAL" | "BROADCAST")) = (length, words.nth(1)) {
                let mask = u32::MAX << (32 - length);
                found.push((u32::from(leaf) & mask, mask));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_broadcast_entries_are_found_and_routes_are_not() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n           |-- 127.0.0.0\n              /8 host LOCAL\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        let mut addresses = LocalAddresses { prefixes: Some(parse(text)), read_at: Some(Instant::now()) };
        for (address, is_local) in
            [("127.64.3.4", true), ("192.0.2.2", true), ("192.0.2.255", true), ("192.0.2.3", false), ("8.8.8.8", false)]
        {
            assert_eq!(addresses.contains(address.parse().unwrap()), is_local, "{address}");
        }
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let mut addresses = LocalAddresses::default();
        assert!(addresses.contains(Ipv4Addr::LOCALHOST));
        assert!(!addresses.contains(Ipv4Addr::new(198, 51, 100, 7)));
    }

    #[test]
    fn without_the_kernel_s_answer_every_address_is_ours() {
        let mut addresses = LocalAddresses { prefixes: None, read_at: Some(Instant::now()) };
        assert!(addresses.contains(Ipv4Addr::new(198, 51, 100, 7)));
    }
}
