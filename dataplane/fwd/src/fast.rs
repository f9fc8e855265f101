//! The common case in one go.
//!
//! Nearly every packet passes every check and meets none of the exceptions. These two functions test
//! for exactly that, in whatever order is cheapest, and rewrite; if anything is out of the ordinary
//! they return `None` with packet, counters and worker as they were, and [`crate::decap`] and
//! [`crate::encap`], which know the order of the checks and every reason, do it all again. They decide
//! nothing that those would decide otherwise: the tests process everything both ways.

use crate::classify::{Kind, Parsed};
use crate::embedded;
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::Context;
use crate::rewrite;
use crate::tables::record::{self, CounterTable, TunnelCounters, TunnelRecord};
use crate::tables::{HopState, NextHopRecord, Tables, Target};
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

/// Global unicast (2000::/3), and none that is bound to be a loop or ours.
#[inline]
fn is_plain(tables: &Tables, address: u128) -> bool {
    address >> 125 == 1 && address != tables.router() && !embedded::embeds_local(tables, address)
}

/// What the packets of a batch have in common.
pub(crate) struct Shortcut<'t> {
    counters: Option<&'t CounterTable>,
    /// The last next hop asked for, as the FIB stores it.
    target: u32,
    hop: Option<&'t NextHopRecord>,
}

impl<'t> Shortcut<'t> {
    pub(crate) fn new(tables: &'t Tables, worker: usize) -> Self {
        Self {
            counters: tables.counter_table(worker),
            target: 0,
            hop: None,
        }
    }

    /// A next hop that a frame can be sent to with an untagged Ethernet header.
    #[inline]
    fn hop(&mut self, tables: &'t Tables, target: u32) -> Option<&'t NextHopRecord> {
        if target != self.target {
            self.target = target;
            self.hop = plain_hop(tables, target);
        }
        self.hop
    }

    #[inline]
    fn counters(&self, id: TunnelId) -> Option<&'t TunnelCounters> {
        self.counters?.get(id.index())
    }
}

fn plain_hop(tables: &Tables, target: u32) -> Option<&NextHopRecord> {
    let hop = tables.next_hop(Target::next_hop(target)?)?;
    let plain = hop.state == HopState::Resolved && hop.tag.is_none();
    (plain && tables.is_plain_port(hop.port)).then_some(hop)
}

/// Whether the exit may take this source. The full path asks the FIB about nested prefixes.
#[inline]
fn is_users(record: &TunnelRecord, src: u128) -> bool {
    let sure = record.owns(src) && !record.has(record::NESTED);
    src >> 125 == 1 && (sure || !record.has(record::STRICT))
}

/// Out of a tunnel, to a native next hop.
#[inline]
pub(crate) fn decap<'t>(
    shortcut: &mut Shortcut<'t>,
    context: &Context<'t>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Option<Verdict> {
    const FRAME: usize = ether::HEADER_LEN + ipv6::HEADER_LEN;
    let tables = context.tables;
    let id = TunnelId(parsed.tunnel?);
    let record = tables.tunnel(id)?;
    if record.flags & (EXIT_ODDITIES | record::UP) != record::UP
        || !is_users(record, parsed.src)
        || !is_plain(tables, parsed.dst)
    {
        return None;
    }
    let hop = shortcut.hop(tables, parsed.dst_target)?;
    let outer_ecn = ipv4::Header(packet.array_mut(parsed.l3)?).tos() & 3;
    if parsed.kind == Kind::Udp && udp::sender(context, packet, parsed, record) != Ok(false) {
        return None;
    }
    let head = parsed.inner.checked_sub(ether::HEADER_LEN)?;
    let frame = packet.array_mut::<FRAME>(head)?;
    let (link, inner) = frame.split_first_chunk_mut::<{ ether::HEADER_LEN }>()?;
    let inner: &mut [u8; ipv6::HEADER_LEN] = inner.try_into().ok()?;
    let header = ipv6::Header(inner);
    let (len, hop_limit) = (ipv6::HEADER_LEN + header.payload_len(), header.hop_limit());
    let sound = header.version() == 6
        // only a look inside tells whether it is of type 0
        && header.next_header() != ipv6::NH_ROUTING
        // RFC 6040: neither Not-ECT outside nor the same on both sides changes anything
        && (outer_ecn == 0 || outer_ecn == header.traffic_class() & 3)
        && hop_limit > 1
        && parsed.inner + len <= parsed.end
        && len <= usize::from(hop.mtu);
    if !sound {
        return None;
    }
    ipv6::set_hop_limit(inner, hop_limit - 1);
    ether::emit(link, hop.dst_mac, hop.src_mac, ether::TYPE_IPV6);
    // inside the frame, as the outer packet was
    _ = packet.set_bounds(head, parsed.inner + len);
    if let Some(counters) = shortcut.counters(id) {
        counters.decapsulated(len);
    }
    Some(Verdict::Tx(hop.port))
}

/// From the native side into a 6in4 tunnel.
#[inline]
pub(crate) fn encap<'t>(
    shortcut: &mut Shortcut<'t>,
    context: &mut Context<'t>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Option<Verdict> {
    const BEFORE: usize = ether::HEADER_LEN + ipv4::HEADER_LEN;
    const FRAME: usize = BEFORE + ipv6::HEADER_LEN;
    let tables = context.tables;
    let id = Target::into_tunnel(parsed.dst_target)?;
    let record = tables.tunnel(id)?;
    let plain = record.flags & (ENTRY_ODDITIES | record::UP) == record::UP
        && is_plain(tables, parsed.src)
        && is_plain(tables, parsed.dst)
        // what lies behind a tunnel or in a domain does not arrive here, or only under conditions
        && Target::decode(parsed.src_target).owner().is_none()
        && !tables.is_tunnel_local(record.remote);
    if !plain {
        return None;
    }
    let hop = shortcut.hop(tables, parsed.remote_target?)?;
    let len = parsed.end.checked_sub(parsed.inner)?;
    let total_len = u16::try_from(len + ipv4::HEADER_LEN).ok()?;
    if len > usize::from(record.mtu) || total_len > hop.mtu {
        return None;
    }
    let head = parsed.inner.checked_sub(BEFORE)?;
    let frame = packet.array_mut::<FRAME>(head)?;
    let (link, rest) = frame.split_first_chunk_mut::<{ ether::HEADER_LEN }>()?;
    let (outer, inner) = rest.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
    let inner: &mut [u8; ipv6::HEADER_LEN] = inner.try_into().ok()?;
    let header = ipv6::Header(inner);
    let (class, hop_limit) = (header.traffic_class(), header.hop_limit());
    if hop_limit <= 1 {
        return None;
    }
    ipv6::set_hop_limit(inner, hop_limit - 1);
    let df = record.has(record::DF);
    let repr = ipv4::Repr {
        tos: record.tos | (class & 3),
        total_len,
        identification: rewrite::identification(context.local, df, record.template_sum),
        df,
        ttl: record.ttl,
        protocol: ipv4::PROTO_IPV6,
        src: record.local,
        dst: record.remote,
    };
    repr.emit_with(outer, u64::from(record.template_sum));
    ether::emit(link, hop.dst_mac, hop.src_mac, ether::TYPE_IPV4);
    // inside the frame, as the inner packet was
    _ = packet.set_bounds(head, parsed.end);
    if let Some(counters) = shortcut.counters(id) {
        counters.encapsulated(len);
    }
    Some(Verdict::Tx(hop.port))
}

#[cfg(test)]
mod tests;
