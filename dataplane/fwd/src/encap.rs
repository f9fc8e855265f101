//! IPv6 on its way out: from the native side, or onward after a tunnel's exit.
//!
//! Order of checks (ours, where the RFCs leave room): addresses, loops, hop limit, route, tunnel
//! state, MTU. RFC 4213 section 3, RFC 8200, RFC 4443, RFC 6324.

use crate::answer;
use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::embedded;
use crate::icmp_error::{self, Message, Origin};
use crate::id::TunnelId;
use crate::mss;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::{self, FarEnd, Limits, Outer, Span};
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{DomainRecord, Tables, Target};
use crate::verdict::Verdict;
use sixferry_wire::{ether, icmpv6, ipv6};

/// An IPv6 packet to be forwarded: where it is, whence it came, where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transit {
    pub(crate) span: Span,
    pub(crate) origin: Origin,
    pub(crate) src: u128,
    pub(crate) dst: u128,
    pub(crate) target: Target,
    /// Traffic class to write, when the tunnel exit changes it.
    pub(crate) class: Option<u8>,
    /// Path that TCP's MSS is to fit, if the tunnel the packet came by wants that.
    pub(crate) mss_mtu: Option<u16>,
    /// What pass two found of the route to the tunnel's far end.
    pub(crate) remote: Option<u32>,
}

/// A packet from the native side.
pub(crate) fn from_native(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let (src, dst) = parsed.addresses(packet);
    let span = Span {
        start: parsed.inner(),
        end: parsed.end(),
    };
    let source = Target::decode(parsed.src_target);
    let target = Target::decode(parsed.dst_target);
    let origin = Origin::towards(context.tables, source, src);
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
    // RFC 6324 section 3: the packet left one of our own addresses already
    if embedded::embeds_local(context.tables, src) {
        return Err(DropReason::LoopSelf.into());
    }
    // RFC 4213 section 3.6 (1): what lies behind a tunnel cannot arrive here
    if context.tables.settings().native_source_check
        && lies_behind_a_tunnel(context.tables, source, src)
    {
        return Err(DropReason::V6SrcSpoofNative.into());
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
            src,
            dst,
            target,
            class: None,
            mss_mtu: None,
            remote: parsed.remote_target(),
        },
    )
}

/// Whether a source belongs to a tunnel, or to a customer of a 6rd domain. A 6to4 source may well
/// arrive natively: some other relay forwarded it.
fn lies_behind_a_tunnel(tables: &Tables, source: Target, src: u128) -> bool {
    let Target::Domain(id) = source else {
        return source.tunnel().is_some();
    };
    let record = tables.tunnel(id).filter(|r| r.has(record::DOMAIN));
    let domain = record.and_then(|record| tables.domain(record));
    // a mere route into the domain, such as a customer's default, says nothing about sources
    domain.is_some_and(|d| !d.is_six_to_four() && d.embedding.contains(src) && !d.serves(src))
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
        src,
        dst,
        target,
        ..
    } = transit;
    let unreachable = |code| Message {
        kind: icmpv6::DEST_UNREACHABLE,
        code,
        parameter: 0,
    };
    let domain = entered_domain(context.tables, target);
    if let Some(domain) = domain {
        embedded::entry(context.tables, domain, src, dst)?;
    } else if let Target::Tunnel(id) | Target::TunnelLink(id) = target
        && let Some(record) = context.tables.tunnel(id)
        && let Some(far) = FarEnd::of(context.tables, record, dst)
    {
        rewrite::refuse_loop(context.tables, far, known_route(record, transit.remote))?;
    }
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
        // stf(4)'s prefix restriction, or a native address where no relay is named
        Target::Domain(_) if domain.is_none_or(|d| !embedded::reaches(d, dst)) => {
            no_route(context, packet, icmpv6::CODE_NO_ROUTE)
        }
        Target::Domain(id) => into_tunnel(context, packet, transit, id),
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
        Target::NoRoute | Target::Unreachable | Target::TunnelAddress(_) | Target::Local => {
            no_route(context, packet, icmpv6::CODE_NO_ROUTE)
        }
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
    let Some(far) = FarEnd::of(tables, record, transit.dst) else {
        let reason = DropReason::EndpointUnknown;
        return icmp_error::send(context, packet, span, origin, address_unreachable, reason);
    };
    let hop = match rewrite::outer_hop(tables, far, known_route(record, transit.remote)) {
        Err(Stop::Drop(reason @ (DropReason::V4NoRoute | DropReason::PortDown))) => {
            return icmp_error::send(context, packet, span, origin, address_unreachable, reason);
        }
        other => *other?,
    };
    let Limits { mtu, df } = Limits::new(context, record, &hop);
    if span.len() > usize::from(mtu) {
        return too_big(context, packet, transit, mtu);
    }
    let hop_limit = packet
        .from(span.start)
        .first_chunk()
        .map_or(0, |bytes| ipv6::Header(bytes).hop_limit());
    let clamp = record.has(record::MSS_CLAMP).then_some(mtu);
    let transit = Transit {
        mss_mtu: transit.mss_mtu.into_iter().chain(clamp).min(),
        ..transit
    };
    leave(packet, transit, hop_limit);
    let outer = Outer {
        id,
        record,
        far,
        df,
    };
    let port = rewrite::outer(context, packet, &outer, &hop, span)?;
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

/// What pass two found of the route to the far end, unless a packet before this one in the batch may
/// have moved the far end.
#[inline]
const fn known_route(record: &TunnelRecord, found: Option<u32>) -> Option<u32> {
    if record.has(record::REBIND_INNER) {
        None
    } else {
        found
    }
}

/// Writes what one IPv6 hop changes: the hop limit once, the traffic class if the exit merged it, and
/// the MSS if the operator wants that.
#[inline]
fn leave(packet: &mut Packet<'_>, transit: Transit, hop_limit: u8) {
    if let Some(mtu) = transit.mss_mtu {
        mss::clamp(packet, transit.span, mtu);
    }
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

/// The domain that a packet is about to enter.
#[inline]
fn entered_domain(tables: &Tables, target: Target) -> Option<&DomainRecord> {
    let Target::Domain(id) = target else {
        return None;
    };
    let record = tables.tunnel(id).filter(|r| r.has(record::DOMAIN))?;
    tables.domain(record)
}
