//! Interop with a real Linux `sit` router (P41-68): ping, MTU, TCP, on one arm and on two.

use std::fs;
use std::time::Duration;

use sixferry_netns_tests::Ping;
use sixferry_netns_tests::daemon::{Daemon, LAB_TUNNEL};
use sixferry_netns_tests::tcp::{Server, bulk, pattern};
use sixferry_netns_tests::topology::{
    Arms, GUEST_INNER, HOST_V6, Lab, LabPlan, RELAY_INNER, RELAY_V6, USER_V6,
};

use crate::started;

const BULK: usize = 8 << 20;
const BULK_TIME: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root"]
fn sit_peer_pings_through_relay() {
    let Some((daemon, lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    pings_pass(&daemon, &lab);
}

#[test]
#[ignore = "needs root"]
fn sit_peer_pings_through_a_one_armed_relay() {
    let plan = LabPlan::new().arms(Arms::One);
    let Some((daemon, lab)) = started(&plan, "auto", 1280) else {
        return;
    };
    pings_pass(&daemon, &lab);
    bulk(&lab.user, &lab.host, HOST_V6, BULK / 4).expect("TCP from the user");
    bulk(&lab.host, &lab.user, USER_V6, BULK / 4).expect("TCP to the user");
}

fn pings_pass(daemon: &Daemon, lab: &Lab) {
    let out = Ping::to(HOST_V6).count(5).from_guest(lab.guest());
    assert!(
        out.complete(),
        "guest to native host\n{}\n{}",
        out.text,
        daemon.log()
    );
    let back = Ping::to(GUEST_INNER).count(5).from(&lab.host);
    assert!(back.complete(), "native host to guest\n{}", back.text);
    let site = Ping::to(HOST_V6).count(3).from(&lab.user);
    assert!(site.complete(), "user's LAN to native host\n{}", site.text);
    let relay = Ping::to(RELAY_INNER).count(3).from_guest(lab.guest());
    assert!(
        relay.complete(),
        "guest to the relay's tunnel address\n{}",
        relay.text
    );

    let tunnel = daemon.api().tunnel(LAB_TUNNEL).expect("the lab's tunnel");
    let counters = tunnel.counters.expect("its counters");
    // 5 requests, 5 replies, 3 requests and 3 more to the relay came out of the tunnel.
    assert!(counters.received.unwrap_or_default().packets >= 16);
    // 5 replies, 5 requests and 3 replies went into it; the relay's own answers may count or not.
    assert!(counters.sent.unwrap_or_default().packets >= 13);
}

#[test]
#[ignore = "needs root"]
fn sit_peer_tcp_bulk_both_ways() {
    let plan = LabPlan::new().guest_mtu(1480);
    let Some((_daemon, lab)) = started(&plan, "auto", 1480) else {
        return;
    };
    let (guest, bytes) = (lab.guest(), pattern(BULK, 41));

    fs::write(guest.path("/tmp/out"), &bytes).expect("a file of the guest");
    let server = Server::listen(&lab.host, HOST_V6);
    let port = server.address.port();
    let receiver = server.receive();
    let sender = guest.start(&format!("nc {HOST_V6} {port} < /tmp/out"));
    let received = receiver.join().unwrap().expect("TCP from the guest");
    assert!(
        received == bytes,
        "{} of {BULK} bytes, or some differ",
        received.len()
    );
    assert_eq!(sender.wait(BULK_TIME).code, 0);

    let server = Server::listen(&lab.host, HOST_V6);
    let port = server.address.port();
    let sender = server.send(bytes.clone());
    let receiver = guest.start(&format!("nc {HOST_V6} {port} > /tmp/in < /dev/null"));
    assert_eq!(receiver.wait(BULK_TIME).code, 0);
    sender.join().unwrap().expect("TCP to the guest");
    let received = fs::read(guest.path("/tmp/in")).expect("a file of the guest");
    assert!(
        received == bytes,
        "{} of {BULK} bytes, or some differ",
        received.len()
    );

    // And routed by the guest, for connections opened from either end.
    bulk(&lab.user, &lab.host, HOST_V6, BULK).expect("TCP from the user's LAN");
    bulk(&lab.host, &lab.user, USER_V6, BULK).expect("TCP to the user's LAN");
}

#[test]
#[ignore = "needs root"]
fn sit_ping_exact_mtu_and_ptb_at_1280() {
    exact_mtu_and_ptb(1280);
}

#[test]
#[ignore = "needs root"]
fn sit_ping_exact_mtu_and_ptb_at_1480() {
    exact_mtu_and_ptb(1480);
}

/// Into the tunnel: exactly its MTU passes, one byte more is answered (P41-08).
fn exact_mtu_and_ptb(mtu: u16) {
    let Some((daemon, lab)) = started(&LabPlan::new().guest_mtu(mtu), "auto", mtu) else {
        return;
    };
    let exact = Ping::to(GUEST_INNER)
        .packet_len(mtu)
        .count(3)
        .from(&lab.host);
    assert!(exact.complete(), "{}\n{}", exact.text, daemon.log());
    let over = Ping::to(GUEST_INNER).packet_len(mtu + 1).from(&lab.host);
    assert_eq!(
        over.too_big,
        Some((u32::from(mtu), RELAY_V6.to_string())),
        "{}",
        over.text
    );
    assert_eq!(over.received, 0);
}

#[test]
#[ignore = "needs root"]
fn sit_peer_sees_ptb_for_a_smaller_native_link() {
    let plan = LabPlan::new().guest_mtu(1480).lan_mtu(1400);
    let Some((daemon, lab)) = started(&plan, "auto", 1480) else {
        return;
    };
    let exact = Ping::to(HOST_V6)
        .packet_len(1400)
        .count(3)
        .from_guest(lab.guest());
    assert!(exact.complete(), "{}\n{}", exact.text, daemon.log());
    let over = Ping::to(HOST_V6).packet_len(1401).from_guest(lab.guest());
    assert_eq!(
        over.too_big,
        Some((1400, RELAY_V6.to_string())),
        "{}",
        over.text
    );
}
