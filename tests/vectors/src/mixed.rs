//! A relay with every mechanism at once, for random packets.
//!
//! The tables vary: roles, restrictions, reverse path, rebinding, MTU modes. What must hold for any of
//! them: every packet has one verdict and is counted once; a batch is the sum of its packets; what
//! leaves is well formed, goes to no impossible address, and came in by a legal way.

use crate::relay::{INSIDE, LOCAL, OUTSIDE, REMOTE_A, REMOTE_B, Relay, Sent, prefix};
use sixferry_fwd::{
    BATCH_MAX, DomainKind, DomainSpec, Dscp, EncapKind, Ipv6Prefix, MtuMode, PuntReason, Rebind,
    Route, RouteSource, Settings, SixRdRole, SixToFourRole, Ticks, Ttl, TunnelSpec, UdpEncap, Urpf,
    Verdict,
};
use sixferry_wire::{checksum, embed, ether, ipv4, ipv6, udp as wire_udp};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where 6to4 works.
pub const STF: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 1);
/// A 6to4 peer.
pub const STF_PEER: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 2);
/// Where 6rd works (n = 37, m = 12).
pub const RD: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// A 6rd customer.
pub const RD_PEER: Ipv4Addr = Ipv4Addr::new(100, 66, 2, 71);
/// The anycast address of 6to4 relays.
pub const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 1);
/// Peer of both UDP tunnels, ports 40,000 and 40,001.
pub const UDP_PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Behind the first UDP tunnel.
pub const USER_U: &str = "2001:db8:500::5";
/// Behind the second.
pub const USER_V: &str = "2001:db8:600::5";

/// What varies in the tables.
#[derive(Clone, Debug)]
pub struct Plan {
    /// 6to4: a site and no relay.
    pub site: bool,
    /// 6rd: a customer and no border relay.
    pub customer: bool,
    /// Anycast, of relays.
    pub anycast: bool,
    /// 6to4: bits that peers share with us.
    pub peers: u8,
    /// 6to4: reverse path check.
    pub urpf: Urpf,
    /// 6to4: input.
    pub input: bool,
    /// UDP: what a moved peer does.
    pub rebind: Rebind,
    /// UDP: one port for both tunnels.
    pub shared: bool,
    /// MTU mode of tunnels.
    pub mode: MtuMode,
    /// Path MTU they start with.
    pub path_mtu: Option<u16>,
    /// TTL inherited.
    pub inherit: bool,
    /// DSCP copied; 6rd with DF.
    pub copy: bool,
    /// MSS clamped.
    pub clamp: bool,
    /// Somebody takes fragments, too big packets and packets for the host.
    pub punts: bool,
}

impl Plan {
    /// Bytes that [`Plan::from_bytes`] reads.
    pub const LEN: usize = 5;

    /// A plan of any bytes.
    #[must_use]
    pub fn from_bytes([roles, ways, peers, p0, p1]: [u8; Self::LEN]) -> Self {
        let bit = |n: u8| roles >> n & 1 != 0;
        let path = u16::from_be_bytes([p0, p1]);
        Self {
            site: bit(0),
            customer: bit(1),
            anycast: bit(2),
            input: !bit(3),
            shared: bit(4),
            inherit: bit(5),
            copy: bit(6),
            punts: bit(7),
            clamp: ways >> 7 != 0,
            peers: peers % 33,
            urpf: match ways & 3 {
                0 => Urpf::Strict,
                1 => Urpf::Loose,
                _ => Urpf::Off,
            },
            rebind: match ways >> 2 & 3 {
                0 => Rebind::Deny,
                1 => Rebind::Control,
                2 => Rebind::InnerSource,
                _ => Rebind::InnerSourcePort,
            },
            mode: match ways >> 4 & 3 {
                0 => MtuMode::Static,
                1 => MtuMode::Managed,
                _ => MtuMode::Dynamic,
            },
            path_mtu: (path >= 68).then_some(path),
        }
    }
}

/// Where a frame comes in, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the native side.
    pub native: bool,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Sends frames through two relays of the plan, as batches and one by one, and checks what comes of
/// them.
///
/// # Panics
/// When something that must hold does not.
pub fn run(plan: &Plan, frames: &[Frame]) {
    let mut together = set_up(plan);
    let mut alone = set_up(plan);
    for native in [true, false] {
        let port = if native { INSIDE } else { OUTSIDE };
        let chosen: Vec<_> = frames.iter().filter(|f| f.native == native).collect();
        for chosen in chosen.chunks(BATCH_MAX) {
            let bytes: Vec<_> = chosen.iter().map(|f| f.bytes.clone()).collect();
            let batch = together.frames(port, &bytes);
            let single: Vec<_> = bytes.iter().map(|b| alone.frame(port, b)).collect();
            assert_eq!(batch, single, "a batch is the sum of its packets");
            for (received, sent) in chosen.iter().zip(&batch) {
                check(plan, received, sent);
            }
        }
    }
    let counters = together.local.counters();
    assert_eq!(counters, alone.local.counters());
    assert_eq!(counters.received.packets, frames.len() as u64);
    assert_eq!(counters.unaccounted(), 0);
    let told = |relay: &mut Relay| {
        let mut events = Vec::new();
        relay.local.take_events(|event| events.push(event));
        events
    };
    assert_eq!(told(&mut together), told(&mut alone));
}

/// The relay of a plan.
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
            prefixes: vec![Ipv6Prefix::containing(address, 48)],
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
fn legal_way(plan: &Plan, received: &Frame, src: u128) {
    let within = |text: &str| prefix(text).contains(Ipv6Addr::from(src));
    let tunnels = [
        (REMOTE_A, "2001:db8:100::/48"),
        (REMOTE_B, "2001:db8:200::/48"),
    ];
    // each port takes both kinds
    if ether::parse(&received.bytes).is_some_and(|h| h.ether_type == ether::TYPE_IPV6) {
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
    let packet = &received.bytes[ether::HEADER_LEN..];
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
