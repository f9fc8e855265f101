//! The host stays a normal host, with the daemon running and after it was killed (P41-63).

use std::time::Duration;

use sixferry_netns_tests::tcp::{Server, connect, echo_once};
use sixferry_netns_tests::topology::{Arms, HOST_V6, Lab, LabPlan, PLAIN_V4, RELAY_V4, RELAY_V6};
use sixferry_netns_tests::{Ping, wait_until};

use crate::started;

/// Without the guest: what is asked here is whether the host still is one.
#[test]
#[ignore = "needs root"]
fn daemon_killed_leaves_host_alive_two_armed() {
    daemon_killed_leaves_host_alive(Arms::Two, "auto");
}

#[test]
#[ignore = "needs root"]
fn daemon_killed_leaves_host_alive_one_armed() {
    daemon_killed_leaves_host_alive(Arms::One, "auto");
}

#[test]
#[ignore = "needs root"]
fn daemon_killed_leaves_host_alive_generic() {
    daemon_killed_leaves_host_alive(Arms::Two, "generic");
}

fn daemon_killed_leaves_host_alive(arms: Arms, mode: &str) {
    let plan = LabPlan::new().arms(arms).without_guest();
    let Some((mut daemon, lab)) = started(&plan, mode, 1280) else {
        return;
    };

    // As an administrator has them open: one connection per family.
    let v4 = Server::listen(&lab.relay, RELAY_V4);
    let mut v4_near = connect(&lab.user, v4.address).expect("TCP over IPv4 to the relay host");
    let mut v4_far = v4.accept().expect("that connection");
    let v6 = Server::listen(&lab.relay, RELAY_V6);
    let mut v6_near = connect(&lab.host, v6.address).expect("TCP over IPv6 to the relay host");
    let mut v6_far = v6.accept().expect("that connection");
    echo_once(&mut v4_near, &mut v4_far, b"before").expect("IPv4 while the daemon runs");
    echo_once(&mut v6_near, &mut v6_far, b"before").expect("IPv6 while the daemon runs");
    host_answers(&lab);

    daemon.process().kill();

    echo_once(&mut v4_near, &mut v4_far, b"after").expect("IPv4 after the kill");
    echo_once(&mut v6_near, &mut v6_far, b"after").expect("IPv6 after the kill");
    host_answers(&lab);
    wait_until("the XDP program is gone", Duration::from_secs(30), || {
        lab.ports()
            .iter()
            .all(|port| !lab.relay.ip(&format!("link show {port}")).contains("xdp"))
    });
    echo_once(&mut v4_near, &mut v4_far, b"without").expect("IPv4 without the program");
    host_answers(&lab);
}

/// Ping both ways in both families, each time after forgetting every neighbour, so that ARP and
/// neighbour discovery must work as well.
fn host_answers(lab: &Lab) {
    for (net, device) in [(&lab.user, "br4"), (&lab.host, "eth0")] {
        net.ip(&format!("neigh flush dev {device}"));
    }
    for port in lab.ports() {
        lab.relay.ip(&format!("neigh flush dev {port}"));
    }
    for (net, to) in [
        (&lab.user, RELAY_V4.into()),
        (&lab.host, std::net::IpAddr::from(RELAY_V6)),
        (&lab.relay, PLAIN_V4.into()),
        (&lab.relay, HOST_V6.into()),
    ] {
        let report = Ping::to(to).count(2).from(net);
        assert!(report.complete(), "from {}\n{}", net.name(), report.text);
    }
}
