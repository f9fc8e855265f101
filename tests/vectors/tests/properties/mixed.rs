//! All mechanisms in one relay, with packets for each of them, whole and damaged.
//!
//! The tables vary: roles, restrictions, reverse path, rebinding, MTU modes. What must hold for any of
//! them: every packet has one verdict and is counted once; a batch is the sum of its packets; what
//! leaves is well formed, goes to no impossible address, and came in by a legal way.

use proptest::prelude::*;
use sixferry_fwd::{
    DomainKind, DomainSpec, Dscp, EncapKind, MtuMode, PuntReason, Rebind, Route, RouteSource,
    Settings, SixRdRole, SixToFourRole, Ticks, Ttl, TunnelSpec, UdpEncap, Urpf, Verdict,
};
use sixferry_vectors::relay::{
    HOST, INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, Sent, USER_A, USER_B, echo, ethernet,
    in_ipv4, in_udp, prefix, udp,
};
use sixferry_wire::{checksum, embed, ether, ipv4, ipv6, udp as wire_udp};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where 6to4 works, and a peer.
const STF: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 1);
const STF_PEER: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 2);
/// Where 6rd works (n = 37, m = 12), and a customer.
const RD: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const RD_PEER: Ipv4Addr = Ipv4Addr::new(100, 66, 2, 71);
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 1);
const UDP_PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Behind the two UDP tunnels.
const USER_U: &str = "2001:db8:500::5";
const USER_V: &str = "2001:db8:600::5";

/// What varies in the tables.
#[derive(Clone, Debug)]
struct Plan {
    site: bool,
    customer: bool,
    anycast: bool,
    peers: u8,
    urpf: Urpf,
    input: bool,
    rebind: Rebind,
    shared: bool,
    mode: MtuMode,
    path_mtu: Option<u16>,
    inherit: bool,
    copy: bool,
    clamp: bool,
    punts: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let roles = any::<[bool; 8]>();
    let urpf = prop::sample::select(vec![Urpf::Off, Urpf::Loose, Urpf::Strict]);
    let rebind = prop::sample::select(vec![Rebind::Deny, Rebind::Control, Rebind::InnerSource]);
    let mode = prop::sample::select(vec![MtuMode::Static, MtuMode::Managed, MtuMode::Dynamic]);
    let path = prop::option::of(68u16..1600);
    (
        roles,
        prop::sample::select(vec![0u8, 8, 30]),
        urpf,
        rebind,
        mode,
        path,
    )
        .prop_map(
            |(
                [site, customer, anycast, input, shared, inherit, copy, more],
                peers,
                urpf,
                rebind,
                mode,
                path_mtu,
            )| Plan {
                site,
                customer,
                anycast,
                peers,
                urpf,
                input: input || more,
                rebind,
                shared,
                mode,
                path_mtu,
                inherit,
                copy,
                clamp: copy ^ more,
                punts: more,
            },
        )
}

fn set_up(plan: &Plan) -> Relay {
    let mut relay = Relay::new();
    let settings = relay.builder.settings().clone();
    let bit = |reason: PuntReason| 1 << reason.index();
    relay.builder.set_settings(Settings {
        punt_subscriptions: if plan.punts {
            bit(PuntReason::Fragment) | bit(PuntReason::OuterTooBig) | bit(PuntReason::HostDelivery)
        } else {
            0
        },
        ..settings
    });
    relay.builder.set_broadcasts([Ipv4Addr::new(8, 0, 0, 255)]);
    let inside = Route::NextHop(relay.hop6);
    let elsewhere = "133.4.0.0/16".parse().expect("prefix");
    relay
        .builder
        .set_route4(elsewhere, RouteSource::Kernel, inside);
    six_to_four(&mut relay, plan);
    six_rd(&mut relay, plan);
    for (user, port, remote_port) in [
        (USER_U, 4028, 40_000),
        (USER_V, if plan.shared { 4028 } else { 4029 }, 40_001),
    ] {
        let address: Ipv6Addr = user.parse().expect("address");
        let spec = TunnelSpec {
            encap: EncapKind::Udp(UdpEncap {
                local_port: port,
                remote_port,
                shared: plan.shared,
                rebind: plan.rebind,
            }),
            prefixes: vec![sixferry_fwd::Ipv6Prefix::containing(address, 48)],
            mtu: 1472,
            mtu_mode: plan.mode,
            path_mtu: plan.path_mtu,
            min_path_mtu: 68,
            mss_clamp: plan.clamp,
            ..TunnelSpec::new(LOCAL, UDP_PEER)
        };
        relay.builder.insert_tunnel(&spec).expect("UDP tunnel");
    }
    relay.change(relay.a, |spec| {
        spec.mtu_mode = plan.mode;
        spec.path_mtu = plan.path_mtu;
        spec.mss_clamp = plan.clamp;
        spec.ttl = if plan.inherit {
            Ttl::Inherit
        } else {
            Ttl::Fixed(9)
        };
        spec.dscp = if plan.copy {
            Dscp::Copy
        } else {
            Dscp::Fixed(10)
        };
    });
    relay.now = Ticks(1000 * Ticks::PER_SECOND);
    relay
}

