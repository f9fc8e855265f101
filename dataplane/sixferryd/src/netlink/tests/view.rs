//! The view against a sink that checks what it is told.

#[path = "view_host.rs"]
mod host;

use sixferry_fwd::{NextHopState, PortKind, link_scoped};

use super::super::types::{Change, VlanPolicy};
use super::*;
use host::{Host, LOCAL, MAIN, ip, link, port, resolved, special, unicast, via, vlan};

const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

#[test]
fn gateway_mac_change_rewrites_the_hop_not_the_routes() {
    let mut host = Host::new();
    host.route("10.0.0.0/8", &[via(2, "192.0.2.1")]);
    host.route("2001:db8::/32", &[via(2, "192.0.2.1")]);
    let unresolved = NextHopState::Unresolved {
        gateway: ip("192.0.2.1"),
    };
    assert_eq!(host.tables.hop("10.0.0.0/8").state, unresolved);
    assert_eq!(
        host.tables.hops.len(),
        1,
        "one hop per interface and gateway"
    );
    let writes = host.tables.route_writes;

    host.neighbour(2, "192.0.2.1", Some(PEER));
    assert_eq!(host.tables.hop("10.0.0.0/8").state, resolved(PEER));
    host.neighbour(2, "192.0.2.1", Some(OTHER));
    assert_eq!(host.tables.hop("2001:db8::/32").state, resolved(OTHER));
    host.neighbour(2, "192.0.2.1", None);
    assert_eq!(host.tables.hop("10.0.0.0/8").state, unresolved);
    assert_eq!(host.tables.route_writes, writes);

    host.gone("10.0.0.0/8", &[via(2, "192.0.2.1")]);
    host.gone("2001:db8::/32", &[via(2, "192.0.2.1")]);
    assert!(host.tables.routes.is_empty() && host.tables.hops.is_empty());
    assert_eq!(host.view.hop_count(), 0);
}

#[test]
fn gateways_of_ports_only_are_kept_while_used() {
    let mut host = Host::new();
    host.route("10.0.0.0/8", &[via(2, "192.0.2.1")]);
    host.route("10.1.0.0/16", &[via(2, "192.0.2.1")]);
    host.route("10.2.0.0/16", &[via(9, "198.51.100.1")]);
    assert_eq!(
        host.view.take_hints().gateways,
        [(via(2, "192.0.2.1"), true)]
    );
    host.gone("10.0.0.0/8", &[via(2, "192.0.2.1")]);
    assert_eq!(host.view.take_hints().gateways, []);
    host.gone("10.1.0.0/16", &[via(2, "192.0.2.1")]);
    assert_eq!(
        host.view.take_hints().gateways,
        [(via(2, "192.0.2.1"), false)]
    );
}

#[test]
fn lowest_metric_and_first_table_win() {
    let mut host = Host::new();
    let (cheap, dear) = ([via(2, "192.0.2.1")], [via(3, "198.51.100.1")]);
    host.apply(Change::Route(
        unicast("0.0.0.0/0", 200, &dear),
        Placement::First,
    ));
    host.apply(Change::Route(
        unicast("0.0.0.0/0", 100, &cheap),
        Placement::First,
    ));
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(0));
    host.apply(Change::RouteGone(unicast("0.0.0.0/0", 100, &cheap)));
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(1));
    let local = special("0.0.0.0/0", LOCAL, RouteTarget::Local);
    host.apply(Change::Route(local.clone(), Placement::First));
    assert_eq!(host.tables.route("0.0.0.0/0"), Some(Route::Local));
    host.apply(Change::RouteGone(local));
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(1));
    let elsewhere = special("0.0.0.0/0", 100, RouteTarget::Blackhole);
    host.apply(Change::Route(elsewhere, Placement::First));
    assert_eq!(
        host.tables.hop("0.0.0.0/0").port,
        PortId(1),
        "not one of our tables"
    );
}

#[test]
fn replace_swaps_the_first_of_the_same_metric() {
    let mut host = Host::new();
    host.route("10.0.0.0/8", &[via(2, "192.0.2.1")]);
    let new = unicast("10.0.0.0/8", 0, &[via(3, "198.51.100.1")]);
    host.apply(Change::Route(new, Placement::Replace));
    assert_eq!(host.tables.hop("10.0.0.0/8").port, PortId(1));
    assert_eq!(host.tables.hops.len(), 1);
    host.gone("10.0.0.0/8", &[via(3, "198.51.100.1")]);
    assert_eq!(host.tables.route("10.0.0.0/8"), None);
}

