//! 6to4: RFC 3056, RFC 3964, RFC 7526, and what stf(4) could be told.

use crate::{icmp_of, inner_header, outer_header, sent_from};
use sixferry_fwd::{
    DomainKind, DomainSpec, DropReason, Route, RouteSource, SixToFourRole, TableError, TunnelId,
    Urpf, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, OUTSIDE, ROUTER, Relay, USER_A, echo, prefix, udp, v6,
};
use sixferry_wire::icmpv6;
use std::net::{Ipv4Addr, Ipv6Addr};

const OWN: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 2);
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 1);

/// An address of the 6to4 site at `v4`.
fn of(v4: Ipv4Addr) -> String {
    let [a, b, c, d] = v4.octets().map(u16::from);
    Ipv6Addr::new(0x2002, a << 8 | b, c << 8 | d, 1, 0, 0, 0, 1).to_string()
}

fn with(edit: impl FnOnce(&mut DomainSpec)) -> (Relay, TunnelId) {
    let mut relay = Relay::new();
    let mut spec = DomainSpec::six_to_four(OWN, SixToFourRole::Relay);
    edit(&mut spec);
    let id = relay.builder.insert_domain(&spec).expect("domain");
    relay.publish();
    (relay, id)
}

fn kind(spec: &mut DomainSpec, edit: impl FnOnce(&mut SixToFourRole, &mut u8, &mut bool)) {
    if let DomainKind::SixToFour {
        role,
        peer_v4_len,
        anycast,
    } = &mut spec.kind
    {
        edit(role, peer_v4_len, anycast);
    }
}

fn martians() -> Vec<Ipv4Addr> {
    let all = [
        "0.1.2.3",
        "10.0.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "172.16.0.1",
        "172.31.255.254",
        "192.168.0.1",
        "224.0.0.5",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "100.64.0.1",
        "100.127.255.254",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.19.0.1",
        "198.51.100.77",
        "203.0.113.1",
    ];
    all.iter()
        .map(|text| text.parse().expect("address"))
        .collect()
}

#[test]
fn without_a_domain_nothing_is_6to4() {
    let mut relay = Relay::new();
    let inner = udp(&of(PEER), HOST, 64, 8);
    let sent = relay.decapsulated(PEER, ANYCAST, &inner);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::AnycastDisabled));
    let sent = relay.decapsulated(PEER, OWN, &inner);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoTunnel));
    let sent = relay.native(&udp(HOST, &of(PEER), 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "an ordinary route");
}

#[test]
fn martians_are_refused_both_ways_also_after_a_good_packet() {
    let (mut relay, _) = with(|_| ());
    for martian in martians() {
        let good = relay.native(&udp(HOST, &of(PEER), 64, 8));
        assert_eq!(outer_header(good.ip()).dst(), PEER.octets());
        assert_eq!(outer_header(good.ip()).src(), OWN.octets());
        let sent = relay.native(&udp(HOST, &of(martian), 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V4DstMartian),
            "{martian}"
        );
        let sent = relay.native(&udp(&of(martian), &of(PEER), 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V6SrcInvalid),
            "{martian}"
        );
        let inner = udp(&of(PEER), HOST, 64, 8);
        assert_eq!(
            relay.decapsulated(PEER, OWN, &inner).verdict,
            Verdict::Tx(INSIDE)
        );
        let inner = udp(&of(martian), HOST, 64, 8);
        let sent = relay.decapsulated(martian, OWN, &inner);
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V4SrcMartian),
            "{martian}"
        );
        let inner = udp(&of(PEER), &of(martian), 64, 8);
        let sent = relay.decapsulated(PEER, OWN, &inner);
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V6DstEmbedsMartian),
            "{martian}"
        );
    }
}

#[test]
fn laboratory_blocks_are_exempt_and_denied_blocks_are_not_spoken_to() {
    let lab = Ipv4Addr::new(10, 1, 0, 9);
    let (mut relay, _) = with(|spec| {
        spec.allow_v4 = vec!["10.1.0.0/16".parse().expect("prefix")];
        spec.deny_v4 = vec!["8.8.0.0/16".parse().expect("prefix")];
    });
    let inner = udp(&of(lab), HOST, 64, 8);
    assert_eq!(
        relay.decapsulated(lab, OWN, &inner).verdict,
        Verdict::Tx(INSIDE)
    );
    assert_eq!(
        relay.native(&udp(HOST, &of(lab), 64, 8)).verdict,
        Verdict::Tx(OUTSIDE)
    );
    let other = Ipv4Addr::new(10, 2, 0, 9);
    let sent = relay.native(&udp(HOST, &of(other), 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4DstMartian));
    let denied = Ipv4Addr::new(8, 8, 8, 8);
    let sent = relay.native(&udp(HOST, &of(denied), 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Denied));
    let inner = udp(&of(denied), HOST, 64, 8);
    let sent = relay.decapsulated(denied, OWN, &inner);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V4Denied));
}

