//! IPv6 in UDP: form, and who may move a peer.

use crate::{inner_header, outer_header, sent_from};
use sixferry_fwd::{DropReason, EncapKind, Event, Rebind, Ticks, TunnelId, UdpEncap, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, Sent, USER_A, USER_B, ethernet,
    in_udp, udp,
};
use sixferry_wire::{ether, udp as wire};
use std::net::Ipv4Addr;

pub(crate) const NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
pub(crate) const SECOND: u64 = Ticks::PER_SECOND;

/// The first tunnel over UDP, dedicated port 4028, peer at port 40,000.
pub(crate) fn relay(rebind: Rebind) -> Relay {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| {
        spec.encap = EncapKind::Udp(UdpEncap {
            local_port: 4028,
            remote_port: 40_000,
            shared: false,
            rebind,
        });
    });
    relay.now = Ticks(1000 * SECOND);
    relay
}

/// Both tunnels on port 4028, told apart by the peer.
pub(crate) fn shared(rebind: Rebind) -> Relay {
    let mut relay = Relay::new();
    let encap = |remote_port| {
        EncapKind::Udp(UdpEncap {
            local_port: 4028,
            remote_port,
            shared: true,
            rebind,
        })
    };
    relay.change(relay.a, |spec| spec.encap = encap(40_000));
    relay.change(relay.b, |spec| spec.encap = encap(40_000));
    relay.now = Ticks(1000 * SECOND);
    relay
}

pub(crate) fn datagram(src: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    in_udp((src, port), (LOCAL, 4028), payload)
}

pub(crate) fn receive(relay: &mut Relay, src: Ipv4Addr, port: u16, payload: &[u8]) -> Sent {
    let frame = ethernet(ether::TYPE_IPV4, &datagram(src, port, payload));
    relay.frame(OUTSIDE, &frame)
}

/// Where a packet to the first tunnel's user goes.
pub(crate) fn downlink(relay: &mut Relay) -> (Ipv4Addr, u16) {
    let sent = relay.native(&udp(HOST, USER_A, 64, 8));
    let (src, dst) = sent_from(&sent);
    assert_eq!(src, LOCAL);
    let header = wire::Header(sent.ip()[20..].first_chunk().expect("UDP header"));
    assert_eq!(header.src_port(), 4028);
    (dst, header.dst_port())
}

pub(crate) fn events(relay: &mut Relay) -> Vec<Event> {
    let mut events = Vec::new();
    relay.local.take_events(|event| events.push(event));
    events
}

fn changed(tunnel: TunnelId, to: (Ipv4Addr, u16)) -> Event {
    let from = (REMOTE_A, 40_000);
    Event::EndpointChanged { tunnel, from, to }
}

#[test]
fn bare_ipv6_in_a_datagram_with_a_checksum() {
    let mut relay = relay(Rebind::Deny);
    let packet = udp(HOST, USER_A, 64, 33);
    let sent = relay.native(&packet);
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    let header = outer_header(sent.ip());
    assert_eq!(
        (header.protocol(), header.total_len()),
        (17, 28 + packet.len())
    );
    let datagram = &sent.ip()[20..];
    assert!(wire::checksum_ok(
        LOCAL.octets(),
        REMOTE_A.octets(),
        datagram
    ));
    assert_ne!(datagram[6..8], [0, 0]);
    assert_eq!(datagram[8 + 8..], packet[8..], "no shim");
    let back = receive(&mut relay, REMOTE_A, 40_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(back.verdict, Verdict::Tx(INSIDE));
    assert_eq!(inner_header(back.ip()).hop_limit(), 63);
    // protocol 41 from the same peer is another tunnel, and there is none
    let plain = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(plain.verdict, Verdict::Drop(DropReason::NoTunnel));
}

#[test]
fn malformed_and_empty_datagrams() {
    let mut relay = relay(Rebind::Deny);
    let inner = udp(USER_A, HOST, 64, 8);
    let good = datagram(REMOTE_A, 40_000, &inner);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        ethernet(ether::TYPE_IPV4, &packet)
    };
    let long = u8::try_from(8 + inner.len() + 1).expect("small");
    type Case<'a> = (&'a dyn Fn(&mut Vec<u8>), DropReason);
    let cases: [Case<'_>; 5] = [
        (
            &|p| p[24..26].copy_from_slice(&[0, 7]),
            DropReason::UdpLength,
        ),
        (
            &|p| p[24..26].copy_from_slice(&[0, long]),
            DropReason::UdpLength,
        ),
        (&|p| p[27] ^= 1, DropReason::UdpChecksum),
        (
            &|p| p[22..24].copy_from_slice(&[0x0f, 0xbd]),
            DropReason::NoTunnel,
        ),
        (
            &|p| p[20..28].copy_from_slice(&[0x9c, 0x40, 0x0f, 0xbc, 0, 20, 0, 0]),
            DropReason::InnerTruncated,
        ),
    ];
    for (i, (edit, reason)) in cases.iter().enumerate() {
        let sent = relay.frame(OUTSIDE, &edited(edit));
        assert_eq!(sent.verdict, Verdict::Drop(*reason), "case {i}");
    }
    let sent = relay.frame(OUTSIDE, &edited(&|p| p[26..28].fill(0)));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "no checksum");
    let sent = receive(&mut relay, REMOTE_A, 40_000, &[]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpKeepalive));
    let sent = receive(&mut relay, REMOTE_A, 40_000, &[0x45; 60]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerVersion));
    let sent = receive(&mut relay, REMOTE_A, 40_000, &udp(USER_B, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
}

#[test]
fn denied_peer_stays_where_it_is() {
    let mut relay = relay(Rebind::Deny);
    for payload in [udp(USER_A, HOST, 64, 8), vec![], vec![0x45; 60]] {
        for (address, port) in [(NAT, 40_000), (REMOTE_A, 40_001)] {
            let sent = receive(&mut relay, address, port, &payload);
            assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpRemoteMismatch));
        }
    }
    assert_eq!(downlink(&mut relay), (REMOTE_A, 40_000));
    assert_eq!(events(&mut relay), []);
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.drops, [(DropReason::UdpRemoteMismatch, 6)]);
}

