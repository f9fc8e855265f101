//! IPv6 on its way out: from the native side, or onward after a tunnel's exit.
//!
//! Order of checks (ours, where the RFCs leave room): addresses, loops, hop limit, route, tunnel
//! state, MTU. RFC 4213 section 3, RFC 8200, RFC 4443, RFC 6324.

use crate::answer;
use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::icmp_error::{self, Message, Origin};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::{self, Span};
use crate::tables::record;
use crate::tables::{Tables, Target};
use crate::verdict::Verdict;
use sixferry_wire::{ether, icmpv6, ipv6};

/// What encapsulation adds.
const OUTER_LEN: u16 = 20;

/// An IPv6 packet to be forwarded: where it is, whence it came, where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transit {
    pub(crate) span: Span,
    pub(crate) origin: Origin,
    pub(crate) dst: u128,
    pub(crate) target: Target,
    /// Traffic class to write, when the tunnel exit changes it.
    pub(crate) class: Option<u8>,
    /// What pass two found of the route to the tunnel's far end.
    pub(crate) remote: Option<u32>,
}

/// A packet from the native side.
pub(crate) fn from_native(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let (src, dst) = (parsed.src, parsed.dst);
    let span = Span {
        start: parsed.inner,
        end: parsed.end,
    };
    let source = Target::decode(parsed.src_target);
    let target = Target::decode(parsed.dst_target);
    let origin = Origin::Native { source, src };
    if ipv6::is_invalid_source(src) {
        return Err(DropReason::V6SrcInvalid.into());
    }
    if is_invalid_destination(dst) {
        return Err(DropReason::V6DstInvalid.into());
    }
    let error = |kind, code| Message {
        kind,
        code,
        parameter: 0,
    };
    if ipv6::is_link_local(src) {
        let message = error(icmpv6::DEST_UNREACHABLE, icmpv6::CODE_SCOPE);
        return icmp_error::send(
            context,
            packet,
            span,
            origin,
            message,
            DropReason::V6SrcScope,
        );
    }
    // RFC 4213 section 3.6 (1): what lies behind a tunnel cannot arrive here
    if context.tables.settings().native_source_check && source.tunnel().is_some() {
        return Err(DropReason::V6SrcSpoofNative.into());
    }
    // RFC 6324 section 3: the packet left one of our own addresses already
    if embeds_local(context.tables, src) {
        return Err(DropReason::LoopSelf.into());
    }
    if let Some(verdict) = answer::own_address(context, packet, span, origin, dst, target)? {
        return Ok(verdict);
    }
    forward(
        context,
        packet,
        Transit {
            span,
            origin,
            dst,
            target,
            class: None,
            remote: parsed.remote_target,
        },
    )
}

/// Forwards a packet whose addresses are in order.
pub(crate) fn forward(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    transit: Transit,
) -> Result<Verdict, Stop> {
    let Transit {
        span,
        origin,
        dst,
        target,
        ..
    } = transit;
    let unreachable = |code| Message {
        kind: icmpv6::DEST_UNREACHABLE,
        code,
        parameter: 0,
    };
    let hop_limit = packet
        .from(span.start)
        .first_chunk()
        .map_or(0, |bytes| ipv6::Header(bytes).hop_limit());
    if hop_limit <= 1 {
        let message = Message {
            kind: icmpv6::TIME_EXCEEDED,
            code: 0,
            parameter: 0,
        };
        return icmp_error::send(
            context,
            packet,
            span,
            origin,
            message,
            DropReason::V6HopLimit,
        );
    }
    let no_route = |context: &mut Context<'_>, packet: &mut Packet<'_>, code| {
        let reason = DropReason::V6NoRoute;
        icmp_error::send(context, packet, span, origin, unreachable(code), reason)
    };
    match target {
        Target::Tunnel(id) | Target::TunnelLink(id) => into_tunnel(context, packet, transit, id),
        Target::NextHop(id) => {
            let hop = *rewrite::native_hop(context.tables, id, dst)?;
            if span.len() > usize::from(hop.mtu) {
                return too_big(context, packet, transit, hop.mtu);
            }
            leave(packet, transit, hop_limit);
            let port = rewrite::link(context.tables, packet, &hop, ether::TYPE_IPV6, span)?;
            Ok(Verdict::Tx(port))
        }
        Target::Blackhole => Err(DropReason::V6Blackhole.into()),
        Target::Prohibit => no_route(context, packet, icmpv6::CODE_PROHIBITED),
        Target::NoRoute
        | Target::Unreachable
        | Target::TunnelAddress(_)
        | Target::Domain(_)
        | Target::Local => no_route(context, packet, icmpv6::CODE_NO_ROUTE),
    }
}

