//! Hop limits and loops.

use crate::{icmp_of, inner_header, outer_header};
use sixferry_fwd::{DropReason, Route, RouteSource, TunnelSpec, Verdict};
use sixferry_vectors::relay::{
    HOST, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, prefix, udp,
};
use sixferry_wire::icmpv6;
use std::net::Ipv4Addr;

#[test]
fn hop_limit_falls_once_also_between_tunnels() {
    let mut relay = Relay::new();
    let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, 9, 8));
    assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
    assert_eq!(outer_header(sent.ip()).dst(), REMOTE_B.octets());
    assert_eq!(inner_header(&sent.ip()[20..]).hop_limit(), 8);
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
fn loops_are_refused_before_the_hop_limit_is_looked_at() {
    let mut relay = Relay::new();
    relay.builder.set_route4(
        "192.0.2.20/32".parse().expect("prefix"),
        RouteSource::Kernel,
        Route::Local,
    );
    relay.publish();
    for hop_limit in [0, 1, 2, 64] {
        let looped = Verdict::Drop(DropReason::LoopSelf);
        let sent = relay.native(&udp(HOST, USER_B, hop_limit, 8));
        assert_eq!(sent.verdict, looped, "hop limit {hop_limit}");
        let sent = relay.tunnelled(REMOTE_A, &udp(USER_A, USER_B, hop_limit, 8));
        assert_eq!(sent.verdict, looped, "hop limit {hop_limit}");
    }
}
