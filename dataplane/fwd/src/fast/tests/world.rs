//! Random relays, and random packets that mean something to them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "low bits and small numbers"
)]

use crate::{
    DomainSpec, Dscp, Ecn, EncapKind, Ipv4Prefix, Ipv6Prefix, MtuMode, NextHop, NextHopState,
    OuterOptions, PortConfig, PortId, PortKind, RateLimits, Rebind, Route, RouteSource, Settings,
    SixRdRole, SixToFourRole, TablesBuilder, Ttl, TunnelLink, TunnelSpec, UdpEncap,
};
use sixferry_wire::{checksum, ether, ipv4, ipv6, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PORTS: [PortId; 3] = [PortId(0), PortId(1), PortId(2)];
const VLAN: u16 = 100;
const LOCALS: [[u8; 4]; 2] = [[198, 51, 100, 1], [198, 51, 100, 2]];
const ROUTER: u128 = 0x2001_0db8_ffff << 80 | 1;
const TUNNELS: u8 = 6;

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 32) as usize % limit
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

const fn remote(k: u8) -> [u8; 4] {
    [192, 0, 2, 10 + k]
}

const fn prefix(k: u8) -> u128 {
    0x2001_0db8 << 96 | ((k as u128) + 1) << 88
}

const fn port_of(k: u8) -> u16 {
    // the first share theirs
    if k < 4 { 3545 } else { 4000 + k as u16 }
}

const fn local_of(k: u8) -> [u8; 4] {
    LOCALS[(k & 1) as usize]
}

const fn is_udp(k: u8) -> bool {
    k % 3 == 2
}

const fn six_rd() -> u128 {
    0x2a01_0e00 << 96
}

/// Tables drawn from `seed`; the same ones for the same seed.
pub(super) fn tables(seed: u64) -> TablesBuilder {
    let mut rng = Rng(seed);
    let rng = &mut rng;
    let mut b = TablesBuilder::new(settings(rng), 1);
    let hops: Vec<Route> = PORTS.iter().map(|id| port(&mut b, rng, *id)).collect();
    let six = |bits: u128, len| Ipv6Prefix::containing(Ipv6Addr::from(bits), len);
    for block in [0x2001, 0x2002, 0x2a00] {
        if !rng.once_in(20) {
            b.set_route6(six(block << 112, 16), RouteSource::Kernel, hops[1]);
        }
    }
    if !rng.once_in(20) {
        let all = Ipv4Prefix::containing(Ipv4Addr::from([192, 0, 0, 0]), 16);
        b.set_route4(all, RouteSource::Kernel, hops[0]);
    }
    if rng.once_in(2) {
        // our own addresses have a route like any other
        let ours = Ipv4Prefix::containing(LOCALS[0].into(), 24);
        b.set_route4(ours, RouteSource::Kernel, hops[0]);
    }
    if !rng.once_in(3) {
        b.set_route6(six(ROUTER, 128), RouteSource::Kernel, Route::Local);
    }
    for k in 0..TUNNELS {
        if !rng.once_in(12) {
            // what the tables refuse is not there
            _ = b.insert_tunnel(&tunnel(rng, k));
        }
    }
    if rng.once_in(4) {
        let local = rng.of(&LOCALS).into();
        let relay = DomainSpec::six_to_four(local, SixToFourRole::Relay);
        _ = b.insert_domain(&relay);
    }
    if rng.once_in(4) {
        let (local, role) = (rng.of(&LOCALS).into(), SixRdRole::Br { anycast: false });
        let domain = six(six_rd(), 32);
        _ = b.insert_domain(&DomainSpec::six_rd(local, domain, [0; 4].into(), 0, role));
    }
    let odd = [
        hops[0],
        hops[1],
        hops[2],
        Route::Local,
        Route::Blackhole,
        Route::Unreachable,
        Route::Prohibit,
    ];
    for k in 0..TUNNELS {
        if rng.once_in(15) {
            let (len, route) = (rng.of(&[44, 48, 56, 64, 128]), rng.of(&odd));
            b.set_route6(six(address(rng, k), len), RouteSource::Api, route);
        }
        if rng.once_in(20) {
            let host = Ipv4Prefix::containing(remote(k).into(), 32);
            b.set_route4(host, RouteSource::Api, rng.of(&odd));
        }
    }
    b
}

