//! Fragments: what the packet path hands to reassembly, and what comes of it.

use sixferry_fwd::fragment::fragment;
use sixferry_fwd::reassembly::{Limits, Outcome, Reassembler};
use sixferry_fwd::{
    DomainSpec, DropReason, EncapKind, PuntReason, Rebind, Settings, SixToFourRole, Ticks,
    UdpEncap, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, Sent, USER_A, USER_B, ethernet,
    in_ipv4, in_udp, outer, udp,
};
use sixferry_wire::{checksum, ether, ipv4};
use std::net::Ipv4Addr;

/// A relay and its slow path, as far as fragments go.
struct Both {
    relay: Relay,
    slow: Reassembler,
}

impl Both {
    fn new() -> Self {
        let mut relay = Relay::new();
        let settings = relay.builder.settings().clone();
        relay.builder.set_settings(Settings {
            punt_subscriptions: 1 << PuntReason::Fragment.index(),
            ..settings
        });
        relay.publish();
        Self {
            relay,
            slow: Reassembler::new(Limits::default()),
        }
    }

    /// Sends an IPv4 packet; its verdict, or that of the datagram it completed.
    fn send(&mut self, packet: &[u8]) -> Result<Sent, Outcome> {
        let sent = self
            .relay
            .frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, packet));
        if sent.verdict != Verdict::Punt(PuntReason::Fragment) {
            return Ok(sent);
        }
        let may_open = sent.punt.tunnel.is_some();
        match self.slow.push(sent.ip(), may_open, self.relay.now) {
            Outcome::Complete(whole) => Ok(self
                .relay
                .frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &whole.packet))),
            other => Err(other),
        }
    }
}

fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut buffer = [0; 2048];
    fragment(packet, mtu, &mut buffer, |piece| {
        pieces.push(piece.to_vec())
    })
    .expect("DF is clear");
    pieces
}

impl Both {
    /// The first tunnel over UDP, peer at port 40,000.
    fn over_udp(shared: bool, rebind: Rebind) -> Self {
        let mut both = Self::new();
        both.relay.change(both.relay.a, |spec| {
            spec.encap = EncapKind::Udp(UdpEncap {
                local_port: 4028,
                remote_port: 40_000,
                shared,
                rebind,
            });
        });
        both.relay.now = Ticks(1000 * Ticks::PER_SECOND);
        both
    }

    /// Sends pieces in this order: all but the last are held, and the last completes the datagram.
    fn completes(&mut self, pieces: &[Vec<u8>], order: &[usize]) {
        let (last, before) = order.split_last().expect("pieces");
        for at in before {
            let held = self.send(&pieces[*at]).expect_err("incomplete");
            assert_eq!(held, Outcome::Held, "{at} of {order:?}");
        }
        let sent = self.send(&pieces[*last]).expect("complete");
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "{order:?}");
        assert_eq!(self.slow.contexts(), 0);
    }
}

const NAT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// A datagram of the first tunnel's user, in two fragments.
fn in_two(src: Ipv4Addr, port: u16) -> Vec<Vec<u8>> {
    let datagram = in_udp((src, port), (LOCAL, 4028), &udp(USER_A, HOST, 64, 900));
    let pieces = cut(&datagram, 576);
    assert_eq!(pieces.len(), 2);
    pieces
}

#[test]
fn udp_fragments_of_a_peer_are_joined_in_any_order() {
    for shared in [false, true] {
        for order in [[0, 1], [1, 0]] {
            let mut both = Both::over_udp(shared, Rebind::Deny);
            both.completes(&in_two(REMOTE_A, 40_000), &order);
        }
    }
}

#[test]
fn udp_fragments_of_strangers_open_nothing_where_peers_stay() {
    for shared in [false, true] {
        let mut both = Both::over_udp(shared, Rebind::Deny);
        for (address, port) in [(NAT, 40_000), (REMOTE_B, 40_000)] {
            let pieces = in_two(address, port);
            let first = both.send(&pieces[0]).expect("a verdict at once");
            let reason = DropReason::UdpRemoteMismatch;
            assert_eq!(first.verdict, Verdict::Drop(reason), "{address}");
            let later = both.send(&pieces[1]).expect("a verdict at once");
            assert_eq!(later.verdict, Verdict::Drop(DropReason::NoTunnel));
        }
        assert_eq!(both.slow.contexts(), 0, "shared: {shared}");
    }
    let mut both = Both::over_udp(false, Rebind::Deny);
    let first = both.send(&in_two(REMOTE_A, 40_001)[0]).expect("a verdict");
    assert_eq!(
        first.verdict,
        Verdict::Drop(DropReason::UdpRemoteMismatch),
        "another port of the peer's address"
    );
}