fn six_to_four(relay: &mut Relay, plan: &Plan) {
    let role = if plan.site {
        SixToFourRole::Site { relay: ANYCAST }
    } else {
        SixToFourRole::Relay
    };
    let spec = DomainSpec {
        kind: DomainKind::SixToFour {
            role,
            peer_v4_len: plan.peers,
            anycast: plan.anycast && !plan.site,
        },
        urpf: plan.urpf,
        input: plan.input,
        mss_clamp: plan.clamp,
        ..DomainSpec::six_to_four(STF, role)
    };
    let id = relay.builder.insert_domain(&spec).expect("6to4");
    if plan.site {
        let own = spec.delegated(STF).expect("own");
        relay
            .builder
            .set_route6(own, RouteSource::Kernel, Route::NextHop(relay.hop6));
        relay
            .builder
            .set_route6(prefix("2400::/16"), RouteSource::Kernel, Route::Domain(id));
    }
}

fn six_rd(relay: &mut Relay, plan: &Plan) {
    let role = if plan.customer {
        SixRdRole::Ce {
            br: Ipv4Addr::new(100, 64, 0, 9),
        }
    } else {
        SixRdRole::Br {
            anycast: plan.anycast,
        }
    };
    let domain = prefix("3ffe:0:8000::/37");
    let mut spec = DomainSpec::six_rd(RD, domain, Ipv4Addr::new(100, 64, 0, 0), 12, role);
    spec.mtu_mode = if plan.copy {
        MtuMode::Managed
    } else {
        MtuMode::Static
    };
    let id = relay.builder.insert_domain(&spec).expect("6rd");
    if plan.customer {
        let own = spec.delegated(RD).expect("own");
        relay
            .builder
            .set_route6(own, RouteSource::Kernel, Route::NextHop(relay.hop6));
        relay
            .builder
            .set_route6(prefix("2600::/16"), RouteSource::Kernel, Route::Domain(id));
    }
}

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

/// Which port, and the frame.
type Frame = (bool, Vec<u8>);

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
            (native, ethernet(ether_type, &packet))
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

/// What must hold of a frame that leaves.
fn check(plan: &Plan, received: &Frame, sent: &Sent) {
    let (Verdict::Tx(_) | Verdict::Answer(_)) = sent.verdict else {
        return;
    };
    let packet = sent.ip();
    let inner = if packet[0] >> 4 == 4 {
        outer(packet)
    } else {
        packet
    };
    let header = ipv6::Header(inner.first_chunk().expect("IPv6 header"));
    assert_eq!(
        (header.version(), header.payload_len() + 40),
        (6, inner.len())
    );
    assert!(packet.len() <= 1500, "larger than the link");
    if let Verdict::Tx(_) = sent.verdict {
        assert!(header.hop_limit() > 0);
        let src = header.src();
        assert!(!ipv6::is_invalid_source(src) && !ipv6::is_link_local(src));
        assert!(!ipv6::is_multicast(header.dst()));
        legal_way(plan, received, src);
    }
}

