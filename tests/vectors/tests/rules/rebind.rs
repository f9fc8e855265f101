//! Where the peer of a UDP tunnel may move, who is told, and what takes it back.

use crate::sent_from;
use crate::udp_tunnels::{NAT, SECOND, datagram, downlink, events, receive, relay, shared};
use sixferry_fwd::{
    DropReason, EncapKind, Event, Rebind, Route, RouteSource, TableError, Ticks, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, ethernet, outer, udp,
};
use sixferry_wire::{checksum, ether};
use std::net::Ipv4Addr;

const CONFIGURED: (Ipv4Addr, u16) = (REMOTE_A, 40_000);

fn set_rebind(relay: &mut Relay, rebind: Rebind) {
    relay.change(relay.a, |spec| {
        if let EncapKind::Udp(udp) = &mut spec.encap {
            udp.rebind = rebind;
        }
    });
}

fn moved() -> Relay {
    let mut relay = relay(Rebind::InnerSource);
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
    relay
}

#[test]
fn no_peer_moves_to_where_no_peer_can_be() {
    let broadcast = Ipv4Addr::new(203, 0, 113, 255);
    let places = [
        (Ipv4Addr::new(224, 0, 0, 1), 1234),
        (Ipv4Addr::BROADCAST, 9),
        (Ipv4Addr::LOCALHOST, 9),
        (Ipv4Addr::UNSPECIFIED, 9),
        (Ipv4Addr::new(240, 0, 0, 1), 9),
        (NAT, 0),
        (broadcast, 7),
        (LOCAL, 4028),
    ];
    for rebind in [Rebind::InnerSource, Rebind::Control] {
        for (address, port) in places {
            let mut relay = relay(rebind);
            relay.builder.set_broadcasts([broadcast]);
            relay.publish();
            let sent = receive(&mut relay, address, port, &udp(USER_A, HOST, 64, 8));
            assert_eq!(
                sent.verdict,
                Verdict::Drop(DropReason::UdpRemoteMismatch),
                "{address}:{port}"
            );
            assert_eq!(events(&mut relay), [], "{address}:{port}");
            assert_eq!(downlink(&mut relay), CONFIGURED);
        }
    }
}

#[test]
fn peer_not_yet_known_is_nobody_at_port_0() {
    for rebind in [Rebind::InnerSource, Rebind::Control] {
        let mut relay = relay(rebind);
        relay.change(relay.a, |spec| {
            spec.remote = Ipv4Addr::UNSPECIFIED;
            if let EncapKind::Udp(udp) = &mut spec.encap {
                udp.remote_port = 0;
            }
        });
        for payload in [udp(USER_A, HOST, 64, 8), vec![]] {
            let sent = receive(&mut relay, Ipv4Addr::UNSPECIFIED, 0, &payload);
            let refused = Verdict::Drop(DropReason::UdpRemoteMismatch);
            assert_eq!(sent.verdict, refused, "{rebind:?}");
        }
        assert_eq!(events(&mut relay), []);
        assert_eq!(relay.builder.endpoint(relay.a), None);
    }
}

#[test]
fn change_of_policy_takes_a_move_back() {
    for rebind in [Rebind::Deny, Rebind::Control] {
        let mut relay = moved();
        set_rebind(&mut relay, rebind);
        assert_eq!(relay.builder.endpoint(relay.a), Some(CONFIGURED));
        assert_eq!(downlink(&mut relay), CONFIGURED);
        let inner = udp(USER_A, HOST, 64, 8);
        let sent = receive(&mut relay, NAT, 51_000, &inner);
        assert_eq!(
            sent.verdict,
            Verdict::Drop(DropReason::UdpRemoteMismatch),
            "{rebind:?}"
        );
        let sent = receive(&mut relay, REMOTE_A, 40_000, &inner);
        assert_eq!(sent.verdict, Verdict::Tx(INSIDE), "{rebind:?}");
    }
}

