//! Pass one: what kind of packet is this, and is its first header sound?
//!
//! RFC 1812 section 5.2.2 (IPv4 header validity), RFC 7126 (options), RFC 8200 section 3. Reads the
//! packet's first two cache lines and nothing else.

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::tables::live::Endpoint;
use crate::tables::{OuterOptions, PortKind, Tables, outer_key, port_key};
use sixferry_wire::{checksum, ether, ipv4, ipv6, udp};

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IPv6 in IPv4: decapsulate.
    Outer,
    /// UDP to one of our tunnel ports: decapsulate.
    Udp,
    /// A fragment of either.
    Fragment,
    /// IPv6 from the native side.
    Native,
    /// An ICMPv4 message.
    Icmp4,
    /// Not fit for anything.
    Bad(DropReason),
}

/// What passes one and two find out about a packet. Offsets are frame offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed {
    pub(crate) kind: Kind,
    /// VLAN id it came with, 0 for none.
    pub(crate) vlan: u16,
    /// IP header.
    pub(crate) l3: usize,
    /// What the IPv4 header carries; the IPv6 header itself on the native side.
    pub(crate) inner: usize,
    /// After the last byte, link padding cut.
    pub(crate) end: usize,
    /// Outer addresses; for UDP our address and port.
    pub(crate) key: u64,
    /// Where the table of outer addresses has the key, if at all.
    pub(crate) home: usize,
    /// UDP: who sent it.
    pub(crate) peer: Endpoint,
    /// Inner addresses; 0 when the inner header is not whole.
    pub(crate) src: u128,
    pub(crate) dst: u128,
    /// Pass two: the tunnel of the outer addresses.
    pub(crate) tunnel: Option<u32>,
    /// Pass two: what the FIB says of both addresses (the source only on the native side).
    pub(crate) src_target: u32,
    pub(crate) dst_target: u32,
    /// Pass two: what the IPv4 FIB says of the far end of the tunnel the packet leaves by.
    pub(crate) remote_target: Option<u32>,
}

impl Parsed {
    pub(crate) const EMPTY: Self = Self {
        kind: Kind::Bad(DropReason::EthTruncated),
        vlan: 0,
        l3: 0,
        inner: 0,
        end: 0,
        key: 0,
        home: 0,
        peer: Endpoint {
            address: [0; 4],
            port: 0,
        },
        src: 0,
        dst: 0,
        tunnel: None,
        src_target: 0,
        dst_target: 0,
        remote_target: None,
    };

    const fn bad(reason: DropReason) -> Self {
        Self {
            kind: Kind::Bad(reason),
            ..Self::EMPTY
        }
    }

    /// Our address in the key.
    #[inline]
    pub(crate) const fn local(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.key.to_be_bytes();
        [a, b, c, d]
    }
}

/// Parses one packet; with `SHORTCUT` the usual frame at a glance.
#[inline]
pub(crate) fn classify<const SHORTCUT: bool>(packet: &Packet<'_>, tables: &Tables) -> Parsed {
    if SHORTCUT && let Some(parsed) = usual(packet, tables) {
        return parsed;
    }
    in_full(packet, tables)
}

#[inline(never)]
fn in_full(packet: &Packet<'_>, tables: &Tables) -> Parsed {
    parse(packet, tables).unwrap_or_else(Parsed::bad)
}

/// An untagged frame with IPv6, or with IPv6 in IPv4 without options and fragments, and nothing wrong.
#[inline]
fn usual(packet: &Packet<'_>, tables: &Tables) -> Option<Parsed> {
    if !tables.is_plain_port(packet.rx_port()) {
        return None;
    }
    let bytes = packet.bytes();
    let (link, rest) = bytes.split_first_chunk::<{ ether::HEADER_LEN }>()?;
    let l3 = packet.head() + ether::HEADER_LEN;
    match u16::from_be_bytes([link[12], link[13]]) {
        ether::TYPE_IPV4 => {
            let (outer, inner) = rest.split_first_chunk()?;
            let header = ipv4::Header(outer);
            let total_len = header.total_len();
            let usual = outer[0] == 0x45
                && header.protocol() == ipv4::PROTO_IPV6
                && !header.is_fragment()
                && (ipv4::HEADER_LEN + ipv6::HEADER_LEN..=rest.len()).contains(&total_len)
                && checksum::is_sound(outer);
            let inner = ipv6::Header(inner.first_chunk()?);
            usual.then(|| Parsed {
                kind: Kind::Outer,
                l3,
                inner: l3 + ipv4::HEADER_LEN,
                end: l3 + total_len,
                key: outer_key(header.dst(), header.src()),
                src: inner.src(),
                dst: inner.dst(),
                ..Parsed::EMPTY
            })
        }
        ether::TYPE_IPV6 => parse_v6(packet, 0, l3).ok(),
        _ => None,
    }
}

#[inline]
fn parse(packet: &Packet<'_>, tables: &Tables) -> Result<Parsed, DropReason> {
    let port = tables
        .port(packet.rx_port())
        .filter(|p| p.up)
        .ok_or(DropReason::PortDown)?;
    let head = packet.head();
    let (ether_type, vlan, l3) = match port.kind {
        PortKind::Ethernet { .. } => {
            let header = ether::parse(packet.bytes()).ok_or(DropReason::EthTruncated)?;
            if let Some(vlan) = header.vlan
                && port.vlans.binary_search(&vlan).is_err()
            {
                return Err(DropReason::EthVlan);
            }
            (
                header.ether_type,
                header.vlan.unwrap_or(0),
                head + header.len,
            )
        }
        PortKind::RawIp => {
            let ether_type = match packet.bytes().first().map(|byte| byte >> 4) {
                Some(4) => ether::TYPE_IPV4,
                Some(6) => ether::TYPE_IPV6,
                _ => return Err(DropReason::EthType),
            };
            (ether_type, 0, head)
        }
    };
    match ether_type {
        ether::TYPE_IPV4 => parse_v4(packet, tables, vlan, l3),
        ether::TYPE_IPV6 => parse_v6(packet, vlan, l3),
        _ => Err(DropReason::EthType),
    }
}

