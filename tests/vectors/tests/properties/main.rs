//! Properties of the forwarding core over random packets and tables.

mod mixed;
mod six_rd;

use proptest::prelude::*;
use sixferry_fwd::{
    Batch, FRAME_LEN, HEADROOM, IpId, Local, LocalConfig, Packet, Ticks, TunnelSpec, Verdict,
    WorkerCounters, process,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LINK_A, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, USER_A, USER_B, echo,
    ethernet, outer, prefix, udp,
};
use sixferry_wire::{ether, ipv4, ipv6};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A frame of some sense: one of the valid kinds, perhaps damaged.
fn frame() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let address =
        prop::sample::select(vec![HOST, USER_A, USER_B, LINK_A, "fe80::c633:6401", "::1"]);
    let remote = prop::sample::select(vec![REMOTE_A, REMOTE_B, Ipv4Addr::new(10, 0, 0, 1)]);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let shape = (
        any::<bool>(),
        any::<bool>(),
        address.clone(),
        address,
        0u8..4,
        0usize..1500,
    );
    (shape, remote, damage, any::<Option<prop::sample::Index>>()).prop_map(
        |((native, ping, src, dst, hop_limit, len), remote, damage, cut)| {
            let inner = if ping {
                echo(src, dst)
            } else {
                udp(src, dst, hop_limit, len)
            };
            let mut bytes = if native {
                ethernet(ether::TYPE_IPV6, &inner)
            } else {
                ethernet(ether::TYPE_IPV4, &outer(remote, hop_limit, &inner))
            };
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            (native, bytes)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn together_and_one_by_one_give_the_same(frames in prop::collection::vec(frame(), 1..64)) {
        let mut together = Relay::new();
        let mut alone = Relay::new();
        for native in [true, false] {
            let port = if native { INSIDE } else { OUTSIDE };
            let bytes: Vec<_> =
                frames.iter().filter(|(n, _)| *n == native).map(|(_, b)| b.clone()).collect();
            let batch = together.frames(port, &bytes);
            let single: Vec<_> = bytes.iter().map(|b| alone.frame(port, b)).collect();
            prop_assert_eq!(batch, single);
        }
        prop_assert_eq!(together.local.counters(), alone.local.counters());
        prop_assert_eq!(together.local.counters().received.packets, frames.len() as u64);
        prop_assert_eq!(together.local.counters().unaccounted(), 0);
        for id in [together.a, together.b] {
            prop_assert_eq!(together.builder.tunnel_counters(id), alone.builder.tunnel_counters(id));
        }
    }

    #[test]
    fn decap_of_encap_is_the_packet_two_hops_on(hop_limit in 3u8..255, len in 0usize..1400, class in any::<u8>()) {
        let mut relay = Relay::new();
        let mut packet = udp(HOST, USER_A, hop_limit, len);
        ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), class);
        let sent = relay.native(&packet);
        prop_assert_eq!(sent.verdict, Verdict::Tx(OUTSIDE));
        let mut far = far_end();
        let arrived = far.frame(OUTSIDE, &ethernet(ether::TYPE_IPV4, sent.ip()));
        prop_assert_eq!(arrived.verdict, Verdict::Tx(INSIDE));
        ipv6::set_hop_limit(packet.first_chunk_mut().expect("header"), hop_limit - 2);
        prop_assert_eq!(arrived.ip(), packet);
    }

    #[test]
    fn outer_checksum_is_always_right(hop_limit in 2u8..255, len in 0usize..1400, class in any::<u8>(), id in any::<u16>()) {
        let mut relay = Relay::new();
        relay.local = Local::new(LocalConfig {
            worker: 0, workers: 1, seed: 1, ip_id: IpId::Fixed(id), shared: Arc::new(WorkerCounters::new()),
            dry_run: false,
});
        let mut packet = udp(HOST, USER_A, hop_limit, len);
        ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), class);
        let sent = relay.native(&packet);
        let header = sixferry_wire::checksum::sum(&sent.ip()[..20]);
        prop_assert_eq!(sixferry_wire::checksum::fold(header), 0xffff);
    }
}

