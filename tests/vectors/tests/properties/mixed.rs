//! All mechanisms in one relay, with packets for each of them, whole and damaged.

use proptest::prelude::*;
use sixferry_vectors::mixed::{
    ANYCAST, Frame, Plan, RD, RD_PEER, STF, STF_PEER, UDP_PEER, USER_U, USER_V, run,
};
use sixferry_vectors::relay::{
    HOST, LOCAL, REMOTE_A, REMOTE_B, USER_A, USER_B, echo, ethernet, in_ipv4, in_udp, udp,
};
use sixferry_wire::{checksum, ether, ipv6};
use std::net::Ipv4Addr;

/// How an inner packet travels.
#[derive(Clone, Debug)]
enum Carrier {
    Native,
    Proto41(Ipv4Addr, Ipv4Addr),
    Udp((Ipv4Addr, u16), u16),
    /// Quoted in an ICMPv4 error, with its outer header.
    Quoted(u8, u8, u16),
}

fn inner() -> impl Strategy<Value = Vec<u8>> {
    let address = prop::sample::select(vec![
        HOST,
        USER_A,
        USER_B,
        USER_U,
        USER_V,
        "2002:800:2:1::1",
        "2002:800:1::1",
        "2002:a00:1::1",
        "2002:8504:506::1",
        "2002:c058:6301::",
        "2002:800:ff::1",
        "3ffe:0:8101:2381::5",
        "3ffe:0:8000:80::",
        "3ffe:0:8000:80::7",
        "2400::1",
        "2600::1",
        "fe80::1",
        "::1",
        "ff02::1",
        "fec0::1",
        "2001:db8:ffff::1",
    ]);
    (
        address.clone(),
        address,
        prop::sample::select(vec![0u8, 1, 2, 64]),
        0usize..1480,
        any::<bool>(),
        any::<u8>(),
    )
        .prop_map(|(src, dst, hop_limit, len, ping, class)| {
            let mut packet = if ping {
                echo(src, dst)
            } else {
                udp(src, dst, hop_limit, len)
            };
            packet[7] = hop_limit;
            ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), class);
            packet
        })
}

fn carrier() -> impl Strategy<Value = Carrier> {
    let v4 = prop::sample::select(vec![
        STF,
        STF_PEER,
        RD,
        RD_PEER,
        ANYCAST,
        UDP_PEER,
        LOCAL,
        REMOTE_A,
        REMOTE_B,
        Ipv4Addr::new(100, 64, 0, 9),
        Ipv4Addr::new(133, 4, 5, 6),
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(8, 0, 0, 255),
        Ipv4Addr::new(9, 9, 9, 9),
    ]);
    let local = prop::sample::select(vec![STF, RD, LOCAL, LOCAL, ANYCAST]);
    let port = prop::sample::select(vec![4028u16, 4029, 40_000, 40_001, 9]);
    prop_oneof![
        2 => Just(Carrier::Native),
        4 => (v4.clone(), local).prop_map(|(src, dst)| Carrier::Proto41(src, dst)),
        2 => (v4, port.clone(), port).prop_map(|(src, from, to)| Carrier::Udp((src, from), to)),
        1 => (prop::sample::select(vec![3u8, 11, 12]), 0u8..6, any::<u16>()).prop_map(|(k, c, m)| Carrier::Quoted(k, c, m)),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let damage = prop_oneof![3 => Just(vec![]), 1 => damage];
    let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
    let tos = any::<u8>();
    let word = prop_oneof![9 => Just(0u16), 1 => any::<u16>()];
    (carrier(), inner(), damage, cut, tos, word).prop_map(
        |(carrier, inner, damage, cut, tos, word)| {
            let native = matches!(carrier, Carrier::Native);
            let mut packet = match carrier {
                Carrier::Native => inner,
                Carrier::Proto41(src, dst) => with_word(in_ipv4(src, dst, 41, tos, &inner), word),
                Carrier::Udp(src, port) => with_word(in_udp(src, (LOCAL, port), &inner), word),
                Carrier::Quoted(kind, code, mtu) => quoted(kind, code, mtu, &inner),
            };
            for (at, value) in damage {
                let at = at.index(packet.len());
                packet[at] = value;
            }
            if let Some(cut) = cut {
                packet.truncate(cut.index(packet.len()));
            }
            let ether_type = if native {
                ether::TYPE_IPV6
            } else {
                ether::TYPE_IPV4
            };
            Frame {
                native,
                bytes: ethernet(ether_type, &packet),
            }
        },
    )
}

fn with_word(mut packet: Vec<u8>, word: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&word.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn quoted(kind: u8, code: u8, mtu: u16, inner: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(in_ipv4(LOCAL, REMOTE_A, 41, 0, inner));
    message.truncate(1400);
    let sum = checksum::finish(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    in_ipv4(Ipv4Addr::new(9, 9, 9, 9), LOCAL, 1, 0, &message)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_mechanism_under_any_packet(plan in any::<[u8; Plan::LEN]>(), frames in prop::collection::vec(frame(), 1..64)) {
        run(&Plan::from_bytes(plan), &frames);
    }
}
