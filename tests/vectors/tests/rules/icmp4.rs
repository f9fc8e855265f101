//! ICMPv4 errors about outer packets: which are believed, and what becomes of them.

use crate::udp_tunnels::{NAT, events, receive, shared};
use crate::{icmp_of, inner_header, outer_header};
use sixferry_fwd::{
    DropReason, EncapKind, Event, MtuMode, NextHop, NextHopState, PuntReason, Rebind, Ticks,
    UdpEncap, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, Relay, USER_A, USER_B, ethernet, icmp, outer, udp, v6,
};
use sixferry_wire::{checksum, ether, icmpv6, ipv4};

/// An ICMPv4 message to the relay.
fn icmp4(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(quoted);
    let sum = checksum::finish(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = [0; 20];
    ipv4::Repr {
        tos: 0,
        total_len: u16::try_from(20 + message.len()).expect("short"),
        identification: 0,
        df: false,
        ttl: 60,
        protocol: 1,
        src: [203, 0, 113, 254],
        dst: LOCAL.octets(),
    }
    .emit(&mut header);
    ethernet(ether::TYPE_IPV4, &[&header, &message[..]].concat())
}

#[test]
fn icmpv4_errors_are_checked_and_counted() {
    let mut relay = Relay::new();
    let ours = relay.native(&udp(HOST, USER_A, 64, 40)).ip().to_vec();
    let foreign = outer(REMOTE_A, 0, &udp(HOST, USER_A, 64, 8));
    let mut other_inner = relay.native(&udp(HOST, USER_B, 64, 40)).ip().to_vec();
    other_inner[16..20].copy_from_slice(&REMOTE_A.octets());
    let cases = [
        (icmp4(3, 4, 1300, &ours), DropReason::Icmp4StaticMtu),
        (icmp4(3, 1, 0, &ours[..59]), DropReason::Icmp4Consumed),
        (icmp4(12, 0, 0, &ours), DropReason::Icmp4Consumed),
        (icmp4(4, 0, 0, &ours), DropReason::Icmp4Consumed),
        (icmp4(5, 1, 0, &ours), DropReason::Icmp4Consumed),
        (icmp4(11, 0, 0, &ours[..28]), DropReason::Icmp4Consumed),
        (icmp4(3, 1, 0, &foreign), DropReason::Icmp4NoTunnel),
        (icmp4(3, 1, 0, &ours[..27]), DropReason::Icmp4NoTunnel),
        (icmp4(8, 0, 0, &ours), DropReason::Icmp4NoTunnel),
        (icmp4(3, 1, 0, &other_inner), DropReason::Icmp4InnerMismatch),
    ];
    for (i, (frame, reason)) in cases.iter().enumerate() {
        let sent = relay.frame(OUTSIDE, frame);
        assert_eq!(sent.verdict, Verdict::Drop(*reason), "case {i}");
    }
    let mut damaged = icmp4(3, 1, 0, &ours);
    *damaged.last_mut().expect("bytes") ^= 1;
    let sent = relay.frame(OUTSIDE, &damaged);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Checksum));
}

/// Sends an error and says what ICMPv6 message it became.
fn relayed(relay: &mut Relay, frame: &[u8]) -> (u8, u8, u32) {
    let sent = relay.frame(OUTSIDE, frame);
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(inner_header(sent.ip()).dst(), u128::from(v6(HOST)));
    icmp_of(sent.ip())
}

#[test]
fn unreachable_far_ends_are_reported_to_the_inner_source() {
    let mut relay = Relay::new();
    let ours = relay.native(&udp(HOST, USER_A, 64, 40)).ip().to_vec();
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (3, 13), (11, 0)] {
        let unreachable = (1, icmpv6::CODE_ADDRESS, 0);
        assert_eq!(
            relayed(&mut relay, &icmp4(kind, code, 0, &ours)),
            unreachable,
            "{kind}/{code}"
        );
    }
    for (kind, code) in [(3, 14), (11, 1), (12, 0)] {
        let sent = relay.frame(OUTSIDE, &icmp4(kind, code, 0, &ours));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::Icmp4Consumed),
            "{kind}/{code}"
        );
    }
    // the packet of a user behind another tunnel: the error goes to that user
    let hairpin = relay.tunnelled([192, 0, 2, 20].into(), &udp(USER_B, USER_A, 64, 40));
    let sent = relay.frame(OUTSIDE, &icmp4(3, 1, 0, hairpin.ip()));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(outer_header(sent.ip()).dst(), [192, 0, 2, 20]);
    // nobody is told about an error
    let error = relay
        .native(&icmp(HOST, USER_A, 64, &[1, 0, 0, 0, 0, 0, 0, 0]))
        .ip()
        .to_vec();
    let sent = relay.frame(OUTSIDE, &icmp4(3, 1, 0, &error));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Consumed));
}

