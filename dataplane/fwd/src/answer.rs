//! Packets for the relay itself: echo requests and neighbour solicitations are answered in place
//! (RFC 4443 section 4.2, RFC 4861 section 7.2.4, RFC 4213 section 3.8), the rest goes to the host's
//! own stack or to subscribers.

use crate::batch::PuntInfo;
use crate::drop_reason::DropReason;
use crate::embedded;
use crate::icmp_error::{self, HOP_LIMIT, Origin, Way};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::Span;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{Tables, Target};
use crate::verdict::{PuntReason, Verdict};
use sixferry_wire::{checksum, icmpv6, ipv6, udp};

/// Hop limit that proves a neighbour discovery message crossed no router (RFC 4861 section 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// A neighbour solicitation without options.
const NS_LEN: usize = 24;
/// ff02::1.
const ALL_NODES: u128 = 0xff02 << 112 | 1;
/// ff02::2.
const ALL_ROUTERS: u128 = 0xff02 << 112 | 2;
/// ff02::1:2, where DHCPv6 clients send (RFC 8415 section 7.1).
const DHCPV6_SERVERS: u128 = 0xff02 << 112 | 0x1_0002;

/// RFC 8415 section 7.2.
const DHCPV6_SERVER_PORT: u16 = 547;

/// If `dst` is an address of the relay, what becomes of the packet; else `None`.
pub(crate) fn own_address(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    dst: u128,
    target: Target,
) -> Result<Option<Verdict>, Stop> {
    let router = dst == u128::from(context.tables.settings().router_address);
    let answers = match target {
        _ if router => true,
        Target::TunnelAddress(_) => true,
        Target::Domain(id) if answers_in_domain(context.tables, id, dst) => true,
        Target::Local => false,
        _ => return Ok(None),
    };
    match message_kind(packet, span) {
        Some(icmpv6::ECHO_REQUEST) if answers => echo(context, packet, span, origin).map(Some),
        Some(icmpv6::NEIGHBOUR_SOLICIT) if answers && origin.tunnel().is_some() => {
            solicitation(context, packet, span, origin, dst).map(Some)
        }
        // the host itself may have pinged from an address that it shares with the relay
        Some(icmpv6::ECHO_REPLY) if target == Target::Local && has_host_port(context) => {
            deliver(context, packet, span).map(Some)
        }
        Some(icmpv6::ECHO_REPLY | icmpv6::NEIGHBOUR_ADVERT) if answers => {
            Err(DropReason::ProbeReply.into())
        }
        _ => deliver(context, packet, span).map(Some),
    }
}

fn has_host_port(context: &Context<'_>) -> bool {
    subscribed(context, PuntReason::HostDelivery)
}

fn answers_in_domain(tables: &Tables, id: TunnelId, dst: u128) -> bool {
    let record = tables.tunnel(id).filter(|r| r.has(record::DOMAIN));
    let domain = record.and_then(|record| tables.domain(record));
    domain.is_some_and(|domain| embedded::answers(domain, dst))
}

/// A packet with a link-local source: neighbour discovery or an echo to an address of this tunnel,
/// or it has no business leaving its link.
pub(crate) fn on_link(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    let id = origin.tunnel().ok_or(DropReason::V6SrcScope)?;
    let own_link_local = context.tables.link_local(id, record);
    let unicast = dst == own_link_local || is_link_address(context.tables, id, dst);
    match message_kind(packet, span) {
        Some(icmpv6::NEIGHBOUR_SOLICIT) if unicast || is_solicited_node(dst) => {
            solicitation(context, packet, span, origin, dst)
        }
        Some(icmpv6::ECHO_REQUEST) if unicast => echo(context, packet, span, origin),
        Some(icmpv6::ECHO_REPLY | icmpv6::NEIGHBOUR_ADVERT) if unicast => {
            Err(DropReason::ProbeReply.into())
        }
        Some(icmpv6::ROUTER_SOLICIT) if dst == ALL_ROUTERS => {
            if hop_limit(packet, span) != ND_HOP_LIMIT {
                return Err(DropReason::NdInvalid.into());
            }
            let reason = PuntReason::RouterSolicitation;
            punt(context, reason, DropReason::V6SrcScope)
        }
        _ if dst == DHCPV6_SERVERS => {
            if udp_port(packet, span) != Some(DHCPV6_SERVER_PORT) {
                return Err(DropReason::Dhcpv6Invalid.into());
            }
            punt(context, PuntReason::Dhcpv6, DropReason::V6SrcScope)
        }
        // the host's own stack is on no tunnel's link
        _ => Err(DropReason::V6SrcScope.into()),
    }
}