#[test]
fn broadcast_addresses_follow_the_list() {
    let (mut relay, _) = with(|_| ());
    let broadcast = Ipv4Addr::new(8, 0, 0, 255);
    let out = udp(HOST, &of(broadcast), 64, 8);
    let inner = udp(&of(broadcast), HOST, 64, 8);
    for listed in [false, true, false] {
        let list = if listed { vec![broadcast] } else { vec![] };
        relay.builder.set_broadcasts(list);
        relay.publish();
        let verdict = relay.native(&out).verdict;
        assert_eq!(verdict == Verdict::Drop(DropReason::V4DstBroadcast), listed);
        let verdict = relay.decapsulated(broadcast, OWN, &inner).verdict;
        assert_eq!(verdict == Verdict::Drop(DropReason::V4SrcBroadcast), listed);
        assert_eq!(verdict == Verdict::Tx(INSIDE), !listed);
    }
}

#[test]
fn restriction_to_a_prefix_of_peers() {
    let (mut relay, _) = with(|spec| kind(spec, |_, len, _| *len = 16));
    let far = Ipv4Addr::new(8, 1, 0, 2);
    let inner = udp(&of(far), HOST, 64, 8);
    let sent = relay.decapsulated(far, OWN, &inner);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4PeerRestricted));
    let sent = relay.native(&udp(HOST, &of(far), 64, 8));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(icmp_of(sent.ip()), (1, icmpv6::CODE_NO_ROUTE, 0));
    let inner = udp(&of(PEER), HOST, 64, 8);
    assert_eq!(
        relay.decapsulated(PEER, OWN, &inner).verdict,
        Verdict::Tx(INSIDE)
    );
}

#[test]
fn input_off_leaves_the_output_working() {
    let (mut relay, _) = with(|spec| spec.input = false);
    let inner = udp(&of(PEER), HOST, 64, 8);
    let sent = relay.decapsulated(PEER, OWN, &inner);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::DecapDisabled));
    let sent = relay.native(&udp(HOST, &of(PEER), 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
}

#[test]
fn reverse_path_off_loose_strict() {
    let cases = [
        (Urpf::Off, true, true, true),
        (Urpf::Loose, true, true, false),
        (Urpf::Strict, true, false, false),
    ];
    for (urpf, same_port, other_port, nowhere) in cases {
        let (mut relay, _) = with(|spec| spec.urpf = urpf);
        let route = |relay: &mut Relay, text: &str, route| {
            let prefix = text.parse().expect("prefix");
            relay.builder.set_route4(prefix, RouteSource::Kernel, route);
        };
        let inside = Route::NextHop(relay.hop6);
        route(&mut relay, "133.4.0.0/16", inside);
        route(&mut relay, "133.5.0.0/16", Route::Blackhole);
        relay.publish();
        for (source, fine) in [
            (PEER, same_port),
            (Ipv4Addr::new(133, 4, 5, 6), other_port),
            (Ipv4Addr::new(133, 5, 5, 6), nowhere),
        ] {
            let inner = udp(&of(source), HOST, 64, 8);
            let verdict = relay.decapsulated(source, OWN, &inner).verdict;
            let want = if fine {
                Verdict::Tx(INSIDE)
            } else {
                Verdict::Drop(DropReason::V4IngressFilter)
            };
            assert_eq!(verdict, want, "{urpf:?} {source}");
        }
    }
}

#[test]
fn anycast_is_the_source_of_return_traffic_and_answers() {
    let (mut relay, _) = with(|spec| kind(spec, |_, _, anycast| *anycast = true));
    let sent = relay.native(&udp(HOST, &of(PEER), 64, 8));
    assert_eq!(sent_from(&sent), (ANYCAST, PEER));
    let inner = udp(&of(PEER), HOST, 64, 8);
    for dst in [ANYCAST, OWN] {
        assert_eq!(
            relay.decapsulated(PEER, dst, &inner).verdict,
            Verdict::Tx(INSIDE)
        );
    }
    let mut request = echo(&of(PEER), "2002:c058:6301::");
    request[7] = 1;
    let sent = relay.decapsulated(PEER, ANYCAST, &request);
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(sent_from(&sent), (ANYCAST, PEER));
    assert_eq!(icmp_of(&sent.ip()[20..]).0, icmpv6::ECHO_REPLY);
    // an error goes the same way
    let sent = relay.decapsulated(PEER, ANYCAST, &udp(&of(PEER), HOST, 1, 8));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(sent_from(&sent), (ANYCAST, PEER));
    assert_eq!(icmp_of(&sent.ip()[20..]).0, icmpv6::TIME_EXCEEDED);
}

/// A site's router: its own /48 inside, the rest of the world through the relay.
fn site() -> Relay {
    let (mut relay, id) = with(|spec| {
        kind(spec, |role, _, _| {
            *role = SixToFourRole::Site { relay: ANYCAST }
        });
    });
    let inside = Route::NextHop(relay.hop6);
    let own = prefix("2002:800:1::/48");
    relay.builder.set_route6(own, RouteSource::Kernel, inside);
    let all = prefix("::/0");
    relay
        .builder
        .set_route6(all, RouteSource::Kernel, Route::Domain(id));
    relay.publish();
    relay
}

#[test]
fn site_speaks_to_sites_directly_and_to_the_world_through_its_relay() {
    let mut relay = site();
    let sent = relay.native(&udp(&of(OWN), &of(PEER), 64, 8));
    assert_eq!(sent_from(&sent), (OWN, PEER));
    let sent = relay.native(&udp(&of(OWN), HOST, 64, 8));
    assert_eq!(sent_from(&sent), (OWN, ANYCAST));
    let sent = relay.native(&udp("2001:db8:5::1", HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4NativeNative));
    let sent = relay.native(&udp(&of(PEER), HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4SrcMismatch));
    let to_us = udp(HOST, &of(OWN), 64, 8);
    for from in [ANYCAST, PEER] {
        let sent = relay.decapsulated(from, OWN, &to_us);
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "from the relay {from}");
        assert_eq!(inner_header(sent.ip()).hop_limit(), 63);
    }
    let sent = relay.decapsulated(PEER, OWN, &udp(&of(PEER), HOST, 64, 8));
    assert_eq!(
        sent.verdict,
        Verdict::Drop(DropReason::S6to4SrcMismatch),
        "we are no relay"
    );
}