fn dynamic(encap: EncapKind) -> Relay {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| {
        spec.mtu = 1480;
        spec.mtu_mode = MtuMode::Dynamic;
        spec.encap = encap;
    });
    relay
}

fn over_udp() -> EncapKind {
    EncapKind::Udp(UdpEncap {
        local_port: 4028,
        remote_port: 40_000,
        shared: false,
        rebind: sixferry_fwd::Rebind::Deny,
    })
}

/// Size of the largest packet the first tunnel takes, and whether it leaves with DF.
fn takes(relay: &mut Relay) -> (usize, bool) {
    let too_big = relay.native(&udp(HOST, USER_A, 64, 1500 - 48));
    let (kind, _, mtu) = icmp_of(too_big.ip());
    assert_eq!(kind, icmpv6::PACKET_TOO_BIG);
    let mtu = usize::try_from(mtu).expect("small");
    let refused = relay.native(&udp(HOST, USER_A, 64, mtu + 1 - 48));
    assert_eq!(refused.verdict, Verdict::Answer(INSIDE));
    let sent = relay.native(&udp(HOST, USER_A, 64, mtu - 48));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    let header = outer_header(sent.ip());
    let df = header.fragment_word() & ipv4::DF != 0;
    assert_eq!(
        df,
        header.identification() == 0,
        "ID 0 is for atomic datagrams"
    );
    (mtu, df)
}

#[test]
fn path_mtu_from_68_to_1500_is_followed_and_never_reported_below_1280() {
    for (encap, overhead) in [(EncapKind::SixInFour, 20), (over_udp(), 28)] {
        for reported in (68..1500).step_by(11) {
            let mut relay = dynamic(encap);
            relay.change(relay.a, |spec| spec.min_path_mtu = 68);
            assert_eq!(
                takes(&mut relay),
                (usize::from(1500 - overhead).min(1480), true)
            );
            let ours = relay.native(&udp(HOST, USER_A, 64, 1300)).ip().to_vec();
            let told = relayed(&mut relay, &icmp4(3, 4, reported, &ours));
            let inner = (reported - overhead.min(reported)).clamp(1280, 1480);
            assert_eq!(told, (icmpv6::PACKET_TOO_BIG, 0, u32::from(inner)));
            let whole = reported >= 1280 + overhead;
            assert_eq!(takes(&mut relay), (usize::from(inner), whole), "{reported}");
            assert_eq!(relay.builder.path_mtu(relay.a), Some(reported));
        }
    }
}

#[test]
fn forged_path_mtu_is_held_by_the_guard_and_never_raises() {
    let mut relay = dynamic(EncapKind::SixInFour);
    let ours = relay.native(&udp(HOST, USER_A, 64, 1300)).ip().to_vec();
    relayed(&mut relay, &icmp4(3, 4, 100, &ours));
    assert_eq!(relay.builder.path_mtu(relay.a), Some(576));
    for mtu in [576, 577, 1400, 65_535] {
        let sent = relay.frame(OUTSIDE, &icmp4(3, 4, mtu, &ours));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::Icmp4NoChange),
            "{mtu}"
        );
    }
    // the short quote of an old router lowers, and has nothing to relay
    let mut relay = dynamic(EncapKind::SixInFour);
    let sent = relay.frame(OUTSIDE, &icmp4(3, 4, 0, &ours[..28]));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Consumed));
    // 1368 bytes were quoted: the next plateau is 1006
    assert_eq!(relay.builder.path_mtu(relay.a), Some(1006));
    let mut events = Vec::new();
    relay.local.take_events(|event| events.push(event));
    assert_eq!(
        events,
        [Event::PathMtu {
            tunnel: relay.a,
            mtu: 1006
        }]
    );
}

#[test]
fn path_mtu_rests_ten_minutes_and_rises_by_plateaus() {
    const MINUTE: u64 = 60 * Ticks::PER_SECOND;
    let mut relay = dynamic(EncapKind::SixInFour);
    let start = relay.now.0;
    let ours = relay.native(&udp(HOST, USER_A, 64, 1300)).ip().to_vec();
    relayed(&mut relay, &icmp4(3, 4, 1400, &ours));
    for minute in 0..10 {
        relay.now = Ticks(start + minute * MINUTE);
        assert_eq!(takes(&mut relay).0, 1380, "minute {minute}");
    }
    relay.now = Ticks(start + 10 * MINUTE + Ticks::PER_SECOND);
    assert_eq!(takes(&mut relay).0, 1472, "plateau 1492");
    relay.now = Ticks(start + 13 * MINUTE);
    assert_eq!(takes(&mut relay).0, 1480, "the link");
}

