//! Rules of the forwarding core, one test each, where the vectors say nothing or too little.

use sixferry_fwd::{
    DropReason, Dscp, Ecn, Ipv6Prefix, MtuMode, NextHop, NextHopState, OuterOptions, PortConfig,
    PortKind, PuntReason, RateLimits, Route, RouteSource, Settings, TableError, Ttl, TunnelSpec,
    Verdict,
};
use sixferry_vectors::harness::{NEIGHBOUR_MAC, PORT_MAC};
use sixferry_vectors::relay::{
    HOST, INSIDE, LINK_A, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, ROUTER, Relay, USER_A, USER_B, echo,
    ethernet, icmp, outer, prefix, udp, v6,
};
use sixferry_wire::{checksum, ether, icmpv6, ipv4, ipv6};
use std::net::{IpAddr, Ipv4Addr};

fn outer_header(packet: &[u8]) -> ipv4::Header<'_> {
    ipv4::Header(packet.first_chunk().expect("IPv4 header"))
}

fn inner_header(packet: &[u8]) -> ipv6::Header<'_> {
    ipv6::Header(packet.first_chunk().expect("IPv6 header"))
}

fn icmp_of(packet: &[u8]) -> (u8, u8, u32) {
    let header = inner_header(packet);
    assert_eq!(header.next_header(), ipv6::NH_ICMPV6);
    let message = &packet[40..];
    assert!(
        icmpv6::checksum_ok(header.src(), header.dst(), message),
        "checksum"
    );
    assert!(packet.len() <= 1280, "an error exceeds the minimum MTU");
    (
        message[0],
        message[1],
        u32::from_be_bytes(message[4..8].try_into().expect("4 bytes")),
    )
}

fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), class);
    packet
}

#[test]
fn new_tunnel_has_the_rfc_defaults() {
    let spec = TunnelSpec::new(LOCAL, REMOTE_A);
    assert_eq!((spec.mtu, spec.mtu_mode), (1280, MtuMode::Static));
    assert_eq!(
        (spec.ttl, spec.dscp, spec.ecn),
        (Ttl::Fixed(64), Dscp::Fixed(0), Ecn::Normal)
    );
    assert!(spec.strict_source && spec.up && !spec.dscp_decap_copy);
    let mut relay = Relay::new();
    relay.change(relay.b, |spec| spec.mtu = 1280);
    let sent = relay.native(&udp(HOST, USER_B, 64, 100));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(
        outer_header(sent.ip()).fragment_word(),
        0,
        "DF is never set"
    );
    assert_eq!(outer_header(sent.ip()).identification(), 0x1234);
}

#[test]
fn managed_mtu_sets_df_and_id_zero() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.mtu_mode = MtuMode::Managed);
    let sent = relay.native(&udp(HOST, USER_A, 64, 100));
    let header = outer_header(sent.ip());
    assert_eq!(
        (header.fragment_word(), header.identification()),
        (ipv4::DF, 0)
    );
    let sent = relay.native(&udp(HOST, USER_A, 64, 1481 - 48));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(icmp_of(sent.ip()), (icmpv6::PACKET_TOO_BIG, 0, 1480));
}

#[test]
fn ttl_fixed_and_inherited() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.ttl = Ttl::Fixed(7));
    assert_eq!(
        outer_header(relay.native(&udp(HOST, USER_A, 33, 8)).ip()).ttl(),
        7
    );
    relay.change(relay.a, |spec| spec.ttl = Ttl::Inherit);
    let sent = relay.native(&udp(HOST, USER_A, 33, 8));
    assert_eq!(outer_header(sent.ip()).ttl(), 32);
    assert_eq!(inner_header(&sent.ip()[20..]).hop_limit(), 32);
}

#[test]
fn dscp_and_ecn_at_the_entry() {
    let mut relay = Relay::new();
    let send = |relay: &mut Relay| {
        let packet = with_class(udp(HOST, USER_A, 64, 8), 46 << 2 | 3);
        outer_header(relay.native(&packet).ip()).tos()
    };
    relay.change(relay.a, |spec| spec.dscp = Dscp::Fixed(10));
    assert_eq!(send(&mut relay), 10 << 2 | 3, "CE is copied");
    relay.change(relay.a, |spec| spec.dscp = Dscp::Copy);
    assert_eq!(send(&mut relay), 46 << 2 | 3);
    relay.change(relay.a, |spec| spec.ecn = Ecn::Compat);
    assert_eq!(send(&mut relay), 46 << 2);
}

#[test]
fn dscp_at_the_exit_is_kept_or_copied() {
    let mut relay = Relay::new();
    let packet = with_class(udp(USER_A, HOST, 64, 8), 46 << 2);
    let frame = ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, 10 << 2, &packet));
    assert_eq!(
        inner_header(relay.frame(OUTSIDE, &frame).ip()).traffic_class(),
        46 << 2
    );
    relay.change(relay.a, |spec| spec.dscp_decap_copy = true);
    assert_eq!(
        inner_header(relay.frame(OUTSIDE, &frame).ip()).traffic_class(),
        10 << 2
    );
}

