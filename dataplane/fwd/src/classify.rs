//! Pass one: what kind of packet is this, and is its first header sound?
//!
//! RFC 1812 section 5.2.2 (IPv4 header validity), RFC 7126 (options), RFC 8200 section 3. Reads the
//! packet's first two cache lines and nothing else. While they are at hand it is noted, too, whether the
//! inner header calls for nothing but the ordinary ([`crate::fast`]).

use crate::drop_reason::DropReason;
use crate::fast::Glance;
use crate::id::TunnelId;
use crate::lookup::Walks;
use crate::packet::Packet;
use crate::tables::live::Endpoint;
use crate::tables::{OuterOptions, PortKind, outer_key, port_key};
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
    Bad,
}

/// How many packets ahead headers are fetched. Frames lie at multiples of 2 KiB, so the headers of all have
/// to share a few sets of the nearest cache: of a whole batch fetched at once, half would be gone again
/// before they are read.
const AHEAD: usize = 12;

/// No tunnel, or no route looked up.
const NOTHING: u32 = u32::MAX;

/// What passes one and two find out about a packet. Offsets are frame offsets. Small, because those of a
/// whole batch wait in the nearest cache for the next pass; what the packet itself says is read again.
#[derive(Clone, Copy, Debug)]
// what is the same in most packets lies together, and is written in one go
#[repr(C)]
pub(crate) struct Parsed {
    /// Outer addresses; for UDP our address and port.
    pub(crate) key: u64,
    /// Where the table of outer addresses has the key, if at all.
    pub(crate) home: u32,
    /// What the FIB says of the destination.
    pub(crate) dst_target: u32,
    l3: u16,
    inner: u16,
    end: u16,
    /// Length of the IPv6 packet if its header calls for nothing out of the ordinary, else 0.
    pub(crate) ordinary: u16,
    /// What the FIB says of the source, on the native side.
    pub(crate) src_target: u32,
    tunnel: u32,
    remote_target: u32,
    /// VLAN id it came with, 0 for none.
    pub(crate) vlan: u16,
    /// UDP: who sent it.
    pub(crate) peer: Endpoint,
    /// What is wrong with a bad one.
    pub(crate) reason: DropReason,
    pub(crate) kind: Kind,
}

impl Parsed {
    pub(crate) const EMPTY: Self = Self {
        key: 0,
        home: 0,
        tunnel: NOTHING,
        src_target: 0,
        dst_target: 0,
        remote_target: NOTHING,
        l3: 0,
        inner: 0,
        end: 0,
        vlan: 0,
        ordinary: 0,
        peer: Endpoint {
            address: [0; 4],
            port: 0,
        },
        kind: Kind::Bad,
        reason: DropReason::EthTruncated,
    };

    const fn bad(reason: DropReason) -> Self {
        Self {
            reason,
            ..Self::EMPTY
        }
    }

    /// Our address in the key.
    #[inline]
    pub(crate) const fn local(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.key.to_be_bytes();
        [a, b, c, d]
    }

    /// The IP header.
    #[inline]
    pub(crate) const fn l3(&self) -> usize {
        self.l3 as usize
    }

    /// What the IPv4 header carries; the IPv6 header itself on the native side.
    #[inline]
    pub(crate) const fn inner(&self) -> usize {
        self.inner as usize
    }

    /// After the last byte, link padding cut.
    #[inline]
    pub(crate) const fn end(&self) -> usize {
        self.end as usize
    }

    /// The offset `len` bytes before the inner header.
    #[inline]
    pub(crate) fn before_inner(&self, len: usize) -> Option<u16> {
        u16::try_from(self.inner().checked_sub(len)?).ok()
    }

    /// Where an ordinary packet ends.
    #[inline]
    pub(crate) const fn ordinary_end(&self) -> u16 {
        self.inner.wrapping_add(self.ordinary)
    }

    /// Source and destination inside; 0 when the header is not whole.
    pub(crate) fn addresses(&self, packet: &Packet<'_>) -> (u128, u128) {
        let whole = self.inner() + ipv6::HEADER_LEN <= self.end();
        let header = whole.then(|| packet.from(self.inner()).first_chunk());
        header
            .flatten()
            .map(ipv6::Header)
            .map_or((0, 0), |h| (h.src(), h.dst()))
    }

    /// Pass two: the tunnel of the outer addresses.
    #[inline]
    pub(crate) fn tunnel(&self) -> Option<TunnelId> {
        (self.tunnel != NOTHING).then_some(TunnelId(self.tunnel))
    }

    /// The same where no tunnel has [`NOTHING`] for its place.
    #[inline]
    pub(crate) const fn tunnel_place(&self) -> TunnelId {
        TunnelId(self.tunnel)
    }

    #[inline]
    pub(crate) fn set_tunnel(&mut self, tunnel: Option<u32>) {
        self.tunnel = tunnel.unwrap_or(NOTHING);
    }

    /// Pass two: what the IPv4 FIB says of the far end of the tunnel the packet leaves by. No target
    /// looks like [`NOTHING`].
    #[inline]
    pub(crate) fn remote_target(&self) -> Option<u32> {
        (self.remote_target != NOTHING).then_some(self.remote_target)
    }

