//! Networks of addresses that VMs have one each of, as operators write them: `127.64.0.0/10`.

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// VMs of a host, at least.
const LEAST: u32 = 6;

/// The first address for a VM, and how many there are: neither the network's own nor its last. None: it is no network for VMs.
pub fn addresses(text: &str) -> Option<(Ipv4Addr, u32)> {
    let network = text.parse::<Ipv4Net>().ok()?.trunc();
    let (first, last) = (u32::from(network.network()) + 1, u32::from(network.broadcast()).checked_sub(1)?);
    let count = last.checked_sub(first)? + 1;
    let is_for_one = network.prefix_len() >= 8 && !network.addr().is_multicast() && !network.addr().is_unspecified();
    // The loopback's own address is that of servers.
    let fits = count >= LEAST && is_for_one && !network.contains(&Ipv4Addr::LOCALHOST);
    fits.then(|| (Ipv4Addr::from(first), count))
}

/// A rule of `garde`.
pub(super) fn is_network(text: &str, _: &()) -> garde::Result {
    addresses(text).map(|_| ()).ok_or_else(|| {
        garde::Error::new(
            "is not a network for VMs such as \"127.64.0.0/10\" or \"10.9.0.0/24\": 6 addresses or more, without 127.0.0.1",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_addresses_for_vms_and_leaves_the_loopbacks_own_alone() {
        let some = |first: [u8; 4], count| Some((Ipv4Addr::from(first), count));
        assert_eq!(addresses("127.64.0.0/10"), some([127, 64, 0, 1], 0x3f_fffe));
        assert_eq!(addresses("10.9.0.77/24"), some([10, 9, 0, 1], 254));
        assert_eq!(addresses("10.9.0.8/29"), some([10, 9, 0, 9], 6));
        for bad in
            ["", "10.9.0.1", "10.9.0.0/30", "10.9.0.1/32", "127.0.0.0/8", "127.0.0.0/24", "0.0.0.0/0", "224.0.0.0/8", "::1/64"]
        {
            assert_eq!(addresses(bad), None, "{bad}");
        }
    }
}
