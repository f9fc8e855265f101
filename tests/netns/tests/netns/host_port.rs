//! The host port: the relay host's own stack and the users of its tunnels reach each other, beside
//! everything that only passes through.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use sixferry_netns_tests::daemon::{Daemon, DaemonConfig, LAB_TUNNEL};
use sixferry_netns_tests::flow::{Peer, UdpFlow};
use sixferry_netns_tests::ledger::{assert_every_packet_accounted_for, packets};
use sixferry_netns_tests::tcp::{Server, bulk, pattern};
use sixferry_netns_tests::topology::{
    GUEST_INNER, HOST_V6, Lab, LabPlan, PLAIN_V4, RELAY_V4, RELAY_V6, USER_V6,
};
use sixferry_netns_tests::{Ping, wait_until};
use sixferry_proto::dataplane::v1::TunnelState;

const BULK: usize = 2 << 20;
const SOON: Duration = Duration::from_secs(30);
const DEVICE: &str = "sixferry0";

const PAGE: usize = 2 << 20;
const RATE: u32 = 500;

/// Another user, whose traffic only passes through.
const OTHER_PREFIX: &str = "2001:db8:200::/48";
const OTHER_INNER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 2);

fn with_host_port() -> Option<(Daemon, Lab)> {
    with_host_port_and("")
}

fn with_host_port_and(sections: &str) -> Option<(Daemon, Lab)> {
    let lab = LabPlan::new().build()?;
    let config = DaemonConfig::of_lab(&lab, "auto", 1280).section(sections);
    let daemon = Daemon::start(&lab.relay, &config.section("[host_port]\nenabled = true"));
    Some((daemon, lab))
}

fn routes(lab: &Lab) -> String {
    lab.relay.ip("-6 route show proto 141")
}

#[test]
#[ignore = "needs root"]
fn the_host_and_tunnel_users_reach_each_other() {
    let Some((mut daemon, lab)) = with_host_port() else {
        return;
    };
    wait_until("the kernel has the routes", SOON, || {
        let routes = routes(&lab);
        routes.contains("2001:db8:100::/48") && routes.contains("2001:db8:fe::/64")
    });
    for user in [GUEST_INNER, USER_V6] {
        let out = Ping::to(user).count(3).from(&lab.relay);
        assert!(out.complete(), "{user}\n{}\n{}", out.text, daemon.log());
    }
    let back = Ping::to(RELAY_V6).count(3).from(&lab.user);
    assert!(back.complete(), "user to the host\n{}", back.text);

    // A server on the relay host for users over their tunnel, and the other way round.
    bulk(&lab.user, &lab.relay, RELAY_V6, BULK).expect("TCP from the user to the host");
    bulk(&lab.relay, &lab.user, USER_V6, BULK).expect("TCP from the host to the user");

    // Nobody else's packets went that way.
    let host_port = || {
        let counters = daemon.api().counters();
        let host = counters.host_port.expect("there is a host port");
        (packets(host.to_host), packets(host.from_host), host.dropped)
    };
    let before = host_port();
    assert!(before.0 > 10 && before.1 > 10, "{before:?}");
    assert_eq!(before.2, 0, "dropped");
    let through = Ping::to(HOST_V6).count(3).from(&lab.user);
    assert!(through.complete(), "{}", through.text);
    assert_eq!(host_port(), before);

    daemon.process().stop(SOON);
    assert_eq!(routes(&lab), "");
    assert!(!lab.relay.ip("-o link show").contains(DEVICE));
}

#[test]
#[ignore = "needs root"]
fn large_packets_of_the_host_are_told_the_tunnels_mtu() {
    let Some((daemon, lab)) = with_host_port() else {
        return;
    };
    wait_until("the kernel has the routes", SOON, || {
        routes(&lab).contains("2001:db8:100::/48")
    });
    // Wider than the tunnel, so that the relay has to say so.
    lab.relay.ip(&format!("link set {DEVICE} mtu 1500"));
    bulk(&lab.relay, &lab.user, USER_V6, BULK / 2).expect("TCP from the host to the user");
    let route = lab.relay.ip(&format!("-6 route get {USER_V6}"));
    assert!(route.contains("mtu 1280"), "{route}\n{}", daemon.log());
}

