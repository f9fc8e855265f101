//! Fragments on both sides of the relay, of a real peer's making and of its own (proto-41 1.1, 2.3;
//! P41-29, P41-32): links too small for the outer packet on the user's side and at the relay.

use sixferry_netns_tests::flow::UdpFlow;
use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, punted_for};
use sixferry_netns_tests::site::{Kind, SIX_IN_FOUR, Site, UDP, UDP_PORT};
use sixferry_netns_tests::tcp::bulk;
use sixferry_netns_tests::topology::{HOST_V6, Lab, LabPlan};
use sixferry_netns_tests::{Daemon, DaemonConfig, Ping};

const MTU: u16 = 1280;
/// Below what a packet of that size needs outside, and no multiple of eight behind the header.
const SMALL_LINK: u16 = 1001;
const BULK: usize = 1 << 20;
const RATE: u32 = 200;
const PACKETS: u64 = 200;
/// IPv6 and UDP headers.
const HEADERS: u16 = 48;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Only the user's own link is small: what he sends comes in pieces, what he gets does not.
#[test]
#[ignore = "needs root"]
fn sit_peer_behind_a_small_link_sends_fragments() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let daemon = start(&lab);
    shrink_guest(&lab);
    traffic_passes(&lab);
    let report = assert_every_packet_accounted_for(&daemon);
    let reassembled = report.reassembly.unwrap_or_default().reassembled;
    assert!(reassembled >= PACKETS, "{reassembled}");
    assert_eq!(punted_for(&report, "outer_too_big"), 0);
}

#[test]
#[ignore = "needs root"]
fn sit_packets_cross_a_small_link_in_fragments_both_ways() {
    fragments_both_ways(&SIX_IN_FOUR);
}

/// The pieces behind the first have no ports: only an address that belongs to tunnels alone can be
/// the relay's when UDP comes in fragments (5.3).
#[test]
#[ignore = "needs root"]
fn fou_packets_cross_a_small_link_in_fragments_both_ways() {
    fragments_both_ways(&UDP);
}

fn fragments_both_ways(site: &Site) {
    let Some(lab) = LabPlan::new().site(site).build() else {
        return;
    };
    lab.relay.ip(&format!("link set wan mtu {SMALL_LINK}"));
    lab.user.ip(&format!("link set uplink mtu {SMALL_LINK}"));
    if matches!(site.kind, Kind::Udp { .. }) {
        dedicate_address(&lab);
    }
    let daemon = start(&lab);
    shrink_guest(&lab);
    traffic_passes(&lab);
    let report = assert_every_packet_accounted_for(&daemon);
    let reassembled = report.reassembly.unwrap_or_default().reassembled;
    let cut = punted_for(&report, "outer_too_big");
    assert!(
        reassembled >= PACKETS && cut >= PACKETS,
        "{reassembled} {cut}"
    );
}

/// The tunnel address is no longer one of the relay host; the guest has it routed, here by a fixed
/// neighbour.
fn dedicate_address(lab: &Lab) {
    let address = lab.site.relay_v4;
    let [a, b, c, _] = address.octets();
    lab.relay.ip(&format!("addr del {address}/24 dev wan"));
    lab.relay
        .ip(&format!("addr add {a}.{b}.{c}.254/24 dev wan"));
    let mac = lab.relay.mac("wan");
    lab.guest().run(&format!(
        "ip neigh replace {address} lladdr {mac} dev vec0 nud permanent"
    ));
}

fn start(lab: &Lab) -> Daemon {
    Daemon::start(&lab.relay, &DaemonConfig::of_lab(lab, "auto", MTU))
}

/// `sit` clears DF only if it also copies the TTL. The ports are given again: `ip` would read them
/// in one byte order and write them in the other.
fn shrink_guest(lab: &Lab) {
    let change = match lab.site.kind {
        Kind::Udp { .. } => format!(
            "ip link change t0 type sit ttl inherit nopmtudisc encap fou \
             encap-sport {UDP_PORT} encap-dport {UDP_PORT} encap-csum"
        ),
        _ => "ip tunnel change t0 mode sit ttl 0 nopmtudisc".to_owned(),
    };
    lab.guest().run(&format!(
        "{change} && ip link set t0 mtu {MTU} && ip link set vec0 mtu {SMALL_LINK}"
    ));
}

/// Packets of exactly the tunnel's MTU both ways: echo, TCP, and a stream that loses nothing.
fn traffic_passes(lab: &Lab) {
    let site = &lab.site;
    let out = Ping::to(HOST_V6).packet_len(MTU).count(3);
    let out = out.from_guest(lab.guest());
    assert!(out.complete() && out.too_big.is_none(), "{}", out.text);
    let back = Ping::to(site.guest_inner).packet_len(MTU).count(3);
    let back = back.from(&lab.host);
    assert!(back.complete() && back.too_big.is_none(), "{}", back.text);
    bulk(&lab.user, &lab.host, HOST_V6, BULK).expect("TCP from the user's LAN");
    bulk(&lab.host, &lab.user, site.user_v6, BULK).expect("TCP to the user's LAN");
    let (user, host) = ((&lab.user, site.user_v6), (&lab.host, HOST_V6));
    let payload = usize::from(MTU - HEADERS);
    for flow in [
        UdpFlow::start(user, host, payload, RATE),
        UdpFlow::start(host, user, payload, RATE),
    ] {
        flow.wait_received(PACKETS, PATIENCE);
        let report = flow.stop();
        assert!(report.lost.is_empty(), "{report:?}");
    }
}
