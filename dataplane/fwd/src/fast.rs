//! The common case in one go.
//!
//! Nearly every packet passes every check and meets none of the exceptions. Pass one asks [`Glance`] about
//! its header; pass three tests the rest with [`decap`] and [`encap`], in whatever order is cheapest, and
//! rewrites. If anything is out of the ordinary they return `None` with packet, counters and worker as they
//! were, and [`crate::decap`] and [`crate::encap`], which know the order of the checks and every reason, do
//! it all again. They decide nothing that those would decide otherwise: the tests process everything both
//! ways.

use crate::classify::{Kind, Parsed};
use crate::embedded;
use crate::id::PortId;
use crate::packet::Packet;
use crate::process::Context;
use crate::rewrite;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{self, HopState, Tables, Target, Tunnels};
use crate::udp;
use crate::verdict::Verdict;
use sixferry_wire::{ether, ipv4, ipv6};

/// What makes a tunnel's exit more than stripping a header.
const EXIT_ODDITIES: u16 = record::DOMAIN | record::DSCP_DECAP_COPY | record::MSS_CLAMP;
/// What makes a tunnel's entry more than prepending a fixed header.
const ENTRY_ODDITIES: u16 = record::DOMAIN
    | record::UDP
    | record::DYNAMIC
    | record::MSS_CLAMP
    | record::DSCP_COPY
    | record::ECN_COMPAT
    | record::TTL_INHERIT;

/// What pass one asks of the tables for every packet.
#[derive(Clone, Copy)]
pub(crate) struct Glance<'t> {
    pub(crate) tables: &'t Tables,
    plain_ports: u32,
    router: u128,
    domains: bool,
}

impl<'t> Glance<'t> {
    pub(crate) fn new(tables: &'t Tables) -> Self {
        Self {
            tables,
            plain_ports: tables.plain_ports(),
            router: tables.router(),
            domains: tables.has_domains(),
        }
    }

    /// Whether frames of this port may be read at a glance.
    #[inline]
    pub(crate) const fn is_plain_port(&self, id: PortId) -> bool {
        tables::is_plain_port(self.plain_ports, id)
    }

    #[expect(clippy::cast_possible_truncation, reason = "one half, then the other")]
    /// Global unicast (2000::/3), and none that is bound to be a loop or ours.
    #[inline(always)]
    fn is_plain(&self, address: u128) -> bool {
        let routers = address as u64 == self.router as u64 && address >> 64 == self.router >> 64;
        let embeds = self.domains || ipv6::embedded_6to4(address).is_some();
        address >> 125 == 1 && !routers && !(embeds && embedded::embeds_local(self.tables, address))
    }

    /// How long a tunnel's packet is if its header calls for nothing out of the ordinary, else 0. `tos` is
    /// the outer header's, `room` what it leaves for the packet.
    #[inline(always)]
    pub(crate) fn exit(&self, header: ipv6::Header<'_>, tos: u8, room: usize) -> u16 {
        let len = ipv6::HEADER_LEN + header.payload_len();
        let outer_ecn = tos & 3;
        let ordinary = header.version() == 6
            // only a look inside tells whether it is of type 0
            && header.next_header() != ipv6::NH_ROUTING
            // RFC 6040: neither Not-ECT outside nor the same on both sides changes anything
            && (outer_ecn == 0 || outer_ecn == header.traffic_class() & 3)
            && header.hop_limit() > 1
            && len <= room
            && header.src() >> 125 == 1
            && self.is_plain(header.dst());
        if ordinary {
            u16::try_from(len).unwrap_or(0)
        } else {
            0
        }
    }

    /// The same where it is not asked for each packet.
    #[inline(never)]
    pub(crate) fn exit_in_full(&self, header: ipv6::Header<'_>, tos: u8, room: usize) -> u16 {
        self.exit(header, tos, room)
    }

    /// The same of a native packet of `len` bytes.
    #[inline]
    pub(crate) fn entry(&self, header: ipv6::Header<'_>, len: usize) -> u16 {
        let ordinary =
            header.hop_limit() > 1 && self.is_plain(header.src()) && self.is_plain(header.dst());
        if ordinary {
            u16::try_from(len).unwrap_or(0)
        } else {
            0
        }
    }
}

/// A next hop that a frame can be sent to with an untagged Ethernet header.
struct Hop {
    /// As the FIB stores it.
    target: u32,
    /// 0: not such a one.
    mtu: u16,
    port: PortId,
    link: [u8; ether::HEADER_LEN],
}

impl Hop {
    /// No route has this target.
    const NONE: Self = Self {
        target: 0,
        mtu: 0,
        port: PortId(0),
        link: [0; ether::HEADER_LEN],
    };

    /// The hop of this target: the last one, mostly.
    #[inline]
    fn find(&mut self, tables: &Tables, target: u32, ether_type: u16) -> &Self {
        if target != self.target {
            *self = Self::new(tables, target, ether_type);
        }
        self
    }

    #[inline(never)]
    fn new(tables: &Tables, target: u32, ether_type: u16) -> Self {
        let none = Self {
            target,
            ..Self::NONE
        };
        let Some(hop) = Target::next_hop(target).and_then(|id| tables.next_hop(id)) else {
            return none;
        };
        let plain = hop.state == HopState::Resolved && hop.tag.is_none();
        if !plain || !tables::is_plain_port(tables.plain_ports(), hop.port) {
            return none;
        }
        let mut link = [0; ether::HEADER_LEN];
        ether::emit(&mut link, hop.dst_mac, hop.src_mac, ether_type);
        Self {
            target,
            mtu: hop.mtu,
            port: hop.port,
            link,
        }
    }
}

