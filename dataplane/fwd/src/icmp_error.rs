//! ICMPv6 errors about transit packets, built in the packet's place (RFC 4443 section 2.4).

use crate::drop_reason::DropReason;
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::{self, Span};
use crate::tables::{NextHopRecord, Target};
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
    /// Out of this tunnel.
    Tunnel(TunnelId),
    /// From the native side; what the FIB says of its source.
    Native {
        /// FIB target of the source.
        source: Target,
        /// The source.
        src: u128,
    },
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
    let tunnel = match origin {
        Origin::Tunnel(id) => Some(id),
        Origin::Native { .. } => None,
    };
    let limits = context.tables.settings().icmp_errors;
    if !context.local.errors.allow(&limits, tunnel, context.now) {
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
    back(context, packet, origin, &way, out)
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

/// The next hop back to where a packet came from. Asked before anything is written, because a
/// neighbour that must be resolved first needs the packet as it was.
pub(crate) fn way_back(
    context: &Context<'_>,
    origin: Origin,
    reason: DropReason,
) -> Result<NextHopRecord, Stop> {
    let tables = context.tables;
    match origin {
        Origin::Tunnel(id) => {
            let record = tables.tunnel(id).ok_or(reason)?;
            rewrite::outer_hop(tables, record, None).copied()
        }
        Origin::Native {
            source: Target::NextHop(id),
            src,
        } => rewrite::native_hop(tables, id, src).copied(),
        Origin::Native { .. } => Err(reason.into()),
    }
}

/// Sends the finished IPv6 packet at `span` to where the original came from.
pub(crate) fn back(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    origin: Origin,
    way: &NextHopRecord,
    span: Span,
) -> Result<Verdict, Stop> {
    let port = match origin {
        Origin::Tunnel(id) => {
            let record = context.tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
            rewrite::outer(context, packet, id, record, way, span)?
        }
        Origin::Native { .. } => {
            rewrite::link(context.tables, packet, way, ether::TYPE_IPV6, span)?
        }
    };
    Ok(Verdict::Answer(port))
}