#[test]
fn unusual_ecn_is_counted_per_tunnel() {
    let mut relay = Relay::new();
    let packet = with_class(udp(USER_A, HOST, 64, 8), 0);
    for tos in [0u8, 1, 2, 3] {
        let frame = ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, tos, &packet));
        let sent = relay.frame(OUTSIDE, &frame);
        let dropped = sent.verdict == Verdict::Drop(DropReason::EcnCeOnNotEct);
        assert_eq!(dropped, tos == 3);
    }
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.ecn_unusual, 3);
    assert_eq!(relay.local.counters().ecn_unusual, 3);
    assert_eq!(totals.drops, [(DropReason::EcnCeOnNotEct, 1)]);
    assert_eq!((totals.in_packets, totals.in_bytes), (3, 3 * 56));
}

#[test]
fn routing_header_type_0_is_dropped_only_as_first_header() {
    let mut relay = Relay::new();
    let with_routing = |kind: u8| {
        let mut packet = udp(USER_A, HOST, 64, 16);
        packet[6] = ipv6::NH_ROUTING;
        packet[42] = kind;
        packet
    };
    let sent = relay.tunnelled(REMOTE_A, &with_routing(0));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::Rh0));
    assert_eq!(
        relay.tunnelled(REMOTE_A, &with_routing(4)).verdict,
        Verdict::Tx(INSIDE)
    );
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.drops, [(DropReason::Rh0, 1)]);
}

#[test]
fn strict_source_can_be_switched_off() {
    let mut relay = Relay::new();
    let packet = udp("2001:db8:4444::1", HOST, 64, 8);
    let sent = relay.tunnelled(REMOTE_A, &packet);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
    relay.change(relay.a, |spec| spec.strict_source = false);
    assert_eq!(
        relay.tunnelled(REMOTE_A, &packet).verdict,
        Verdict::Tx(INSIDE)
    );
}

#[test]
fn nested_prefix_belongs_to_the_longer_match_only() {
    let mut relay = Relay::new();
    let nested = TunnelSpec {
        prefixes: vec![prefix("2001:db8:100:ab00::/56")],
        ..TunnelSpec::new(LOCAL, Ipv4Addr::new(192, 0, 2, 77))
    };
    let id = relay
        .builder
        .insert_tunnel(&nested)
        .expect("nested prefixes are allowed");
    relay.publish();
    let inside = udp("2001:db8:100:ab01::1", HOST, 64, 8);
    let spoofed = Verdict::Drop(DropReason::InnerSrcSpoof);
    assert_eq!(
        relay.tunnelled(REMOTE_A, &inside).verdict,
        spoofed,
        "not A's any more"
    );
    assert_eq!(
        relay.tunnelled(nested.remote, &inside).verdict,
        Verdict::Tx(INSIDE)
    );
    assert_eq!(
        relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8)).verdict,
        Verdict::Tx(INSIDE)
    );
    let to = relay.native(&udp(HOST, "2001:db8:100:ab01::1", 64, 8));
    assert_eq!(outer_header(to.ip()).dst(), nested.remote.octets());
    relay.builder.remove_tunnel(id).expect("there");
    relay.publish();
    assert_eq!(
        relay.tunnelled(REMOTE_A, &inside).verdict,
        Verdict::Tx(INSIDE),
        "A's again"
    );
}

#[test]
fn several_prefixes_and_the_link_are_legal_sources() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| {
        spec.prefixes.push(prefix("2001:db8:aaaa::/64"))
    });
    for source in [USER_A, "2001:db8:aaaa::9", "2001:db8:f:1::2"] {
        let sent = relay.tunnelled(REMOTE_A, &udp(source, HOST, 64, 8));
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "{source}");
        let sent = relay.tunnelled(REMOTE_B, &udp(source, HOST, 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::InnerSrcSpoof),
            "{source}"
        );
    }
}

#[test]
fn api_route_into_a_tunnel_is_a_legal_source_until_it_goes() {
    let mut relay = Relay::new();
    let extra = prefix("2001:db8:bbbb::/48");
    let packet = udp("2001:db8:bbbb::1", HOST, 64, 8);
    relay
        .builder
        .set_route6(extra, RouteSource::Api, Route::Tunnel(relay.a));
    relay.publish();
    assert_eq!(
        relay.tunnelled(REMOTE_A, &packet).verdict,
        Verdict::Tx(INSIDE)
    );
    let to = relay.native(&udp(HOST, "2001:db8:bbbb::1", 64, 8));
    assert_eq!(to.verdict, Verdict::Tx(OUTSIDE));
    assert!(relay.builder.covering().iter().any(|p| p.covers(extra)));
    relay.builder.remove_tunnel(relay.a).expect("there");
    assert_eq!(
        relay
            .builder
            .lookup6(v6("2001:db8:bbbb::1"))
            .map(|(p, _)| p.len()),
        Some(0)
    );
}

