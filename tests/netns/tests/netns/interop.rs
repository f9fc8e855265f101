//! Interop with real Linux routers in 6to4, 6rd and UDP (P41-68): ping, MTU, TCP, spoofing, and
//! every packet accounted for. The configured tunnel has its own file, `sit`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use sixferry_netns_tests::ledger::{
    assert_every_packet_accounted_for, balance, dropped_for, packets,
};
use sixferry_netns_tests::raw::{
    RawIpv4, echo_reply, echo_request, send_spoofed, send_spoofed_udp,
};
use sixferry_netns_tests::site::{
    RD_PREFIX, SIX_RD, SIX_TO_FOUR, Site, UDP, UDP_PORT, UDP_WITHOUT_CHECKSUM,
};
use sixferry_netns_tests::tcp::{bulk, echoed};
use sixferry_netns_tests::topology::{HOST_V6, Lab, LabPlan, RELAY_V6};
use sixferry_netns_tests::wait_until;
use sixferry_netns_tests::{Daemon, Ping};

use crate::started;

const BULK: usize = 4 << 20;
/// The guest's own TCP, on an emulated processor.
const GUEST_BULK: usize = 1 << 20;
const SPOOFS: u64 = 20;
const COUNTED: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root"]
fn sixtofour_peer_pings_and_runs_tcp_through_the_relay() {
    pings_and_tcp(&SIX_TO_FOUR, 1280);
}

#[test]
#[ignore = "needs root"]
fn sixrd_peer_pings_and_runs_tcp_through_the_relay() {
    pings_and_tcp(&SIX_RD, 1480);
}

#[test]
#[ignore = "needs root"]
fn fou_peer_pings_and_runs_tcp_through_the_relay() {
    pings_and_tcp(&UDP, 1472);
}

#[test]
#[ignore = "needs root"]
fn fou_peer_without_checksum_pings_and_runs_tcp_through_the_relay() {
    pings_and_tcp(&UDP_WITHOUT_CHECKSUM, 1280);
}

/// Both ways, opened from both ends, ended in the guest and forwarded by it.
fn pings_and_tcp(site: &Site, mtu: u16) {
    let plan = LabPlan::new().site(site).guest_mtu(mtu);
    let Some((daemon, lab)) = started(&plan, "auto", mtu) else {
        return;
    };
    let out = Ping::to(HOST_V6).count(5).from_guest(lab.guest());
    assert!(out.complete(), "{}\n{}", out.text, daemon.log());
    let back = Ping::to(site.guest_inner).count(5).from(&lab.host);
    assert!(back.complete(), "native host to guest\n{}", back.text);
    let user = Ping::to(HOST_V6).count(3).from(&lab.user);
    assert!(user.complete(), "user's LAN to native host\n{}", user.text);
    let native = Ping::to(site.user_v6).count(3).from(&lab.host);
    assert!(native.complete(), "to the user's LAN\n{}", native.text);
    if let Some(relay) = site.relay_inner {
        let relay = Ping::to(relay).count(3).from_guest(lab.guest());
        assert!(relay.complete(), "the relay itself\n{}", relay.text);
    }

    echoed(lab.guest(), &lab.host, HOST_V6, GUEST_BULK).expect("TCP of the guest, both ways");
    bulk(&lab.user, &lab.host, HOST_V6, BULK).expect("TCP from the user's LAN");
    bulk(&lab.host, &lab.user, site.user_v6, BULK).expect("TCP to the user's LAN");
    let report = assert_every_packet_accounted_for(&daemon);
    // What waits for a neighbour goes back once, when the workers know it: there are three of these.
    let back = packets(report.total.unwrap_or_default().injected);
    assert!(back <= 10, "sent back to the workers: {back} packets");
}

#[test]
#[ignore = "needs root"]
fn sixtofour_exact_mtu_and_ptb() {
    exact_mtu_and_ptb(&SIX_TO_FOUR, 1280);
}

#[test]
#[ignore = "needs root"]
fn sixrd_exact_mtu_and_ptb() {
    exact_mtu_and_ptb(&SIX_RD, 1480);
}

