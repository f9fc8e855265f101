//! Packets of every kind the relay knows, for a relay after [`Plan::PLAIN`]: where fuzzing and
//! mutation start from.

use crate::frame::{OUTSIDE_MAC, RELAY_MAC};
use crate::population::{INSIDE, OUTSIDE};
use crate::relay::{LOCALS, PACKET_MAX, Plan, ROUTER, Received, VLAN, prefix, remote};
use sixferry_fwd::PortId;
use sixferry_wire::{checksum, ether, icmpv6, ipv4, ipv6};
use std::net::Ipv6Addr;

/// Our link-local address on tunnels of the first local address.
pub const LINK_LOCAL: u128 = 0xfe80 << 112 | 0xc633_6401;
/// A host on the native side.
pub const HOST: u128 = 0x2001_0db8_0077 << 80 | 1;
/// ff02::1:2, all DHCPv6 servers and relays.
const DHCPV6: u128 = 0xff02 << 112 | 0x1_0002;
/// Where DHCPv6 servers listen (RFC 8415 section 7.2).
const DHCPV6_PORT: u16 = 547;
/// ff02::2, all routers.
const ALL_ROUTERS: u128 = 0xff02 << 112 | 2;

/// A packet and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// What it is, in a few words, fit for a file name.
    pub name: &'static str,
    /// The packet.
    pub packet: Received,
}

/// The address of host `host` behind tunnel `k`.
#[must_use]
pub fn user(k: u8, host: u16) -> u128 {
    prefix(k) | u128::from(host)
}

/// An Ethernet frame to the relay.
#[must_use]
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ether::HEADER_LEN];
    ether::emit(&mut header, RELAY_MAC, OUTSIDE_MAC, ether_type);
    [&header[..], payload].concat()
}

/// A frame with a VLAN tag.
#[must_use]
pub fn tagged(vlan: u16, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ether::HEADER_LEN + ether::TAG_LEN];
    ether::emit_tagged(
        &mut header,
        RELAY_MAC,
        OUTSIDE_MAC,
        ether::TYPE_8021Q,
        vlan,
        ether_type,
    );
    [&header[..], payload].concat()
}

/// An IPv4 packet from the peer of tunnel `k`, with options of whole words.
#[must_use]
pub fn ipv4_from(k: u8, protocol: u8, tos: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = ipv4::HEADER_LEN + options.len();
    let mut header = [0; ipv4::HEADER_LEN];
    let repr = ipv4::Repr {
        tos,
        total_len: length(header_len + payload.len()),
        identification: 7,
        df: false,
        ttl: 63,
        protocol,
        src: remote(k).octets(),
        dst: LOCALS[0].octets(),
    };
    repr.emit(&mut header);
    let mut packet = [&header[..], options, payload].concat();
    packet[0] = 0x40 | (header_len / 4) as u8;
    fix_ipv4_checksum(&mut packet);
    packet
}