/// A link-local or multicast destination with a global source.
pub(crate) fn link_destination(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    let id = origin.tunnel().ok_or(DropReason::V6DstInvalid)?;
    let unicast = dst == context.tables.link_local(id, record);
    match message_kind(packet, span) {
        Some(icmpv6::NEIGHBOUR_SOLICIT) if unicast || is_solicited_node(dst) => {
            solicitation(context, packet, span, origin, dst)
        }
        Some(icmpv6::ECHO_REQUEST) if unicast => echo(context, packet, span, origin),
        _ => Err(DropReason::V6DstInvalid.into()),
    }
}

/// A probe for a duplicate address (source ::): defended if the address is ours.
pub(crate) fn duplicate_probe(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    let id = origin.tunnel().ok_or(DropReason::V6SrcInvalid)?;
    if message_kind(packet, span) != Some(icmpv6::NEIGHBOUR_SOLICIT) || !is_solicited_node(dst) {
        return Err(DropReason::V6SrcInvalid.into());
    }
    let target = solicited_target(packet, span, 0, dst)?;
    if !is_ours(context.tables, id, record, target) {
        return Err(DropReason::V6SrcInvalid.into());
    }
    advertise(context, packet, span, origin, target, ALL_NODES)
}

/// Answers a neighbour solicitation for an address of this tunnel.
fn solicitation(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    dst: u128,
) -> Result<Verdict, Stop> {
    let id = origin.tunnel().ok_or(DropReason::V6DstInvalid)?;
    let src = packet
        .from(span.start)
        .first_chunk()
        .map_or(0, |b| ipv6::Header(b).src());
    let target = solicited_target(packet, span, src, dst)?;
    let record = context.tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
    if !is_ours(context.tables, id, record, target) {
        return Err(DropReason::V6DstInvalid.into());
    }
    advertise(context, packet, span, origin, target, src)
}

/// The target of a valid solicitation (RFC 4861 section 7.1.1).
fn solicited_target(
    packet: &Packet<'_>,
    span: Span,
    src: u128,
    dst: u128,
) -> Result<u128, DropReason> {
    let bytes = packet
        .from(span.start)
        .get(..span.len())
        .ok_or(DropReason::NdInvalid)?;
    let (header, message) = bytes
        .split_first_chunk::<{ ipv6::HEADER_LEN }>()
        .ok_or(DropReason::NdInvalid)?;
    let (fixed, options) = message
        .split_first_chunk::<NS_LEN>()
        .ok_or(DropReason::NdInvalid)?;
    let target = fixed
        .last_chunk()
        .map_or(0, |bytes| u128::from_be_bytes(*bytes));
    let sound = ipv6::Header(header).hop_limit() == ND_HOP_LIMIT
        && fixed[1] == 0
        && icmpv6::checksum_ok(src, dst, message)
        && !ipv6::is_multicast(target)
        && options_sound(options);
    if sound {
        Ok(target)
    } else {
        Err(DropReason::NdInvalid)
    }
}