#[test]
fn change_of_mtu_or_clamp_keeps_the_peer_where_it_is() {
    let mut relay = moved();
    relay.change(relay.a, |spec| spec.mtu = 1400);
    relay.change(relay.a, |spec| {
        spec.mss_clamp = true;
        spec.path_mtu = Some(1420);
    });
    assert_eq!(relay.builder.endpoint(relay.a), Some((NAT, 51_000)));
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn only_the_port_of_a_known_address_may_be_learnt() {
    let mut relay = relay(Rebind::InnerSourcePort);
    relay.change(relay.a, |spec| {
        if let EncapKind::Udp(udp) = &mut spec.encap {
            udp.remote_port = 0;
        }
    });
    let inner = udp(USER_A, HOST, 64, 8);
    assert_eq!(relay.builder.endpoint(relay.a), None);
    let refused = Verdict::Drop(DropReason::UdpRemoteMismatch);
    assert_eq!(receive(&mut relay, NAT, 51_000, &inner).verdict, refused);
    let spoofed = udp(USER_B, HOST, 64, 8);
    let sent = receive(&mut relay, REMOTE_A, 51_000, &spoofed);
    assert!(matches!(sent.verdict, Verdict::Drop(_)), "{sent:?}");
    assert_eq!(relay.builder.endpoint(relay.a), None);
    let sent = receive(&mut relay, REMOTE_A, 51_000, &inner);
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(downlink(&mut relay), (REMOTE_A, 51_000));
    // a NAT that forgot: not within the second, then at once
    assert_eq!(
        receive(&mut relay, REMOTE_A, 52_000, &inner).verdict,
        refused
    );
    relay.now = Ticks(relay.now.0 + SECOND);
    let sent = receive(&mut relay, REMOTE_A, 52_000, &inner);
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
    assert_eq!(downlink(&mut relay), (REMOTE_A, 52_000));
    assert_eq!(receive(&mut relay, NAT, 52_000, &inner).verdict, refused);
}

/// A tunnel without prefixes: its user has nothing but his link-local address.
fn bare(rebind: Rebind) -> Relay {
    let mut relay = relay(Rebind::InnerSourcePort);
    relay.change(relay.a, |spec| {
        spec.prefixes.clear();
        spec.link = None;
        if let EncapKind::Udp(udp) = &mut spec.encap {
            udp.rebind = rebind;
        }
    });
    relay
}

#[test]
fn link_local_source_proves_the_port_of_a_tunnel_without_prefixes() {
    let mut relay = bare(Rebind::InnerSourcePort);
    let solicitation = || udp("fe80::c000:20a", "ff02::2", 255, 8);
    // What it says goes no further, and only its address may say it.
    let sent = receive(&mut relay, NAT, 51_000, &solicitation());
    let refused = Verdict::Drop(DropReason::UdpRemoteMismatch);
    assert_eq!(sent.verdict, refused);
    let sent = receive(&mut relay, REMOTE_A, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::InnerSrcSpoof));
    assert_eq!(relay.builder.endpoint(relay.a), Some(CONFIGURED));
    let sent = receive(&mut relay, REMOTE_A, 51_000, &solicitation());
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::V6SrcScope));
    let to = (REMOTE_A, 51_000);
    assert_eq!(relay.builder.endpoint(relay.a), Some(to));
    let moved = Event::EndpointChanged {
        tunnel: relay.a,
        from: CONFIGURED,
        to,
    };
    assert_eq!(events(&mut relay), [moved]);
    let sent = receive(&mut relay, REMOTE_A, 52_000, &solicitation());
    assert_eq!(sent.verdict, refused, "within the second");
}

#[test]
fn link_local_source_proves_nothing_else() {
    let link_local = || udp("fe80::c000:20a", "ff02::2", 255, 8);
    let refused = Verdict::Drop(DropReason::V6SrcScope);
    for rebind in [Rebind::InnerSource, Rebind::Control] {
        let mut relay = bare(rebind);
        let sent = receive(&mut relay, REMOTE_A, 51_000, &link_local());
        assert_eq!(sent.verdict, refused, "{rebind:?}");
        assert_eq!(relay.builder.endpoint(relay.a), Some(CONFIGURED));
    }
    // A user with a prefix has a better proof.
    let mut relay = relay(Rebind::InnerSourcePort);
    let sent = receive(&mut relay, REMOTE_A, 51_000, &link_local());
    assert_eq!(sent.verdict, refused);
    assert_eq!(relay.builder.endpoint(relay.a), Some(CONFIGURED));
    assert_eq!(events(&mut relay), []);
}

#[test]
fn port_of_an_unknown_address_is_not_learnt() {
    let mut relay = relay(Rebind::InnerSource);
    let mut spec = relay.builder.tunnel(relay.a).expect("there");
    if let EncapKind::Udp(udp) = &mut spec.encap {
        udp.rebind = Rebind::InnerSourcePort;
        udp.remote_port = 0;
    }
    spec.remote = Ipv4Addr::UNSPECIFIED;
    let updated = relay.builder.update_tunnel(relay.a, &spec);
    assert!(
        matches!(updated, Err(TableError::Port { remote: true, .. })),
        "{updated:?}"
    );
}

#[test]
fn tunnel_put_back_before_a_snapshot_was_never_away() {
    let mut relay = moved();
    let before = relay.builder.tunnel_counters(relay.a);
    let taken = relay.builder.take_tunnel(relay.a).expect("there");
    assert_eq!(taken.id(), relay.a);
    assert_eq!(relay.builder.tunnel(relay.a), None);
    relay.builder.restore_tunnel(&taken).expect("fits");
    relay.publish();
    assert_eq!(relay.builder.tunnel_counters(relay.a), before);
    assert_eq!(downlink(&mut relay), (NAT, 51_000));
    let sent = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
    assert_eq!(sent.verdict, Verdict::Tx(INSIDE));
}

#[test]
fn tunnel_missing_from_a_snapshot_or_in_the_way_is_not_put_back() {
    let mut relay = moved();
    let spec = relay.builder.tunnel(relay.a).expect("there");
    let taken = relay.builder.take_tunnel(relay.a).expect("there");
    let other = relay.builder.insert_tunnel(&spec).expect("room");
    assert_ne!(other, relay.a, "an id rests");
    assert!(relay.builder.restore_tunnel(&taken).is_err());
    relay.builder.remove_tunnel(other).expect("there");
    relay.publish();
    let restored = relay.builder.restore_tunnel(&taken);
    assert_eq!(restored, Err(TableError::NoSuchTunnel));
}

