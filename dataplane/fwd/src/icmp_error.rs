//! ICMPv6 errors about transit packets, built in the packet's place (RFC 4443 section 2.4).

use crate::drop_reason::DropReason;
use crate::embedded;
use crate::id::{PortId, TunnelId};
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::{self, FarEnd, Limits, Outer, Span};
use crate::tables::record;
use crate::tables::{NextHopRecord, Tables, Target};
use crate::verdict::Verdict;
use sixferry_wire::{ether, icmpv6, ipv6};

/// ICMPv6 header of an error: type, code, checksum, parameter.
const ICMP_LEN: usize = 8;
/// An error never exceeds the minimum MTU (RFC 4443 section 2.4 c).
const QUOTE_MAX: usize = ipv6::MIN_MTU as usize - ipv6::HEADER_LEN - ICMP_LEN;
/// Hop limit of packets we originate.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Whence a packet came, and so where its errors and answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Out of this tunnel or domain.
    Tunnel {
        /// Which.
        id: TunnelId,
        /// The outer source: of a domain, where answers go.
        peer: [u8; 4],
    },
    /// From the native side; what the FIB says of its source.
    Native {
        /// FIB target of the source.
        source: Target,
        /// The source.
        src: u128,
    },
}

impl Origin {
    /// Where a packet from `src` would have come from, `source` being what the FIB says of it.
    pub(crate) fn towards(tables: &Tables, source: Target, src: u128) -> Self {
        match source {
            Target::Tunnel(id) | Target::TunnelLink(id) => {
                let peer = tables.tunnel(id).map_or([0; 4], |r| r.remote);
                Self::Tunnel { id, peer }
            }
            Target::Domain(id) => match embedded::peer(tables, id, src) {
                Some(peer) => Self::Tunnel { id, peer },
                None => Self::Native { source, src },
            },
            _ => Self::Native { source, src },
        }
    }

    /// Whose rate an answer counts against: a tunnel's, or one peer's of a domain.
    pub(crate) fn limited_as(self, tables: &Tables) -> Option<u64> {
        let Self::Tunnel { id, peer } = self else {
            return None;
        };
        Some(limit_key(tables, id, peer))
    }

    pub(crate) const fn tunnel(self) -> Option<TunnelId> {
        match self {
            Self::Tunnel { id, .. } => Some(id),
            Self::Native { .. } => None,
        }
    }
}

/// Key of a tunnel, or of one peer of a domain, in the rate limits.
pub(crate) fn limit_key(tables: &Tables, id: TunnelId, peer: [u8; 4]) -> u64 {
    let is_domain = tables.tunnel(id).is_some_and(|r| r.has(record::DOMAIN));
    let peer = if is_domain {
        u32::from_be_bytes(peer)
    } else {
        0
    };
    u64::from(id.0) << 32 | u64::from(peer)
}

/// An error to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// The packet it is about.
    pub(crate) span: Span,
    pub(crate) origin: Origin,
    pub(crate) message: Message,
    /// What the packet is dropped for where no error may be sent.
    pub(crate) reason: DropReason,
    /// Whose rate it counts against.
    pub(crate) limited_by: Option<u64>,
}

/// Type, code and the word after the checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// MTU of "packet too big", else 0.
    pub(crate) parameter: u32,
}

/// Sends an error about the packet at `span`, or drops the packet for `reason` where no error may be
/// sent. The packet must still be as received.
#[cold]
pub(crate) fn send(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    message: Message,
    reason: DropReason,
) -> Result<Verdict, Stop> {
    let report = Report {
        span,
        origin,
        message,
        reason,
        limited_by: origin.limited_as(context.tables),
    };
    self::report(context, packet, report)
}

