//! Links, addresses and routes.

use super::*;

#[test]
#[ignore = "needs root"]
fn routes_are_followed() {
    let lab = Lab::new();
    lab.ip("route add 10.1.0.0/16 via 192.0.2.2");
    lab.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        assert!(relay.sent_by("10.1.2.3", 0), "known before the start");
        assert!(relay.sent_by("2001:db8:1::9", 0));
        assert_eq!(relay.lookup("192.0.2.1"), (32, Some(Route::Local)));
        assert_eq!(relay.lookup("2001:db8::1"), (128, Some(Route::Local)));
        assert_eq!(relay.state("192.0.2.77"), Some(NextHopState::OnLink));
        assert_eq!(relay.lookup("192.0.2.255"), (32, Some(Route::Blackhole)));

        lab.ip("route add default via 198.51.100.2");
        relay
            .followed("a new route", |r| r.sent_by("203.0.113.1", 1))
            .await;
        lab.ip("route replace default via 192.0.2.2");
        relay
            .followed("a replaced route", |r| r.sent_by("203.0.113.1", 0))
            .await;
        lab.ip("route del default");
        relay
            .followed("a deleted route", |r| {
                r.lookup("203.0.113.1") == (255, None)
            })
            .await;

        lab.ip("-6 route replace 2001:db8:1::/48 via fe80::99 dev eth1");
        relay
            .followed("a replaced IPv6 route", |r| r.sent_by("2001:db8:1::9", 1))
            .await;
        lab.ip("-6 route del 2001:db8:1::/48");
        relay
            .followed("a deleted IPv6 route", |r| r.hop("2001:db8:1::9").is_none())
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn kinds_of_routes() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        for (kind, route) in [
            ("blackhole", Route::Blackhole),
            ("unreachable", Route::Unreachable),
            ("prohibit", Route::Prohibit),
        ] {
            lab.ip(&format!("route replace {kind} 10.5.0.0/16"));
            relay
                .followed(kind, |r| r.lookup("10.5.0.1") == (16, Some(route)))
                .await;
            lab.ip(&format!("-6 route add {kind} 2001:db8:5::/48"));
            relay
                .followed(kind, |r| r.lookup("2001:db8:5::1") == (48, Some(route)))
                .await;
            lab.ip(&format!("-6 route del {kind} 2001:db8:5::/48"));
            relay
                .followed(kind, |r| r.lookup("2001:db8:5::1") == (255, None))
                .await;
        }
        lab.ip("route add 10.6.0.0/16 via 203.0.113.9 dev eth1 onlink");
        let gateway = "203.0.113.9".parse().expect("address");
        let unresolved = Some(NextHopState::Unresolved { gateway });
        relay
            .followed("onlink", |r| r.state("10.6.0.1") == unresolved)
            .await;
        lab.ip("route add 10.7.0.0/16 via inet6 2001:db8::2 dev eth0");
        let mac = lab.peer_mac();
        relay
            .soon("an IPv6 gateway", |r| r.resolved("10.7.0.1", mac))
            .await;
        lab.ip("route add 10.8.0.0/16 dev eth1 scope link");
        relay
            .followed("scope link", |r| {
                r.state("10.8.0.1") == Some(NextHopState::OnLink)
            })
            .await;
        lab.ip("route add 10.9.0.0/16 dev lo");
        relay
            .followed("no port", |r| {
                r.lookup("10.9.0.1") == (16, Some(Route::Unreachable))
            })
            .await;
        assert_eq!(relay.mirror.stats().routes_without_port, 1);
        lab.ip("route add 10.10.0.0/16 via 192.0.2.2 table 100");
        lab.ip("route add 10.11.0.0/16 via 192.0.2.2");
        relay
            .followed("a later route", |r| r.sent_by("10.11.0.1", 0))
            .await;
        assert_eq!(relay.lookup("10.10.0.1"), (255, None), "another table");
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn metrics_and_multipath() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        lab.ip("route add 10.1.0.0/16 via 198.51.100.2 metric 200");
        relay
            .followed("the only route", |r| r.sent_by("10.1.0.1", 1))
            .await;
        lab.ip("route add 10.1.0.0/16 via 192.0.2.2 metric 100");
        relay
            .followed("a better route", |r| r.sent_by("10.1.0.1", 0))
            .await;
        lab.ip("route del 10.1.0.0/16 via 192.0.2.2 metric 100");
        relay
            .followed("the worse route", |r| r.sent_by("10.1.0.1", 1))
            .await;

        lab.ip("route add 10.2.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.2");
        lab.ip("-6 route add 2001:db8:2::/48 nexthop via 2001:db8::2 nexthop via fe80::9 dev eth1");
        relay
            .followed("the first", |r| {
                r.sent_by("10.2.0.1", 0) && r.sent_by("2001:db8:2::1", 0)
            })
            .await;
        lab.ip("-6 route del 2001:db8:2::/48 via 2001:db8::2");
        relay
            .followed("the one left", |r| r.sent_by("2001:db8:2::1", 1))
            .await;
        lab.ip("-6 route append 2001:db8:2::/48 via 2001:db8::2");
        lab.ip("-6 route del 2001:db8:2::/48 via fe80::9 dev eth1");
        relay
            .followed("the one appended", |r| r.sent_by("2001:db8:2::1", 0))
            .await;
        lab.peer_ip("link set peer0 down");
        relay
            .soon("the other port", |r| r.sent_by("10.2.0.1", 1))
            .await;
        lab.peer_ip("link set peer0 up");
        relay
            .soon("the first again", |r| r.sent_by("10.2.0.1", 0))
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn links_go_down_and_come_back() {
    let lab = Lab::new();
    lab.ip("route add 10.1.0.0/16 via 192.0.2.2 metric 5");
    lab.ip("route add 10.1.0.0/16 via 198.51.100.2 metric 6");
    lab.ip("route add 10.2.0.0/16 via 192.0.2.2");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        assert!(relay.sent_by("10.1.0.1", 0) && relay.sent_by("10.2.0.1", 0));
        // The carrier first: the kernel keeps the routes.
        lab.peer_ip("link set peer0 down");
        let down = Some(NextHopState::Down);
        relay
            .soon("no carrier", |r| r.state("10.2.0.1") == down)
            .await;
        assert_eq!(
            relay.mirror.port_link(PortId(0)).map(|l| (l.up, l.running)),
            Some((true, false))
        );
        lab.peer_ip("link set peer0 up");
        relay
            .soon("a carrier", |r| {
                r.sent_by("10.2.0.1", 0) && r.state("10.2.0.1") != down
            })
            .await;

        // The interface: the kernel deletes the routes without a word.
        lab.ip("link set eth0 down");
        relay
            .followed("silent deletions", |r| {
                r.lookup("10.2.0.1") == (255, None) && r.sent_by("10.1.0.1", 1)
            })
            .await;
        lab.ip("link set eth0 up");
        relay
            .followed("the connected route", |r| r.lookup("192.0.2.77").0 == 24)
            .await;

        lab.ip("link set eth1 mtu 1400");
        relay
            .followed("the MTU", |r| {
                r.hop("10.1.0.1").is_some_and(|hop| hop.mtu == 1400)
            })
            .await;
        lab.ip("link set eth1 address 02:00:00:00:00:77");
        let own = [2, 0, 0, 0, 0, 0x77];
        relay
            .followed("our MAC", |r| {
                r.hop("10.1.0.1").is_some_and(|hop| hop.src_mac == own)
            })
            .await;
        lab.ip("link del eth1");
        relay
            .followed("the interface is gone", |r| {
                r.lookup("10.1.0.1") == (255, None)
            })
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_becomes_a_port_by_its_name() {
    let lab = Lab::new();
    lab.ip("link set eth1 down");
    lab.ip("link set eth1 name later");
    lab.ip("link set later up");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        assert!(relay.mirror.port_link(PortId(1)).is_none());
        assert_eq!(relay.lookup("198.51.100.9"), (24, Some(Route::Unreachable)));
        lab.ip("link set later down");
        lab.ip("link set later name eth1");
        lab.ip("link set eth1 up");
        relay
            .followed("a port", |r| r.sent_by("198.51.100.9", 1))
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn addresses_and_broadcasts_are_followed() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let v4 = |r: &Running, a: &str| {
            r.sink
                .hosts
                .lock()
                .v4_broadcast
                .contains(&a.parse().expect("v4"))
        };
        let v6 = |r: &Running, a: &str| r.sink.hosts.lock().v6.contains(&a.parse().expect("v6"));
        assert!(v4(&relay, "192.0.2.255") && v4(&relay, "198.51.100.255"));
        assert!(v6(&relay, "2001:db8::1"));
        assert!(
            !relay
                .sink
                .hosts
                .lock()
                .v6
                .iter()
                .any(|a| a.is_unicast_link_local())
        );

        lab.ip("addr add 10.20.0.1/16 brd 10.20.7.7 dev eth1");
        relay
            .followed("both broadcasts", |r| {
                v4(r, "10.20.7.7") && v4(r, "10.20.255.255")
            })
            .await;
        relay
            .followed("the address", |r| {
                r.lookup("10.20.0.1") == (32, Some(Route::Local))
            })
            .await;
        lab.ip("addr del 10.20.0.1/16 dev eth1");
        relay
            .followed("gone", |r| !v4(r, "10.20.7.7") && !v4(r, "10.20.255.255"))
            .await;
        relay
            .followed("gone", |r| r.lookup("10.20.0.1") == (255, None))
            .await;
        lab.ip("addr add 2001:db8:7::1/64 dev eth1");
        relay
            .followed("an IPv6 address", |r| v6(r, "2001:db8:7::1"))
            .await;
        lab.ip("addr del 2001:db8:7::1/64 dev eth1");
        relay.followed("its end", |r| !v6(r, "2001:db8:7::1")).await;

        // With the last address all routes over the interface vanish unannounced.
        lab.ip("route add 10.3.0.0/16 via 198.51.100.2");
        relay
            .followed("a route", |r| r.sent_by("10.3.0.1", 1))
            .await;
        lab.ip("addr del 198.51.100.1/24 dev eth1");
        relay
            .followed("its silent end", |r| r.lookup("10.3.0.1") == (255, None))
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn vlans_send_by_their_port() {
    let lab = Lab::new();
    if !lab.has_vlans() {
        eprintln!("skipped: this kernel has no VLAN devices (8021q)");
        return;
    }
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        lab.ip("link add link eth0 name v100 type vlan id 100");
        lab.ip("link set v100 up");
        lab.ip("addr add 10.100.0.1/24 dev v100");
        lab.peer_ip("link add link peer0 name v100 type vlan id 100");
        lab.peer_ip("link set v100 up");
        lab.peer_ip("addr add 10.100.0.2/24 dev v100");
        lab.ip("route add 10.1.0.0/16 via 10.100.0.2");
        let mac = lab.mac(&lab.peer, "v100");
        relay
            .soon("the gateway", |r| r.resolved("10.1.0.1", mac))
            .await;
        let hop = relay.hop("10.1.0.1").expect("a next hop");
        assert_eq!(
            (hop.port, hop.vlan, hop.vlan_service_tag),
            (PortId(0), Some(100), false)
        );
        assert!(relay.mirror.ifindex(PortId(0), Some(100)).is_some());
        assert_eq!(relay.mirror.ifindex(PortId(0), Some(101)), None);

        lab.ip("link add link eth0 name s200 type vlan proto 802.1ad id 200");
        lab.ip("link set s200 up");
        lab.ip("addr add 10.200.0.1/24 dev s200");
        let service = |hop: NextHop| (hop.vlan, hop.vlan_service_tag) == (Some(200), true);
        relay
            .followed("802.1ad", |r| r.hop("10.200.0.9").is_some_and(service))
            .await;
        lab.ip("link del v100");
        relay
            .followed("the VLAN's end", |r| r.lookup("10.1.0.1") == (255, None))
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn nexthop_objects_take_their_routes_along() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        lab.ip("nexthop add id 7 via 198.51.100.2 dev eth1");
        lab.ip("route add 10.7.0.0/16 nhid 7");
        lab.ip("-6 nexthop add id 8 via fe80::8 dev eth1");
        lab.ip("-6 route add 2001:db8:8::/48 nhid 8");
        relay
            .followed("routes", |r| {
                r.sent_by("10.7.0.1", 1) && r.sent_by("2001:db8:8::1", 1)
            })
            .await;
        lab.ip("nexthop replace id 7 via 192.0.2.2 dev eth0");
        relay
            .followed("a moved object", |r| r.sent_by("10.7.0.1", 0))
            .await;
        lab.ip("nexthop del id 7");
        lab.ip("nexthop del id 8");
        relay
            .followed("their end", |r| {
                r.lookup("10.7.0.1") == (255, None) && r.lookup("2001:db8:8::1") == (255, None)
            })
            .await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_overrun_is_recovered_from() {
    let lab = Lab::new();
    lab.ip("route add 10.250.0.0/16 via 192.0.2.2");
    lab.run(|| async {
        let relay = Running::start(|config| config.receive_buffer = 1).await;
        assert!(relay.sent_by("10.250.0.1", 0));
        let batch: String = (0..3000)
            .map(|i| format!("route add 10.{}.{}.0/24 via 192.0.2.2\n", i / 250, i % 250))
            .chain(["route del 10.250.0.0/16\n".to_owned()])
            .collect();
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), batch).expect("write");
        // This blocks the thread that would read the notifications.
        lab.ip(&format!("-batch {}", file.path().display()));
        relay
            .soon("all routes", |r| {
                (0..3000)
                    .step_by(97)
                    .all(|i| r.sent_by(&format!("10.{}.{}.1", i / 250, i % 250), 0))
                    && r.lookup("10.250.0.1") == (255, None)
            })
            .await;
        assert!(
            relay.mirror.stats().overruns > 0,
            "the buffer was too large for this test"
        );
        // What comes next is followed as ever.
        lab.ip("route add 10.251.0.0/16 via 192.0.2.2");
        relay
            .soon("a new route", |r| r.sent_by("10.251.0.1", 0))
            .await;
        relay.mirror.stop().await;
    });
}
