//! MSS clamping changes what leaves through a tunnel, and nothing else.

use crate::{icmp_of, sent_from};
use etherparse::{PacketBuilder, TcpOptionElement};
use sixferry_fwd::{NextHop, NextHopState, PuntReason, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, ethernet, outer, v6,
};
use sixferry_wire::{ether, icmpv6};

fn relay() -> Relay {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| {
        spec.mss_clamp = true;
        spec.mtu = 1280;
    });
    relay
}

/// A SYN that offers an MSS of 1440, with data behind it.
fn syn(src: &str, dst: &str, hop_limit: u8, data: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(v6(src).octets(), v6(dst).octets(), hop_limit)
        .tcp(1000, 80, 1, 64)
        .syn()
        .options(&[TcpOptionElement::MaximumSegmentSize(1440)])
        .expect("one option")
        .write(&mut packet, &vec![0; data])
        .expect("packet");
    assert_eq!(mss(&packet), 1440);
    packet
}

/// The MSS of a TCP packet with a right checksum.
fn mss(packet: &[u8]) -> u16 {
    let (src, dst) = (&packet[8..24], &packet[24..40]);
    let tcp = &packet[40..];
    let mut pseudo = [src, dst].concat();
    pseudo.extend_from_slice(&u32::try_from(tcp.len()).expect("short").to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, 6]);
    pseudo.extend_from_slice(tcp);
    let sum = sixferry_wire::checksum::fold(sixferry_wire::checksum::sum(&pseudo));
    assert_eq!(sum, 0xffff, "checksum");
    assert_eq!(tcp[20..22], [2, 4]);
    u16::from_be_bytes([tcp[22], tcp[23]])
}

fn hold(relay: &mut Relay, of: impl FnOnce(&Relay) -> sixferry_fwd::NextHopId, gateway: &str) {
    let id = of(relay);
    let hop = NextHop {
        state: NextHopState::Unresolved {
            gateway: gateway.parse().expect("address"),
        },
        ..*relay.builder.next_hop(id).expect("hop")
    };
    relay.builder.set_next_hop(id, hop);
    relay.publish();
}

#[test]
fn syn_is_clamped_both_ways_and_between_tunnels_to_the_smaller_path() {
    let mut relay = relay();
    let sent = relay.native(&syn(HOST, USER_A, 64, 0));
    assert_eq!(mss(&sent.ip()[20..]), 1220);
    let sent = relay.tunnelled(REMOTE_A, &syn(USER_A, HOST, 64, 0));
    assert_eq!((sent.verdict, mss(sent.ip())), (Verdict::Tx(INSIDE), 1220));
    for (mtu, want) in [(1400, 1220), (1280, 1220)] {
        relay.change(relay.b, |spec| {
            spec.mss_clamp = true;
            spec.mtu = mtu;
        });
        let sent = relay.tunnelled(REMOTE_A, &syn(USER_A, USER_B, 64, 0));
        assert_eq!(sent_from(&sent).1, REMOTE_B);
        assert_eq!(mss(&sent.ip()[20..]), want);
        let sent = relay.tunnelled(REMOTE_B, &syn(USER_B, USER_A, 64, 0));
        assert_eq!(mss(&sent.ip()[20..]), want);
    }
    relay.change(relay.a, |spec| spec.mtu = 1480);
    let sent = relay.tunnelled(REMOTE_A, &syn(USER_A, USER_B, 64, 0));
    assert_eq!(mss(&sent.ip()[20..]), 1220, "the other is smaller now");
}

#[test]
fn held_packet_is_as_received() {
    let mut relay = relay();
    let packet = outer(REMOTE_A, 0, &syn(USER_A, HOST, 64, 0));
    let frame = ethernet(ether::TYPE_IPV4, &packet);
    let resolved = *relay.builder.next_hop(relay.hop6).expect("hop");
    hold(&mut relay, |r| r.hop6, "fe80::1");
    let sent = relay.frame(OUTSIDE, &frame);
    let held = Verdict::Punt(PuntReason::NextHopUnresolved);
    assert_eq!((sent.verdict, &sent.frame), (held, &frame));
    relay.builder.set_next_hop(relay.hop6, resolved);
    relay.publish();
    let sent = relay.frame(OUTSIDE, &frame);
    assert_eq!((sent.verdict, mss(sent.ip())), (Verdict::Tx(INSIDE), 1220));
    hold(&mut relay, |r| r.hop4, "192.0.2.1");
    let frame = ethernet(ether::TYPE_IPV6, &syn(HOST, USER_A, 64, 0));
    let sent = relay.frame(INSIDE, &frame);
    assert_eq!((sent.verdict, sent.frame), (held, frame));
}

#[test]
fn quotes_are_as_received() {
    let mut relay = relay();
    let expired = syn(USER_A, HOST, 1, 0);
    let sent = relay.tunnelled(REMOTE_A, &expired);
    assert_eq!(icmp_of(&sent.ip()[20..]).0, icmpv6::TIME_EXCEEDED);
    assert_eq!(sent.ip()[20 + 48..], expired);
    let expired = syn(HOST, USER_A, 1, 0);
    let sent = relay.native(&expired);
    assert_eq!(icmp_of(sent.ip()).0, icmpv6::TIME_EXCEEDED);
    assert_eq!(sent.ip()[48..], expired);
    let long = syn(HOST, USER_A, 64, 1300);
    let sent = relay.native(&long);
    assert_eq!(icmp_of(sent.ip()), (icmpv6::PACKET_TOO_BIG, 0, 1280));
    let quote = &sent.ip()[48..];
    assert_eq!(quote, &long[..quote.len()]);
    // too big for the way out, by way of a tunnel that clamps
    let hop = NextHop {
        mtu: 1300,
        ..*relay.builder.next_hop(relay.hop6).expect("hop")
    };
    relay.builder.set_next_hop(relay.hop6, hop);
    relay.publish();
    let long = syn(USER_A, HOST, 64, 1300);
    let sent = relay.tunnelled(REMOTE_A, &long);
    let quote = &sent.ip()[20 + 48..];
    assert_eq!(icmp_of(&sent.ip()[20..]), (icmpv6::PACKET_TOO_BIG, 0, 1300));
    assert_eq!(quote, &long[..quote.len()]);
}