#[test]
#[ignore = "needs root"]
fn fou_exact_mtu_and_ptb() {
    exact_mtu_and_ptb(&UDP, 1472);
}

/// Into the tunnel: exactly its MTU passes, one byte more is answered (P41-08). Out of it, with a
/// smaller link behind the relay: the error finds its way back through the tunnel.
fn exact_mtu_and_ptb(site: &Site, mtu: u16) {
    let native_mtu: u32 = if mtu > 1400 { 1400 } else { 1500 };
    let plan = LabPlan::new().site(site).guest_mtu(mtu).lan_mtu(native_mtu);
    let Some((daemon, lab)) = started(&plan, "auto", mtu) else {
        return;
    };
    if native_mtu == 1400 {
        let exact = Ping::to(HOST_V6).packet_len(1400).from_guest(lab.guest());
        assert!(exact.complete(), "{}\n{}", exact.text, daemon.log());
        let over = Ping::to(HOST_V6).packet_len(1401).from_guest(lab.guest());
        assert_eq!(over.too_big, Some((1400, RELAY_V6.to_string())));
        for (net, port) in [(&lab.relay, "lan"), (&lab.host, "eth0")] {
            net.ip(&format!("link set {port} mtu 1500"));
        }
        wait_until("the relay sees the larger link", COUNTED, || {
            let ports = daemon.api().ports();
            ports.iter().any(|p| p.name == "lan" && p.mtu == 1500)
        });
    }
    let exact = Ping::to(site.guest_inner).packet_len(mtu).count(3);
    let exact = exact.from(&lab.host);
    assert!(exact.complete(), "{}\n{}", exact.text, daemon.log());
    let over = Ping::to(site.guest_inner).packet_len(mtu + 1);
    let over = over.from(&lab.host);
    let expected = Some((u32::from(mtu), RELAY_V6.to_string()));
    assert_eq!(over.too_big, expected, "{}", over.text);
    assert_eq!(over.received, 0);
    assert_every_packet_accounted_for(&daemon);
}

#[test]
#[ignore = "needs root"]
fn sixtofour_spoofed_sources_are_dropped_and_counted() {
    let Some((daemon, lab)) = started(&LabPlan::new().site(&SIX_TO_FOUR), "auto", 1280) else {
        return;
    };
    let site = &lab.site;
    let from = |outer: Ipv4Addr, source: &str| {
        let inner = echo_request(source.parse().unwrap(), HOST_V6, 64);
        send_spoofed(&lab.user, outer, site.relay_v4, &inner);
    };
    // Another user's address from the guest, the guest's from another host.
    drops(&daemon, &lab, "S6TO4_SRC_MISMATCH", || {
        from(site.guest_v4, "2002:800:3::1");
    });
    drops(&daemon, &lab, "S6TO4_SRC_MISMATCH", || {
        from(site.plain_v4, "2002:800:2::1");
    });
    drops(&daemon, &lab, "S6TO4_NATIVE_NATIVE", || {
        from(site.guest_v4, "2001:db8:ffff::77");
    });
    drops(&daemon, &lab, "V4_SRC_MARTIAN", || {
        from(Ipv4Addr::new(10, 0, 0, 1), "2002:a00:1::1");
    });
}

#[test]
#[ignore = "needs root"]
fn sixrd_spoofed_sources_are_dropped_and_counted() {
    let Some((daemon, lab)) = started(&LabPlan::new().site(&SIX_RD), "auto", 1280) else {
        return;
    };
    let site = &lab.site;
    let from = |outer: Ipv4Addr, source: &str| {
        let inner = echo_request(source.parse().unwrap(), HOST_V6, 64);
        send_spoofed(&lab.user, outer, site.relay_v4, &inner);
    };
    drops(&daemon, &lab, "S6RD_SRC_MISMATCH", || {
        from(site.guest_v4, "2001:db8:6f89:180::1");
    });
    drops(&daemon, &lab, "S6RD_SRC_MISMATCH", || {
        from(site.plain_v4, "2001:db8:6f89:100::1");
    });
    drops(&daemon, &lab, "S6RD_SRC_NOT_IN_DOMAIN", || {
        from(site.guest_v4, "2001:db8:ffff::77");
    });
}

