//! The relay host and its users: its own stack reaches them and is reached by them through the host
//! port, beside everything that only passes through.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::flow::{Peer, UdpFlow};
use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, packets};
use sixferry_netns_tests::tcp::{Server, bulk, pattern};
use sixferry_netns_tests::topology::{
    GUEST_INNER, HOST_V6, Lab, LabPlan, PLAIN_V4, RELAY_V4, RELAY_V6, USER_V6,
};
use sixferry_netns_tests::{Ping, wait_until};

const PAGE: usize = 2 << 20;
const BULK: usize = 4 << 20;
const RATE: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(20);

/// Another user, whose traffic only passes through.
const OTHER_PREFIX: &str = "2001:db8:200::/48";
const OTHER_INNER: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 2);

fn start(lab: &Lab) -> Daemon {
    let config = DaemonConfig::of_lab(lab, "auto", 1280)
        .section(&format!(
            "[[tunnel]]\nid = \"other\"\nlocal = \"{RELAY_V4}\"\nremote = \"{PLAIN_V4}\"\n\
             prefixes = [\"{OTHER_PREFIX}\"]"
        ))
        .section("[host_port]\nenabled = true\nname = \"users0\"");
    Daemon::start(&lab.relay, &config)
}

fn ready(lab: &Lab) {
    wait_until("the host has its routes to the users", PATIENCE, || {
        let routes = lab.relay.ip("-6 route show dev users0");
        [sixferry_netns_tests::topology::USER_PREFIX, OTHER_PREFIX]
            .iter()
            .all(|prefix| routes.contains(prefix))
    });
}

#[test]
#[ignore = "needs root"]
fn relay_host_and_users_reach_each_other() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let daemon = start(&lab);
    ready(&lab);
    for to in [GUEST_INNER, USER_V6] {
        let ping = Ping::to(to).count(3).from(&lab.relay);
        assert!(ping.complete(), "{}\n{}", ping.text, daemon.log());
    }
    let ping = Ping::to(RELAY_V6).count(3).from_guest(lab.guest());
    assert!(ping.complete(), "{}", ping.text);
    let ping = Ping::to(RELAY_V6).count(3).from(&lab.user);
    assert!(ping.complete(), "{}", ping.text);
    bulk(&lab.relay, &lab.user, USER_V6, BULK).expect("TCP from the relay host to a user");
    bulk(&lab.user, &lab.relay, RELAY_V6, BULK).expect("TCP from a user to the relay host");
    page_is_fetched(&lab);

    let report = assert_every_packet_accounted_for(&daemon);
    let host_port = report.host_port.unwrap_or_default();
    assert_eq!(host_port.dropped, 0);
    let (to, from) = (packets(host_port.to_host), packets(host_port.from_host));
    assert!(to > 1000 && from > 1000, "{host_port:?}");
    // Without the daemon the host knows no way to the users.
    drop(daemon);
    wait_until("the device is gone", PATIENCE, || {
        !lab.relay.try_ip("link show users0")
    });
}

/// The relay host's web page, over the user's tunnel.
fn page_is_fetched(lab: &Lab) {
    let page = pattern(PAGE, 80);
    let server = Server::listen(&lab.relay, RELAY_V6);
    let port = server.address.port();
    let body = page.clone();
    let serving = thread::spawn(move || {
        let mut stream = server.accept()?;
        let mut request = [0; 1024];
        let len = stream.read(&mut request)?;
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&request[..len]).into_owned())
    });
    lab.guest().run(&format!(
        "wget -q -O /tmp/page http://[{RELAY_V6}]:{port}/users"
    ));
    let request = serving.join().expect("no panic").expect("a request");
    assert!(request.starts_with("GET /users "), "{request}");
    let fetched = fs::read(lab.guest().path("/tmp/page")).expect("a file of the guest");
    assert!(
        fetched == page,
        "{} of {PAGE} bytes, or some differ",
        fetched.len()
    );
}

/// The host's own bulk transfers take the way of its packets, not that of others.
#[test]
#[ignore = "needs root"]
fn transfers_of_the_relay_host_cost_others_nothing() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let daemon = start(&lab);
    ready(&lab);
    lab.host
        .ip(&format!("route add {OTHER_PREFIX} via {RELAY_V6}"));
    let peer = Peer {
        net: &lab.user,
        outer: PLAIN_V4,
        relay: RELAY_V4,
        inner: OTHER_INNER,
    };
    let flows = |rate| {
        let up = UdpFlow::from_peer(peer, (&lab.host, HOST_V6), 200, rate);
        let down = UdpFlow::to_peer((&lab.host, HOST_V6), peer, 200, rate);
        up.wait_received(5, PATIENCE);
        down.wait_received(5, PATIENCE);
        [up, down]
    };
    for flow in flows(50) {
        let _ = flow.stop();
    }
    let flows = flows(RATE);
    bulk(&lab.relay, &lab.user, USER_V6, BULK).expect("TCP from the relay host to a user");
    bulk(&lab.user, &lab.relay, RELAY_V6, BULK).expect("TCP from a user to the relay host");
    for (name, flow) in ["up", "down"].into_iter().zip(flows) {
        flow.wait_received(u64::from(RATE), PATIENCE);
        let report = flow.stop();
        assert!(
            report.lost.is_empty() && report.duplicated == 0,
            "{name}: {report:?}"
        );
    }
    assert_every_packet_accounted_for(&daemon);
}