#[test]
fn relay_is_no_reflector() {
    let (mut relay, _) = with(|_| ());
    // RFC 6324: our own address inside, in either place
    let sent = relay.decapsulated(PEER, OWN, &udp(&of(PEER), &of(OWN), 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    let sent = relay.decapsulated(OWN, OWN, &udp(&of(OWN), HOST, 64, 8));
    assert_eq!(
        sent.verdict,
        Verdict::Drop(DropReason::LoopSelf),
        "in our own name"
    );
    let sent = relay.native(&udp(&of(OWN), HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    // 6to4 to 6to4 is no relay's business
    let third = Ipv4Addr::new(8, 0, 0, 3);
    let sent = relay.decapsulated(PEER, OWN, &udp(&of(PEER), &of(third), 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4DstMismatch));
    let sent = relay.decapsulated(PEER, OWN, &udp(HOST, USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4NativeNative));
}

#[test]
fn one_mechanism_at_an_address_and_configured_tunnels_first() {
    let (mut relay, id) = with(|_| ());
    let rd = DomainSpec::six_rd(
        OWN,
        prefix("2001:db8:8000::/36"),
        Ipv4Addr::new(8, 0, 0, 0),
        8,
        sixferry_fwd::SixRdRole::Br { anycast: false },
    );
    let refused = relay.builder.insert_domain(&rd);
    assert!(matches!(refused, Err(TableError::LocalInUse { by, .. }) if by == id));
    // RFC 3964 section 6.1 is about automatic tunnels; a configured one is found by both addresses
    let configured = sixferry_fwd::TunnelSpec {
        prefixes: vec![prefix("2001:db8:300::/48")],
        ..sixferry_fwd::TunnelSpec::new(OWN, PEER)
    };
    relay.builder.insert_tunnel(&configured).expect("tunnel");
    relay.publish();
    let sent = relay.decapsulated(PEER, OWN, &udp("2001:db8:300::1", HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let sent = relay.decapsulated(PEER, OWN, &udp(&of(PEER), HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
    let third = Ipv4Addr::new(8, 0, 0, 3);
    let sent = relay.decapsulated(third, OWN, &udp(&of(third), HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let sent = relay.decapsulated(third, OWN, &udp("2001:db8:300::1", HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::S6to4NativeNative));
    assert_eq!(
        relay.builder.lookup6(v6(&of(PEER))).map(|(p, _)| p.len()),
        Some(16)
    );
}

#[test]
fn sources_known_here_do_not_come_by_way_of_the_sites_relay() {
    let mut relay = site();
    for source in [USER_A, ROUTER] {
        let sent = relay.decapsulated(ANYCAST, OWN, &udp(source, &of(OWN), 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::InnerSrcSpoof),
            "{source}"
        );
    }
    let sent = relay.decapsulated(ANYCAST, OWN, &udp(HOST, &of(OWN), 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}
