//! ICMPv6 errors: when, about what, to whom, how many.

use crate::{icmp_of, outer_header, with_class};
use sixferry_fwd::{
    DropReason, Ipv6Prefix, NextHop, RateLimits, Route, RouteSource, Settings, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LINK_A, OUTSIDE, REMOTE_A, Relay, USER_A, USER_B, echo, ethernet, icmp, outer,
    prefix, udp, v6,
};
use sixferry_wire::{ether, icmpv6};

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