/// What the packets of a batch have in common.
pub(crate) struct Shortcut<'t> {
    tunnels: Tunnels<'t>,
    native: Hop,
    outer: Hop,
}

impl<'t> Shortcut<'t> {
    pub(crate) const fn new(tunnels: Tunnels<'t>) -> Self {
        Self {
            tunnels,
            native: Hop::NONE,
            outer: Hop::NONE,
        }
    }
}

/// Whether the exit may take this global source. The full path asks the FIB about nested prefixes.
#[inline]
const fn is_users(record: &TunnelRecord, src: u128) -> bool {
    const SURE: u16 = record::STRICT;
    match record.flags & (record::STRICT | record::NESTED) {
        SURE => record.owns(src),
        flags => flags & record::STRICT == 0,
    }
}

/// Out of a tunnel, to a native next hop; the packet's own header is ordinary.
#[inline]
pub(crate) fn decap(
    shortcut: &mut Shortcut<'_>,
    context: &Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Option<Verdict> {
    const FRAME: usize = ether::HEADER_LEN + ipv6::HEADER_LEN;
    const PLAIN: u16 = record::UP | record::IN_USE;
    let id = parsed.tunnel_place();
    let record = shortcut.tunnels.record(id)?;
    if record.flags & (EXIT_ODDITIES | PLAIN) != PLAIN {
        return None;
    }
    let hop = shortcut
        .native
        .find(context.tables, parsed.dst_target, ether::TYPE_IPV6);
    if parsed.ordinary > hop.mtu {
        return None;
    }
    if parsed.kind == Kind::Udp && udp::sender(context, packet, parsed, record) != Ok(false) {
        return None;
    }
    let head = parsed.before_inner(ether::HEADER_LEN)?;
    let frame = packet.array_mut::<FRAME>(usize::from(head))?;
    let (link, inner) = frame.split_first_chunk_mut::<{ ether::HEADER_LEN }>()?;
    let inner: &mut [u8; ipv6::HEADER_LEN] = inner.try_into().ok()?;
    let header = ipv6::Header(inner);
    if !is_users(record, header.src()) {
        return None;
    }
    let hop_limit = header.hop_limit();
    ipv6::set_hop_limit(inner, hop_limit.wrapping_sub(1));
    *link = hop.link;
    // inside the frame, as the outer packet was
    _ = packet.set_bounds16(head, parsed.ordinary_end());
    if let Some(counters) = shortcut.tunnels.counters(id) {
        counters.decapsulated(parsed.ordinary.into());
    }
    Some(Verdict::Tx(hop.port))
}

/// From the native side into a 6in4 tunnel; the packet's own header is ordinary.
#[inline]
pub(crate) fn encap(
    shortcut: &mut Shortcut<'_>,
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Option<Verdict> {
    const BEFORE: usize = ether::HEADER_LEN + ipv4::HEADER_LEN;
    const FRAME: usize = BEFORE + ipv6::HEADER_LEN;
    const PLAIN: u16 = record::UP | record::IN_USE;
    let tables = context.tables;
    let id = Target::into_tunnel(parsed.dst_target)?;
    let record = shortcut.tunnels.record(id)?;
    if record.flags & (ENTRY_ODDITIES | PLAIN) != PLAIN
        // what lies behind a tunnel or in a domain does not arrive here, or only under conditions
        || Target::is_owned(parsed.src_target)
        || tables.is_tunnel_local(record.remote)
    {
        return None;
    }
    let hop = shortcut
        .outer
        .find(tables, parsed.remote_target()?, ether::TYPE_IPV4);
    let total_len = usize::from(parsed.ordinary) + ipv4::HEADER_LEN;
    if parsed.ordinary > record.mtu || total_len > usize::from(hop.mtu) {
        return None;
    }
    let head = parsed.before_inner(BEFORE)?;
    let frame = packet.array_mut::<FRAME>(usize::from(head))?;
    let (link, rest) = frame.split_first_chunk_mut::<{ ether::HEADER_LEN }>()?;
    let (outer, inner) = rest.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
    let inner: &mut [u8; ipv6::HEADER_LEN] = inner.try_into().ok()?;
    let header = ipv6::Header(inner);
    let (class, hop_limit) = (header.traffic_class(), header.hop_limit());
    ipv6::set_hop_limit(inner, hop_limit.wrapping_sub(1));
    let df = record.has(record::DF);
    let repr = ipv4::Repr {
        tos: record.tos | (class & 3),
        total_len: u16::try_from(total_len).ok()?,
        identification: rewrite::identification(context.local, df, record.template_sum),
        df,
        ttl: record.ttl,
        protocol: ipv4::PROTO_IPV6,
        src: record.local,
        dst: record.remote,
    };
    repr.emit_with(outer, u64::from(record.template_sum));
    *link = hop.link;
    // inside the frame, as the inner packet was
    _ = packet.set_bounds16(head, parsed.ordinary_end());
    if let Some(counters) = shortcut.tunnels.counters(id) {
        counters.encapsulated(parsed.ordinary.into());
    }
    Some(Verdict::Tx(hop.port))
}

#[cfg(test)]
mod tests;