/// The outer header of what leaves; returns what is inside.
fn outer(packet: &[u8]) -> &[u8] {
    let header = ipv4::Header(packet.first_chunk().expect("IPv4 header"));
    assert_eq!(checksum::fold(checksum::sum(&packet[..20])), 0xffff);
    assert_eq!(
        (header.header_len(), header.total_len()),
        (20, packet.len())
    );
    assert!(!header.is_fragment() && header.ttl() > 0);
    let (src, dst) = (Ipv4Addr::from(header.src()), Ipv4Addr::from(header.dst()));
    assert!([LOCAL, STF, RD, ANYCAST].contains(&src), "{src}");
    assert!(![LOCAL, STF, RD].contains(&dst), "to ourselves");
    assert!(!embed::is_impossible(u32::from(dst)), "{dst}");
    if src == STF || src == ANYCAST {
        assert!(
            !embed::is_martian(u32::from(dst)) && dst.octets() != [8, 0, 0, 255],
            "{dst}"
        );
    }
    match header.protocol() {
        41 => &packet[20..],
        17 => {
            assert_eq!(src, LOCAL);
            assert!(wire_udp::checksum_ok(
                header.src(),
                header.dst(),
                &packet[20..]
            ));
            assert_ne!(packet[26..28], [0, 0]);
            &packet[28..]
        }
        other => panic!("protocol {other}"),
    }
}

/// Whether the inner source of a forwarded packet may have come as it did (RFC 3964 section 5, RFC
/// 5969 section 9.2, BCP 38).
fn legal_way(plan: &Plan, (native, frame): &Frame, src: u128) {
    let within = |text: &str| prefix(text).contains(Ipv6Addr::from(src));
    let tunnels = [
        (REMOTE_A, "2001:db8:100::/48"),
        (REMOTE_B, "2001:db8:200::/48"),
    ];
    if *native {
        let claimed = [
            "2001:db8:100::/48",
            "2001:db8:200::/48",
            "2001:db8:500::/48",
            "2001:db8:600::/48",
        ];
        assert!(
            !claimed.into_iter().any(within),
            "a tunnel's source on the native side"
        );
        return;
    }
    let packet = &frame[ether::HEADER_LEN..];
    let header = ipv4::Header(packet.first_chunk().expect("IPv4 header"));
    let (from, to) = (Ipv4Addr::from(header.src()), Ipv4Addr::from(header.dst()));
    if header.protocol() == 17 {
        assert!(within("2001:db8:500::/48") || within("2001:db8:600::/48"));
        return;
    }
    assert_eq!(header.protocol(), 41);
    match to {
        LOCAL => {
            let (_, own) = tunnels
                .into_iter()
                .find(|(remote, _)| *remote == from)
                .expect("a peer");
            assert!(within(own) || (from == REMOTE_A && within("2001:db8:f:1::/64")));
        }
        RD => {
            let embedded = 0x6440_0000 | u32::try_from(src >> 71 & 0xf_ffff).expect("20 bits");
            let border = plan.customer && from == Ipv4Addr::new(100, 64, 0, 9);
            assert!(border || (within("3ffe:0:8000::/37") && embedded == u32::from(from)));
        }
        STF | ANYCAST => {
            assert!(plan.input && !embed::is_martian(u32::from(from)));
            match ipv6::embedded_6to4(src) {
                Some(v4) => assert_eq!(v4, u32::from(from)),
                None => assert!(plan.site, "no relay takes native sources"),
            }
        }
        other => panic!("taken in at {other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_mechanism_under_any_packet(plan in plan(), frames in prop::collection::vec(frame(), 1..64)) {
        let mut together = set_up(&plan);
        let mut alone = set_up(&plan);
        for native in [true, false] {
            let port = if native { INSIDE } else { OUTSIDE };
            let chosen: Vec<_> = frames.iter().filter(|(n, _)| *n == native).collect();
            let bytes: Vec<_> = chosen.iter().map(|(_, bytes)| bytes.clone()).collect();
            let batch = together.frames(port, &bytes);
            let single: Vec<_> = bytes.iter().map(|b| alone.frame(port, b)).collect();
            prop_assert_eq!(&batch, &single);
            for (received, sent) in chosen.iter().zip(&batch) {
                check(&plan, received, sent);
            }
        }
        prop_assert_eq!(together.local.counters(), alone.local.counters());
        prop_assert_eq!(together.local.counters().received.packets, frames.len() as u64);
        prop_assert_eq!(together.local.counters().unaccounted(), 0);
        let mut told = [Vec::new(), Vec::new()];
        together.local.take_events(|event| told[0].push(event));
        alone.local.take_events(|event| told[1].push(event));
        prop_assert_eq!(&told[0], &told[1]);
    }
}
