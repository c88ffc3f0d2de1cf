//! The names under which the console answers: a page of somebody else, whose name was made to point here, gets nothing.
//!
//! Always: the names and addresses of this machine to itself. And the address that is listened on; where that is every address of the
//! host, any address in figures: only a *name* can be made to point elsewhere. And what the operator lists.

use std::net::IpAddr;

/// Which `Host` is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    listed: Vec<String>,
    listen: Option<IpAddr>,
}

impl Hosts {
    /// These names, and those of the address that is listened on.
    pub fn new(listed: &[String], listen: IpAddr) -> Self {
        Self { listed: listed.iter().map(|listed| name(listed).unwrap_or_default()).collect(), listen: Some(listen) }
    }

    /// Whether `authority`, a name or an address with or without a port, is one of ours.
    pub(super) fn has(&self, authority: &str) -> bool {
        let Some(name) = name(authority) else { return false };
        let ip = name.parse::<IpAddr>().ok();
        let by_address = |ip: IpAddr| {
            ip.to_canonical().is_loopback() || self.listen.is_some_and(|listen| listen == ip || listen.is_unspecified())
        };
        name == "localhost" || self.listed.contains(&name) || ip.is_some_and(by_address)
    }
}

/// The name or address alone, in small letters; none of what is no authority.
pub(super) fn name(authority: &str) -> Option<String> {
    let authority = match authority.trim() {
        // An address as people write it.
        ip if ip.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{ip}]"),
        other => other.to_owned(),
    };
    let authority = authority.parse::<axum::http::uri::Authority>().ok()?;
    let name = authority.host().trim_end_matches('.').trim_start_matches('[').trim_end_matches(']');
    Some(name.to_ascii_lowercase()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_and_listed_ones_are_answered() {
        let at = |listen: &str| Hosts::new(&["VMs.example".to_owned()], listen.parse().unwrap());
        for good in ["localhost:3001", "LOCALHOST", "127.0.0.1:3001", "127.9.9.9", "[::1]:3001", "vms.example", "vms.example.:443"]
        {
            assert!(at("127.0.0.1").has(good), "{good}");
        }
        for bad in
            ["", "evil.example", "localhost.evil.example", "10.0.0.1", "vms.example.evil", "a b", "user@localhost.evil.example"]
        {
            assert!(!at("127.0.0.1").has(bad), "{bad}");
        }
        for listed in ["VMs.example:3001", " vms.example ", "vms.example."] {
            assert!(Hosts::new(&[listed.to_owned()], [127, 0, 0, 1].into()).has("vms.example:3001"), "{listed:?}");
        }
        for listed in ["fd00::1", "[fd00::1]", "[fd00::1]:3001"] {
            assert!(Hosts::new(&[listed.to_owned()], [127, 0, 0, 1].into()).has("[fd00::1]:3001"), "{listed:?}");
        }
        assert!(!Hosts::new(&["a b".to_owned(), String::new()], [127, 0, 0, 1].into()).has(""));
        assert!(at("10.0.0.1").has("10.0.0.1:3001") && !at("10.0.0.1").has("10.0.0.2"));
        assert!(at("0.0.0.0").has("10.0.0.2") && at("::").has("[fd00::1]:3001") && !at("0.0.0.0").has("evil.example"));
    }
}