/// Makes the checksum of the IPv4 header at the start of `packet` right, if it has one.
pub fn fix_ipv4_checksum(packet: &mut [u8]) {
    let header_len = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
    if let Some(header) = packet.get_mut(..header_len)
        && header_len >= ipv4::HEADER_LEN
    {
        header[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An IPv6 packet.
#[must_use]
pub fn ipv6(src: u128, dst: u128, next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ipv6::HEADER_LEN];
    let repr = ipv6::Repr {
        payload_len: length(payload.len()),
        next_header,
        hop_limit,
        src,
        dst,
    };
    repr.emit(&mut header);
    [&header[..], payload].concat()
}

/// A UDP packet of `len` bytes over IPv6, header included.
#[must_use]
pub fn udp(src: u128, dst: u128, hop_limit: u8, len: usize) -> Vec<u8> {
    let mut message = vec![0x5a; len.max(8)];
    message[..8].copy_from_slice(&[0xc0, 0, 0, 9, 0, 0, 0, 0]);
    message[4..6].copy_from_slice(&length(len.max(8)).to_be_bytes());
    ipv6(src, dst, 17, hop_limit, &message)
}

/// An ICMPv6 packet with the right checksum.
#[must_use]
pub fn icmp6(src: u128, dst: u128, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = icmpv6::compute_checksum(src, dst, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(src, dst, ipv6::NH_ICMPV6, hop_limit, &message)
}

fn length(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn echo_request(src: u128, dst: u128) -> Vec<u8> {
    icmp6(src, dst, 64, b"\x80\0\0\0\x12\x34\0\x01abcdefghijklmnop")
}

fn solicitation(src: u128, dst: u128, target: u128) -> Vec<u8> {
    let mut message = vec![icmpv6::NEIGHBOUR_SOLICIT, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.to_be_bytes());
    icmp6(src, dst, 255, &message)
}

/// A "fragmentation needed" about a packet of ours into tunnel `k`.
fn too_big(k: u8) -> Vec<u8> {
    let mut outer = [0; ipv4::HEADER_LEN];
    let repr = ipv4::Repr {
        tos: 0,
        total_len: 1300,
        identification: 1,
        df: true,
        ttl: 60,
        protocol: ipv4::PROTO_IPV6,
        src: LOCALS[0].octets(),
        dst: remote(k).octets(),
    };
    repr.emit(&mut outer);
    let quoted = udp(HOST, user(k, 5), 63, 8);
    let mut message = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &outer, &quoted].concat();
    let sum = checksum::finish(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

struct Seeds(Vec<Seed>);

impl Seeds {
    fn frame(&mut self, name: &'static str, port: PortId, bytes: Vec<u8>) {
        assert!(bytes.len() <= PACKET_MAX, "{name} fits a frame");
        let packet = Received { port, bytes };
        self.0.push(Seed { name, packet });
    }

    fn tunnelled(&mut self, name: &'static str, k: u8, inner: &[u8]) {
        let outer = ipv4_from(k, ipv4::PROTO_IPV6, 0, &[], inner);
        self.frame(name, OUTSIDE, ethernet(ether::TYPE_IPV4, &outer));
    }

    fn native(&mut self, name: &'static str, packet: &[u8]) {
        self.frame(name, INSIDE, ethernet(ether::TYPE_IPV6, packet));
    }
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut s = Seeds(Vec::new());
    out_of_tunnels(&mut s);
    from_the_native_side(&mut s);
    neighbour_discovery(&mut s);
    outer_headers(&mut s);
    s.0
}

fn out_of_tunnels(s: &mut Seeds) {
    let router = u128::from(ROUTER);
    s.tunnelled("decap", 0, &udp(user(0, 5), HOST, 64, 40));
    s.tunnelled("decap-large", 0, &udp(user(0, 5), HOST, 64, 1240));
    s.tunnelled("decap-spoofed", 0, &udp(user(1, 5), HOST, 64, 40));
    s.tunnelled("decap-hairpin", 0, &udp(user(0, 5), user(1, 5), 64, 40));
    s.tunnelled("decap-loop", 0, &udp(user(0, 5), user(0, 6), 64, 40));
    s.tunnelled("decap-hop-limit", 0, &udp(user(0, 5), HOST, 1, 40));
    s.tunnelled("decap-to-router", 0, &udp(user(0, 5), router, 64, 40));
    s.tunnelled("decap-echo-router", 0, &echo_request(user(0, 5), router));
    let rh0 = [17, 2, 0, 1, 0, 0, 0, 0];
    let routed = [&rh0[..], &[0; 16], &[0; 8]].concat();
    let packet = ipv6(user(0, 5), HOST, ipv6::NH_ROUTING, 64, &routed);
    s.tunnelled("decap-routing-header", 0, &packet);
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let chained = [&options[..], &[128, 0, 0, 0, 0, 1, 0, 1]].concat();
    let packet = ipv6(user(0, 5), HOST, ipv6::NH_HOP_BY_HOP, 1, &chained);
    s.tunnelled("decap-hop-by-hop", 0, &packet);
    let embedded = 0x2002_c633_6401 << 80 | 1;
    s.tunnelled("decap-6to4-self", 0, &udp(user(0, 5), embedded, 64, 40));
    s.tunnelled("decap-no-payload", 0, &ipv6(user(0, 5), HOST, 59, 64, &[]));
}

fn from_the_native_side(s: &mut Seeds) {
    let router = u128::from(ROUTER);
    s.native("encap", &udp(HOST, user(0, 5), 64, 40));
    s.native("encap-exact", &udp(HOST, user(0, 5), 64, 1240));
    s.native("encap-too-big", &udp(HOST, user(0, 5), 64, 1241));
    s.native("encap-hop-limit", &udp(HOST, user(0, 5), 1, 40));
    s.native("encap-spoofed", &udp(user(0, 5), user(1, 5), 64, 40));
    s.native("encap-no-route", &udp(HOST, user(9, 5), 64, 40));
    s.native("native-native", &udp(HOST, HOST + 1, 64, 40));
    s.native("native-echo-router", &echo_request(HOST, router));
    s.native(
        "native-link-local",
        &udp(0xfe80 << 112 | 9, user(0, 5), 64, 40),
    );
    let error = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &[0; 40]].concat();
    s.native("encap-error-hop-limit", &icmp6(HOST, user(0, 5), 1, &error));
    for (name, dst) in [
        ("native-blackhole", 0xb1),
        ("native-unreachable", 0xb2),
        ("native-prohibited", 0xb3),
    ] {
        s.native(name, &udp(HOST, (0x2001_0db8_0000 | dst) << 80 | 1, 64, 8));
    }
    let packet = udp(HOST, user(2, 5), 64, 40);
    s.frame(
        "encap-tagged",
        INSIDE,
        tagged(VLAN, ether::TYPE_IPV6, &packet),
    );
    s.frame(
        "encap-other-vlan",
        INSIDE,
        tagged(7, ether::TYPE_IPV6, &packet),
    );
    s.frame(
        "encap-one-armed",
        OUTSIDE,
        ethernet(ether::TYPE_IPV6, &packet),
    );
}

fn neighbour_discovery(s: &mut Seeds) {
    let peer = 0xfe80 << 112 | 2;
    let solicited = 0xff02 << 112 | 0x1_ff33_6401;
    let link = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1));
    s.tunnelled("nud", 0, &solicitation(peer, LINK_LOCAL, LINK_LOCAL));
    s.tunnelled("resolve", 0, &solicitation(peer, solicited, LINK_LOCAL));
    s.tunnelled(
        "duplicate-probe",
        0,
        &solicitation(0, solicited, LINK_LOCAL),
    );
    s.tunnelled("nud-link", 0, &solicitation(link + 1, link, link));
    s.tunnelled("echo-link-local", 0, &echo_request(peer, LINK_LOCAL));
    s.tunnelled("echo-link", 0, &echo_request(user(0, 5), link));
    let solicit = [133, 0, 0, 0, 0, 0, 0, 0];
    s.tunnelled(
        "router-solicitation",
        0,
        &icmp6(peer, ALL_ROUTERS, 255, &solicit),
    );
    let mut dhcpv6 = udp(peer, DHCPV6, 1, 30);
    s.tunnelled("dhcpv6-to-another-port", 0, &dhcpv6);
    dhcpv6[42..44].copy_from_slice(&DHCPV6_PORT.to_be_bytes());
    s.tunnelled("dhcpv6", 0, &dhcpv6);
}

fn outer_headers(s: &mut Seeds) {
    let inner = udp(user(0, 5), HOST, 64, 40);
    s.tunnelled("unknown-peer", 9, &inner);
    let mut ipv4 = |name, protocol, tos, options: &[u8], payload: &[u8]| {
        let packet = ipv4_from(0, protocol, tos, options, payload);
        s.frame(name, OUTSIDE, ethernet(ether::TYPE_IPV4, &packet));
    };
    ipv4("outer-congested", 41, 3, &[], &inner);
    ipv4("outer-router-alert", 41, 0, &[148, 4, 0, 0], &inner);
    ipv4(
        "outer-source-route",
        41,
        0,
        &[131, 7, 4, 192, 0, 2, 1, 0],
        &inner,
    );
    ipv4(
        "outer-udp",
        17,
        0,
        &[],
        &[0x0d, 0xd8, 0x0d, 0xd8, 0, 8, 0, 0],
    );
    ipv4("outer-gre", 47, 0, &[], &[0; 8]);
    ipv4("icmp4-too-big", 1, 0, &[], &too_big(0));
    ipv4("icmp4-echo", 1, 0, &[], &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let mut fragment = ipv4_from(0, 41, 0, &[], &inner);
    fragment[6] = 0x20;
    fix_ipv4_checksum(&mut fragment);
    s.frame(
        "outer-fragment",
        OUTSIDE,
        ethernet(ether::TYPE_IPV4, &fragment),
    );
    let packet = ipv4_from(0, 41, 0, &[], &inner);
    let padded = [&packet[..], &[0; 9]].concat();
    s.frame("outer-padded", OUTSIDE, ethernet(ether::TYPE_IPV4, &padded));
    s.frame(
        "outer-tagged",
        OUTSIDE,
        tagged(VLAN, ether::TYPE_IPV4, &packet),
    );
    s.frame("arp", OUTSIDE, ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1]));
    s.frame("raw-ipv4", crate::relay::TUN, packet);
    s.frame("raw-ipv6", crate::relay::TUN, udp(HOST, user(0, 5), 64, 40));
}

/// Plans worth starting from besides [`Plan::PLAIN`], each with some switch thrown: from the bytes
/// [`Plan::split`] reads.
#[must_use]
pub fn plans() -> Vec<Plan> {
    let plan = |relay, routes, flags, shape| {
        let mut bytes = vec![relay, routes, 7];
        for k in 0..Plan::TUNNELS_MAX as u8 {
            // neighbouring tunnels differ, so that packets between them meet both
            bytes.extend([flags ^ (k & 1) << 4, shape ^ (k & 1)]);
        }
        Plan::split(&bytes).0
    };
    vec![
        Plan::PLAIN,
        plan(0x1a, 0x49, 0x00, 0x04),
        plan(0x18, 0x09, 0x02, 0x12),
        plan(0x38, 0x00, 0x04, 0x0c),
        plan(0x48, 0x01, 0x68, 0x23),
        plan(0x98, 0x84, 0x20, 0x44),
        plan(0x0d, 0x70, 0x50, 0xf0),
        plan(0x12, 0x02, 0x01, 0x00),
    ]
}
