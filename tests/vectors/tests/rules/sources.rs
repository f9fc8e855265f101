//! Which inner sources are legal where.

use crate::outer_header;
use sixferry_fwd::{DropReason, Route, RouteSource, Settings, TunnelSpec, Verdict};
use sixferry_vectors::relay::{
    HOST, INSIDE, LINK_A, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, prefix, udp,
    v6,
};
use std::net::Ipv4Addr;

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
fn own_link_address_is_nobodys_source() {
    let mut relay = Relay::new();
    let sent = relay.tunnelled(REMOTE_A, &udp(LINK_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
}
