//! A tunnel's exit: RFC 4213 section 3.6 with the source checks of BCP 38, RFC 6040 section 4.2.
//!
//! The order of the checks decides which counter an operator sees, so it is part of the interface:
//! tunnel, inner lengths, inner source, destination, ECN, loops, then forwarding.

use crate::answer;
use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::ecn;
use crate::encap::{self, Transit};
use crate::icmp_error::{self, Message, Origin};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::Span;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{Tables, Target};
use crate::verdict::Verdict;
use sixferry_wire::{icmpv6, ipv4, ipv6};

/// Decapsulates one packet and counts it for its tunnel.
#[inline]
pub(crate) fn decap(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let id = TunnelId(parsed.tunnel.ok_or(DropReason::NoTunnel)?);
    let tables = context.tables;
    let record = tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
    let mut len = 0;
    let mut unusual = false;
    let result = exit(context, packet, parsed, id, record, &mut len, &mut unusual);
    // a punted packet comes back and is counted then
    let over = !matches!(result, Err(Stop::Punt(..)));
    if unusual && over {
        context.local.counters.ecn_unusual = context.local.counters.ecn_unusual.wrapping_add(1);
    }
    if let Some(counters) = tables.counters(context.local.worker, id) {
        match result {
            Ok(_) => counters.decapsulated(len),
            // the tunnel the packet was to leave by has counted that one itself
            Err(Stop::Drop(DropReason::TunnelDown)) if record.has(record::UP) => {}
            Err(Stop::Drop(reason)) if reason.per_tunnel() => counters.dropped(reason),
            Err(_) => {}
        }
        if unusual && over {
            record::add32(&counters.ecn_unusual);
        }
    }
    // whoever holds or answers the packet wants to know whose it is
    result.map_err(|stop| match stop {
        Stop::Punt(reason, info) => Stop::Punt(
            reason,
            crate::batch::PuntInfo {
                tunnel: Some(id),
                ..info
            },
        ),
        drop => drop,
    })
}

#[inline]
fn exit(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    id: TunnelId,
    record: &TunnelRecord,
    len: &mut usize,
    unusual: &mut bool,
) -> Result<Verdict, Stop> {
    let tables = context.tables;
    if !record.has(record::UP) {
        return Err(DropReason::TunnelDown.into());
    }
    let room = parsed.end.saturating_sub(parsed.inner);
    if room < ipv6::HEADER_LEN {
        return Err(DropReason::InnerTruncated.into());
    }
    let bytes = packet.from(parsed.inner);
    let header = ipv6::Header(bytes.first_chunk().ok_or(DropReason::InnerTruncated)?);
    if header.version() != 6 {
        return Err(DropReason::InnerVersion.into());
    }
    *len = ipv6::HEADER_LEN + header.payload_len();
    if *len > room {
        return Err(DropReason::InnerLength.into());
    }
    let (next_header, class) = (header.next_header(), header.traffic_class());
    let is_rh0 = next_header == ipv6::NH_ROUTING
        && *len > ipv6::HEADER_LEN + 2
        && bytes.get(ipv6::HEADER_LEN + 2) == Some(&0);
    // RFC 4213 section 3.6: the IPv6 header says how long the packet is; the rest is padding
    let span = Span {
        start: parsed.inner,
        end: parsed.inner + *len,
    };
    let (src, dst) = (parsed.src, parsed.dst);
    let origin = Origin::Tunnel(id);
    let target = Target::decode(parsed.dst_target);
    if ipv6::is_invalid_source(src) {
        // the one legal use of :: is a probe for an address of ours (RFC 4862 section 5.4)
        if src == 0 && next_header == ipv6::NH_ICMPV6 && ipv6::is_multicast(dst) {
            return answer::duplicate_probe(context, packet, span, id, record, dst);
        }
        return Err(DropReason::V6SrcInvalid.into());
    }
    if ipv6::is_link_local(src) {
        return answer::on_link(context, packet, span, id, record, dst);
    }
    if record.has(record::STRICT) && !owns_source(tables, id, record, src) {
        return Err(DropReason::InnerSrcSpoof.into());
    }
    if encap::is_invalid_destination(dst) {
        return answer::link_destination(context, packet, span, id, record, dst);
    }
    if let Some(verdict) = answer::own_address(context, packet, span, origin, dst, target)? {
        return Ok(verdict);
    }
    if is_rh0 {
        return Err(DropReason::Rh0.into());
    }
    let class = merge_class(packet, parsed, record, class, unusual)?;
    loops(context, packet, span, id, dst, target)?.map_or_else(
        || {
            encap::forward(
                context,
                packet,
                Transit {
                    span,
                    origin,
                    dst,
                    target,
                    class,
                    remote: parsed.remote_target,
                },
            )
        },
        Ok,
    )
}

/// Whether `src` lies in a prefix of this tunnel. The record answers for most tunnels; the FIB, which
/// is the same truth, for those with several or nested prefixes.
#[inline]
fn owns_source(tables: &Tables, id: TunnelId, record: &TunnelRecord, src: u128) -> bool {
    let owns = record.owns(src);
    if owns && !record.has(record::NESTED) {
        return true;
    }
    (owns || record.has(record::MORE))
        && match Target::decode(tables.fib6().lookup(src)) {
            Target::Tunnel(owner) | Target::TunnelLink(owner) => owner == id,
            // our own address on the link is nobody else's
            _ => false,
        }
}

/// The traffic class to forward, if it differs from the one inside; notes combinations that RFC 6040
/// marks as unused.
#[inline]
fn merge_class(
    packet: &Packet<'_>,
    parsed: &Parsed,
    record: &TunnelRecord,
    inner: u8,
    unusual: &mut bool,
) -> Result<Option<u8>, Stop> {
    let outer = packet
        .from(parsed.l3)
        .first_chunk()
        .map_or(0, |b| ipv4::Header(b).tos());
    let merged = ecn::merge(inner, outer);
    *unusual = merged.map_or(true, |(_, unusual)| unusual);
    let (ecn, _) = merged?;
    let dscp = if record.has(record::DSCP_DECAP_COPY) {
        outer & 0xfc
    } else {
        inner & 0xfc
    };
    let class = dscp | ecn;
    Ok((class != inner).then_some(class))
}

/// RFC 6324: a packet that would go back where it came from, or to ourselves.
#[inline]
fn loops(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    id: TunnelId,
    dst: u128,
    target: Target,
) -> Result<Option<Verdict>, Stop> {
    if target == Target::Tunnel(id) {
        return Err(DropReason::LoopSameTunnel.into());
    }
    if target == Target::TunnelLink(id) {
        // RFC 4443 section 3.1: the address lies on this very link, where nobody has it
        let message = Message {
            kind: icmpv6::DEST_UNREACHABLE,
            code: icmpv6::CODE_ADDRESS,
            parameter: 0,
        };
        let reason = DropReason::LoopSameTunnel;
        let origin = Origin::Tunnel(id);
        return icmp_error::send(context, packet, span, origin, message, reason).map(Some);
    }
    if encap::embeds_local(context.tables, dst) {
        return Err(DropReason::LoopSelf.into());
    }
    Ok(None)
}
