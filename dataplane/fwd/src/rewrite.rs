//! The last step: which next hop, and the headers in front.
//!
//! Nothing in the frame changes before the next hop is known to be reachable, so that a packet whose
//! neighbour must be resolved first can be punted as it came.

use crate::batch::PuntInfo;
use crate::drop_reason::DropReason;
use crate::id::{NextHopId, PortId, TunnelId};
use crate::local::Local;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::tables::live::Endpoint;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{HopState, NextHopRecord, PortKind, Tables, Target};
use crate::udp;
use crate::verdict::PuntReason;
use sixferry_wire::{checksum, ether, ipv4, ipv6, udp as wire_udp};
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

/// Where a tunnel packet goes on the IPv4 side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FarEnd {
    pub(crate) address: [u8; 4],
    /// UDP port, 0 for protocol 41.
    pub(crate) port: u16,
}

impl FarEnd {
    /// The far end of a tunnel or domain for an inner destination; `None` where the domain has none, or
    /// the UDP peer has not been heard yet.
    #[inline]
    pub(crate) fn of(tables: &Tables, record: &TunnelRecord, dst: u128) -> Option<Self> {
        let (address, port) = match record.flags & (record::DOMAIN | record::UDP) {
            0 => (record.remote, 0),
            record::UDP => {
                let peer = Some(udp::endpoint(tables, record));
                let Endpoint { address, port } = peer.filter(|peer| peer.known())?;
                (address, port)
            }
            _ => (tables.domain(record)?.far_end(dst)?, 0),
        };
        Some(Self { address, port })
    }

    /// Where an answer to a packet from `peer` goes.
    pub(crate) fn back(tables: &Tables, record: &TunnelRecord, peer: [u8; 4]) -> Option<Self> {
        if record.has(record::DOMAIN) {
            return Some(Self {
                address: peer,
                port: 0,
            });
        }
        Self::of(tables, record, 0)
    }
}

/// What a tunnel adds in front of an inner packet, in bytes.
pub(crate) const fn overhead(record: &TunnelRecord) -> u16 {
    if record.has(record::UDP) { 28 } else { 20 }
}

/// What a tunnel takes just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest inner packet.
    pub(crate) mtu: u16,
    /// Whether the outer packet may not be fragmented.
    pub(crate) df: bool,
}

impl Limits {
    /// RFC 4213 section 3.2: the configured MTU, or less where our own link or the path is known to
    /// take less, but never below IPv6's minimum.
    #[inline]
    pub(crate) fn new(context: &Context<'_>, record: &TunnelRecord, hop: &NextHopRecord) -> Self {
        let room = hop.mtu.saturating_sub(overhead(record));
        if record.has(record::DYNAMIC) {
            return Self::learnt(context, record, hop.mtu);
        }
        Self {
            mtu: record.mtu.min(room.max(ipv6::MIN_MTU)),
            df: record.has(record::DF),
        }
    }

    fn learnt(context: &Context<'_>, record: &TunnelRecord, link: u16) -> Self {
        let known = context.tables.live(record).and_then(|live| {
            if context.local.dry_run {
                live.estimate(record.generation)
            } else {
                live.path_mtu(record.generation, link, context.now)
            }
        });
        let path = known.unwrap_or(link).min(link);
        let mtu = record.mtu.min(path.saturating_sub(overhead(record)));
        // section 3.2.2: routers fragment what the path does not take whole
        let whole = mtu >= ipv6::MIN_MTU;
        Self {
            mtu: mtu.max(ipv6::MIN_MTU),
            df: whole,
        }
    }
}

/// The route to a far end, unless it is ourselves: RFC 6324, the packet would come straight back.
#[inline]
pub(crate) fn refuse_loop(
    tables: &Tables,
    far: FarEnd,
    known: Option<u32>,
) -> Result<Target, DropReason> {
    let route = known.map_or_else(|| tables.route4(far.address), Target::decode);
    if route == Target::Local || tables.is_tunnel_local(far.address) {
        return Err(DropReason::LoopSelf);
    }
    Ok(route)
}

