//! The last step: which next hop, and the headers in front.
//!
//! Nothing in the frame changes before the next hop is known to be reachable, so that a packet whose
//! neighbour must be resolved first can be punted as it came.

use crate::batch::PuntInfo;
use crate::drop_reason::DropReason;
use crate::id::{NextHopId, PortId, TunnelId};
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{HopState, NextHopRecord, PortKind, Tables, Target};
use crate::verdict::PuntReason;
use sixferry_wire::{ether, ipv4, ipv6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 packet inside its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    #[inline]
    pub(crate) const fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// The next hop, if a packet can be sent to it now.
#[inline]
pub(crate) fn usable(
    tables: &Tables,
    id: NextHopId,
    destination: IpAddr,
) -> Result<&NextHopRecord, Stop> {
    let hop = tables.next_hop(id).ok_or(DropReason::PortDown)?;
    let resolve = match hop.state {
        HopState::Resolved => return Ok(hop),
        HopState::Down => return Err(DropReason::PortDown.into()),
        HopState::OnLink => Some(destination),
        HopState::Gateway => None,
    };
    let info = PuntInfo {
        next_hop: Some(id),
        resolve,
        ..PuntInfo::default()
    };
    Err(Stop::Punt(PuntReason::NextHopUnresolved, info))
}

/// The next hop towards a tunnel's far end; `known` is what pass two found of its route.
#[inline]
pub(crate) fn outer_hop<'t>(
    tables: &'t Tables,
    record: &TunnelRecord,
    known: Option<u32>,
) -> Result<&'t NextHopRecord, Stop> {
    let route = known.map_or_else(|| tables.route4(record.remote), Target::decode);
    // RFC 6324: the packet would come straight back to us
    if route == Target::Local || tables.is_tunnel_local(record.remote) {
        return Err(DropReason::LoopSelf.into());
    }
    match route {
        Target::NextHop(id) => usable(tables, id, IpAddr::V4(Ipv4Addr::from(record.remote))),
        Target::Blackhole => Err(DropReason::V6Blackhole.into()),
        _ => Err(DropReason::V4NoRoute.into()),
    }
}

/// The next hop towards a native IPv6 address.
#[inline]
pub(crate) fn native_hop(
    tables: &Tables,
    id: NextHopId,
    destination: u128,
) -> Result<&NextHopRecord, Stop> {
    usable(tables, id, IpAddr::V6(Ipv6Addr::from(destination)))
}

/// Puts the link header in front of the IP packet at `start` and makes that the packet.
#[inline]
pub(crate) fn link(
    tables: &Tables,
    packet: &mut Packet<'_>,
    hop: &NextHopRecord,
    ether_type: u16,
    Span { start, end }: Span,
) -> Result<PortId, Stop> {
    const TAGGED: usize = ether::HEADER_LEN + ether::TAG_LEN;
    let port = tables
        .port(hop.port)
        .filter(|p| p.up)
        .ok_or(DropReason::PortDown)?;
    let head = match (port.kind, hop.tag) {
        (PortKind::RawIp, _) => start,
        (PortKind::Ethernet { .. }, None) => {
            let head = start
                .checked_sub(ether::HEADER_LEN)
                .ok_or(DropReason::UmemExhausted)?;
            let out = packet.array_mut(head).ok_or(DropReason::UmemExhausted)?;
            ether::emit(out, hop.dst_mac, hop.src_mac, ether_type);
            head
        }
        (PortKind::Ethernet { .. }, Some((vlan, tpid))) => {
            let head = start.checked_sub(TAGGED).ok_or(DropReason::UmemExhausted)?;
            let out = packet
                .array_mut::<TAGGED>(head)
                .ok_or(DropReason::UmemExhausted)?;
            ether::emit_tagged(out, hop.dst_mac, hop.src_mac, tpid, vlan, ether_type);
            head
        }
    };
    if packet.set_bounds(head, end) {
        Ok(hop.port)
    } else {
        Err(DropReason::UmemExhausted.into())
    }
}

/// Puts the outer and the link header in front of the finished IPv6 packet `inner`, which fits the
/// tunnel. RFC 4213 section 3.5.
#[inline]
pub(crate) fn outer(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    id: TunnelId,
    record: &TunnelRecord,
    hop: &NextHopRecord,
    inner: Span,
) -> Result<PortId, Stop> {
    let start = inner
        .start
        .checked_sub(ipv4::HEADER_LEN)
        .ok_or(DropReason::UmemExhausted)?;
    let (class, hop_limit) = packet
        .from(inner.start)
        .first_chunk()
        .map(ipv6::Header)
        .map_or((0, 0), |h| (h.traffic_class(), h.hop_limit()));
    let total_len = inner.len() + ipv4::HEADER_LEN;
    // our own link is the one hop whose MTU is known; fragmenting is for a later version
    if total_len > usize::from(hop.mtu) {
        return Err(DropReason::V4TooBig.into());
    }
    let df = record.has(record::DF);
    let dscp = if record.has(record::DSCP_COPY) {
        class & 0xfc
    } else {
        record.tos
    };
    // RFC 6040 section 4.1: normal mode copies the field, CE included
    let ecn = if record.has(record::ECN_COMPAT) {
        0
    } else {
        class & 3
    };
    let repr = ipv4::Repr {
        tos: dscp | ecn,
        total_len: u16::try_from(total_len).unwrap_or(u16::MAX),
        // RFC 6864 section 4.1: with DF the datagram is atomic and any ID is legal
        identification: if df {
            0
        } else {
            context.local.next_ip_id(record.template_sum)
        },
        df,
        ttl: if record.has(record::TTL_INHERIT) {
            hop_limit
        } else {
            record.ttl
        },
        protocol: ipv4::PROTO_IPV6,
        src: record.local,
        dst: record.remote,
    };
    let out = packet.array_mut(start).ok_or(DropReason::UmemExhausted)?;
    repr.emit_with(out, u64::from(record.template_sum));
    let span = Span {
        start,
        end: inner.end,
    };
    let port = link(context.tables, packet, hop, ether::TYPE_IPV4, span)?;
    if let Some(counters) = context.tables.counters(context.local.worker, id) {
        counters.encapsulated(inner.len());
    }
    Ok(port)
}
