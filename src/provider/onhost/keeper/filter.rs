//! Lets no frame out of a VM that would end on this host or on another VM; whatever it does not understand is dropped.
//!
//! passt turns each frame of the guest into a socket of this host, loopback included, whatever the guest writes as destination
//! (passt(1); tried: `--outbound-if4` and `--no-map-gw` do not prevent it). So this filter stands between QEMU and passt.
//! *Ours* is an address that this host answers on: read live from the kernel ([`super::local`]), and the ranges in [`never`].
//! A guest may send: ARP; DHCP; plain IPv4 TCP, UDP and ICMP from its own address to what is not ours; TCP that answers a connection
//! which came in through a forwarded port; DNS to the resolver that it was given. No IPv6, no fragments, no IP options.
//!
//! Reads: frames. Writes: nothing. Runs: in the keeper, for each frame. Not here: copying frames (`pump`).

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;

/// The guest's side of the link. From 192.0.0.0/24, which no network routes (RFC 6890, RFC 7335).
pub(in super::super) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// passt's side: connections from this host seem to come from here.
pub(in super::super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// Of the link: a /29.
pub(in super::super) const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 248);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Connections from this host's own addresses that are remembered per VM; the oldest is forgotten first.
const MAX_INBOUND: usize = 4096;

/// A connection that came in: peer, peer's port, guest's port.
type Inbound = (Ipv4Addr, u16, u16);

/// The rules for one VM.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// The one address of this host whose port 53 the guest may use, when the host's resolver is there.
    resolver: Option<Ipv4Addr>,
    /// True: the guest's end of the handshake is still due.
    inbound: HashMap<Inbound, bool>,
    order: VecDeque<Inbound>,
}

/// What the rules need of one IPv4 packet.
#[derive(Clone, Copy)]
struct Packet<'a> {
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// TCP or UDP header and what follows, or ICMP.
    payload: &'a [u8],
}

/// Ranges that are no outside world: this network, loopback, link-local (there a cloud keeps its host's credentials), multicast,
/// reserved and broadcast.
pub(in super::super) fn never(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127 | 224..) || (first, second) == (169, 254)
}

impl Filter {
    pub(super) fn new(resolver: Option<Ipv4Addr>) -> Self {
        Self { resolver, ..Self::default() }
    }

    /// Whether a frame of the guest may go on to passt. `ours` says whether this host answers on an address.
    pub(super) fn may_leave(&mut self, frame: &[u8], mut ours: impl FnMut(Ipv4Addr) -> bool) -> bool {
        match frame.get(12..14) {
            Some([0x08, 0x06]) => return true,
            Some([0x08, 0x00]) => {}
            _ => return false,
        }
        let Some(packet) = Packet::parse(frame) else { return false };
        let Some((source_port, port)) = packet.ports() else { return false };
        let to = packet.destination;
        if packet.protocol == UDP && (source_port, port) == (68, 67) {
            return to == Ipv4Addr::BROADCAST || to == GATEWAY;
        }
        if packet.source != GUEST || to == GUEST {
            return false;
        }
        if matches!(packet.protocol, TCP | UDP)
            && port == 53
            && (Some(to) == self.resolver || (to == GATEWAY && packet.protocol == UDP))
        {
            // The gateway's UDP port 53 is passt's own: it goes to the resolver it was told, nowhere else.
            return true;
        }
        if to == GATEWAY || ours(to) {
            return packet.protocol == TCP && self.answers(to, port, source_port, packet.tcp_flags());
        }
        !never(to)
    }

    /// TCP that belongs to a connection which came in. It never opens one.
    fn answers(&mut self, peer: Ipv4Addr, peer_port: u16, port: u16, flags: u8) -> bool {
        match self.inbound.get(&(peer, peer_port, port)) {
            Some(opening) => flags & SYN == 0 || (*opening && flags & ACK != 0),
            None => false,
        }
    }

    /// Notes connections that come in; every frame of passt goes on to the guest.
    pub(super) fn note_arrival(&mut self, frame: &[u8]) {
        if frame.get(12..14) != Some(&[0x08, 0x00]) {
            return;
        }
        let Some(packet) = Packet::parse(frame).filter(|packet| packet.protocol == TCP) else { return };
        let Some((peer_port, port)) = packet.ports() else { return };
        let key = (packet.source, peer_port, port);
        let opening = packet.tcp_flags() & (SYN | ACK) == SYN;
        if opening {
            if self.inbound.insert(key, true).is_none() {
                self.order.push_back(key);
            }
            if self.order.len() > MAX_INBOUND
                && let Some(oldest) = self.order.pop_front()
            {
                self.inbound.remove(&oldest);
            }
        } else if let Some(opening) = self.inbound.get_mut(&key) {
            *opening = false;
        }
    }
}

impl<'a> Packet<'a> {
    /// A whole IPv4 packet with a plain header, or nothing. Both ends must read it alike, so what is unusual is nothing.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let header: &[u8; 20] = packet.first_chunk()?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // 0x3fff: "more fragments" and the offset; 0x45: version 4, five words.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        if header[0] != 0x45 || fragment != 0 {
            return None;
        }
        let four =
            |at: usize| Some(Ipv4Addr::new(*header.get(at)?, *header.get(at + 1)?, *header.get(at + 2)?, *header.get(at + 3)?));
        Some(Self { protocol: header[9], source: four(12)?, destination: four(16)?, payload: packet.get(20..total)? })
    }

    /// Source and destination port; zeroes for ICMP; nothing for other protocols and cut headers.
    fn ports(self) -> Option<(u16, u16)> {
        let shortest = match self.protocol {
            TCP => 20,
            UDP | ICMP => 8,
            _ => return None,
        };
        match self.payload {
            bytes if bytes.len() < shortest => None,
            [_, _, _, _, ..] if self.protocol == ICMP => Some((0, 0)),
            [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
            _ => None,
        }
    }

    fn tcp_flags(self) -> u8 {
        self.payload.get(13).copied().unwrap_or(SYN)
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