    #[inline]
    pub(crate) const fn set_remote_target(&mut self, target: u32) {
        self.remote_target = target;
    }
}

/// Parses all packets, with `SHORTCUT` the usual frames at a glance, and starts fetching what pass two reads.
/// `parsed` is as long and all [`Parsed::EMPTY`].
#[inline(never)]
pub(crate) fn classify<const SHORTCUT: bool>(
    packets: &[Packet<'_>],
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    parsed: &mut [Parsed],
) {
    for packet in packets.iter().take(AHEAD) {
        packet.prefetch();
    }
    for (at, (packet, p)) in (0u8..).zip(packets.iter().zip(parsed)) {
        if let Some(coming) = packets.get(usize::from(at) + AHEAD) {
            coming.prefetch();
        }
        if !SHORTCUT || usual(packet, glance, walks, p, at).is_none() {
            in_full(packet, glance, walks, p, at);
        }
    }
}

#[inline(never)]
fn in_full(
    packet: &Packet<'_>,
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    out: &mut Parsed,
    at: u8,
) {
    let mut parsed = parse(packet, glance).unwrap_or_else(Parsed::bad);
    let index = glance.tables.index();
    let (src, dst) = parsed.addresses(packet);
    match parsed.kind {
        Kind::Outer => {
            parsed.home = index.prefetch41(parsed.key);
            parsed.dst_target = walks.beyond(dst, at);
        }
        Kind::Udp => {
            parsed.home = index.prefetch_udp(parsed.key);
            parsed.dst_target = walks.beyond(dst, at);
        }
        Kind::Native => {
            packet.prefetch_before();
            parsed.src_target = walks.source(src, packet.rx_port(), parsed.vlan, at);
            parsed.dst_target = walks.destination(dst, at);
        }
        _ => {}
    }
    *out = parsed;
}

/// An untagged frame with IPv6, or with IPv6 in IPv4 or in UDP without options and fragments, and nothing
/// wrong. `None`: it is something else, and what is in `parsed` says nothing.
#[inline(always)]
fn usual(
    packet: &Packet<'_>,
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    parsed: &mut Parsed,
    at: u8,
) -> Option<()> {
    if !glance.is_plain_port(packet.rx_port()) {
        return None;
    }
    let bytes = packet.bytes();
    let link = bytes.first_chunk::<{ ether::HEADER_LEN }>()?;
    match u16::from_be_bytes([link[12], link[13]]) {
        ether::TYPE_IPV4 => usual_outer(packet, bytes, glance, walks, parsed, at),
        ether::TYPE_IPV6 => usual_native(packet, bytes, glance, walks, parsed, at),
        _ => None,
    }
}

// a function of its own, as that of UDP: with all of them in one loop the compiler has too few registers
#[inline(never)]
fn usual_native(
    packet: &Packet<'_>,
    bytes: &[u8],
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    parsed: &mut Parsed,
    at: u8,
) -> Option<()> {
    let native = bytes.first_chunk::<{ ether::HEADER_LEN + ipv6::HEADER_LEN }>()?;
    let header = ipv6::Header(native.last_chunk()?);
    let len = ipv6::HEADER_LEN + header.payload_len();
    if header.version() != 6 || ether::HEADER_LEN + len > bytes.len() {
        return None;
    }
    packet.prefetch_before();
    parsed.kind = Kind::Native;
    parsed.l3 = after(packet.head16(), ether::HEADER_LEN);
    parsed.inner = parsed.l3;
    parsed.end = after(parsed.l3, len);
    parsed.ordinary = glance.entry(header, len);
    parsed.src_target = walks.source(header.src(), packet.rx_port(), 0, at);
    parsed.dst_target = walks.destination(header.dst(), at);
    Some(())
}

const TUNNELLED: usize = ether::HEADER_LEN + ipv4::HEADER_LEN + ipv6::HEADER_LEN;

#[inline(always)]
fn usual_outer(
    packet: &Packet<'_>,
    bytes: &[u8],
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    parsed: &mut Parsed,
    at: u8,
) -> Option<()> {
    let headers = bytes.first_chunk::<TUNNELLED>()?;
    let (_, ip) = headers.split_first_chunk::<{ ether::HEADER_LEN }>()?;
    let (outer, inner) = ip.split_first_chunk()?;
    let header = ipv4::Header(outer);
    let total_len = header.total_len();
    if outer[0] != 0x45
        || header.is_fragment()
        || total_len < ipv4::HEADER_LEN + ipv6::HEADER_LEN
        || ether::HEADER_LEN + total_len > bytes.len()
        || !checksum::is_sound(outer)
    {
        return None;
    }
    match header.protocol() {
        ipv4::PROTO_IPV6 => {}
        ipv4::PROTO_UDP => return usual_udp(packet, bytes, glance, walks, parsed, at),
        _ => return None,
    }
    parsed.kind = Kind::Outer;
    parsed.key = outer_key(header.dst(), header.src());
    parsed.home = glance.tables.index().prefetch41(parsed.key);
    parsed.l3 = after(packet.head16(), ether::HEADER_LEN);
    parsed.inner = after(packet.head16(), ether::HEADER_LEN + ipv4::HEADER_LEN);
    parsed.end = after(packet.head16(), ether::HEADER_LEN + total_len);
    let inner = ipv6::Header(inner.first_chunk()?);
    parsed.ordinary = glance.exit(inner, header.tos(), total_len - ipv4::HEADER_LEN);
    parsed.dst_target = walks.beyond(inner.dst(), at);
    Some(())
}

/// IPv6 in UDP whose outer header is the usual one.
#[inline(never)]
fn usual_udp(
    packet: &Packet<'_>,
    bytes: &[u8],
    glance: &Glance<'_>,
    walks: &mut Walks<'_>,
    parsed: &mut Parsed,
    at: u8,
) -> Option<()> {
    let headers = bytes.first_chunk::<{ TUNNELLED + udp::HEADER_LEN }>()?;
    let (_, ip) = headers.split_first_chunk::<{ ether::HEADER_LEN }>()?;
    let (outer, rest) = ip.split_first_chunk()?;
    let (datagram, inner) = rest.split_first_chunk()?;
    let (header, datagram) = (ipv4::Header(outer), udp::Header(datagram));
    let exact = datagram.len() + ipv4::HEADER_LEN == header.total_len();
    if !exact || datagram.len() < udp::HEADER_LEN + ipv6::HEADER_LEN {
        return None;
    }
    parsed.kind = Kind::Udp;
    parsed.key = port_key(header.dst(), datagram.dst_port());
    parsed.home = glance.tables.index().prefetch_udp(parsed.key);
    parsed.peer = Endpoint {
        address: header.src(),
        port: datagram.src_port(),
    };
    parsed.l3 = after(packet.head16(), ether::HEADER_LEN);
    parsed.inner = after(parsed.l3, ipv4::HEADER_LEN + udp::HEADER_LEN);
    parsed.end = after(parsed.l3, header.total_len());
    let inner = ipv6::Header(inner.first_chunk()?);
    parsed.ordinary = glance.exit(inner, header.tos(), datagram.len() - udp::HEADER_LEN);
    parsed.dst_target = walks.beyond(inner.dst(), at);
    Some(())
}

#[inline]
fn parse(packet: &Packet<'_>, glance: &Glance<'_>) -> Result<Parsed, DropReason> {
    let port = glance
        .tables
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
        ether::TYPE_IPV4 => parse_v4(packet, glance, vlan, l3),
        ether::TYPE_IPV6 => parse_v6(packet, glance, vlan, l3),
        _ => Err(DropReason::EthType),
    }
}

