//! The StatsD host of the settings: a name or an address, with a port or without.

use std::net::Ipv6Addr;

/// The guide's telegraf.
const PORT: u16 = 8125;

/// The host as `host:port`.
pub fn address(host: &str) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]:{PORT}"),
        Err(_) if host.contains(':') && !host.ends_with(']') => host.to_owned(),
        Err(_) => format!("{host}:{PORT}"),
    }
}

/// A check for garde.
pub(super) fn is_host(text: &str, _: &()) -> garde::Result {
    let address = address(text);
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    let named = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !named || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(garde::Error::new("is not a host such as \"telegraf.example\" or \"10.0.0.5:8125\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_port_of_telegraf_unless_it_names_one() {
        let addresses = ["telegraf", "10.0.0.5:9125", "::1", "[::1]", "[::1]:9125"].map(|host| {
            is_host(host, &()).unwrap();
            address(host)
        });
        assert_eq!(addresses, ["telegraf:8125", "10.0.0.5:9125", "[::1]:8125", "[::1]:8125", "[::1]:9125"]);
        for bad in ["", ":8125", "a b", "host:0", "host:99999", "udp://host", "http://u:p@host:1", "[::1", "a:b:c"] {
            assert!(is_host(bad, &()).is_err(), "{bad}");
        }
    }
}
