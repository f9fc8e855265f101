//! Changes to the tables.

use crate::outer_header;
use sixferry_fwd::{DropReason, Dscp, Route, RouteSource, TableError, Ttl, TunnelSpec, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, Relay, USER_A, USER_B, prefix, udp, v6,
};
use std::net::Ipv4Addr;

#[test]
fn counters_of_a_new_tunnel_start_at_zero() {
    let mut relay = Relay::new();
    relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
    relay.tunnelled(REMOTE_A, &udp(USER_B, HOST, 64, 8));
    let spec = relay.builder.tunnel(relay.a).expect("tunnel");
    relay.builder.remove_tunnel(relay.a).expect("tunnel");
    assert_eq!(relay.builder.tunnel_counters(relay.a), None);
    // a worker with an older snapshot may still count under the id, so it rests for two
    for _ in 0..2 {
        _ = relay.builder.snapshot();
    }
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
