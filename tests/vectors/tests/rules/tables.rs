//! Changes to the tables.

use crate::outer_header;
use sixferry_fwd::{
    DropReason, Dscp, EncapKind, Rebind, Route, RouteSource, TableError, Ttl, TunnelSpec,
    TunnelTotals, UdpEncap, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, ethernet, in_udp,
    prefix, udp, v6,
};
use sixferry_wire::ether;
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

fn at_port_4028(remote_port: u16, shared: bool) -> EncapKind {
    EncapKind::Udp(UdpEncap {
        local_port: 4028,
        remote_port,
        shared,
        rebind: Rebind::Deny,
    })
}

#[test]
fn port_that_a_tunnel_shares_cannot_be_taken_by_another() {
    let mut relay = Relay::new();
    relay.change(relay.a, |spec| spec.encap = at_port_4028(40_000, true));
    let mut alone = relay.builder.tunnel(relay.b).expect("tunnel");
    alone.encap = at_port_4028(50_000, false);
    let refused = TableError::PortInUse {
        local: LOCAL,
        port: 4028,
        by: None,
    };
    assert_eq!(
        relay.builder.update_tunnel(relay.b, &alone),
        Err(refused.clone())
    );
    let third = TunnelSpec {
        prefixes: vec![prefix("2001:db8:300::/48")],
        ..alone.clone()
    };
    assert_eq!(relay.builder.insert_tunnel(&third), Err(refused.clone()));
    relay.publish();
    let arrives = |relay: &mut Relay, src, port, inner: &[u8]| {
        let packet = in_udp((src, port), (LOCAL, 4028), inner);
        let sent = relay.frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, &packet));
        sent.verdict
    };
    let of_a = udp(USER_A, HOST, 64, 8);
    let of_b = udp(USER_B, HOST, 64, 8);
    let passed = Verdict::Tx(INSIDE);
    assert_eq!(arrives(&mut relay, REMOTE_A, 40_000, &of_a), passed);
    let plain = relay.tunnelled(REMOTE_B, &of_b);
    assert_eq!(plain.verdict, passed, "the refused change left it alone");
    // two that share: neither may have it for itself
    relay.change(relay.b, |spec| spec.encap = at_port_4028(50_000, true));
    assert_eq!(relay.builder.update_tunnel(relay.b, &alone), Err(refused));
    // the last of them may, and keeps it when others go
    relay.builder.remove_tunnel(relay.a).expect("tunnel");
    relay
        .builder
        .update_tunnel(relay.b, &alone)
        .expect("nobody else is there");
    relay.publish();
    assert_eq!(arrives(&mut relay, REMOTE_B, 50_000, &of_b), passed);
    let gone = Verdict::Drop(DropReason::UdpRemoteMismatch);
    assert_eq!(arrives(&mut relay, REMOTE_A, 40_000, &of_a), gone);
    let endpoints: Vec<_> = relay.builder.udp_endpoints().collect();
    assert_eq!(endpoints, [(LOCAL, 4028)]);
    relay.builder.remove_tunnel(relay.b).expect("tunnel");
    assert_eq!(relay.builder.udp_endpoints().count(), 0);
}

#[test]
fn freed_id_rests_for_two_snapshots() {
    let mut relay = Relay::new();
    let spec = relay.builder.tunnel(relay.a).expect("tunnel");
    relay.builder.remove_tunnel(relay.a).expect("tunnel");
    let prefixes = [
        "2001:db8:100::/48",
        "2001:db8:300::/48",
        "2001:db8:400::/48",
    ];
    for (rested, text) in prefixes.into_iter().enumerate() {
        if rested > 0 {
            _ = relay.builder.snapshot();
        }
        let spec = TunnelSpec {
            prefixes: vec![prefix(text)],
            remote: Ipv4Addr::from(u32::from(REMOTE_A) + u32::try_from(rested).expect("small")),
            link: spec.link.filter(|_| rested == 0),
            ..spec.clone()
        };
        let id = relay.builder.insert_tunnel(&spec).expect("room");
        assert_eq!(id == relay.a, rested == 2, "after {rested} snapshots");
        // the worker still has the tables of before, and counts under the old id
        relay.tunnelled(REMOTE_A, &udp(USER_A, HOST, 64, 8));
        let totals = relay.builder.tunnel_counters(id).expect("tunnel");
        if rested < 2 {
            assert_eq!(totals, TunnelTotals::default());
        }
    }
}

#[test]
fn route_of_two_sources_into_one_tunnel_goes_with_the_tunnel() {
    let sources = [RouteSource::Api, RouteSource::Kernel];
    let extra = prefix("2001:db8:999::/48");
    let inside = v6("2001:db8:999::1");
    for first in sources {
        let mut relay = Relay::new();
        let found = |relay: &Relay| relay.builder.lookup6(inside).map(|(p, _)| p.len());
        for source in sources {
            relay
                .builder
                .set_route6(extra, source, Route::Tunnel(relay.b));
        }
        relay.builder.remove_route6(extra, first);
        assert_eq!(found(&relay), Some(48), "the other still says so");
        relay.publish();
        let sent = relay.native(&udp(HOST, "2001:db8:999::1", 64, 8));
        assert_eq!(outer_header(sent.ip()).dst(), REMOTE_B.octets());
        relay.builder.remove_tunnel(relay.b).expect("tunnel");
        assert_eq!(found(&relay), Some(0), "without {first:?}");
        assert!(!relay.builder.covering().iter().any(|p| p.covers(extra)));
    }
}