#[inline]
fn parse_v4(
    packet: &Packet<'_>,
    glance: &Glance<'_>,
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
        if glance.tables.settings().outer_options == OuterOptions::Drop || !harmless(options) {
            return Err(DropReason::V4Options);
        }
    }
    let mut parsed = Parsed {
        kind: Kind::Outer,
        vlan,
        l3: offset(l3),
        inner: offset(l3 + header_len),
        end: offset(l3 + total_len),
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
                let room = parsed.end() - parsed.inner();
                parsed.ordinary = glance.exit_in_full(ipv6::Header(inner), header.tos(), room);
            }
        }
        ipv4::PROTO_ICMP => parsed.kind = Kind::Icmp4,
        ipv4::PROTO_UDP => parse_udp(glance, bytes, header_len, &mut parsed)?,
        _ => return Err(DropReason::V4Protocol),
    }
    Ok(parsed)
}

#[inline]
fn parse_udp(
    glance: &Glance<'_>,
    bytes: &[u8],
    header_len: usize,
    parsed: &mut Parsed,
) -> Result<(), DropReason> {
    let datagram = bytes
        .get(header_len..parsed.end() - parsed.l3())
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
    parsed.end = offset(parsed.inner() + header.len());
    parsed.inner = offset(parsed.inner() + udp::HEADER_LEN);
    let payload = payload.get(..header.len() - udp::HEADER_LEN);
    if let Some(inner) = payload.and_then(<[u8]>::first_chunk) {
        let tos = bytes.get(1).copied().unwrap_or(0);
        let room = parsed.end() - parsed.inner();
        parsed.ordinary = glance.exit_in_full(ipv6::Header(inner), tos, room);
    }
    Ok(())
}

#[inline]
fn parse_v6(
    packet: &Packet<'_>,
    glance: &Glance<'_>,
    vlan: u16,
    l3: usize,
) -> Result<Parsed, DropReason> {
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
        l3: offset(l3),
        inner: offset(l3),
        end: offset(l3 + len),
        ordinary: glance.entry(header, len),
        ..Parsed::EMPTY
    })
}

/// An offset inside a frame, which [`Packet::new`] has found to fit.
fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "both are bytes of the packet, and a frame's offsets fit"
)]
/// The offset `len` bytes after another, all of them seen to be there.
#[inline]
const fn after(at: u16, len: usize) -> u16 {
    at.wrapping_add(len as u16)
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
