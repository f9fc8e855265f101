//! The real peer itself: does the guest's `sit` speak protocol 41 before a relay is involved?

use std::fs;
use std::time::Duration;

use etherparse::{Icmpv6Type, SlicedPacket, TransportSlice};
use sixferry_netns_tests::flow::UdpFlow;
use sixferry_netns_tests::raw::{RawIpv4, echo_request};
use sixferry_netns_tests::tcp::{Server, bulk, echoed, pattern};
use sixferry_netns_tests::topology::{
    GUEST_INNER, GUEST_LAN, GUEST_V4, HOST_V6, LabPlan, RELAY_INNER, RELAY_V4, RELAY_V6, USER_V6,
};
use sixferry_netns_tests::{Ping, wait_until};

#[test]
#[ignore = "needs root"]
fn guest_answers_an_echo_inside_protocol_41() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    assert!(
        Ping::to(GUEST_LAN).count(2).from(&lab.user).complete(),
        "the user's LAN"
    );
    assert!(
        Ping::to(GUEST_V4).from(&lab.relay).complete(),
        "the underlay"
    );

    let socket = RawIpv4::protocol_41(&lab.relay, RELAY_V4);
    socket.send(GUEST_V4, &echo_request(RELAY_INNER, GUEST_INNER, 64));
    let reply = socket.receive(Duration::from_secs(30)).expect("an answer");
    let outer = SlicedPacket::from_ip(&reply).unwrap();
    let inner = outer.ip_payload().expect("an IPv4 payload").payload;
    let inner = SlicedPacket::from_ip(inner).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = inner.transport else {
        panic!("{reply:02x?}")
    };
    assert!(
        matches!(icmp.icmp_type(), Icmpv6Type::EchoReply(_)),
        "{:?}",
        icmp.icmp_type()
    );
}

#[test]
#[ignore = "needs root"]
fn guest_runs_several_commands_and_tells_their_codes() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let slow = lab.guest().start("sleep 1; echo slow; false");
    let quick = lab.guest().shell("echo quick");
    assert_eq!((quick.code, quick.text.as_str()), (0, "quick"));
    let slow = slow.wait(Duration::from_secs(20));
    assert_eq!((slow.code, slow.text.as_str()), (1, "slow"));
}

/// The harness checked against a path without a relay: what a later test finds is the relay's.
#[test]
#[ignore = "needs root"]
fn traffic_helpers_work_on_the_guests_lan() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let (guest, bytes) = (lab.guest(), pattern(4 << 20, 7));
    fs::write(guest.path("/tmp/out"), &bytes).expect("a file of the guest");
    let server = Server::listen(&lab.user, USER_V6);
    let port = server.address.port();
    let receiver = server.receive();
    let sender = guest.shell(&format!("nc {USER_V6} {port} < /tmp/out"));
    assert_eq!(sender.code, 0, "{}", sender.text);
    assert!(receiver.join().unwrap().expect("TCP from the guest") == bytes);

    let server = Server::listen(&lab.user, USER_V6);
    let port = server.address.port();
    let sender = server.send(bytes.clone());
    let receiver = guest.shell(&format!("nc {USER_V6} {port} > /tmp/in < /dev/null"));
    assert_eq!(receiver.code, 0, "{}", receiver.text);
    sender.join().unwrap().expect("TCP to the guest");
    assert!(fs::read(guest.path("/tmp/in")).expect("a file of the guest") == bytes);

    echoed(guest, &lab.user, USER_V6, 1 << 20).expect("TCP of the guest");

    bulk(&lab.host, &lab.relay, RELAY_V6, 4 << 20).expect("TCP over the cable");
    let flow = UdpFlow::start((&lab.host, HOST_V6), (&lab.relay, RELAY_V6), 100, 2000);
    flow.wait_received(1000, Duration::from_secs(10));
    let report = flow.stop();
    assert!(report.lost.is_empty() && report.sent >= 1000, "{report:?}");
    let ping = Ping::to(GUEST_LAN).packet_len(1500).from(&lab.user);
    assert!(ping.complete() && ping.too_big.is_none(), "{}", ping.text);
}

#[test]
#[ignore = "needs root"]
fn a_broken_cable_shows_up_as_loss() {
    let lab = LabPlan::new()
        .without_guest()
        .build()
        .expect("a lab without a guest");
    let flow = UdpFlow::start((&lab.host, HOST_V6), (&lab.relay, RELAY_V6), 100, 2000);
    flow.wait_received(200, Duration::from_secs(10));
    lab.host.ip("link set eth0 down");
    let sent = flow.sent();
    wait_until("more was sent", Duration::from_secs(10), || {
        flow.sent() > sent + 400
    });
    lab.host.ip("link set eth0 up");
    lab.host
        .ip(&format!("addr replace {HOST_V6}/64 dev eth0 nodad"));
    flow.wait_received(200, Duration::from_secs(10));
    let report = flow.stop();
    assert!(report.lost_packets() >= 400, "{report:?}");
    assert!(
        report.longest_gap >= Duration::from_millis(100),
        "{report:?}"
    );
}