#[test]
fn tunnel_source_on_the_native_side_is_refused_unless_allowed() {
    let mut relay = Relay::new();
    for source in [USER_B, LINK_A, "2001:db8:f:1::2"] {
        let sent = relay.native(&udp(source, USER_A, 64, 8));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V6SrcSpoofNative),
            "{source}"
        );
    }
    let settings = Settings {
        native_source_check: false,
        ..relay.builder.settings().clone()
    };
    relay.builder.set_settings(settings);
    relay.publish();
    assert_eq!(
        relay.native(&udp(USER_B, USER_A, 64, 8)).verdict,
        Verdict::Tx(OUTSIDE)
    );
}

#[test]
fn hop_limit_falls_once_also_between_tunnels() {
    let mut relay = Relay::new();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, 9, 8));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(outer_header(sent.ip()).dst(), REMOTE_B.octets());
    assert_eq!(inner_header(&sent.ip()[20..]).hop_limit(), 8);
}

#[test]
fn too_big_for_the_native_link_goes_back_through_the_tunnel() {
    let mut relay = Relay::new();
    let hop = NextHop {
        mtu: 1400,
        ..*relay.builder.next_hop(relay.hop6).expect("hop")
    };
    relay.builder.set_next_hop(relay.hop6, hop);
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 1401 - 48));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(outer_header(sent.ip()).dst(), REMOTE_A.octets());
    assert_eq!(icmp_of(&sent.ip()[20..]), (icmpv6::PACKET_TOO_BIG, 0, 1400));
    let fits = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 1400 - 48));
    assert_eq!(fits.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn too_big_is_never_reported_below_1280() {
    let mut relay = Relay::new();
    for mtu in (68..1300).step_by(7) {
        let hop = NextHop {
            mtu,
            ..*relay.builder.next_hop(relay.hop4).expect("hop")
        };
        relay.builder.set_next_hop(relay.hop4, hop);
        relay.publish();
        let sent = relay.native(&udp(HOST, USER_A, 64, 1281 - 48));
        assert_eq!(
            icmp_of(sent.ip()),
            (icmpv6::PACKET_TOO_BIG, 0, 1280),
            "link MTU {mtu}"
        );
        let sent = relay.native(&udp(HOST, USER_A, 64, 1280 - 48));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V4TooBig),
            "link MTU {mtu}"
        );
    }
}

#[test]
fn errors_are_not_sent_about_errors_nor_to_nobody() {
    let mut relay = Relay::new();
    let about_error = icmp(USER_A, HOST, 1, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let sent = relay.tunnelled(REMOTE_A, &about_error);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6HopLimit));
    let redirect = icmp(USER_A, HOST, 1, &[137, 0, 0, 0, 0, 0, 0, 0]);
    let sent = relay.tunnelled(REMOTE_A, &redirect);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6HopLimit));
    let settings = relay.builder.settings().clone();
    relay.builder.set_settings(Settings {
        router_address: v6("::"),
        ..settings
    });
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 1, 8));
    assert_eq!(
        sent.verdict,
        Verdict::Drop(DropReason::V6HopLimit),
        "no address to send from"
    );
}

#[test]
fn error_quotes_the_packet_as_received() {
    let mut relay = Relay::new();
    let packet = with_class(udp(USER_A, HOST, 1, 2000), 2);
    let cut = &packet[..1480];
    let mut cut = cut.to_vec();
    cut[4..6].copy_from_slice(&1440u16.to_be_bytes());
    let frame = ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, 3, &cut));
    let sent = relay.frame(OUTSIDE, &frame);
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    let error = &sent.ip()[20..];
    assert_eq!(icmp_of(error).0, icmpv6::TIME_EXCEEDED);
    assert_eq!(error.len(), 1280);
    assert_eq!(error[48..], cut[..1232], "hop limit and ECN as received");
}

#[test]
fn routes_answer_as_they_say() {
    let mut relay = Relay::new();
    let cases = [
        (
            "2001:db8:1::/48",
            Route::Unreachable,
            Some(icmpv6::CODE_NO_ROUTE),
        ),
        (
            "2001:db8:2::/48",
            Route::Prohibit,
            Some(icmpv6::CODE_PROHIBITED),
        ),
        ("2001:db8:3::/48", Route::Blackhole, None),
    ];
    for (text, route, _) in cases {
        relay
            .builder
            .set_route6(prefix(text), RouteSource::Kernel, route);
    }
    relay.publish();
    for (text, _, code) in cases {
        let dst = prefix(text).address().to_string();
        let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, &dst, 64, 8));
        match code {
            Some(code) => assert_eq!(icmp_of(&sent.ip()[20..]), (1, code, 0), "{text}"),
            None => assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6Blackhole)),
        }
    }
    relay
        .builder
        .remove_route6(Ipv6Prefix::all(), RouteSource::Kernel);
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(icmp_of(&sent.ip()[20..]), (1, icmpv6::CODE_NO_ROUTE, 0));
}

