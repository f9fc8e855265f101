//! The next hop gets another MAC address under traffic and is followed within a second (P41-64).

use std::net::Ipv6Addr;
use std::time::Duration;

use sixferry_netns_tests::flow::{FlowReport, UdpFlow};
use sixferry_netns_tests::topology::{GUEST_V4, HOST_V6, Lab, LabPlan, PLAIN_V4, USER_V6};
use sixferry_netns_tests::wait::{wait_for, wait_until};
use sixferry_netns_tests::{Daemon, DaemonConfig, Net, Ping};

use crate::started;

const RATE: u32 = 500;
const LIMIT: Duration = Duration::from_secs(1);
const NEW_MAC: &str = "02:00:5e:00:77:01";

#[test]
#[ignore = "needs root"]
fn next_hop_mac_change_is_followed_native_side() {
    let Some((_daemon, lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    // A host with a new card announces itself; the relay's kernel hears it, the relay follows.
    lab.host.sysctl("net/ipv6/conf/eth0/ndisc_notify", "1");
    let flow = UdpFlow::start((&lab.user, USER_V6), (&lab.host, HOST_V6), 200, RATE);
    let report = change_mac(&lab, &lab.host, "eth0", flow);
    assert_followed(&report);
}

/// The IPv4 next hop is a router between relay and guest here.
#[test]
#[ignore = "needs root"]
fn next_hop_mac_change_is_followed_tunnel_side() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    lab.user.sysctl("net/ipv4/ip_forward", "1");
    lab.user.sysctl("net/ipv4/conf/all/send_redirects", "0");
    lab.user.sysctl("net/ipv4/conf/br4/send_redirects", "0");
    lab.user.sysctl("net/ipv4/conf/br4/arp_notify", "1");
    lab.relay
        .ip(&format!("route add {GUEST_V4}/32 via {PLAIN_V4}"));
    let config = DaemonConfig::of_lab(&lab, "auto", 1280);
    let _daemon = Daemon::start(&lab.relay, &config);
    let flow = UdpFlow::start((&lab.host, HOST_V6), (&lab.user, USER_V6), 200, RATE);
    let report = change_mac(&lab, &lab.user, "br4", flow);
    assert_followed(&report);
}

/// A managed neighbour entry: the kernel resolves and keeps it although no packet of its own goes
/// there. Of a gateway before any traffic, of a host on the link once the relay asked for it.
#[test]
#[ignore = "needs root"]
fn next_hops_are_managed_neighbours() {
    let Some(lab) = LabPlan::new().build() else {
        return;
    };
    lab.relay
        .ip(&format!("route add 192.0.2.0/24 via {PLAIN_V4}"));
    let daemon = Daemon::start(&lab.relay, &DaemonConfig::of_lab(&lab, "auto", 1280));
    let managed = |address: &str, device: &str| {
        let entry = || lab.relay.ip(&format!("neigh show {address} dev {device}"));
        let found = wait_for(LIMIT * 3, || {
            let entry = entry();
            (entry.contains("lladdr") && entry.contains("managed")).then_some(())
        });
        assert!(found.is_some(), "{:?}\n{}", entry(), daemon.log());
    };
    managed(&PLAIN_V4.to_string(), "wan");
    let ping = Ping::to(HOST_V6).from(&lab.user);
    assert!(ping.complete(), "{}", ping.text);
    managed(&HOST_V6.to_string(), "lan");
}

#[test]
#[ignore = "needs root"]
fn kernel_route_is_followed() {
    let Some((daemon, lab)) = started(&LabPlan::new(), "auto", 1280) else {
        return;
    };
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 1);
    lab.host.ip(&format!("addr add {far}/128 dev lo"));
    let before = Ping::to(far).from(&lab.user);
    assert_eq!(before.received, 0, "{}", before.text);

    lab.relay
        .ip(&format!("route add 2001:db8:eeee::/48 via {HOST_V6}"));
    let took = wait_until("the route is used", LIMIT * 3, || {
        Ping::to(far).wait_s(1).from(&lab.user).complete()
    });
    assert!(took <= LIMIT, "{took:?}\n{}", daemon.log());

    lab.relay.ip("route del 2001:db8:eeee::/48");
    wait_until("the route is not used", LIMIT, || {
        !Ping::to(far).wait_s(1).from(&lab.user).complete()
    });
}

fn change_mac(lab: &Lab, net: &Net, device: &str, flow: UdpFlow) -> FlowReport {
    let ping = Ping::to(HOST_V6).from(&lab.user);
    assert!(ping.complete(), "{}", ping.text);
    flow.wait_received(u64::from(RATE), Duration::from_secs(10));
    let old = net.mac(device);
    net.ip(&format!("link set dev {device} address {NEW_MAC}"));
    assert_ne!(old, net.mac(device));
    flow.wait_received(u64::from(RATE), Duration::from_secs(10));
    flow.stop()
}

fn assert_followed(report: &FlowReport) {
    assert!(report.longest_gap <= LIMIT, "{report:?}");
    assert!(report.lost_packets() <= u64::from(RATE), "{report:?}");
}