/// The next hop towards a far end; `known` is what pass two found of its route.
#[inline]
pub(crate) fn outer_hop(
    tables: &Tables,
    far: FarEnd,
    known: Option<u32>,
) -> Result<&NextHopRecord, Stop> {
    let route = refuse_loop(tables, far, known)?;
    match route {
        Target::NextHop(id) => usable(tables, id, IpAddr::V4(Ipv4Addr::from(far.address))),
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

/// A tunnel as one packet uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer<'t> {
    pub(crate) id: TunnelId,
    pub(crate) record: &'t TunnelRecord,
    pub(crate) far: FarEnd,
    pub(crate) df: bool,
}

/// The ID of an outer packet. RFC 6864 section 4.1: with DF the datagram is atomic and any is legal.
#[inline]
pub(crate) const fn identification(local: &mut Local, df: bool, sum: u32) -> u16 {
    if df { 0 } else { local.next_ip_id(sum) }
}

/// Puts the outer and the link header in front of the finished IPv6 packet `inner`, which fits the
/// tunnel. RFC 4213 section 3.5.
#[inline]
pub(crate) fn outer(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    outer: &Outer<'_>,
    hop: &NextHopRecord,
    inner: Span,
) -> Result<PortId, Stop> {
    let Outer {
        id,
        record,
        far,
        df,
    } = *outer;
    let (class, hop_limit) = packet
        .from(inner.start)
        .first_chunk()
        .map(ipv6::Header)
        .map_or((0, 0), |h| (h.traffic_class(), h.hop_limit()));
    let is_udp = record.has(record::UDP);
    let payload = if is_udp {
        udp_header(packet, record, far, inner)?
    } else {
        inner
    };
    let start = payload
        .start
        .checked_sub(ipv4::HEADER_LEN)
        .ok_or(DropReason::UmemExhausted)?;
    let total_len = payload.len() + ipv4::HEADER_LEN;
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
    let sum = if far.address == record.remote {
        record.template_sum
    } else {
        // a domain's or a moved peer's: the template has the configured address, or none
        let [a, b, c, d] = record.remote;
        let rest = u64::from(record.template_sum) - checksum::sum(&[a, b, c, d]);
        u32::try_from(rest + checksum::sum(&far.address)).unwrap_or(0)
    };
    let repr = ipv4::Repr {
        tos: dscp | ecn,
        total_len: u16::try_from(total_len).unwrap_or(u16::MAX),
        identification: identification(context.local, df, sum),
        df,
        ttl: if record.has(record::TTL_INHERIT) {
            hop_limit
        } else {
            record.ttl
        },
        protocol: if is_udp {
            ipv4::PROTO_UDP
        } else {
            ipv4::PROTO_IPV6
        },
        src: record.local,
        dst: far.address,
    };
    let out = packet.array_mut(start).ok_or(DropReason::UmemExhausted)?;
    repr.emit_with(out, u64::from(sum));
    let span = Span {
        start,
        end: inner.end,
    };
    let port = link(context.tables, packet, hop, ether::TYPE_IPV4, span)?;
    let result = if total_len <= usize::from(hop.mtu) {
        Ok(port)
    } else {
        too_big_for_link(context.tables, df, id, port)
    };
    if !matches!(result, Err(Stop::Drop(_)))
        && let Some(counters) = context.tables.counters(context.local.worker, id)
    {
        counters.encapsulated(inner.len());
    }
    result
}

/// The finished outer packet exceeds our own link: RFC 791 fragmentation, unless DF forbids it.
#[cold]
fn too_big_for_link(tables: &Tables, df: bool, id: TunnelId, port: PortId) -> Result<PortId, Stop> {
    let reason = PuntReason::OuterTooBig;
    if df || tables.settings().punt_subscriptions >> reason.index() & 1 == 0 {
        return Err(DropReason::V4TooBig.into());
    }
    let info = PuntInfo {
        tunnel: Some(id),
        egress: Some(port),
        ..PuntInfo::default()
    };
    Err(Stop::Punt(reason, info))
}

/// Puts the UDP header in front of the inner packet. The checksum is computed: IPv4 permits none, but
/// then nothing protects the ports.
fn udp_header(
    packet: &mut Packet<'_>,
    record: &TunnelRecord,
    far: FarEnd,
    inner: Span,
) -> Result<Span, Stop> {
    let start = inner
        .start
        .checked_sub(wire_udp::HEADER_LEN)
        .ok_or(DropReason::UmemExhausted)?;
    let span = Span {
        start,
        end: inner.end,
    };
    let len = u16::try_from(span.len()).unwrap_or(u16::MAX);
    let header = packet.array_mut(start).ok_or(DropReason::UmemExhausted)?;
    wire_udp::emit(header, record.local_port, far.port, len);
    let datagram = packet.from(start).get(..span.len()).unwrap_or(&[]);
    let sum = wire_udp::compute_checksum(record.local, far.address, datagram);
    if let Some(field) = packet.array_mut::<2>(start + 6) {
        *field = sum.to_be_bytes();
    }
    Ok(span)
}