#[test]
fn special_routes_keep_their_meaning() {
    let mut host = Host::new();
    for (prefix, target, route) in [
        ("10.1.0.0/16", RouteTarget::Blackhole, Route::Blackhole),
        ("10.2.0.0/16", RouteTarget::Unreachable, Route::Unreachable),
        ("10.3.0.0/16", RouteTarget::Prohibit, Route::Prohibit),
        ("2001:db8::1/128", RouteTarget::Local, Route::Local),
    ] {
        host.apply(Change::Route(
            special(prefix, MAIN, target),
            Placement::First,
        ));
        assert_eq!(host.tables.route(prefix), Some(route));
    }
    assert_eq!(host.view.routes_without_port(), 0);
}

#[test]
fn routes_over_other_interfaces_are_unreachable_and_counted() {
    let mut host = Host::new();
    host.route("0.0.0.0/0", &[via(9, "198.51.100.1")]);
    host.route("10.0.0.0/8", &[]);
    assert_eq!(host.tables.route("0.0.0.0/0"), Some(Route::Unreachable));
    assert_eq!(host.tables.route("10.0.0.0/8"), Some(Route::Unreachable));
    assert_eq!(host.view.routes_without_port(), 2);
    host.neighbour(9, "198.51.100.1", Some(PEER));
    assert_eq!(host.tables.neighbour("198.51.100.1"), None);

    // The interface gets the name of a port, as udev does it, and loses it again.
    host.apply(Change::Link(link(9, "wan")));
    assert_eq!(host.tables.hop("0.0.0.0/0").state, resolved(PEER));
    assert_eq!(host.view.routes_without_port(), 1);
    assert!(host.tables.ports.contains_key(&2));
    host.apply(Change::Link(link(9, "mgmt")));
    assert_eq!(host.tables.route("0.0.0.0/0"), Some(Route::Unreachable));
    assert_eq!(host.view.routes_without_port(), 2);
    assert_eq!(host.tables.ports.keys().collect::<Vec<_>>(), [&0, &1]);
    assert!(host.tables.hops.is_empty());
}

#[test]
fn neighbours_on_connected_prefixes_get_their_own_routes() {
    let mut host = Host::new();
    host.route("192.0.2.0/24", &[via(2, "")]);
    assert_eq!(host.tables.hop("192.0.2.0/24").state, NextHopState::OnLink);
    host.neighbour(2, "192.0.2.7", Some(PEER));
    host.neighbour(3, "192.0.2.8", Some(PEER));
    assert_eq!(
        host.tables.neighbour("192.0.2.7").map(|h| h.state),
        Some(resolved(PEER))
    );
    assert_eq!(
        host.tables.neighbour("192.0.2.8"),
        None,
        "not reached by that interface"
    );

    // A more specific route takes the address away from the wire.
    host.route("192.0.2.0/25", &[via(3, "198.51.100.1")]);
    assert_eq!(host.tables.neighbour("192.0.2.7"), None);
    host.gone("192.0.2.0/25", &[via(3, "198.51.100.1")]);
    assert!(host.tables.neighbour("192.0.2.7").is_some());

    // The prefix moves to the other interface, as when an address moves.
    let moved = unicast("192.0.2.0/24", 0, &[via(3, "")]);
    host.apply(Change::Route(moved, Placement::Replace));
    assert_eq!(host.tables.neighbour("192.0.2.7"), None);
    assert_eq!(
        host.tables.neighbour("192.0.2.8").map(|h| h.port),
        Some(PortId(1))
    );

    host.gone("192.0.2.0/24", &[via(3, "")]);
    host.neighbour(2, "192.0.2.7", None);
    assert!(host.tables.routes.is_empty() && host.tables.hops.is_empty());
}