fn settings(rng: &mut Rng) -> Settings {
    let mut settings = Settings {
        native_source_check: !rng.once_in(4),
        ..Settings::default()
    };
    if !rng.once_in(5) {
        settings.router_address = ROUTER.into();
    }
    if rng.once_in(3) {
        settings.outer_options = OuterOptions::Skip;
    }
    if rng.once_in(2) {
        settings.icmp_errors = RateLimits::UNLIMITED;
    }
    if rng.once_in(2) {
        settings.punt_subscriptions = u32::MAX;
    }
    if rng.once_in(3) {
        settings.host_port = Some(PORTS[2]);
    }
    settings
}

fn port(b: &mut TablesBuilder, rng: &mut Rng, id: PortId) -> Route {
    let mac = [2, 0, 0, 0, 0, id.0];
    let kind = if id == PORTS[2] || rng.once_in(12) {
        PortKind::RawIp
    } else {
        PortKind::Ethernet { mac }
    };
    let mtu = rng.of(&[1500, 1500, 1500, 1400, 1290]);
    b.set_port(
        id,
        PortConfig {
            kind,
            mtu,
            vlans: vec![VLAN],
            up: !rng.once_in(25),
        },
    );
    let gateway = IpAddr::V6(Ipv6Addr::from(ROUTER + 1));
    let resolved = NextHopState::Resolved {
        dst_mac: [4, 0, 0, 0, 0, id.0],
    };
    let state = match rng.below(20) {
        0 => NextHopState::Unresolved { gateway },
        1 => NextHopState::OnLink,
        2 => NextHopState::Down,
        _ => resolved,
    };
    Route::NextHop(b.add_next_hop(NextHop {
        port: id,
        vlan: rng.once_in(15).then_some(VLAN),
        vlan_service_tag: false,
        src_mac: mac,
        mtu,
        state,
    }))
}

fn tunnel(rng: &mut Rng, k: u8) -> TunnelSpec {
    let six = |bits: u128, len| Ipv6Prefix::containing(Ipv6Addr::from(bits), len);
    let mut spec = TunnelSpec::new(local_of(k).into(), remote(k).into());
    spec.prefixes = vec![six(prefix(k), 48)];
    if is_udp(k) {
        spec.encap = EncapKind::Udp(UdpEncap {
            local_port: port_of(k),
            remote_port: 5000,
            shared: k < 4,
            rebind: rng.of(&[
                Rebind::Deny,
                Rebind::Control,
                Rebind::InnerSource,
                Rebind::InnerSourcePort,
            ]),
        });
    }
    spec.mtu = rng.of(&[1280, 1400, 1480]);
    for _ in 0..rng.below(3) {
        oddity(rng, k, &mut spec);
    }
    spec
}

fn oddity(rng: &mut Rng, k: u8, spec: &mut TunnelSpec) {
    let six = |bits: u128, len| Ipv6Prefix::containing(Ipv6Addr::from(bits), len);
    match rng.below(17) {
        0 => spec.prefixes = vec![],
        // inside another tunnel's
        1 => spec.prefixes = vec![six(prefix(k ^ 1) | 0x77 << 64, 64)],
        2 => spec.prefixes.push(six(0x2a00_0001_u128 << 96, 48)),
        // unique local addresses
        3 => spec.prefixes = vec![six(0xfd00_u128 << 112 | u128::from(k) << 80, 48)],
        4 => {
            let address = prefix(k) | 0xffff_u128 << 64 | 1;
            spec.link = Some(TunnelLink {
                prefix: six(address, 64),
                address: address.into(),
            });
        }
        5 => spec.mtu_mode = MtuMode::Managed,
        6 => {
            spec.mtu_mode = MtuMode::Dynamic;
            spec.path_mtu = rng.once_in(2).then_some(1350);
        }
        7 => spec.mss_clamp = true,
        8 => spec.ttl = rng.of(&[Ttl::Fixed(7), Ttl::Inherit]),
        9 => spec.dscp = rng.of(&[Dscp::Fixed(46), Dscp::Copy]),
        10 => spec.dscp_decap_copy = true,
        11 => spec.ecn = Ecn::Compat,
        12 => spec.strict_source = false,
        13 => spec.up = false,
        // around an address of ours, or one that embeds one
        15 => {
            let local = u128::from(u32::from_be_bytes(rng.of(&LOCALS)));
            let ours = rng.of(&[ROUTER, 0x2002_u128 << 112 | local << 80]);
            spec.prefixes = vec![six(ours, 48)];
        }
        // whose far end may be an address of ours
        14 => spec.remote = rng.of(&LOCALS).into(),
        _ => {
            if let EncapKind::Udp(udp) = &mut spec.encap {
                udp.remote_port = 0;
            }
        }
    }
}