#[inline]
fn parse_v4(
    packet: &Packet<'_>,
    tables: &Tables,
    vlan: u16,
    l3: usize,
) -> Result<Parsed, DropReason> {
    let bytes = packet.from(l3);
    let header = ipv4::Header(bytes.first_chunk().ok_or(DropReason::V4Truncated)?);
    if header.version() != 4 {
        return Err(DropReason::V4Version);
    }
    let header_len = header.header_len();
    if header_len < ipv4::HEADER_LEN {
        return Err(DropReason::V4Ihl);
    }
    let total_len = header.total_len();
    if header_len > total_len || total_len > bytes.len() {
        return Err(DropReason::V4Length);
    }
    let whole = bytes.get(..header_len).ok_or(DropReason::V4Length)?;
    // AF_XDP delivers no checksum verdict
    if checksum::fold(checksum::sum(whole)) != 0xffff {
        return Err(DropReason::V4Checksum);
    }
    if header_len > ipv4::HEADER_LEN {
        let options = whole.get(ipv4::HEADER_LEN..).unwrap_or(&[]);
        if tables.settings().outer_options == OuterOptions::Drop || !harmless(options) {
            return Err(DropReason::V4Options);
        }
    }
    let inner = l3 + header_len;
    let mut parsed = Parsed {
        kind: Kind::Outer,
        vlan,
        l3,
        inner,
        end: l3 + total_len,
        key: outer_key(header.dst(), header.src()),
        ..Parsed::EMPTY
    };
    if header.is_fragment() {
        parsed.kind = Kind::Fragment;
        return Ok(parsed);
    }
    match header.protocol() {
        ipv4::PROTO_IPV6 => {
            if let Some(inner) = bytes
                .get(header_len..total_len)
                .and_then(<[u8]>::first_chunk)
            {
                let inner = ipv6::Header(inner);
                parsed.src = inner.src();
                parsed.dst = inner.dst();
            }
        }
        ipv4::PROTO_ICMP => parsed.kind = Kind::Icmp4,
        ipv4::PROTO_UDP => parse_udp(bytes, header_len, total_len, &mut parsed)?,
        _ => return Err(DropReason::V4Protocol),
    }
    Ok(parsed)
}

#[inline]
fn parse_udp(
    bytes: &[u8],
    header_len: usize,
    total_len: usize,
    parsed: &mut Parsed,
) -> Result<(), DropReason> {
    let datagram = bytes
        .get(header_len..total_len)
        .ok_or(DropReason::UdpLength)?;
    let (header, payload) = datagram.split_first_chunk().ok_or(DropReason::UdpLength)?;
    let header = udp::Header(header);
    if header.is_empty() || header.len() > datagram.len() {
        return Err(DropReason::UdpLength);
    }
    let [_, _, _, _, a, b, c, d] = parsed.key.to_be_bytes();
    parsed.peer = Endpoint {
        address: [a, b, c, d],
        port: header.src_port(),
    };
    parsed.kind = Kind::Udp;
    parsed.key = port_key(parsed.local(), header.dst_port());
    parsed.end = parsed.inner + header.len();
    parsed.inner += udp::HEADER_LEN;
    let payload = payload.get(..header.len() - udp::HEADER_LEN);
    if let Some(inner) = payload.and_then(<[u8]>::first_chunk) {
        let inner = ipv6::Header(inner);
        parsed.src = inner.src();
        parsed.dst = inner.dst();
    }
    Ok(())
}

#[inline]
fn parse_v6(packet: &Packet<'_>, vlan: u16, l3: usize) -> Result<Parsed, DropReason> {
    let bytes = packet.from(l3);
    let header = ipv6::Header(bytes.first_chunk().ok_or(DropReason::V6Truncated)?);
    if header.version() != 6 {
        return Err(DropReason::V6Version);
    }
    let len = ipv6::HEADER_LEN + header.payload_len();
    if len > bytes.len() {
        return Err(DropReason::V6Length);
    }
    Ok(Parsed {
        kind: Kind::Native,
        vlan,
        l3,
        inner: l3,
        end: l3 + len,
        src: header.src(),
        dst: header.dst(),
        ..Parsed::EMPTY
    })
}

/// Whether options are well formed and none routes the packet (RFC 7126 sections 4.3, 4.4).
fn harmless(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LSRR: u8 = 131;
    const SSRR: u8 = 137;
    loop {
        match options {
            [] | [END, ..] => return true,
            [NOP, rest @ ..] => options = rest,
            [LSRR | SSRR, ..] => return false,
            [_, len, ..] if *len >= 2 => match options.get(usize::from(*len)..) {
                Some(rest) => options = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        assert!(harmless(&[]) && harmless(&[1, 1, 1, 0]) && harmless(&[0, 9, 9, 9]));
        assert!(harmless(&[148, 4, 0, 0]), "router alert");
        assert!(!harmless(&[131, 3, 4, 0]) && !harmless(&[1, 137, 3, 4]));
        assert!(!harmless(&[7, 0, 0, 0]) && !harmless(&[7, 1, 0, 0]) && !harmless(&[7, 5, 0, 0]));
        assert!(!harmless(&[7]));
    }
}