/// Sends an error, or drops the packet for its reason where no error may be sent.
pub(crate) fn report(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    report: Report,
) -> Result<Verdict, Stop> {
    let Report {
        span,
        origin,
        message,
        reason,
        limited_by,
    } = report;
    let router = u128::from(context.tables.settings().router_address);
    let bytes = packet.from(span.start);
    let header = ipv6::Header(bytes.first_chunk().ok_or(reason)?);
    let payload = bytes.get(ipv6::HEADER_LEN..span.len()).unwrap_or(&[]);
    let src = header.src();
    let about_multicast = ipv6::is_multicast(header.dst());
    if router == 0
        || ipv6::is_invalid_source(src)
        || (about_multicast && message.kind != icmpv6::PACKET_TOO_BIG)
        || icmpv6::is_error_or_redirect(header.next_header(), payload)
    {
        return Err(reason.into());
    }
    let way = way_back(context, origin, reason)?;
    let limits = context.tables.settings().icmp_errors;
    if !context.local.errors.allow(&limits, limited_by, context.now) {
        return Err(DropReason::IcmpRateLimited.into());
    }
    let quoted = span.len().min(QUOTE_MAX);
    let icmp = span
        .start
        .checked_sub(ICMP_LEN)
        .ok_or(DropReason::UmemExhausted)?;
    let start = icmp
        .checked_sub(ipv6::HEADER_LEN)
        .ok_or(DropReason::UmemExhausted)?;
    let [p0, p1, p2, p3] = message.parameter.to_be_bytes();
    *packet
        .array_mut::<ICMP_LEN>(icmp)
        .ok_or(DropReason::UmemExhausted)? = [message.kind, message.code, 0, 0, p0, p1, p2, p3];
    let payload_len = u16::try_from(ICMP_LEN + quoted).unwrap_or(u16::MAX);
    let repr = ipv6::Repr {
        payload_len,
        next_header: ipv6::NH_ICMPV6,
        hop_limit: HOP_LIMIT,
        src: router,
        dst: src,
    };
    repr.emit(packet.array_mut(start).ok_or(DropReason::UmemExhausted)?);
    let out = Span {
        start,
        end: span.start + quoted,
    };
    write_checksum(packet, out, router, src);
    back(context, packet, &way, out)
}

/// Computes the checksum of the ICMPv6 message behind the IPv6 header at `span`.
pub(crate) fn write_checksum(packet: &mut Packet<'_>, span: Span, src: u128, dst: u128) {
    let at = span.start + ipv6::HEADER_LEN;
    if let Some(field) = packet.array_mut::<2>(at + 2) {
        *field = [0, 0];
    }
    let message = packet
        .from(at)
        .get(..span.end.saturating_sub(at))
        .unwrap_or(&[]);
    let sum = icmpv6::compute_checksum(src, dst, message);
    if let Some(field) = packet.array_mut::<2>(at + 2) {
        *field = sum.to_be_bytes();
    }
}

/// The way back to where a packet came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Through a tunnel.
    Tunnel(TunnelId, FarEnd, NextHopRecord),
    /// Over a native next hop.
    Native(NextHopRecord),
    /// To the relay host's own stack.
    Host(PortId),
}

impl Way {
    /// Largest IPv6 packet that can be sent this way.
    pub(crate) fn mtu(&self, context: &Context<'_>) -> u16 {
        match self {
            Self::Tunnel(id, _, hop) => {
                let record = context.tables.tunnel(*id);
                record.map_or(0, |r| Limits::new(context, r, hop).mtu)
            }
            Self::Native(hop) => hop.mtu,
            Self::Host(port) => context.tables.port(*port).map_or(0, |p| p.mtu),
        }
    }
}

/// Looks for the way back. Asked before anything is written, because a neighbour that must be resolved
/// first needs the packet as it was.
pub(crate) fn way_back(
    context: &Context<'_>,
    origin: Origin,
    reason: DropReason,
) -> Result<Way, Stop> {
    let tables = context.tables;
    match origin {
        Origin::Tunnel { id, peer } => {
            let record = tables.tunnel(id).filter(|r| r.has(record::UP));
            let record = record.ok_or(reason)?;
            let far = FarEnd::back(tables, record, peer).ok_or(reason)?;
            let hop = rewrite::outer_hop(tables, far, None)?;
            Ok(Way::Tunnel(id, far, *hop))
        }
        Origin::Native {
            source: Target::NextHop(id),
            src,
        } => Ok(Way::Native(*rewrite::native_hop(tables, id, src)?)),
        Origin::Native {
            source: Target::Local,
            ..
        } => {
            let port = tables.settings().host_port.ok_or(reason)?;
            Ok(Way::Host(port))
        }
        Origin::Native { .. } => Err(reason.into()),
    }
}

/// Sends the finished IPv6 packet at `span` to where the original came from.
pub(crate) fn back(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    way: &Way,
    span: Span,
) -> Result<Verdict, Stop> {
    let port = match way {
        Way::Tunnel(id, far, hop) => {
            let record = context.tables.tunnel(*id).ok_or(DropReason::NoTunnel)?;
            let df = Limits::new(context, record, hop).df;
            let outer = Outer {
                id: *id,
                record,
                far: *far,
                df,
            };
            rewrite::outer(context, packet, &outer, hop, span)?
        }
        Way::Native(hop) => rewrite::link(context.tables, packet, hop, ether::TYPE_IPV6, span)?,
        Way::Host(port) => {
            if !packet.set_bounds(span.start, span.end) {
                return Err(DropReason::UmemExhausted.into());
            }
            *port
        }
    };
    Ok(Verdict::Answer(port))
}