/// An address of tunnel `k`'s user, mostly.
fn address(rng: &mut Rng, k: u8) -> u128 {
    prefix(k) | u128::from(rng.of(&[0u8, 0, 0, 0x77])) << 64 | u128::from(rng.below(3) as u64 + 1)
}

/// An address for which there may be a rule.
fn special(rng: &mut Rng) -> u128 {
    let local = u128::from(u32::from_be_bytes(rng.of(&LOCALS)));
    let peer = u128::from(u32::from_be_bytes(remote(0)));
    let k = rng.below(usize::from(TUNNELS)) as u8;
    let link_local = 0xfe80_u128 << 112 | local;
    rng.of(&[
        ROUTER,
        0x2002_u128 << 112 | local << 80 | 1,
        0x2002_u128 << 112 | peer << 80 | 1,
        0x2002_u128 << 112 | 0xc058_6301 << 80,
        six_rd() | local << 64 | 1,
        six_rd() | peer << 64 | 1,
        link_local,
        0xff02_u128 << 112 | 1,
        0,
        1,
        0xffff_0102_0304,
        prefix(k) | 0xffff_u128 << 64 | 1,
        prefix(k) | 5,
        0xfd00_u128 << 112 | u128::from(k) << 80 | 1,
        0x2a00_0001_u128 << 96 | 9,
        0x2b00_u128 << 112,
    ])
}

/// A packet and the port it comes in by.
pub(super) fn packet(rng: &mut Rng) -> (PortId, Vec<u8>) {
    let k = rng.below(usize::from(TUNNELS)) as u8;
    let native = 0x2001_0002_u128 << 96 | 2;
    let (user, far) = (address(rng, k), native);
    let into = rng.once_in(2);
    let (mut src, mut dst) = if into { (far, user) } else { (user, far) };
    match rng.below(16) {
        0 => src = special(rng),
        1 => dst = special(rng),
        _ => {}
    }
    let inner = inner(rng, src, dst);
    let (mut port, mut bytes, ether_type) = if into {
        (PORTS[1], inner, ether::TYPE_IPV6)
    } else {
        (PORTS[0], outer(rng, k, &inner), ether::TYPE_IPV4)
    };
    if rng.once_in(20) {
        port = rng.of(&PORTS);
    }
    if port != PORTS[2] {
        bytes = framed(rng, ether_type, &bytes);
    }
    if rng.once_in(4) {
        damage(rng, &mut bytes);
    }
    (port, bytes)
}