/// Whether every option has a length and ends inside the message.
fn options_sound(mut options: &[u8]) -> bool {
    while let [_, len, ..] = options {
        match options.get(usize::from(*len) * 8..) {
            Some(rest) if *len > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

/// Turns a solicitation into its advertisement: router and solicited set, no option, hence no
/// override (RFC 4861 section 7.2.4; RFC 4213 section 3.8 forbids link-layer options).
fn advertise(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
    target: u128,
    to: u128,
) -> Result<Verdict, Stop> {
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    let way = allowed(context, origin, DropReason::NdInvalid, 0)?;
    let end = span.start + ipv6::HEADER_LEN + NS_LEN;
    let repr = ipv6::Repr {
        payload_len: u16::try_from(NS_LEN).unwrap_or(u16::MAX),
        next_header: ipv6::NH_ICMPV6,
        hop_limit: ND_HOP_LIMIT,
        src: target,
        dst: to,
    };
    repr.emit(packet.array_mut(span.start).ok_or(DropReason::NdInvalid)?);
    let flags = if to == ALL_NODES {
        ROUTER
    } else {
        ROUTER | SOLICITED
    };
    let head = packet
        .array_mut::<8>(span.start + ipv6::HEADER_LEN)
        .ok_or(DropReason::NdInvalid)?;
    *head = [icmpv6::NEIGHBOUR_ADVERT, 0, 0, 0, flags, 0, 0, 0];
    let out = Span {
        start: span.start,
        end,
    };
    icmp_error::write_checksum(packet, out, target, to);
    icmp_error::back(context, packet, &way, out)
}

/// Turns an echo request into its reply. The checksum is updated, not computed, so data that was
/// damaged on the way stays visibly damaged.
fn echo(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    origin: Origin,
) -> Result<Verdict, Stop> {
    let way = allowed(context, origin, DropReason::HostPortAbsent, span.len())?;
    let header = packet
        .array_mut::<{ ipv6::HEADER_LEN }>(span.start)
        .ok_or(DropReason::V6Truncated)?;
    let view = ipv6::Header(header);
    let repr = ipv6::Repr {
        payload_len: u16::try_from(view.payload_len()).unwrap_or(u16::MAX),
        next_header: ipv6::NH_ICMPV6,
        hop_limit: HOP_LIMIT,
        src: view.dst(),
        dst: view.src(),
    };
    repr.emit(header);
    let head = packet
        .array_mut::<4>(span.start + ipv6::HEADER_LEN)
        .ok_or(DropReason::V6Truncated)?;
    let request = u16::from_be_bytes([head[0], head[1]]);
    let reply = u16::from_be_bytes([icmpv6::ECHO_REPLY, head[1]]);
    let sum = checksum::update(u16::from_be_bytes([head[2], head[3]]), request, reply);
    let [c0, c1] = sum.to_be_bytes();
    *head = [icmpv6::ECHO_REPLY, head[1], c0, c1];
    icmp_error::back(context, packet, &way, span)
}

/// The way back for an answer of `len` bytes, if it fits and the answer rate allows it.
fn allowed(
    context: &mut Context<'_>,
    origin: Origin,
    reason: DropReason,
    len: usize,
) -> Result<Way, Stop> {
    let way = icmp_error::way_back(context, origin, reason)?;
    // a peer may send more than its tunnel takes back; there is nobody to tell
    if len > usize::from(way.mtu(context)) {
        return Err(DropReason::V6TooBig.into());
    }
    let tunnel = origin.tunnel();
    let limits = context.tables.settings().answers;
    if context.local.answers.allow(&limits, tunnel, context.now) {
        Ok(way)
    } else {
        Err(DropReason::IcmpRateLimited.into())
    }
}

/// For the relay host itself: the bare IPv6 packet, to the host port.
fn deliver(context: &Context<'_>, packet: &mut Packet<'_>, span: Span) -> Result<Verdict, Stop> {
    let reason = PuntReason::HostDelivery;
    let stop = punt(context, reason, DropReason::HostPortAbsent);
    if matches!(stop, Err(Stop::Punt(..))) {
        _ = packet.set_bounds(span.start, span.end);
    }
    stop
}

/// To the subscriber of `reason`, or dropped where there is none.
fn punt(context: &Context<'_>, reason: PuntReason, without: DropReason) -> Result<Verdict, Stop> {
    if subscribed(context, reason) {
        Err(Stop::Punt(reason, PuntInfo::default()))
    } else {
        Err(without.into())
    }
}

fn subscribed(context: &Context<'_>, reason: PuntReason) -> bool {
    context.tables.settings().punt_subscriptions >> reason.index() & 1 == 1
}

fn hop_limit(packet: &Packet<'_>, span: Span) -> u8 {
    let header = packet.from(span.start).first_chunk().map(ipv6::Header);
    header.map_or(0, |h| h.hop_limit())
}

/// Destination port of the packet, if it is UDP with a whole header.
fn udp_port(packet: &Packet<'_>, span: Span) -> Option<u16> {
    const NH_UDP: u8 = 17;
    let bytes = packet.from(span.start).get(..span.len())?;
    let (header, datagram) = bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
    if ipv6::Header(header).next_header() != NH_UDP {
        return None;
    }
    datagram.first_chunk().map(|h| udp::Header(h).dst_port())
}

/// ICMPv6 type of the packet, if it is an ICMPv6 message with a whole header.
fn message_kind(packet: &Packet<'_>, span: Span) -> Option<u8> {
    let bytes = packet.from(span.start).get(..span.len())?;
    let (header, message) = bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
    if ipv6::Header(header).next_header() != ipv6::NH_ICMPV6 || message.len() < 8 {
        return None;
    }
    message.first().copied()
}

/// ff02::1:ff00:0/104.
const fn is_solicited_node(dst: u128) -> bool {
    dst >> 24 == (0xff02 << 112 | 0x1_ff00_0000) >> 24
}

fn is_link_address(tables: &Tables, id: TunnelId, address: u128) -> bool {
    Target::decode(tables.fib6().lookup(address)) == Target::TunnelAddress(id)
}

fn is_ours(tables: &Tables, id: TunnelId, record: &TunnelRecord, address: u128) -> bool {
    address == tables.link_local(id, record) || is_link_address(tables, id, address)
}