#[test]
fn controlled_peer_is_announced_after_the_source_check_and_moved_by_control() {
    let mut relay = relay(Rebind::Control);
    let spoofed = receive(&mut relay, NAT, 51_000, &udp(USER_B, HOST, 64, 8));
    assert_eq!(spoofed.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
    assert_eq!(events(&mut relay), []);
    for _ in 0..1000 {
        let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpRemoteMismatch));
    }
    let seen = (NAT, 51_000);
    let tunnel = relay.a;
    assert_eq!(
        events(&mut relay),
        [Event::EndpointMismatch { tunnel, seen }],
        "one a second"
    );
    assert_eq!(downlink(&mut relay), (REMOTE_A, 40_000));
    relay.change(tunnel, |spec| {
        spec.remote = NAT;
        if let EncapKind::Udp(udp) = &mut spec.encap {
            udp.remote_port = 51_000;
        }
    });
    assert_eq!(downlink(&mut relay), seen);
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn peer_that_proves_its_source_moves_once_in_ten_seconds() {
    let mut relay = relay(Rebind::InnerSource);
    let inner = udp(USER_A, HOST, 64, 8);
    for bad in [
        udp(USER_B, HOST, 64, 8),
        udp("fe80::1", "fe80::c633:6401", 255, 8),
        vec![],
    ] {
        let sent = receive(&mut relay, NAT, 51_000, &bad);
        assert!(matches!(sent.verdict, Verdict::Drop(_)), "{sent:?}");
        assert_eq!(downlink(&mut relay), (REMOTE_A, 40_000));
    }
    assert_eq!(
        receive(&mut relay, NAT, 51_000, &inner).verdict,
        Verdict::Tx(INSIDE)
    );
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
    assert_eq!(relay.builder.endpoint(relay.a), Some((NAT, 51_000)));
    let told = events(&mut relay);
    assert_eq!(told, [changed(relay.a, (NAT, 51_000))]);
    // the second change within ten seconds is refused, back to the old place included
    let start = relay.now.0;
    for (wait, address, port) in [(0, NAT, 52_000), (5, REMOTE_A, 40_000), (9, NAT, 52_000)] {
        relay.now = Ticks(start + wait * SECOND);
        let sent = receive(&mut relay, address, port, &inner);
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::UdpRemoteMismatch),
            "{wait} s"
        );
        assert_eq!(downlink(&mut relay), (NAT, 51_000));
    }
    relay.now = Ticks(start + 10 * SECOND);
    assert_eq!(
        receive(&mut relay, NAT, 52_000, &inner).verdict,
        Verdict::Tx(INSIDE)
    );
    assert_eq!(downlink(&mut relay), (NAT, 52_000));
    // the old place is a stranger's now
    let sent = receive(&mut relay, NAT, 51_000, &[]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpRemoteMismatch));
}

#[test]
fn peer_not_yet_known_is_learnt_from_its_first_packet() {
    let mut relay = relay(Rebind::InnerSource);
    relay.change(relay.a, |spec| {
        spec.remote = Ipv4Addr::UNSPECIFIED;
        if let EncapKind::Udp(udp) = &mut spec.encap {
            udp.remote_port = 0;
        }
    });
    assert_eq!(relay.builder.endpoint(relay.a), None);
    let sent = relay.native(&udp(HOST, USER_A, 64, 8));
    assert_eq!(
        sent.verdict,
        Verdict::Answer(INSIDE),
        "nowhere to send to yet"
    );
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
}

#[test]
fn shared_port_tells_tunnels_apart_by_the_peer() {
    let mut relay = shared(Rebind::Deny);
    let cases = [
        (REMOTE_A, 40_000, USER_A, Verdict::Tx(INSIDE)),
        (REMOTE_B, 40_000, USER_B, Verdict::Tx(INSIDE)),
        (
            REMOTE_B,
            40_000,
            USER_A,
            Verdict::Drop(DropReason::InnerSrcSpoof),
        ),
        (
            REMOTE_A,
            40_001,
            USER_A,
            Verdict::Drop(DropReason::UdpRemoteMismatch),
        ),
        (
            NAT,
            40_000,
            "2001:db8:9999::1",
            Verdict::Drop(DropReason::NoTunnel),
        ),
    ];
    for (address, port, source, want) in cases {
        let sent = receive(&mut relay, address, port, &udp(source, HOST, 64, 8));
        assert_eq!(sent.verdict, want, "{source} at {address}:{port}");
    }
    let mut relay = shared(Rebind::InnerSource);
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
    // the moved peer goes on being found, and its neighbour was not touched
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let sent = receive(&mut relay, REMOTE_B, 40_000, &udp(USER_B, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(relay.builder.endpoint(relay.b), Some((REMOTE_B, 40_000)));
}

#[test]
fn steering_is_told_every_port_once() {
    let relay = shared(Rebind::Deny);
    let endpoints: Vec<_> = relay.builder.udp_endpoints().collect();
    assert_eq!(endpoints, [(LOCAL, 4028)]);
}