#[test]
fn keepalive_of_the_peer_counts_as_its_life_and_a_strangers_does_not() {
    for mut relay in [relay(Rebind::Deny), shared(Rebind::Deny)] {
        let received = |relay: &Relay| {
            let totals = relay.builder.tunnel_counters(relay.a).expect("tunnel");
            (totals.in_packets, totals.in_bytes)
        };
        let sent = receive(&mut relay, REMOTE_A, 40_000, &[]);
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpKeepalive));
        assert_eq!(received(&relay), (1, 0));
        for (address, port) in [(NAT, 40_000), (REMOTE_A, 40_001)] {
            let sent = receive(&mut relay, address, port, &[]);
            assert!(matches!(sent.verdict, Verdict::Drop(_)));
        }
        assert_eq!(received(&relay), (1, 0));
    }
}

#[test]
fn keepalive_of_a_moved_peer_is_its_own() {
    let mut relay = moved();
    let sent = receive(&mut relay, NAT, 51_000, &[]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::UdpKeepalive));
}

#[test]
fn source_that_proves_nothing_is_refused_for_what_it_is() {
    for (source, reason) in [
        ("::ffff:192.0.2.1", DropReason::V6SrcInvalid),
        ("ff02::1", DropReason::V6SrcInvalid),
        ("::1", DropReason::V6SrcInvalid),
        ("fe80::1", DropReason::V6SrcScope),
        (USER_B, DropReason::InnerSrcSpoof),
    ] {
        for rebind in [Rebind::InnerSource, Rebind::Control] {
            let mut relay = relay(rebind);
            let inner = udp(source, HOST, 64, 8);
            for (address, port) in [(NAT, 51_000), CONFIGURED] {
                let sent = receive(&mut relay, address, port, &inner);
                assert_eq!(
                    sent.verdict,
                    Verdict::Drop(reason),
                    "{source} from {address}"
                );
            }
            assert_eq!(events(&mut relay), []);
            assert_eq!(downlink(&mut relay), CONFIGURED);
        }
    }
}

#[test]
fn packet_after_the_move_in_one_batch_takes_the_new_way() {
    let mut relay = relay(Rebind::InnerSource);
    let elsewhere = Ipv4Addr::new(198, 18, 0, 1);
    // another port leads to the new place
    relay.builder.set_route4(
        "198.18.0.0/15".parse().expect("prefix"),
        RouteSource::Kernel,
        Route::NextHop(relay.hop6),
    );
    relay.publish();
    let arrival = datagram(elsewhere, 9, &udp(USER_A, HOST, 64, 8));
    let hairpin = outer(REMOTE_B, 0, &udp(USER_B, USER_A, 64, 8));
    let frames = [&hairpin, &arrival, &hairpin].map(|packet| ethernet(ether::TYPE_IPV4, packet));
    let sent = relay.frames(OUTSIDE, &frames);
    let verdicts: Vec<_> = sent.iter().map(|s| s.verdict).collect();
    assert_eq!(
        verdicts,
        [OUTSIDE, INSIDE, INSIDE].map(Verdict::Tx),
        "the route of the place that it was sent to"
    );
    assert_eq!(sent_from(&sent[0]), (LOCAL, REMOTE_A));
    assert_eq!(sent_from(&sent[2]), (LOCAL, elsewhere));
    assert_eq!(
        relay.frame(OUTSIDE, &frames[2]).verdict,
        Verdict::Tx(INSIDE)
    );
}

#[test]
fn forged_icmpv4_errors_do_not_keep_a_move_from_being_told() {
    let mut relay = relay(Rebind::Control);
    let ours = relay.native(&udp(HOST, USER_A, 64, 100)).ip().to_vec();
    let mut forged = vec![3, 1, 0, 0, 0, 0, 0, 0];
    forged.extend_from_slice(&ours[..28]);
    let sum = checksum::finish(checksum::sum(&forged));
    forged[2..4].copy_from_slice(&sum.to_be_bytes());
    let router = Ipv4Addr::new(192, 0, 2, 254);
    let forged = sixferry_vectors::relay::in_ipv4(router, LOCAL, 1, 0, &forged);
    let forged = ethernet(ether::TYPE_IPV4, &forged);
    let (tunnel, seen) = (relay.a, (NAT, 51_000));
    for second in 1000..1010 {
        relay.now = Ticks(second * SECOND + 1);
        let sent = relay.frame(OUTSIDE, &forged);
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::Icmp4Consumed));
        relay.now = Ticks(second * SECOND + SECOND / 2);
        _ = receive(&mut relay, NAT, 51_000, &udp(USER_A, HOST, 64, 8));
        let told = events(&mut relay);
        let error = Event::OuterError {
            tunnel,
            kind: 3,
            code: 1,
        };
        assert_eq!(told, [error, Event::EndpointMismatch { tunnel, seen }]);
    }
}
