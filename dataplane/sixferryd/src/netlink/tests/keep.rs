//! Neighbours: followed, resolved and kept.

use super::*;

/// The relay's neighbour entries of an address, as `ip` shows them.
fn entry(lab: &Lab, addr: &str) -> String {
    lab.ip(&format!("neigh show {addr}"))
}

#[test]
#[ignore = "needs root"]
fn gateways_are_resolved_without_a_packet() {
    let lab = Lab::new();
    lab.ip("neigh flush all");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let mac = lab.peer_mac();
        lab.ip("route add 10.1.0.0/16 via 192.0.2.2");
        lab.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
        relay.soon("IPv4", |r| r.resolved("10.1.0.1", mac)).await;
        relay
            .soon("IPv6", |r| r.resolved("2001:db8:1::1", mac))
            .await;
        for addr in ["192.0.2.2", "2001:db8::2"] {
            let entry = entry(&lab, addr);
            assert!(
                entry.contains("managed") && entry.contains("proto 141"),
                "{entry}"
            );
        }
        relay.soon("counted", |r| r.mirror.stats().kept == 2).await;

        lab.ip("route del 10.1.0.0/16");
        let released = |_: &Running| !entry(&lab, "192.0.2.2").contains("managed");
        relay.followed("out of use", released).await;
        relay.mirror.stop().await;
        let entry = entry(&lab, "2001:db8::2");
        assert!(
            !entry.contains("managed") && entry.contains("lladdr"),
            "left as found: {entry}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_changed_mac_is_followed() {
    let lab = Lab::new();
    lab.ip("route add 10.1.0.0/16 via 192.0.2.2");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let old = lab.peer_mac();
        relay
            .soon("the old MAC", |r| r.resolved("10.1.0.1", old))
            .await;
        lab.peer_ip("link set peer0 address 02:00:00:00:00:99");
        // Whatever the peer says next tells the kernel.
        run(&[
            "ip",
            "netns",
            "exec",
            &lab.peer,
            "ping",
            "-c1",
            "-W1",
            "192.0.2.1",
        ]);
        let new = [2, 0, 0, 0, 0, 0x99];
        relay
            .followed("the new MAC", |r| r.resolved("10.1.0.1", new))
            .await;
        assert!(relay.resolved("192.0.2.2", new), "its own route too");

        lab.ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:aa dev eth0 nud permanent");
        let fixed = [2, 0, 0, 0, 0, 0xaa];
        relay
            .followed("a permanent entry", |r| r.resolved("10.1.0.1", fixed))
            .await;
        relay.mirror.stop().await;
        let entry = entry(&lab, "192.0.2.2");
        assert!(entry.contains("PERMANENT"), "not ours to touch: {entry}");
    });
}

#[test]
#[ignore = "needs root"]
fn addresses_on_the_wire_are_resolved_on_demand() {
    let lab = Lab::new();
    lab.ip("neigh flush all");
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let mac = lab.peer_mac();
        assert_eq!(relay.state("192.0.2.2"), Some(NextHopState::OnLink));
        let v4 = "192.0.2.2".parse().expect("address");
        let v6 = "2001:db8::2".parse().expect("address");
        assert!(relay.mirror.resolve_on(PortId(0), None, v4));
        assert!(relay.mirror.resolve_on(PortId(0), None, v6));
        assert!(
            !relay.mirror.resolve_on(PortId(0), Some(9), v4),
            "no such VLAN"
        );
        relay.soon("IPv4", |r| r.lookup("192.0.2.2").0 == 32).await;
        relay
            .soon("IPv6", |r| r.lookup("2001:db8::2").0 == 128)
            .await;
        assert!(relay.resolved("192.0.2.2", mac) && relay.resolved("2001:db8::2", mac));
        let managed = |_: &Running| entry(&lab, "192.0.2.2").contains("managed");
        relay.soon("kept from now on", managed).await;

        // Nobody answers for this one: it must not be probed for ever.
        let nobody = "192.0.2.99".parse().expect("address");
        assert!(relay.mirror.resolve_on(PortId(0), None, nobody));
        relay
            .soon("asked", |_| !entry(&lab, "192.0.2.99").is_empty())
            .await;
        relay
            .soon("given up", |r| r.mirror.stats().pending == 0)
            .await;
        assert!(!entry(&lab, "192.0.2.99").contains("managed"));
        assert_eq!(relay.state("192.0.2.99"), Some(NextHopState::OnLink));
        relay.mirror.stop().await;
        assert!(!entry(&lab, "192.0.2.2").contains("managed"));
    });
}