fn into_tunnel(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    transit: Transit,
    id: TunnelId,
) -> Result<Verdict, Stop> {
    let Transit { span, origin, .. } = transit;
    let tables = context.tables;
    let address_unreachable = Message {
        kind: icmpv6::DEST_UNREACHABLE,
        code: icmpv6::CODE_ADDRESS,
        parameter: 0,
    };
    let Some(record) = tables.tunnel(id).filter(|r| r.has(record::UP)) else {
        let reason = DropReason::TunnelDown;
        let result = icmp_error::send(context, packet, span, origin, address_unreachable, reason);
        // the tunnel that is down counts the packet only when nobody was told
        if matches!(result, Err(Stop::Drop(DropReason::TunnelDown)))
            && let Some(counters) = tables.counters(context.local.worker, id)
        {
            counters.dropped(reason);
        }
        return result;
    };
    let hop = match rewrite::outer_hop(tables, record, transit.remote) {
        Err(Stop::Drop(reason @ (DropReason::V4NoRoute | DropReason::PortDown))) => {
            return icmp_error::send(context, packet, span, origin, address_unreachable, reason);
        }
        other => *other?,
    };
    // the tunnel's MTU, or less where our own link is smaller, but never below IPv6's minimum
    let room = hop.mtu.saturating_sub(OUTER_LEN).max(ipv6::MIN_MTU);
    let mtu = record.mtu.min(room);
    if span.len() > usize::from(mtu) {
        return too_big(context, packet, transit, mtu);
    }
    let hop_limit = packet
        .from(span.start)
        .first_chunk()
        .map_or(0, |bytes| ipv6::Header(bytes).hop_limit());
    leave(packet, transit, hop_limit);
    let port = rewrite::outer(context, packet, id, record, &hop, span)?;
    Ok(Verdict::Tx(port))
}

fn too_big(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    transit: Transit,
    mtu: u16,
) -> Result<Verdict, Stop> {
    let message = Message {
        kind: icmpv6::PACKET_TOO_BIG,
        code: 0,
        parameter: u32::from(mtu.max(ipv6::MIN_MTU)),
    };
    let Transit { span, origin, .. } = transit;
    icmp_error::send(context, packet, span, origin, message, DropReason::V6TooBig)
}

/// Writes what one IPv6 hop changes: the hop limit once, the traffic class if the exit merged it.
#[inline]
fn leave(packet: &mut Packet<'_>, transit: Transit, hop_limit: u8) {
    if let Some(header) = packet.array_mut::<{ ipv6::HEADER_LEN }>(transit.span.start) {
        ipv6::set_hop_limit(header, hop_limit.saturating_sub(1));
        if let Some(class) = transit.class {
            ipv6::set_traffic_class(header, class);
        }
    }
}

/// Destinations nobody can forward to: multicast, link-local, unspecified, loopback, IPv4-mapped.
#[inline]
pub(crate) const fn is_invalid_destination(dst: u128) -> bool {
    ipv6::is_invalid_source(dst) || ipv6::is_link_local(dst)
}

/// Whether a 6to4 address names one of our own IPv4 addresses (RFC 6324 section 3.2).
#[inline]
pub(crate) fn embeds_local(tables: &Tables, address: u128) -> bool {
    ipv6::embedded_6to4(address).is_some_and(|v4| tables.is_local_v4(v4))
}