#[test]
#[ignore = "needs root"]
fn udp_spoofed_sources_are_dropped_and_counted() {
    let Some((daemon, lab)) = started(&LabPlan::new().site(&UDP), "auto", 1280) else {
        return;
    };
    let site = &lab.site;
    let to = SocketAddrV4::new(site.relay_v4, UDP_PORT);
    let from = |outer: Ipv4Addr, port: u16, source: &str| {
        let inner = echo_request(source.parse().unwrap(), HOST_V6, 64);
        send_spoofed_udp(&lab.user, SocketAddrV4::new(outer, port), to, &inner);
    };
    drops(&daemon, &lab, "INNER_SRC_SPOOF", || {
        from(site.guest_v4, UDP_PORT, "2001:db8:ffff::77");
    });
    // Right inside, but from elsewhere: the tunnel does not move by itself.
    let inner = site.guest_inner.to_string();
    drops(&daemon, &lab, "UDP_REMOTE_MISMATCH", || {
        from(site.plain_v4, UDP_PORT, &inner);
    });
    drops(&daemon, &lab, "UDP_REMOTE_MISMATCH", || {
        from(site.guest_v4, UDP_PORT + 1, &inner);
    });
}

/// Each of these packets is dropped for exactly this reason, and the honest peer notices nothing.
fn drops(daemon: &Daemon, lab: &Lab, reason: &str, send: impl Fn()) {
    let mut before = dropped_for(&daemon.api().counters(), reason);
    for _ in 0..SPOOFS {
        send();
    }
    before += SPOOFS;
    wait_until(reason, COUNTED, || {
        dropped_for(&daemon.api().counters(), reason) >= before
    });
    let honest = Ping::to(HOST_V6).from_guest(lab.guest());
    assert!(honest.complete(), "{}\n{}", honest.text, daemon.log());
    let report = assert_every_packet_accounted_for(daemon);
    assert_eq!(dropped_for(&report, reason), before, "{reason}");
}

/// CE to CE by way of the border relay, there and back (RFC 5969 section 8, P41-51).
#[test]
#[ignore = "needs root"]
fn sixrd_users_reach_each_other_through_the_relay() {
    let Some((daemon, lab)) = started(&LabPlan::new().site(&SIX_RD), "auto", 1280) else {
        return;
    };
    let site = &lab.site;
    // `sit` goes straight to everybody in its domain. With all 32 bits in common its domain is its
    // own prefix and everything takes the way over the relay: RFC 5969's hub and spoke.
    lab.guest().run(&format!(
        "ip tunnel 6rd dev t0 6rd-prefix 2001:db8:6f89:100::/57 6rd-relay_prefix {}/32\n\
         ip -6 route replace {RD_PREFIX} via ::{} dev t0 metric 1",
        site.guest_v4, site.relay_v4
    ));
    // 10.79.18.3 is 0xf1203.
    let other: Ipv6Addr = "2001:db8:6f89:180::1".parse().unwrap();
    let neighbour = RawIpv4::protocol_41(&lab.user, site.plain_v4);
    let ping = lab.guest().start(&format!("/sbin/ping -c 1 -W 10 {other}"));
    let packet = neighbour.receive(COUNTED).expect("a packet of the relay's");
    assert_eq!(packet[12..16], site.relay_v4.octets());
    let request = &packet[20..];
    assert_eq!(request[8..24], site.guest_inner.octets());
    assert_eq!(request[24..40], other.octets());
    assert_eq!(request[7], 63, "one hop");
    neighbour.send(site.relay_v4, &echo_reply(request));
    let said = ping.wait(COUNTED * 4);
    assert_eq!(said.code, 0, "{}", said.text);
    let report = assert_every_packet_accounted_for(&daemon);
    assert_eq!(balance(&report).forwarded, 2);
}