#[test]
#[ignore = "needs root"]
fn link_local_neighbours_have_a_route_per_link() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        for (device, last) in [("eth0", "07"), ("eth1", "08")] {
            lab.ip(&format!(
                "neigh add fe80::7 lladdr 02:00:00:00:00:{last} dev {device}"
            ));
        }
        let on = |port| link_scoped("fe80::7".parse().expect("v6"), PortId(port), 0).to_string();
        relay
            .followed("eth0", |r| r.resolved(&on(0), [2, 0, 0, 0, 0, 7]))
            .await;
        relay
            .followed("eth1", |r| r.resolved(&on(1), [2, 0, 0, 0, 0, 8]))
            .await;
        lab.ip("neigh del fe80::7 dev eth0");
        relay.followed("gone", |r| r.hop(&on(0)).is_none()).await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_killed_daemons_entries_are_taken_over() {
    let lab = Lab::new();
    lab.ip("route add 10.1.0.0/16 via 192.0.2.2");
    std::thread::scope(|scope| {
        let killed = scope.spawn(|| {
            lab.enter();
            let runtime = runtime();
            runtime.block_on(async {
                let relay = Running::start(|_| {}).await;
                let managed = |_: &Running| entry(&lab, "192.0.2.2").contains("managed");
                relay.soon("managed", managed).await;
                let addr = "2001:db8::2".parse().expect("address");
                assert!(relay.mirror.resolve_on(PortId(0), None, addr));
                let managed = |_: &Running| entry(&lab, "2001:db8::2").contains("managed");
                relay.soon("managed", managed).await;
                // Neither a stop nor the end of the handle: the tasks end with the runtime.
                std::mem::forget(relay);
            });
        });
        killed.join().expect("the first daemon");
    });
    for addr in ["192.0.2.2", "2001:db8::2"] {
        assert!(entry(&lab, addr).contains("managed"), "nobody tidied up");
    }
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let mac = lab.peer_mac();
        assert!(relay.resolved("10.1.0.1", mac) && relay.resolved("2001:db8::2", mac));
        relay.soon("adopted", |r| r.mirror.stats().kept == 2).await;
        relay.mirror.stop().await;
        for addr in ["192.0.2.2", "2001:db8::2"] {
            assert!(!entry(&lab, addr).contains("managed"), "given back");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn pinned_neighbours_are_kept() {
    let lab = Lab::new();
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        let addr = "198.51.100.2".parse().expect("address");
        let managed = |_: &Running| entry(&lab, "198.51.100.2").contains("managed");
        assert!(relay.mirror.pin(&[(PortId(1), None, addr)]));
        relay.followed("pinned", managed).await;
        relay
            .soon("resolved", |r| r.lookup("198.51.100.2").0 == 32)
            .await;
        assert!(relay.mirror.pin(&[]));
        relay.followed("let go", |r| !managed(r)).await;
        relay.mirror.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn what_the_kernel_had_learnt_itself_is_kept() {
    let lab = Lab::new();
    lab.ip("neigh flush all");
    // Stale: what remains of the host's own traffic of some time ago.
    let mac = lab.peer_mac();
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    lab.ip(&format!(
        "neigh replace 192.0.2.2 lladdr {text} dev eth0 nud stale"
    ));
    lab.run(|| async {
        let relay = Running::start(|_| {}).await;
        assert!(relay.resolved("192.0.2.2", mac), "used at once");
        let managed = |_: &Running| entry(&lab, "192.0.2.2").contains("managed");
        relay.soon("kept", managed).await;
        relay
            .soon("confirmed without traffic of the host's own", |_| {
                entry(&lab, "192.0.2.2").contains("REACHABLE")
            })
            .await;

        // One that does not answer any more is not asked for ever.
        lab.ip("neigh replace 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud stale");
        relay
            .soon("given up", |_| {
                let entry = entry(&lab, "192.0.2.77");
                !entry.contains("managed") && !entry.contains("lladdr")
            })
            .await;
        relay.mirror.stop().await;
        assert!(!entry(&lab, "192.0.2.2").contains("managed"));
    });
}