#[test]
fn a_neighbour_known_before_its_prefix_is_found() {
    let mut host = Host::new();
    host.neighbour(2, "2001:db8::7", Some(PEER));
    assert_eq!(host.tables.neighbour("2001:db8::7"), None);
    host.route("2001:db8::/64", &[via(2, "")]);
    assert!(host.tables.neighbour("2001:db8::7").is_some());
    // A default route coming and going concerns nobody on the wire.
    host.route("::/0", &[via(2, "fe80::1")]);
    assert!(host.tables.neighbour("2001:db8::7").is_some());
}

#[test]
fn link_local_neighbours_are_told_apart_by_link() {
    let mut host = Host::new();
    host.apply(Change::Link(vlan(5, "eth0.100", 2, 100)));
    host.neighbour(2, "fe80::1", Some(PEER));
    host.neighbour(5, "fe80::1", Some(OTHER));
    let on = |vid| link_scoped("fe80::1".parse().expect("address"), PortId(0), vid).to_string();
    assert_eq!(
        host.tables.neighbour(&on(0)).map(|h| h.state),
        Some(resolved(PEER))
    );
    assert_eq!(
        host.tables.neighbour(&on(100)).map(|h| h.state),
        Some(resolved(OTHER))
    );
    host.apply(Change::LinkGone(5));
    assert_eq!(host.tables.neighbour(&on(100)), None);
}

#[test]
fn a_vlan_sends_by_its_port_with_its_tag() {
    let mut host = Host::new();
    host.route("10.0.0.0/8", &[via(5, "192.0.2.1")]);
    assert_eq!(
        host.tables.route("10.0.0.0/8"),
        Some(Route::Unreachable),
        "not known yet"
    );
    host.apply(Change::Link(vlan(5, "eth0.100", 2, 100)));
    let hop = host.tables.hop("10.0.0.0/8");
    assert_eq!(
        (hop.port, hop.vlan, hop.vlan_service_tag, hop.mtu),
        (PortId(0), Some(100), false, 1496)
    );
    assert_eq!(host.tables.ports[&0].vlans, [100]);

    host.set_up(2, "eth0", false);
    assert_eq!(
        host.tables.hop("10.0.0.0/8").state,
        NextHopState::Down,
        "the port below is down"
    );
    host.set_up(2, "eth0", true);
    host.apply(Change::LinkGone(5));
    assert_eq!(host.tables.route("10.0.0.0/8"), Some(Route::Unreachable));
    assert_eq!(host.tables.ports[&0].vlans, [0u16; 0]);

    // Two tags, or a tag that is not served, cannot be sent.
    host.apply(Change::Link(vlan(5, "eth0.100", 2, 100)));
    host.apply(Change::Link(vlan(6, "eth0.100.7", 5, 7)));
    host.route("10.7.0.0/16", &[via(6, "192.0.2.1")]);
    assert_eq!(host.tables.route("10.7.0.0/16"), Some(Route::Unreachable));
}

#[test]
fn a_vlan_that_is_not_served_is_no_way_out() {
    let served = PortSpec {
        vlans: VlanPolicy::Only(vec![200]),
        ..port(0, "eth0")
    };
    let mut host = Host::bare(vec![served]);
    host.apply(Change::Link(link(2, "eth0")));
    for vid in [100, 200] {
        host.apply(Change::Link(vlan(vid.into(), &format!("v{vid}"), 2, vid)));
        host.route(&format!("10.{vid}.0.0/16"), &[via(vid.into(), "192.0.2.1")]);
    }
    assert_eq!(host.tables.route("10.100.0.0/16"), Some(Route::Unreachable));
    assert_eq!(host.tables.hop("10.200.0.0/16").vlan, Some(200));
    assert_eq!(host.tables.ports[&0].vlans, [200]);
}

#[test]
fn multipath_uses_the_first_port_that_is_up() {
    let mut host = Host::new();
    let vias = [
        via(9, "203.0.113.1"),
        via(2, "192.0.2.1"),
        via(3, "198.51.100.1"),
    ];
    host.route("0.0.0.0/0", &vias);
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(0));
    let writes = host.tables.route_writes;
    host.set_up(2, "eth0", false);
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(1));
    host.neighbour(3, "198.51.100.1", Some(PEER));
    assert_eq!(host.tables.hop("0.0.0.0/0").state, resolved(PEER));
    host.set_up(2, "eth0", true);
    assert_eq!(host.tables.hop("0.0.0.0/0").port, PortId(0));
    assert_eq!(
        host.tables.route_writes, writes,
        "the choice is made in place"
    );
    host.gone("0.0.0.0/0", &vias);
    assert!(host.tables.hops.is_empty());
    assert_eq!(host.view.hop_count(), 0);
}