#[test]
fn error_about_a_udp_tunnel_must_quote_its_ports() {
    let mut relay = dynamic(over_udp());
    let ours = relay.native(&udp(HOST, USER_A, 64, 100)).ip().to_vec();
    assert_eq!(ours[9], ipv4::PROTO_UDP);
    relayed(&mut relay, &icmp4(3, 3, 0, &ours));
    for at in [21, 23] {
        let mut other = ours.clone();
        other[at] ^= 1;
        let sent = relay.frame(OUTSIDE, &icmp4(3, 3, 0, &other));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::Icmp4NoTunnel),
            "byte {at}"
        );
    }
    let sent = relay.frame(OUTSIDE, &icmp4(3, 3, 0, &ours[..60]));
    assert_eq!(
        sent.verdict,
        Verdict::Drop(DropReason::Icmp4Consumed),
        "no inner header"
    );
}

#[test]
fn error_about_a_moved_peer_on_a_shared_port_is_its_tunnels() {
    let mut relay = shared(Rebind::InnerSource);
    for id in [relay.a, relay.b] {
        relay.change(id, |spec| spec.mtu_mode = MtuMode::Dynamic);
    }
    let of_old = relay.native(&udp(HOST, USER_A, 64, 1000)).ip().to_vec();
    let of_b = relay.native(&udp(HOST, USER_B, 64, 1000)).ip().to_vec();
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let ours = relay.native(&udp(HOST, USER_A, 64, 1000)).ip().to_vec();
    assert_eq!(outer_header(&ours).dst(), NAT.octets());
    // what never left: to the old place, and another tunnel's packet to the new one
    let mut crossed = of_b;
    crossed[12..24].copy_from_slice(&ours[12..24]);
    for quoted in [&of_old, &crossed, &ours[..28].to_vec()] {
        let sent = relay.frame(OUTSIDE, &icmp4(3, 4, 900, quoted));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4NoTunnel));
    }
    assert_eq!(relay.builder.path_mtu(relay.a), None);
    relayed(&mut relay, &icmp4(3, 4, 900, &ours[..100]));
    assert_eq!(relay.builder.path_mtu(relay.a), Some(900));
    assert_eq!(relay.builder.path_mtu(relay.b), None);
}

#[test]
fn user_of_a_tunnel_that_is_down_is_not_told() {
    let mut relay = Relay::new();
    let ours = relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, 64, 100));
    let error = icmp4(3, 1, 0, &ours.ip()[..100]);
    assert_eq!(
        relay.frame(OUTSIDE, &error).verdict,
        Verdict::Answer(OUTSIDE)
    );
    relay.change(relay.a, |spec| spec.up = false);
    let sent = relay.frame(OUTSIDE, &error);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Consumed));
}

#[test]
fn error_that_waits_for_a_neighbour_teaches_only_when_it_comes_again() {
    for (kind, code, mtu) in [(3, 4, 1000), (3, 1, 0)] {
        let mut relay = dynamic(EncapKind::SixInFour);
        let ours = relay.native(&udp(HOST, USER_A, 64, 1300)).ip().to_vec();
        let error = icmp4(kind, code, mtu, &ours);
        let resolved = *relay.builder.next_hop(relay.hop6).expect("hop");
        let gateway = "fe80::1".parse().expect("address");
        let waiting = NextHop {
            state: NextHopState::Unresolved { gateway },
            ..resolved
        };
        relay.builder.set_next_hop(relay.hop6, waiting);
        relay.publish();
        for _ in 0..2 {
            let sent = relay.frame(OUTSIDE, &error);
            let held = Verdict::Punt(PuntReason::NextHopUnresolved);
            assert_eq!((sent.verdict, &sent.frame), (held, &error));
            assert_eq!(events(&mut relay), []);
            assert_eq!(relay.builder.path_mtu(relay.a), None);
        }
        relay.builder.set_next_hop(relay.hop6, resolved);
        relay.publish();
        relayed(&mut relay, &error);
        let learnt = (code == 4).then_some(mtu);
        assert_eq!(relay.builder.path_mtu(relay.a), learnt);
        assert_eq!(events(&mut relay).len(), 1);
    }
}

#[test]
fn quoted_later_fragment_has_no_inner_header() {
    let mut relay = Relay::new();
    let mut ours = relay.native(&udp(HOST, USER_A, 64, 100)).ip().to_vec();
    ours[7] = 4;
    ours[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&ours[..20]));
    ours[10..12].copy_from_slice(&sum.to_be_bytes());
    let sent = relay.frame(OUTSIDE, &icmp4(3, 1, 0, &ours));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Consumed));
}