#[test]
fn udp_fragments_of_a_peer_that_moved_are_joined() {
    for shared in [false, true] {
        let mut both = Both::over_udp(shared, Rebind::InnerSource);
        // the move itself may come in fragments, the first of them first
        both.completes(&in_two(NAT, 51_000), &[0, 1]);
        assert_eq!(
            both.relay.builder.endpoint(both.relay.a),
            Some((NAT, 51_000))
        );
        both.completes(&in_two(NAT, 51_000), &[0, 1]);
    }
}

#[test]
fn later_udp_fragments_from_elsewhere_are_looked_at_only_while_peers_may_move() {
    for shared in [false, true] {
        let later = in_two(NAT, 51_000).remove(1);
        for rebind in [Rebind::Control, Rebind::InnerSource] {
            let mut both = Both::over_udp(shared, rebind);
            let outcome = both.send(&later).expect_err("goes with none");
            assert!(matches!(outcome, Outcome::Drop(_)), "{outcome:?}");
            assert_eq!(both.slow.contexts(), 0);
            both.relay.change(both.relay.a, |spec| {
                if let EncapKind::Udp(udp) = &mut spec.encap {
                    udp.rebind = Rebind::Deny;
                }
            });
            let sent = both.send(&later).expect("a verdict at once");
            assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoTunnel));
        }
    }
}

#[test]
fn fragments_of_a_tunnel_that_is_down_open_nothing() {
    let mut both = Both::new();
    both.relay.change(both.relay.b, |spec| spec.up = false);
    for piece in cut(&outer(REMOTE_B, 0, &udp(USER_B, HOST, 64, 1000)), 576) {
        let sent = both.send(&piece).expect("a verdict at once");
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelDown));
    }
    let mut both = Both::over_udp(false, Rebind::Deny);
    both.relay.change(both.relay.a, |spec| spec.up = false);
    for piece in in_two(REMOTE_A, 40_000) {
        let sent = both.send(&piece).expect("a verdict at once");
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelDown));
    }
    assert_eq!(both.slow.contexts(), 0);
}

#[test]
fn fragments_of_a_domain_are_checked_like_its_packets() {
    let (own, peer) = (Ipv4Addr::new(8, 0, 0, 1), Ipv4Addr::new(8, 0, 0, 2));
    type Edit = fn(&mut DomainSpec);
    let cases: [(Edit, Ipv4Addr, DropReason); 3] = [
        (|s| s.input = false, peer, DropReason::DecapDisabled),
        (|s| s.up = false, peer, DropReason::TunnelDown),
        (|_| (), [127, 0, 0, 1].into(), DropReason::V4SrcMartian),
    ];
    for (edit, src, reason) in cases {
        let mut both = Both::new();
        let mut spec = DomainSpec::six_to_four(own, SixToFourRole::Relay);
        edit(&mut spec);
        both.relay.builder.insert_domain(&spec).expect("domain");
        both.relay.publish();
        let inner = udp("2002:800:2:1::1", HOST, 64, 1000);
        for piece in cut(&in_ipv4(src, own, ipv4::PROTO_IPV6, 0, &inner), 576) {
            let sent = both.send(&piece).expect("a verdict at once");
            assert_eq!(sent.verdict, Verdict::Drop(reason));
        }
        assert_eq!(both.slow.contexts(), 0);
    }
}

#[test]
fn fragments_to_the_anycast_address_are_refused_like_whole_packets() {
    let mut both = Both::new();
    let anycast = Ipv4Addr::new(192, 88, 99, 1);
    let packet = in_ipv4(
        REMOTE_B,
        anycast,
        ipv4::PROTO_IPV6,
        0,
        &udp(USER_B, HOST, 64, 1000),
    );
    let mut packets = cut(&packet, 576);
    packets.push(packet);
    for packet in packets {
        let sent = both.send(&packet).expect("a verdict at once");
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::AnycastDisabled));
    }
}

#[test]
fn inner_packet_of_1500_bytes_arrives_in_three_fragments_of_any_order() {
    let inner = udp(USER_A, HOST, 64, 1500 - 48);
    let pieces = cut(&outer(REMOTE_A, 0, &inner), 576);
    assert_eq!(pieces.len(), 3);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut both = Both::new();
        for at in &order[..2] {
            assert_eq!(
                both.send(&pieces[*at]).expect_err("incomplete"),
                Outcome::Held
            );
        }
        let sent = both.send(&pieces[order[2]]).expect("complete");
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
        assert_eq!(sent.ip().len(), inner.len());
        assert_eq!(sent.ip()[8..], inner[8..]);
    }
}