#[test]
fn ipv6_multipath_grows_and_shrinks_next_hop_by_next_hop() {
    let mut host = Host::new();
    let (a, b, c) = (via(2, "fe80::1"), via(3, "fe80::2"), via(2, "fe80::3"));
    host.route("2001:db8::/32", &[a]);
    let grown = unicast("2001:db8::/32", 0, &[a, b]);
    host.apply(Change::Route(grown, Placement::Last));
    assert_eq!(host.tables.hop("2001:db8::/32").port, PortId(0));
    host.gone("2001:db8::/32", &[a]);
    assert_eq!(host.tables.hop("2001:db8::/32").port, PortId(1));
    let replaced = unicast("2001:db8::/32", 0, &[c]);
    host.apply(Change::Route(replaced, Placement::Replace));
    host.gone("2001:db8::/32", &[c]);
    assert_eq!(host.tables.route("2001:db8::/32"), None);
    assert_eq!(host.view.hop_count(), 0);
}

#[test]
fn silent_deletions_of_the_kernel_ask_for_a_dump() {
    let mut host = Host::new();
    let mut route = unicast("10.0.0.0/8", 0, &[via(2, "192.0.2.1")]);
    route.nexthop_object = 7;
    host.apply(Change::Route(route, Placement::First));
    assert!(host.view.take_hints().stale.is_empty());
    host.apply(Change::NexthopObjectGone(8));
    assert!(host.view.take_hints().stale.is_empty(), "no route uses it");
    host.apply(Change::NexthopObjectGone(7));
    assert!(host.view.take_hints().stale.contains(&Kind::Routes4));

    host.set_up(9, "mgmt", false);
    assert!(
        host.view.take_hints().stale.is_empty(),
        "no route leaves there"
    );
    host.set_up(2, "eth0", false);
    assert!(host.view.take_hints().stale.contains(&Kind::Routes4));
    assert_eq!(
        host.tables.hop("10.0.0.0/8").state,
        NextHopState::Down,
        "at once"
    );
    host.gone("10.0.0.0/8", &[via(3, "192.0.2.9")]);
    assert!(
        host.view.take_hints().stale.contains(&Kind::Routes4),
        "we missed something"
    );
}

#[test]
fn a_dump_sweeps_what_it_does_not_mention_and_rewrites_nothing() {
    let mut host = Host::new();
    let (kept, lost) = (via(2, "192.0.2.1"), via(3, "198.51.100.1"));
    host.route("10.0.0.0/8", &[kept]);
    host.route("10.1.0.0/16", &[lost]);
    host.route("2001:db8::/32", &[lost]);
    host.neighbour(2, "192.0.2.1", Some(PEER));
    host.neighbour(3, "198.51.100.1", Some(PEER));
    let writes = host.tables.route_writes;

    host.view.begin_dump(Kind::Routes4);
    host.apply(Change::Route(
        unicast("10.0.0.0/8", 0, &[kept]),
        Placement::Last,
    ));
    host.end_dump(Kind::Routes4);
    assert_eq!(host.tables.route("10.1.0.0/16"), None);
    assert!(host.tables.route("10.0.0.0/8").is_some());
    assert!(
        host.tables.route("2001:db8::/32").is_some(),
        "the other family was not dumped"
    );
    assert_eq!(host.tables.route_writes, writes);

    host.view.begin_dump(Kind::Neighbours);
    host.neighbour(2, "192.0.2.1", Some(PEER));
    host.end_dump(Kind::Neighbours);
    assert_eq!(host.tables.hop("10.0.0.0/8").state, resolved(PEER));
    let unresolved = NextHopState::Unresolved {
        gateway: ip("198.51.100.1"),
    };
    assert_eq!(host.tables.hop("2001:db8::/32").state, unresolved);

    host.view.begin_dump(Kind::Links);
    host.apply(Change::Link(link(2, "eth0")));
    host.end_dump(Kind::Links);
    assert_eq!(host.tables.route("2001:db8::/32"), Some(Route::Unreachable));
    assert!(!host.tables.ports.contains_key(&1));
}