#[test]
#[ignore = "needs root"]
fn packet_threads_hold_no_capability() {
    let lab = LabPlan::new().without_guest().build().expect("a lab");
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    let config = config.section("[host_port]\nenabled = true");
    let mut daemon = Daemon::start(&lab.relay, &config);
    let tasks = format!("/proc/{}/task", daemon.process().pid());
    let mut seen = Vec::new();
    for task in std::fs::read_dir(tasks).expect("its threads") {
        let task = task.expect("a thread").path();
        let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let (name, status) = (read("comm"), read("status"));
        let field = |key| status.lines().find_map(|line| line.strip_prefix(key));
        let bits = |key| {
            let text = field(key).unwrap_or("0").trim();
            u64::from_str_radix(text, 16).expect("hexadecimal")
        };
        let name = name.trim().to_owned();
        let parses_strangers = ["worker-", "punt", "host"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if parses_strangers {
            let held = bits("CapEff:") | bits("CapPrm:") | bits("CapInh:") | bits("CapAmb:");
            assert_eq!(held, 0, "{name}");
            seen.push(name);
        } else if name == "sixferryd" {
            assert_ne!(bits("CapEff:"), 0, "the control side needs some");
        }
    }
    seen.sort();
    assert_eq!(seen, ["host", "punt", "worker-0"]);
}

#[test]
#[ignore = "needs root"]
fn a_silent_peer_is_found_unreachable_and_found_again() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    let keys = "liveness = \"nud\"\nliveness_interval_seconds = 5";
    let config = DaemonConfig::ports_of_lab(&lab, "auto").tunnel(keys);
    let daemon = Daemon::start(&lab.relay, &config);
    let state = || {
        let tunnel = daemon.api().tunnel(LAB_TUNNEL).expect("the lab's tunnel");
        tunnel.state()
    };
    wait_until("the peer answers", SOON, || state() == TunnelState::Up);
    lab.user.ip("link set tap4 nomaster");
    let silent = Duration::from_secs(40);
    let took = wait_until("the peer is missed", silent, || {
        state() == TunnelState::Unreachable
    });
    assert!(took > Duration::from_secs(5), "{took:?}");
    lab.user.ip("link set tap4 master br4");
    wait_until("the peer is back", silent, || state() == TunnelState::Up);
}

/// The relay host's web page, over the user's tunnel.
#[test]
#[ignore = "needs root"]
fn a_user_fetches_a_page_of_the_relay_host() {
    let Some((daemon, lab)) = with_host_port() else {
        return;
    };
    wait_until("the kernel has the routes", SOON, || {
        routes(&lab).contains("2001:db8:fe::/64")
    });
    let page = pattern(PAGE, 80);
    let server = Server::listen(&lab.relay, RELAY_V6);
    let port = server.address.port();
    let body = page.clone();
    let serving = thread::spawn(move || {
        let mut stream = server.accept()?;
        let mut request = [0; 1024];
        let len = stream.read(&mut request)?;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(&body)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&request[..len]).into_owned())
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
    assert_every_packet_accounted_for(&daemon);
}

/// The host's own bulk transfers take the way of its packets, not that of others.
#[test]
#[ignore = "needs root"]
fn transfers_of_the_relay_host_cost_others_nothing() {
    let other = format!(
        "[[tunnel]]\nid = \"other\"\nlocal = \"{RELAY_V4}\"\nremote = \"{PLAIN_V4}\"\n\
         prefixes = [\"{OTHER_PREFIX}\"]"
    );
    let Some((daemon, lab)) = with_host_port_and(&other) else {
        return;
    };
    wait_until("the kernel has the routes", SOON, || {
        routes(&lab).contains("2001:db8:100::/48")
    });
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
        up.wait_received(5, SOON);
        down.wait_received(5, SOON);
        [up, down]
    };
    // So that every neighbour is known.
    for flow in flows(50) {
        let _ = flow.stop();
    }
    let flows = flows(RATE);
    bulk(&lab.relay, &lab.user, USER_V6, 2 * BULK).expect("TCP from the relay host to a user");
    bulk(&lab.user, &lab.relay, RELAY_V6, 2 * BULK).expect("TCP from a user to the relay host");
    for (name, flow) in ["up", "down"].into_iter().zip(flows) {
        flow.wait_received(u64::from(RATE), SOON);
        let report = flow.stop();
        assert!(
            report.lost.is_empty() && report.duplicated == 0,
            "{name}: {report:?}"
        );
    }
    assert_every_packet_accounted_for(&daemon);
}