#[test]
fn stranger_opens_nothing() {
    let mut both = Both::new();
    let stranger = Ipv4Addr::new(203, 0, 113, 77);
    for piece in cut(&outer(stranger, 0, &udp(USER_A, HOST, 64, 1000)), 576) {
        let sent = both.send(&piece).expect("a verdict at once");
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoTunnel));
    }
    // neither does a protocol that no tunnel speaks there
    for protocol in [1, 6, 17, 47] {
        let packet = in_ipv4(REMOTE_A, LOCAL, protocol, 0, &[7; 1000]);
        for piece in cut(&packet, 576) {
            let sent = both.send(&piece).expect("a verdict at once");
            assert!(
                matches!(sent.verdict, Verdict::Drop(_)),
                "{protocol}: {sent:?}"
            );
        }
    }
    assert_eq!(both.slow.contexts(), 0);
}

#[test]
fn fragments_of_two_tunnels_with_one_id_stay_apart() {
    let mut both = Both::new();
    let a = cut(&outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 700)), 576);
    let b = cut(&outer(REMOTE_B, 0, &udp(USER_A, HOST, 64, 700)), 576);
    both.send(&a[0]).expect_err("held");
    both.send(&b[1]).expect_err("held");
    assert_eq!(
        both.send(&a[1]).expect("whole").verdict,
        Verdict::Tx(INSIDE)
    );
    // A's source in B's tunnel: the checks come after reassembly
    let spoofed = both.send(&b[0]).expect("whole");
    assert_eq!(spoofed.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
}

#[test]
fn bad_headers_never_reach_reassembly() {
    let mut both = Both::new();
    let mut piece = cut(&outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 700)), 576).remove(0);
    piece[10] ^= 1;
    let sent = both.send(&piece).expect("a verdict");
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Checksum));
    piece[10] ^= 1;
    let sent = both.send(&piece[..100]).expect("a verdict");
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Length));
    // without anybody to reassemble
    let mut plain = Relay::new();
    let sent = plain.frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &piece));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Fragment));
    let sent = plain.decapsulated(REMOTE_A, LOCAL, &udp(USER_A, HOST, 64, 700));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

/// A first fragment of some datagram, of 576 bytes.
fn first(src: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut packet = outer(src, 0, &[0x60; 552]);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] = 0x20;
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(ipv4::Header(packet.first_chunk().expect("header")).is_fragment());
    packet
}

#[test]
fn flood_of_first_fragments_keeps_memory_flat() {
    const FLOOD: u32 = 100_000;
    let limits = Limits::default();
    let mut slow = Reassembler::new(limits);
    let mut dropped = 0;
    let info = allocation_counter::measure(|| {
        for i in 0..FLOOD {
            // ten sources in turn are noisy, the others send once
            let host = if i % 2 == 0 { i % 10 } else { i };
            let [.., b, c, d] = host.to_be_bytes();
            let id = u16::try_from(i >> 1 & 0xffff).expect("masked");
            let packet = first(Ipv4Addr::new(20, b, c, d), id);
            let now = Ticks(u64::from(i) * 10_000);
            assert_eq!(slow.push(&packet, true, now), Outcome::Held);
            assert!(slow.memory() <= limits.bytes && slow.contexts() <= limits.contexts);
            if i % 1000 == 0 {
                dropped += slow.expire(now).iter().map(|d| d.packets).sum::<u64>();
            }
        }
    });
    let end = Ticks(u64::from(FLOOD) * 10_000);
    dropped += slow.expire(end).iter().map(|d| d.packets).sum::<u64>();
    assert_eq!(dropped + slow.held_packets(), u64::from(FLOOD));
    assert!(slow.held_packets() > 500, "the flood fills it");
    // what the limit counts is what the process really takes
    assert!(info.bytes_max < limits.bytes as u64 * 5 / 4, "{info:?}");
    let later = Ticks(end.0 + limits.timeout_ticks);
    assert_eq!(
        slow.expire(later)
            .iter()
            .map(|d| d.reason)
            .collect::<Vec<_>>(),
        [DropReason::ReasmTimeout]
    );
    assert_eq!((slow.contexts(), slow.memory()), (0, 0));
}

#[test]
fn one_source_cannot_starve_another() {
    let mut slow = Reassembler::new(Limits::default());
    let victim = cut(&outer(REMOTE_B, 0, &udp(USER_A, HOST, 64, 1400)), 576);
    slow.push(&victim[0], true, Ticks(0));
    for id in 0..10_000 {
        slow.push(&first(REMOTE_A, id), true, Ticks(1));
    }
    assert_eq!(slow.contexts(), 5);
    slow.push(&victim[2], true, Ticks(2));
    let outcome = slow.push(&victim[1], true, Ticks(2));
    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
}