#[test]
fn host_addresses_and_broadcasts_follow() {
    let mut host = Host::new();
    let address = |addr: &str, prefix_len, broadcast: Option<&str>| Address {
        ifindex: 2,
        addr: ip(addr),
        prefix_len,
        broadcast: broadcast.map(|b| b.parse().expect("address")),
    };
    let own = address("192.0.2.1", 24, Some("192.0.2.254"));
    host.apply(Change::Address(own.clone()));
    host.apply(Change::Address(address("198.51.100.1", 31, None)));
    host.apply(Change::Address(address("2001:db8::1", 64, None)));
    host.apply(Change::Address(address("fe80::1", 64, None)));
    let anycast = special("2001:db8::/128", LOCAL, RouteTarget::Local);
    host.apply(Change::Route(anycast.clone(), Placement::First));
    assert!(host.view.take_hints().hosts);
    let hosts = host.view.host_addresses();
    let v6: Vec<_> = hosts.v6.iter().map(ToString::to_string).collect();
    assert_eq!(v6, ["2001:db8::", "2001:db8::1"]);
    assert_eq!(hosts.v4.len(), 2);
    let broadcasts: Vec<_> = hosts.v4_broadcast.iter().map(ToString::to_string).collect();
    assert_eq!(broadcasts, ["192.0.2.254", "192.0.2.255"]);

    host.apply(Change::AddressGone(own));
    host.apply(Change::RouteGone(anycast));
    let hints = host.view.take_hints();
    assert!(hints.hosts && hints.stale.contains(&Kind::Routes4));
    let hosts = host.view.host_addresses();
    assert!(hosts.v4_broadcast.is_empty());
    assert_eq!(hosts.v6.len(), 1);
}

#[test]
fn ports_without_ethernet_need_no_neighbour() {
    let mut host = Host::bare(vec![port(0, "eth0")]);
    host.apply(Change::Link(Link {
        mac: None,
        mtu: 65_536,
        ..link(2, "eth0")
    }));
    assert_eq!(host.tables.ports[&0].kind, PortKind::RawIp);
    assert_eq!(host.tables.ports[&0].mtu, u16::MAX);
    host.route("10.0.0.0/8", &[via(2, "")]);
    assert_eq!(host.tables.hop("10.0.0.0/8").state, resolved([0; 6]));
    assert!(host.view.take_hints().gateways.is_empty());
}

#[test]
fn routes_over_the_host_port_are_the_hosts_own() {
    let mut host = Host::new();
    host.apply(Change::Link(Link {
        mac: None,
        ..link(7, "sixferry0")
    }));
    let covering = [via(7, "")];
    host.route("2001:db8:100::/40", &covering);
    assert_eq!(host.view.route_count(true), 0);
    assert_eq!(host.view.routes_without_port(), 0);
    // The same prefix over a port is another matter, and stays when ours goes.
    host.route("2001:db8:100::/40", &[via(2, "fe80::1")]);
    assert_eq!(host.view.route_count(true), 1);
    host.apply(Change::RouteGone(special(
        "2001:db8:100::/40",
        MAIN,
        RouteTarget::Unicast(covering.to_vec()),
    )));
    assert_eq!(host.view.route_count(true), 1);
}

#[test]
fn limits_hold() {
    let mut host = Host::new();
    host.view.config.max_routes = 2;
    host.view.config.max_neighbours = 1;
    for i in 0..4 {
        host.route(&format!("10.{i}.0.0/16"), &[via(2, "192.0.2.1")]);
        host.neighbour(2, &format!("192.0.2.{i}"), Some(PEER));
    }
    assert_eq!(host.view.route_count(false), 2);
    assert_eq!(host.view.neighbour_count(), 1);
    assert_eq!(host.view.over_limit(), 5);
    assert_eq!(host.view.hop_count(), 1);
    // The withdrawal of a route that was refused is no reason to dump again.
    host.gone("10.3.0.0/16", &[via(2, "192.0.2.1")]);
    assert!(host.view.take_hints().stale.is_empty());
}

#[test]
fn a_full_feed_stays_small() {
    assert_eq!(std::mem::size_of::<Candidate>(), 16);
    assert_eq!(routes::ENTRY_LEN, 16);
}