fn inner(rng: &mut Rng, src: u128, dst: u128) -> Vec<u8> {
    let mut repr = ipv6::Repr {
        payload_len: 24,
        next_header: 17,
        hop_limit: 64,
        src,
        dst,
    };
    let mut class = 0;
    match rng.below(8) {
        0 => repr.next_header = rng.of(&[6, ipv6::NH_ROUTING, ipv6::NH_ICMPV6, 59]),
        1 => repr.hop_limit = rng.of(&[255, 2, 1, 0]),
        2 => class = rng.of(&[1, 2, 3, 0xb8, 0xba]),
        // on both sides of every MTU
        3 | 4 => {
            let len: u16 = rng.of(&[1262, 1270, 1280, 1290, 1372, 1380, 1400, 1480, 1500]);
            repr.payload_len = len - 40 + rng.below(2) as u16;
        }
        _ => {}
    }
    let mut header = [0; ipv6::HEADER_LEN];
    repr.emit(&mut header);
    ipv6::set_traffic_class(&mut header, class);
    let payload = repr.payload_len;
    let mut packet = header.to_vec();
    packet.resize(ipv6::HEADER_LEN + usize::from(payload), 0);
    if repr.next_header == 6 {
        // a SYN that announces an MSS of 1440
        packet[52..54].copy_from_slice(&[0x60, 2]);
        packet[60..64].copy_from_slice(&[2, 4, 0x05, 0xa0]);
    } else {
        // routing header type 0 or 2, echo request or another message
        packet[40..43].copy_from_slice(&[rng.of(&[17, 128]), 0, rng.of(&[0, 2])]);
    }
    packet
}

fn outer(rng: &mut Rng, k: u8, inner: &[u8]) -> Vec<u8> {
    let (mut src, mut dst) = (remote(k), local_of(k));
    match rng.below(20) {
        0 => src = remote(k ^ 1),
        1 => dst = local_of(k + 1),
        _ => {}
    }
    let mut payload = inner.to_vec();
    let mut protocol = ipv4::PROTO_IPV6;
    if is_udp(k) != rng.once_in(20) {
        protocol = ipv4::PROTO_UDP;
        let len = udp::HEADER_LEN + inner.len();
        let mut header = [0; udp::HEADER_LEN];
        let from = if rng.once_in(10) { 6000 } else { 5000 };
        udp::emit(&mut header, from, port_of(k), len as u16);
        payload = [&header[..], inner].concat();
        if !rng.once_in(6) {
            let sum = udp::compute_checksum(src, dst, &payload);
            payload[6..8].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let mut header = [0; ipv4::HEADER_LEN];
    let mut total_len = (ipv4::HEADER_LEN + payload.len()) as u16;
    if rng.once_in(50) {
        // too short for this header, for the next, or just not
        total_len = rng.of(&[0, 19, 20, 59, 60]);
    }
    let repr = ipv4::Repr {
        tos: rng.of(&[0, 0, 0, 0, 1, 2, 3, 0xb8]),
        total_len,
        identification: 1,
        df: rng.once_in(2),
        ttl: 60,
        protocol,
        src,
        dst,
    };
    repr.emit(&mut header);
    let mut packet = [&header[..], &payload].concat();
    if rng.once_in(20) {
        // an option word of no-operations
        packet.splice(20..20, [1; 4]);
        packet[0] = 0x46;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        fix(&mut packet);
    }
    packet
}

fn framed(rng: &mut Rng, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let [d, s] = [[2, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]];
    let mut frame = if rng.once_in(10) {
        let mut header = [0; ether::HEADER_LEN + ether::TAG_LEN];
        let vlan = rng.of(&[VLAN, VLAN, VLAN, 7]);
        ether::emit_tagged(&mut header, d, s, ether::TYPE_8021Q, vlan, ether_type);
        header.to_vec()
    } else {
        let mut header = [0; ether::HEADER_LEN];
        ether::emit(&mut header, d, s, ether_type);
        header.to_vec()
    };
    frame.extend_from_slice(packet);
    if rng.once_in(10) {
        frame.resize(frame.len() + rng.below(20), 0);
    }
    frame
}

fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if rng.once_in(6) {
        let len = bytes.len().min(120);
        bytes.truncate(rng.below(len + 1));
        return;
    }
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len().clamp(1, 90));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    }
    // or hardly any damage would get past the checksum
    if let Some(header) = bytes.get_mut(ether::HEADER_LEN..)
        && header.first().is_some_and(|first| first >> 4 == 4)
    {
        fix(header);
    }
}

/// Makes the checksum of an IPv4 header right.
fn fix(packet: &mut [u8]) {
    let len = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4);
    if let Some(header) = packet.get_mut(..len)
        && len >= ipv4::HEADER_LEN
    {
        header[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
