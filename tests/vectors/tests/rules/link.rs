//! Ports, VLAN tags and next hops.

use crate::{inner_header, outer_header};
use sixferry_fwd::{
    DropReason, NextHop, NextHopState, PortConfig, PortKind, PuntReason, Route, RouteSource,
    Verdict,
};
use sixferry_vectors::harness::{NEIGHBOUR_MAC, PORT_MAC};
use sixferry_vectors::relay::{
    HOST, INSIDE, OUTSIDE, REMOTE_A, Relay, USER_A, ethernet, outer, udp,
};
use sixferry_wire::ether;
use std::net::{IpAddr, Ipv4Addr};

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