/// The other end of the first tunnel: everything is mirrored.
fn far_end() -> Relay {
    let mut relay = Relay::new();
    relay.builder.remove_tunnel(relay.a).expect("a");
    relay.builder.remove_tunnel(relay.b).expect("b");
    relay.a = relay
        .builder
        .insert_tunnel(&TunnelSpec {
            prefixes: vec![prefix("2001:db8:77::/48")],
            mtu: 1480,
            ..TunnelSpec::new(REMOTE_A, LOCAL)
        })
        .expect("mirror");
    relay.publish();
    relay
}

#[test]
fn no_two_workers_use_an_id_twice() {
    // three do not divide the circle of 65,536, which must not make them meet
    for workers in [1, 3, 4] {
        let each = 65_536 / usize::next_power_of_two(workers);
        let mut seen = HashSet::new();
        for worker in 0..workers {
            let mut relay = Relay::new();
            relay.local = Local::new(LocalConfig {
                worker,
                workers,
                seed: 42,
                ip_id: IpId::Counter,
                shared: Arc::new(WorkerCounters::new()),
                dry_run: false,
            });
            // counters are per worker; only worker 0 has some in this relay, which counting tolerates
            let frames = vec![ethernet(ether::TYPE_IPV6, &udp(HOST, USER_A, 64, 8)); 64];
            for _ in 0..each / 64 {
                for sent in relay.frames(INSIDE, &frames) {
                    let header = ipv4::Header(sent.ip().first_chunk().expect("header"));
                    assert!(seen.insert(header.identification()), "ID used twice");
                }
            }
        }
        assert!(seen.len() >= workers * 1000, "{} of {workers}", seen.len());
    }
}

#[test]
fn every_packet_of_an_update_storm_matches_old_or_new() {
    let mut relay = Relay::new();
    let remotes = [REMOTE_A, Ipv4Addr::new(192, 0, 2, 99)];
    for round in 0..1000usize {
        let remote = remotes[round % 2];
        let before = relay.builder.tunnel(relay.a).expect("tunnel").remote;
        let mut spec = relay.builder.tunnel(relay.a).expect("tunnel");
        spec.remote = remote;
        relay.builder.update_tunnel(relay.a, &spec).expect("update");
        // not yet published: still the old one, whole
        for (publish, want) in [(false, before), (true, remote)] {
            if publish {
                relay.publish();
            }
            let sent = relay.native(&udp(HOST, USER_A, 64, 8));
            let header = ipv4::Header(sent.ip().first_chunk().expect("header"));
            assert_eq!(header.dst(), want.octets());
            let sum = sixferry_wire::checksum::sum(&sent.ip()[..20]);
            assert_eq!(sixferry_wire::checksum::fold(sum), 0xffff, "no torn record");
        }
    }
}

#[test]
fn process_allocates_nothing() {
    let mut relay = Relay::new();
    let tables = relay.builder.snapshot();
    let frames = [
        (
            INSIDE,
            ethernet(ether::TYPE_IPV6, &udp(HOST, USER_A, 64, 100)),
        ),
        (
            OUTSIDE,
            ethernet(
                ether::TYPE_IPV4,
                &outer(REMOTE_A, 0, &udp(USER_A, HOST, 64, 100)),
            ),
        ),
        (
            OUTSIDE,
            ethernet(
                ether::TYPE_IPV4,
                &outer(REMOTE_A, 0, &udp(USER_A, HOST, 1, 100)),
            ),
        ),
        (
            OUTSIDE,
            ethernet(ether::TYPE_IPV4, &outer(REMOTE_A, 0, &echo(USER_A, LINK_A))),
        ),
        (
            OUTSIDE,
            ethernet(
                ether::TYPE_IPV4,
                &outer(REMOTE_B, 0, &udp(USER_A, HOST, 64, 100)),
            ),
        ),
        (
            INSIDE,
            ethernet(ether::TYPE_IPV6, &udp(HOST, USER_A, 64, 1450)),
        ),
    ];
    let mut buffers = vec![[0u8; FRAME_LEN]; 60];
    let mut batch = Batch::new();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let (port, bytes) = &frames[i % frames.len()];
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let packet = Packet::new(buffer, HEADROOM, bytes.len(), *port).expect("fits");
        batch.push(packet).expect("room");
    }
    let info = allocation_counter::measure(|| {
        process(&mut batch, &tables, &mut relay.local, Ticks(5));
        relay.local.flush();
    });
    assert_eq!(info.count_total, 0, "{info:?}");
    assert_eq!(batch.verdicts().len(), 60);
}