#[test]
fn down_tunnel_answers_address_unreachable() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.up = false);
    let sent = relay.native(&udp(HOST, USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(icmp_of(sent.ip()), (1, icmpv6::CODE_ADDRESS, 0));
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelDown));
}

#[test]
fn loops_are_refused() {
    let mut relay = Relay::new();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, "2001:db8:100:9::1", 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSameTunnel));
    // another address on the link it came by (RFC 4443 section 3.1)
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, "2001:db8:f:1::77", 64, 8));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    assert_eq!(icmp_of(&sent.ip()[20..]), (1, icmpv6::CODE_ADDRESS, 0));
    // 6to4 addresses of the relay itself (RFC 6324)
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, "2002:c633:6401::1", 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    let sent = relay.native(&udp("2002:c633:6401::1", USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
    // a remote end that is an address of this host
    relay.builder.set_route4(
        "192.0.2.10/32".parse().expect("prefix"),
        RouteSource::Kernel,
        Route::Local,
    );
    relay.publish();
    let sent = relay.native(&udp(HOST, USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
}

#[test]
fn two_relays_back_to_back_stop_at_once() {
    // each believes the other's users live behind the other: A's exit sends B's prefix back to B
    let mut relay = Relay::new();
    let first = relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, 64, 8));
    let mut crossings = 1;
    let mut packet = first.ip().to_vec();
    while crossings < 64 {
        // the other relay has the same tunnels the other way round
        let inner = packet[20..].to_vec();
        let next = relay.tunnelled(REMOTE_B, &inner);
        if !matches!(next.verdict, Verdict::Tx(_)) {
            assert_eq!(next.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
            break;
        }
        crossings += 1;
        packet = next.ip().to_vec();
    }
    assert!(crossings <= 2, "{crossings}");
}

#[test]
fn echo_is_answered_on_every_own_address() {
    let mut relay = Relay::new();
    for dst in [LINK_A, ROUTER, "fe80::c633:6401"] {
        let request = echo(USER_A, dst);
        let sent = relay.tunnelled(REMOTE_A, &request);
        assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE), "{dst}");
        let reply = &sent.ip()[20..];
        assert_eq!(icmp_of(reply).0, icmpv6::ECHO_REPLY);
        assert_eq!(
            (inner_header(reply).src(), inner_header(reply).dst()),
            (u128::from(v6(dst)), u128::from(v6(USER_A)))
        );
        assert_eq!(reply[44..], request[44..], "identifier, sequence and data");
    }
    let sent = relay.native(&echo(HOST, LINK_A));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    let sent = relay.tunnelled(REMOTE_A, &echo("fe80::1", "fe80::c633:6401"));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
}

#[test]
fn damaged_echo_stays_damaged() {
    let mut relay = Relay::new();
    let mut request = echo(USER_A, LINK_A);
    *request.last_mut().expect("data") ^= 1;
    let sent = relay.tunnelled(REMOTE_A, &request);
    let reply = &sent.ip()[20..];
    let header = inner_header(reply);
    assert!(!icmpv6::checksum_ok(
        header.src(),
        header.dst(),
        &reply[40..]
    ));
}

#[test]
fn other_packets_for_the_relay_need_a_subscriber() {
    let mut relay = Relay::new();
    let packet = udp(USER_A, LINK_A, 64, 8);
    let sent = relay.tunnelled(REMOTE_A, &packet);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::HostPortAbsent));
    let settings = relay.builder.settings().clone();
    let punt_subscriptions = 1 << PuntReason::HostDelivery.index();
    relay.builder.set_settings(Settings {
        punt_subscriptions,
        ..settings
    });
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &packet);
    assert_eq!(sent.verdict, Verdict::Punt(PuntReason::HostDelivery));
    assert_eq!(sent.punt.tunnel, Some(relay.a));
    assert_eq!(sent.frame[34..], packet, "unchanged");
}

/// A neighbour solicitation, options as given.
fn solicitation(src: &str, dst: &str, target: &str, hop_limit: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&v6(target).octets());
    message.extend_from_slice(options);
    icmp(src, dst, hop_limit, &message)
}

