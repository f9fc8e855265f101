//! A tunnel's exit: RFC 4213 section 3.6 with the source checks of BCP 38, RFC 6040 section 4.2.
//!
//! The order of the checks decides which counter an operator sees, so it is part of the interface:
//! tunnel, inner lengths, inner source, destination, ECN, loops, then forwarding.

use crate::answer;
use crate::batch::PuntInfo;
use crate::classify::{Kind, Parsed};
use crate::drop_reason::DropReason;
use crate::ecn;
use crate::embedded;
use crate::encap::{self, Transit};
use crate::icmp_error::{self, Message, Origin};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::Span;
use crate::tables::live::Endpoint;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{Tables, Target, UdpMatch, port_key};
use crate::udp;
use crate::verdict::{PuntReason, Verdict};
use sixferry_wire::{embed, icmpv6, ipv4, ipv6, udp as wire_udp};

/// Decapsulates one packet and counts it for its tunnel.
#[inline]
pub(crate) fn decap(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let tables = context.tables;
    let known;
    let parsed = if parsed.tunnel().is_some() {
        parsed
    } else {
        known = unknown_sender(tables, packet, parsed)?;
        &known
    };
    let id = parsed.tunnel().ok_or(DropReason::NoTunnel)?;
    let record = tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
    let mut len = 0;
    let mut unusual = false;
    let result = exit(context, packet, parsed, id, record, &mut len, &mut unusual);
    // a held packet comes back and is counted then
    let over = !matches!(result, Err(Stop::Punt(PuntReason::NextHopUnresolved, _)));
    if unusual && over {
        context.local.counters.ecn_unusual = context.local.counters.ecn_unusual.wrapping_add(1);
    }
    if let Some(counters) = tables.counters(context.local.worker, id) {
        match result {
            // what ends here was carried, too
            Ok(_)
            | Err(
                Stop::Drop(DropReason::ProbeReply | DropReason::UdpKeepalive)
                | Stop::Punt(PuntReason::HostDelivery | PuntReason::OuterTooBig, _),
            ) => {
                counters.decapsulated(len);
            }
            // the tunnel the packet was to leave by has counted that one itself
            Err(Stop::Drop(DropReason::TunnelDown)) if record.has(record::UP) => {}
            Err(Stop::Drop(reason)) if reason.per_tunnel() => counters.dropped(reason),
            Err(_) => {}
        }
        if unusual && over {
            record::add32(&counters.ecn_unusual);
        }
    }
    if let Err(Stop::Punt(PuntReason::HostDelivery, _)) = result {
        mark_class(packet, parsed, record);
    }
    // whoever holds or answers the packet wants to know whose it is
    result.map_err(|stop| match stop {
        Stop::Punt(reason, info) => Stop::Punt(
            reason,
            PuntInfo {
                tunnel: info.tunnel.or(Some(id)),
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
    let (outer_src, outer_dst) = outer_addresses(packet, parsed);
    let domain = if record.has(record::DOMAIN) {
        tables.domain(record)
    } else {
        None
    };
    if let Some(domain) = domain {
        if !domain.input {
            return Err(DropReason::DecapDisabled.into());
        }
        let (rx_port, vlan) = (packet.rx_port(), parsed.vlan);
        embedded::outer_source(tables, domain, u32::from_be_bytes(outer_src), rx_port, vlan)?;
    }
    let elsewhere = parsed.kind == Kind::Udp && udp::sender(context, packet, parsed, record)?;
    let room = parsed.end().saturating_sub(parsed.inner());
    if room < ipv6::HEADER_LEN {
        return Err(DropReason::InnerTruncated.into());
    }
    let bytes = packet.from(parsed.inner());
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
        start: parsed.inner(),
        end: parsed.inner() + *len,
    };
    let (src, dst) = parsed.addresses(packet);
    let origin = Origin::Tunnel {
        id,
        peer: outer_src,
    };
    let target = Target::decode(parsed.dst_target);
    if let Some(domain) = domain {
        let [from, to] = [outer_src, outer_dst].map(u32::from_be_bytes);
        embedded::exit(tables, domain, (src, dst), from, to)?;
    } else if elsewhere {
        proves_itself(tables, id, record, src)?;
        udp::moved(context, parsed, id, record)?;
    }
    if ipv6::is_invalid_source(src) {
        // the one legal use of :: is a probe for an address of ours (RFC 4862 section 5.4)
        if src == 0 && next_header == ipv6::NH_ICMPV6 && ipv6::is_multicast(dst) {
            return answer::duplicate_probe(context, packet, span, origin, record, dst);
        }
        return Err(DropReason::V6SrcInvalid.into());
    }
    if ipv6::is_link_local(src) {
        return answer::on_link(context, packet, span, origin, record, dst);
    }
    if record.has(record::STRICT) && !owns_source(tables, id, record, src) {
        return Err(DropReason::InnerSrcSpoof.into());
    }
    if encap::is_invalid_destination(dst) {
        return answer::link_destination(context, packet, span, origin, record, dst);
    }
    if let Some(verdict) = answer::own_address(context, packet, span, origin, dst, target)? {
        return Ok(verdict);
    }
    if is_rh0 {
        return Err(DropReason::Rh0.into());
    }
    let class = merge_class(packet, parsed, record, class, unusual)?;
    if let Some(verdict) = loops(context, packet, span, origin, dst, target)? {
        return Ok(verdict);
    }
    let transit = Transit {
        span,
        origin,
        src,
        dst,
        target,
        class,
        mss_mtu: record.has(record::MSS_CLAMP).then_some(record.mtu),
        remote: parsed.remote_target(),
    };
    encap::forward(context, packet, transit)
}

/// A packet for no known peer: one that may have moved, or nobody's.
#[cold]
fn unknown_sender(
    tables: &Tables,
    packet: &Packet<'_>,
    parsed: &Parsed,
) -> Result<Parsed, DropReason> {
    if parsed.kind == Kind::Udp {
        let (src, dst) = parsed.addresses(packet);
        let id = udp::by_inner_source(tables, src, parsed.key);
        let id = id.ok_or(DropReason::NoTunnel)?;
        let mut parsed = *parsed;
        parsed.dst_target = tables.fib6().lookup(dst);
        parsed.set_tunnel(Some(id.0));
        return Ok(parsed);
    }
    Err(nobodys(parsed.local()))
}

#[inline]
fn outer_addresses(packet: &Packet<'_>, parsed: &Parsed) -> ([u8; 4], [u8; 4]) {
    packet
        .from(parsed.l3())
        .first_chunk()
        .map(ipv4::Header)
        .map_or(([0; 4], [0; 4]), |h| (h.src(), h.dst()))
}

/// A fragment: to the slow path, if it can belong to a tunnel. Nobody else may make us remember
/// anything.
#[cold]
pub(crate) fn fragment(
    context: &Context<'_>,
    packet: &Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let tables = context.tables;
    let bytes = packet.from(parsed.l3());
    let header = ipv4::Header(bytes.first_chunk().ok_or(DropReason::V4Truncated)?);
    let local = u32::from_be_bytes(header.dst());
    let tunnel = match header.protocol() {
        ipv4::PROTO_IPV6 => {
            let configured = tables.index().tunnel41(parsed.key).map(TunnelId);
            let id = configured.or_else(|| tables.index().domain(local));
            Some(id.ok_or_else(|| nobodys(parsed.local()))?)
        }
        ipv4::PROTO_UDP => fragment_of_udp(tables, parsed, bytes)?,
        _ => return Err(DropReason::NoTunnel.into()),
    };
    if let Some(id) = tunnel {
        let record = tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
        if !record.has(record::UP) {
            return Err(DropReason::TunnelDown.into());
        }
        if record.has(record::DOMAIN)
            && let Some(domain) = tables.domain(record)
        {
            if !domain.input {
                return Err(DropReason::DecapDisabled.into());
            }
            let source = u32::from_be_bytes(header.src());
            embedded::outer_source(tables, domain, source, packet.rx_port(), parsed.vlan)?;
        }
    }
    let reason = PuntReason::Fragment;
    if tables.settings().punt_subscriptions >> reason.index() & 1 == 0 {
        return Err(DropReason::V4Fragment.into());
    }
    let info = PuntInfo {
        tunnel,
        ..PuntInfo::default()
    };
    Err(Stop::Punt(reason, info))
}

/// The tunnel that a fragment of a UDP datagram may belong to. Only the first has the ports; later ones
/// may come before it only from a configured peer's address. `None`: one that may go with a first
/// fragment of a peer that has moved, but opens nothing.
fn fragment_of_udp(
    tables: &Tables,
    parsed: &Parsed,
    bytes: &[u8],
) -> Result<Option<TunnelId>, DropReason> {
    const OFFSET: u16 = 0x1fff;
    let header = ipv4::Header(bytes.first_chunk().ok_or(DropReason::V4Truncated)?);
    let configured = tables.index().udp_host(parsed.key).map(TunnelId);
    if header.fragment_word() & OFFSET != 0 {
        let local = u32::from_be_bytes(header.dst());
        return if configured.is_some() || tables.index().peers_move(local) {
            Ok(configured)
        } else {
            Err(DropReason::NoTunnel)
        };
    }
    let at = parsed.inner().saturating_sub(parsed.l3());
    let ports = bytes.get(at..).and_then(<[u8]>::first_chunk);
    let ports = wire_udp::Header(ports.ok_or(DropReason::ReasmTiny)?);
    let sender = Endpoint {
        address: header.src(),
        port: ports.src_port(),
    };
    let key = port_key(header.dst(), ports.dst_port());
    let id = match tables.index().udp(key).ok_or(DropReason::NoTunnel)? {
        UdpMatch::Tunnel(id) => TunnelId(id),
        UdpMatch::Group(group) => {
            let known = tables.index().peer(group, sender).map(TunnelId);
            if let Some(id) = known.or(configured) {
                return Ok(Some(id));
            }
            let inner = bytes.get(at + wire_udp::HEADER_LEN..);
            let inner = inner.and_then(<[u8]>::first_chunk);
            let source = ipv6::Header(inner.ok_or(DropReason::NoTunnel)?).src();
            udp::by_inner_source(tables, source, key).ok_or(DropReason::NoTunnel)?
        }
    };
    let record = tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
    let moves = record.has(record::REBIND_CONTROL | record::REBIND_INNER);
    if moves || udp::endpoint(tables, record) == sender {
        Ok(Some(id))
    } else {
        Err(DropReason::UdpRemoteMismatch)
    }
}

/// RFC 7526: 6to4 is off unless somebody asked for it.
fn nobodys(local: [u8; 4]) -> DropReason {
    if local == embed::SIX_TO_FOUR_ANYCAST {
        DropReason::AnycastDisabled
    } else {
        DropReason::NoTunnel
    }
}

/// Marks a packet for the host itself as the exit would have.
fn mark_class(packet: &mut Packet<'_>, parsed: &Parsed, record: &TunnelRecord) {
    let at = packet.head();
    let inner = packet.from(at).first_chunk().map(ipv6::Header);
    let class = inner.map_or(0, |h| h.traffic_class());
    if let Ok(Some(merged)) = merge_class(packet, parsed, record, class, &mut false)
        && let Some(header) = packet.array_mut::<{ ipv6::HEADER_LEN }>(at)
    {
        ipv6::set_traffic_class(header, merged);
    }
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

/// Whether `src` shows that a packet from elsewhere is the peer's. Only a global source of the tunnel
/// does; a tunnel without prefixes has none to show, so there any link-local one has to do, but only
/// where the address that sends it was known before.
#[cold]
fn proves_itself(
    tables: &Tables,
    id: TunnelId,
    record: &TunnelRecord,
    src: u128,
) -> Result<(), DropReason> {
    if ipv6::is_invalid_source(src) {
        return Err(DropReason::V6SrcInvalid);
    }
    if ipv6::is_link_local(src) {
        let enough = record.moves_port_only() && !record.has_prefixes();
        return enough.then_some(()).ok_or(DropReason::V6SrcScope);
    }
    if owns_source(tables, id, record, src) {
        Ok(())
    } else {
        Err(DropReason::InnerSrcSpoof)
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
        .from(parsed.l3())
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
    origin: Origin,
    dst: u128,
    target: Target,
) -> Result<Option<Verdict>, Stop> {
    let Origin::Tunnel { id, .. } = origin else {
        return Ok(None);
    };
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
        return icmp_error::send(context, packet, span, origin, message, reason).map(Some);
    }
    if embedded::embeds_local(context.tables, dst) {
        return Err(DropReason::LoopSelf.into());
    }
    Ok(None)
}
