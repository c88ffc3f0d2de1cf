//! The rules of the filter, frame by frame.

use super::*;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const OTHER_VM: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 53);

fn ours(address: Ipv4Addr) -> bool {
    [HOST, OTHER_VM, RESOLVER].contains(&address)
}

fn frame(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.resize(20, 0);
    payload[13] = flags;
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

fn passes(filter: &mut Filter, frame: &[u8]) -> bool {
    filter.may_leave(frame, ours)
}

#[test]
fn the_outside_world_is_reached_and_nothing_of_ours() {
    let mut filter = Filter::new(None);
    for protocol in [TCP, UDP, ICMP] {
        assert!(passes(&mut filter, &frame(GUEST, OUTSIDE, protocol, (40000, 443), SYN)));
        let ours = [
            "127.0.0.1",
            "127.64.0.1",
            "10.1.0.2",
            "10.1.0.3",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "169.254.169.254",
            "192.0.0.1",
            "192.0.0.2",
            "240.0.0.1",
        ];
        for destination in ours {
            for flags in [SYN, SYN | ACK, ACK, 0] {
                let frame = frame(GUEST, destination.parse().unwrap(), protocol, (40000, 443), flags);
                assert!(!passes(&mut filter, &frame), "{destination} by {protocol}");
            }
        }
    }
    assert!(!passes(&mut filter, &frame(GUEST, OUTSIDE, 41, (0, 0), 0)), "IPv6 within IPv4");
}

#[test]
fn a_guest_cannot_pretend_to_be_another() {
    let mut filter = Filter::new(None);
    for source in [HOST, OTHER_VM, OUTSIDE, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, GATEWAY] {
        assert!(!passes(&mut filter, &frame(source, OUTSIDE, UDP, (40000, 443), 0)), "{source}");
    }
}

#[test]
fn connections_that_came_in_are_answered_and_opened_by_nobody_else() {
    let mut filter = Filter::new(None);
    for peer in [GATEWAY, HOST] {
        assert!(!passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50000), SYN | ACK)), "nobody called");
        filter.note_arrival(&frame(peer, GUEST, TCP, (50000, 22), SYN));
        assert!(!passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50000), SYN)));
        assert!(passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50000), SYN | ACK)));
        filter.note_arrival(&frame(peer, GUEST, TCP, (50000, 22), ACK));
        assert!(passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50000), ACK)));
        assert!(!passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50000), SYN | ACK)), "the handshake is over");
        assert!(!passes(&mut filter, &frame(GUEST, peer, TCP, (22, 50001), ACK)), "another port");
        assert!(!passes(&mut filter, &frame(GUEST, peer, UDP, (22, 50000), 0)), "another protocol");
    }
}

#[test]
fn what_came_in_is_remembered_up_to_a_bound() {
    let mut filter = Filter::new(None);
    for peer_port in 1..=5000 {
        filter.note_arrival(&frame(HOST, GUEST, TCP, (peer_port, 22), SYN));
    }
    assert_eq!((filter.inbound.len(), filter.order.len()), (MAX_INBOUND, MAX_INBOUND));
    assert!(passes(&mut filter, &frame(GUEST, HOST, TCP, (22, 5000), ACK)));
    assert!(!passes(&mut filter, &frame(GUEST, HOST, TCP, (22, 1), ACK)));
}

#[test]
fn dhcp_and_the_given_resolver_are_reached() {
    let mut filter = Filter::new(Some(RESOLVER));
    assert!(passes(&mut filter, &frame(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, UDP, (68, 67), 0)));
    assert!(passes(&mut filter, &frame(GUEST, GATEWAY, UDP, (68, 67), 0)));
    assert!(!passes(&mut filter, &frame(GUEST, HOST, UDP, (68, 67), 0)));
    assert!(passes(&mut filter, &frame(GUEST, RESOLVER, UDP, (40000, 53), 0)));
    assert!(passes(&mut filter, &frame(GUEST, RESOLVER, TCP, (40000, 53), SYN)));
    assert!(!passes(&mut filter, &frame(GUEST, RESOLVER, TCP, (40000, 22), SYN)));
    assert!(!passes(&mut filter, &frame(GUEST, HOST, UDP, (40000, 53), 0)));
    assert!(passes(&mut filter, &frame(GUEST, GATEWAY, UDP, (40000, 53), 0)));
    assert!(!passes(&mut filter, &frame(GUEST, GATEWAY, TCP, (40000, 53), SYN)));
}

#[test]
fn what_is_unusual_is_dropped() {
    let mut filter = Filter::new(None);
    let good = frame(GUEST, OUTSIDE, UDP, (40000, 443), 0);
    assert!(passes(&mut filter, &good));
    assert!(passes(&mut filter, &[good.clone(), vec![0; 6]].concat()), "padding");
    let changed = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    for (what, frame) in [
        ("IPv6", changed(12, 0x86)),
        ("a VLAN tag", changed(12, 0x81)),
        ("IP options", changed(14, 0x46)),
        ("a first fragment", changed(20, 0x20)),
        ("a later fragment", changed(21, 0x01)),
        ("longer than the frame", changed(16, 0x05)),
        ("shorter than its header", changed(17, 0x10)),
        ("no whole UDP header", changed(17, 24)),
    ] {
        assert!(!passes(&mut filter, &frame), "{what}");
    }
    for length in 0..good.len() {
        assert!(!passes(&mut filter, &good[..length]), "cut at {length}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_reach_ours_and_none_make_it_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
        let mut filter = Filter::new(None);
        filter.note_arrival(&bytes);
        let mut framed = frame(GUEST, HOST, TCP, (1, 2), ACK);
        for (at, byte) in bytes.iter().enumerate().filter(|(at, _)| !(30..34).contains(at)) {
            if let Some(place) = framed.get_mut(at)
                && byte % 2 == 0
            {
                *place = *byte;
            }
        }
        // Whatever the rest says: to the host's address goes nothing but ARP, whose frames passt answers itself.
        let is_arp = framed[12..14] == [8, 6];
        proptest::prop_assert!(is_arp || !filter.may_leave(&framed, |address| address == HOST));
    }
}