#[test]
fn solicitations_are_answered_or_refused_by_the_book() {
    let mut relay = Relay::new();
    let own = "fe80::c633:6401";
    let answered = relay.tunnelled(REMOTE_A, &solicitation("fe80::9", own, own, 255, &[]));
    assert_eq!(answered.verdict, Verdict::Answer(OUTSIDE));
    let advert = &answered.ip()[20..];
    assert_eq!(
        (icmp_of(advert).0, icmp_of(advert).2),
        (136, 0xc000_0000),
        "R and S, no O"
    );
    assert_eq!(advert.len(), 64, "no option");
    assert_eq!(inner_header(advert).hop_limit(), 255);
    // to the solicited-node address, for the link address
    let node = "ff02::1:ff00:1";
    let sent = relay.tunnelled(REMOTE_A, &solicitation("fe80::9", node, LINK_A, 255, &[]));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    let invalid = Verdict::Drop(DropReason::NdInvalid);
    let cases = [
        solicitation("fe80::9", own, own, 254, &[]),
        solicitation("fe80::9", own, "ff02::1", 255, &[]),
        solicitation("fe80::9", own, own, 255, &[1, 0, 0, 0, 0, 0, 0, 0]),
        solicitation("fe80::9", own, own, 255, &[1, 2, 0, 0, 0, 0, 0, 0]),
        solicitation("fe80::9", own, own, 255, &[1]),
    ];
    for (i, packet) in cases.iter().enumerate() {
        assert_eq!(
            relay.tunnelled(REMOTE_A, packet).verdict,
            invalid,
            "case {i}"
        );
    }
    let mut damaged = solicitation("fe80::9", own, own, 255, &[]);
    damaged[42] ^= 1;
    assert_eq!(relay.tunnelled(REMOTE_A, &damaged).verdict, invalid);
    let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert_eq!(totals.drops, [(DropReason::NdInvalid, 6)]);
    let stranger = solicitation("fe80::9", own, "fe80::1234", 255, &[]);
    let sent = relay.tunnelled(REMOTE_A, &stranger);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6DstInvalid));
}

#[test]
fn duplicate_address_probe_is_defended_only_for_own_addresses() {
    let mut relay = Relay::new();
    let own = "fe80::c633:6401";
    let sent = relay.tunnelled(
        REMOTE_A,
        &solicitation("::", "ff02::1:ff33:6401", own, 255, &[]),
    );
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
    let advert = &sent.ip()[20..];
    assert_eq!(inner_header(advert).dst(), u128::from(v6("ff02::1")));
    assert_eq!(icmp_of(advert).2, 0x8000_0000, "not solicited");
    let sent = relay.tunnelled(
        REMOTE_A,
        &solicitation("::", "ff02::1:ff00:9", "fe80::9", 255, &[]),
    );
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6SrcInvalid));
}

#[test]
fn answers_and_errors_are_rate_limited_apart() {
    let mut relay = Relay::new();
    let limits = RateLimits {
        global_per_second: 1000,
        global_burst: 100,
        tunnel_per_second: 10,
        tunnel_burst: 10,
    };
    let settings = relay.builder.settings().clone();
    relay.builder.set_settings(Settings {
        icmp_errors: limits,
        answers: limits,
        ..settings
    });
    relay.publish();
    let (mut errors, mut replies) = (0, 0);
    for _ in 0..100 {
        let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 1, 8));
        errors += u32::from(sent.verdict == Verdict::Answer(OUTSIDE));
        let sent = relay.tunnelled(REMOTE_A, &echo(USER_A, LINK_A));
        replies += u32::from(sent.verdict == Verdict::Answer(OUTSIDE));
    }
    assert_eq!((errors, replies), (10, 10));
    let limited = relay
        .local
        .counters()
        .drops_for(DropReason::IcmpRateLimited)
        .packets;
    assert_eq!(limited, 180);
}

#[test]
fn ten_thousand_hop_limit_1_packets_get_at_most_burst_plus_rate() {
    let mut relay = Relay::new();
    let settings = relay.builder.settings().clone();
    let icmp_errors = Settings::default().icmp_errors;
    relay.builder.set_settings(Settings {
        icmp_errors,
        ..settings
    });
    relay.publish();
    let mut answered = 0;
    for i in 0..10_000u64 {
        relay.now = sixferry_fwd::Ticks(1_000_000_000 + i * 100_000);
        let sent = relay.native(&udp(HOST, USER_A, 1, 8));
        answered += u32::from(sent.verdict == Verdict::Answer(INSIDE));
    }
    assert!((1100..=1200).contains(&answered), "{answered}");
}

#[test]
fn vlan_tags_are_parsed_and_pushed() {
    let mut relay = Relay::new();
    let packet = outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 8));
    let mut header = [0u8; 18];
    ether::emit_tagged(
        &mut header,
        PORT_MAC,
        NEIGHBOUR_MAC,
        ether::TYPE_8021Q,
        100,
        0x0800,
    );
    let tagged = [&header[..], &packet].concat();
    let sent = relay.frame(OUTSIDE, &tagged);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::EthVlan));
    relay.builder.set_port(
        OUTSIDE,
        PortConfig {
            kind: PortKind::Ethernet { mac: PORT_MAC },
            mtu: 1500,
            vlans: vec![200, 100],
            up: true,
        },
    );
    let hop = NextHop {
        vlan: Some(300),
        vlan_service_tag: true,
        ..*relay.builder.next_hop(relay.hop6).expect("hop")
    };
    relay.builder.set_next_hop(relay.hop6, hop);
    relay.publish();
    let sent = relay.frame(OUTSIDE, &tagged);
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    let out = ether::parse(&sent.frame).expect("header");
    assert_eq!(
        (out.vlan, out.ether_type, out.len),
        (Some(300), ether::TYPE_IPV6, 18)
    );
    assert_eq!(sent.frame[12..14], ether::TYPE_8021AD.to_be_bytes());
}

#[test]
fn raw_ip_port_takes_and_gives_bare_packets() {
    let mut relay = Relay::new();
    let raw = PortConfig {
        kind: PortKind::RawIp,
        mtu: 1500,
        vlans: vec![],
        up: true,
    };
    relay.builder.set_port(INSIDE, raw);
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(inner_header(&sent.frame).hop_limit(), 63, "no link header");
    let sent = relay.frame(INSIDE, &udp(HOST, USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(outer_header(sent.ip()).dst(), REMOTE_A.octets());
    let sent = relay.frame(INSIDE, &[0x75; 60]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::EthType));
}

#[test]
fn port_that_is_down_or_unknown_drops() {
    let mut relay = Relay::new();
    relay.builder.remove_port(INSIDE);
    relay.publish();
    let down = Verdict::Drop(DropReason::PortDown);
    assert_eq!(relay.native(&udp(HOST, USER_A, 64, 8)).verdict, down);
    assert_eq!(
        relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8)).verdict,
        down
    );
}

#[test]
fn unresolved_next_hop_punts_the_packet_as_it_came() {
    let mut relay = Relay::new();
    let gateway = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    let hop = *relay.builder.next_hop(relay.hop4).expect("hop");
    let unresolved = NextHop {
        state: NextHopState::Unresolved { gateway },
        ..hop
    };
    relay.builder.set_next_hop(relay.hop4, unresolved);
    relay.publish();
    let frame = ethernet(ether::TYPE_IPV6, &udp(HOST, USER_A, 64, 8));
    let sent = relay.frame(INSIDE, &frame);
    assert_eq!(sent.verdict, Verdict::Punt(PuntReason::NextHopUnresolved));
    assert_eq!(sent.frame, frame);
    assert_eq!(
        (sent.punt.next_hop, sent.punt.resolve),
        (Some(relay.hop4), None)
    );
    relay.builder.set_next_hop(
        relay.hop4,
        NextHop {
            state: NextHopState::OnLink,
            ..hop
        },
    );
    relay.publish();
    // an error towards the tunnel needs the same neighbour, and must not spoil the packet
    let inner = udp(USER_A, HOST, 1, 8);
    let sent = relay.tunnelled(REMOTE_A, &inner);
    assert_eq!(sent.verdict, Verdict::Punt(PuntReason::NextHopUnresolved));
    assert_eq!(sent.frame[34..], inner);
    assert_eq!(sent.punt.resolve, Some(IpAddr::V4(REMOTE_A)));
    assert_eq!(
        relay
            .builder
            .tunnel_counters(relay.a)
            .expect("tunnel")
            .in_packets,
        0
    );
    // the neighbour becomes known: a host route beside the connected one
    let resolved = relay.builder.add_next_hop(hop);
    let host = "192.0.2.10/32".parse().expect("prefix");
    relay
        .builder
        .set_route4(host, RouteSource::Neighbour, Route::NextHop(resolved));
    relay.publish();
    assert_eq!(relay.frame(INSIDE, &frame).verdict, Verdict::Tx(OUTSIDE));
}

#[test]
fn next_hop_change_is_followed_without_touching_routes() {
    let mut relay = Relay::new();
    let hop = *relay.builder.next_hop(relay.hop6).expect("hop");
    let moved = NextHopState::Resolved {
        dst_mac: [2, 0, 0, 0, 0, 9],
    };
    relay.builder.set_next_hop(
        relay.hop6,
        NextHop {
            state: moved,
            ..hop
        },
    );
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.frame[..6], [2, 0, 0, 0, 0, 9]);
    relay.builder.remove_next_hop(relay.hop6);
    relay.publish();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::PortDown));
}

#[test]
fn no_route_to_the_remote_end_answers_address_unreachable() {
    let mut relay = Relay::new();
    relay
        .builder
        .remove_route4("0.0.0.0/0".parse().expect("prefix"), RouteSource::Kernel);
    relay.publish();
    let sent = relay.native(&udp(HOST, USER_A, 64, 8));
    assert_eq!(sent.verdict, Verdict::Answer(INSIDE));
    assert_eq!(icmp_of(sent.ip()), (1, icmpv6::CODE_ADDRESS, 0));
}

#[test]
fn options_are_skipped_by_knob_but_source_routes_never() {
    let mut relay = Relay::new();
    let settings = relay.builder.settings().clone();
    relay.builder.set_settings(Settings {
        outer_options: OuterOptions::Skip,
        ..settings
    });
    relay.publish();
    let with_option = |option: [u8; 4]| {
        let inner = udp(USER_A, HOST, 64, 8);
        let plain = outer(REMOTE_A, 0, &inner);
        let mut packet = [&plain[..20], &option[..], &inner].concat();
        packet[0] = 0x46;
        let len = u16::try_from(packet.len()).expect("short");
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&packet[..24]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        ethernet(ether::TYPE_IPV4, &packet)
    };
    let sent = relay.frame(OUTSIDE, &with_option([148, 4, 0, 0]));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    for option in [[131, 4, 4, 0], [137, 4, 4, 0], [7, 9, 0, 0]] {
        let sent = relay.frame(OUTSIDE, &with_option(option));
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::V4Options),
            "{option:?}"
        );
    }
}

#[test]
fn fragments_and_strange_protocols_are_counted_apart() {
    let mut relay = Relay::new();
    let edit = |at: usize, value: u8| {
        let mut packet = outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 8));
        packet[at] = value;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        ethernet(ether::TYPE_IPV4, &packet)
    };
    let cases = [
        (6, 0x20, DropReason::V4Fragment),
        (7, 1, DropReason::V4Fragment),
        (9, 6, DropReason::V4Protocol),
        (9, 17, DropReason::NoTunnel),
    ];
    for (at, value, reason) in cases {
        let sent = relay.frame(OUTSIDE, &edit(at, value));
        assert_eq!(sent.verdict, Verdict::Drop(reason));
    }
}

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
        (icmp4(3, 1, 0, &ours), DropReason::Icmp4Consumed),
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

#[test]
fn counters_of_a_new_tunnel_start_at_zero() {
    let mut relay = Relay::new();
    relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    relay.tunnelled(REMOTE_A, &udp(USER_B, HOST, 64, 8));
    let spec = relay.builder.tunnel(relay.a).expect("tunnel");
    relay.builder.remove_tunnel(relay.a).expect("tunnel");
    assert_eq!(relay.builder.tunnel_counters(relay.a), None);
    let id = relay.builder.insert_tunnel(&spec).expect("free again");
    assert_eq!(id, relay.a, "the id is used again");
    let totals = relay.builder.tunnel_counters(id).expect("tunnel");
    assert_eq!(totals, sixferry_fwd::TunnelTotals::default());
    relay.publish();
    relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(
        relay
            .builder
            .tunnel_counters(id)
            .expect("tunnel")
            .in_packets,
        1
    );
}

#[test]
fn conflicting_tunnels_are_refused_without_a_trace() {
    let mut relay = Relay::new();
    let before = relay.builder.tunnel_count();
    let bad = |edit: fn(&mut TunnelSpec)| {
        let mut spec = TunnelSpec {
            prefixes: vec![prefix("2001:db8:300::/48")],
            ..TunnelSpec::new(LOCAL, Ipv4Addr::new(192, 0, 2, 30))
        };
        edit(&mut spec);
        spec
    };
    type Case = (fn(&mut TunnelSpec), &'static str, fn(&TableError) -> bool);
    let cases: [Case; 12] = [
        (
            |s| s.remote = REMOTE_A,
            "remote",
            |e| matches!(e, TableError::OuterInUse { .. }),
        ),
        (
            |s| s.remote = LOCAL,
            "remote",
            |e| matches!(e, TableError::OuterAddress { .. }),
        ),
        (
            |s| s.remote = [224, 0, 0, 1].into(),
            "remote",
            |e| matches!(e, TableError::OuterAddress { .. }),
        ),
        (
            |s| s.prefixes = vec![prefix("2001:db8:200::/48")],
            "prefixes",
            |e| matches!(e, TableError::PrefixInUse { .. }),
        ),
        (
            |s| s.prefixes = vec![prefix("2001:db8:f:1::/64")],
            "prefixes",
            |e| matches!(e, TableError::PrefixInUse { .. }),
        ),
        (
            |s| s.prefixes.push(prefix("2001:db8:300::/48")),
            "prefixes",
            |e| matches!(e, TableError::PrefixRepeated { .. }),
        ),
        (
            |s| s.prefixes = vec![prefix("fe80::/64")],
            "prefixes",
            |e| matches!(e, TableError::PrefixInvalid { .. }),
        ),
        (
            |s| s.prefixes = vec![prefix("::/0")],
            "prefixes",
            |e| matches!(e, TableError::PrefixInvalid { .. }),
        ),
        (
            |s| s.mtu = 1279,
            "mtu",
            |e| matches!(e, TableError::Mtu { .. }),
        ),
        (
            |s| s.ttl = Ttl::Fixed(0),
            "ttl",
            |e| matches!(e, TableError::Ttl),
        ),
        (
            |s| s.dscp = Dscp::Fixed(64),
            "dscp",
            |e| matches!(e, TableError::Dscp { .. }),
        ),
        (
            |s| s.link_local = Some(v6("2001:db8::1")),
            "link_local_address",
            |e| matches!(e, TableError::LinkLocal { .. }),
        ),
    ];
    for (edit, field, matches) in cases {
        let error = relay
            .builder
            .insert_tunnel(&bad(edit))
            .expect_err("refused");
        assert!(matches(&error) && error.field() == field, "{error:?}");
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(relay.builder.tunnel_count(), before);
    assert_eq!(
        relay
            .builder
            .lookup6(v6("2001:db8:300::1"))
            .map(|(p, _)| p.len()),
        Some(0)
    );
    relay
        .builder
        .insert_tunnel(&bad(|_| ()))
        .expect("the plain one is fine");
}

#[test]
fn tunnel_can_move_and_give_up_prefixes() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| {
        spec.remote = Ipv4Addr::new(192, 0, 2, 11);
        spec.prefixes = vec![prefix("2001:db8:101::/48")];
        spec.link = None;
    });
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::NoTunnel));
    let sent = relay.native(&udp(HOST, "2001:db8:101::1", 64, 8));
    assert_eq!(outer_header(sent.ip()).dst(), [192, 0, 2, 11]);
    assert_eq!(
        relay.native(&udp(HOST, USER_A, 64, 8)).verdict,
        Verdict::Tx(INSIDE),
        "native now"
    );
    let spec = relay.builder.tunnel(relay.a).expect("tunnel");
    assert_eq!(spec.prefixes, [prefix("2001:db8:101::/48")]);
    assert_eq!(spec.link, None);
}

#[test]
fn kernel_route_hidden_by_a_tunnel_comes_back() {
    let mut relay = Relay::new();
    let own = prefix("2001:db8:200::/48");
    relay
        .builder
        .set_route6(own, RouteSource::Kernel, Route::Blackhole);
    relay.publish();
    assert_eq!(
        relay.native(&udp(HOST, USER_B, 64, 8)).verdict,
        Verdict::Tx(OUTSIDE)
    );
    relay.builder.remove_tunnel(relay.b).expect("tunnel");
    relay.publish();
    let sent = relay.native(&udp(HOST, USER_B, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6Blackhole));
}

#[test]
fn echo_reply_larger_than_the_tunnel_is_not_sent() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.mtu = 1280);
    let mut message = vec![128, 0, 0, 0, 0, 1, 0, 1];
    message.resize(1400, 0x5a);
    let sent = relay.tunnelled(REMOTE_A, &icmp(USER_A, LINK_A, 64, &message));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6TooBig));
    message.truncate(1280 - 40);
    let sent = relay.tunnelled(REMOTE_A, &icmp(USER_A, LINK_A, 64, &message));
    assert_eq!(sent.verdict, Verdict::Answer(OUTSIDE));
}

#[test]
fn remote_end_that_is_another_tunnels_local_address_is_a_loop() {
    let mut relay = Relay::new();
    let second = Ipv4Addr::new(198, 51, 100, 2);
    let crossed = TunnelSpec {
        prefixes: vec![prefix("2001:db8:300::/48")],
        ..TunnelSpec::new(LOCAL, second)
    };
    relay.builder.insert_tunnel(&crossed).expect("tunnel");
    let other = TunnelSpec::new(second, Ipv4Addr::new(192, 0, 2, 50));
    relay.builder.insert_tunnel(&other).expect("tunnel");
    relay.publish();
    let sent = relay.native(&udp(HOST, "2001:db8:300::1", 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::LoopSelf));
}

#[test]
fn down_tunnel_counts_only_packets_nobody_was_told_about() {
    let mut relay = Relay::new();
    relay.change(relay.b, |spec| spec.up = false);
    relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, 64, 8));
    let told = relay.builder.tunnel_counters(relay.b).expect("tunnel");
    assert!(told.drops.is_empty(), "{told:?}");
    let error = icmp(USER_A, USER_B, 64, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let sent = relay.tunnelled(REMOTE_A, &error);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelDown));
    let egress = relay.builder.tunnel_counters(relay.b).expect("tunnel");
    assert_eq!(egress.drops, [(DropReason::TunnelDown, 1)]);
    let arrival = relay.builder.tunnel_counters(relay.a).expect("tunnel");
    assert!(arrival.drops.is_empty(), "{arrival:?}");
}

#[test]
fn own_link_address_is_nobodys_source() {
    let mut relay = Relay::new();
    let sent = relay.tunnelled(REMOTE_A, &udp(LINK_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
}
