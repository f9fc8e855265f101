//! Packets for the relay itself: echo requests and neighbour solicitations are answered in place
//! (RFC 4443 section 4.2, RFC 4861 section 7.2.4, RFC 4213 section 3.8), ICMPv4 errors are noted, the
//! rest goes to subscribers.

use crate::batch::PuntInfo;
use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::icmp_error::{self, HOP_LIMIT, Origin};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::Span;
use crate::tables::record::TunnelRecord;
use crate::tables::{NextHopRecord, Tables, Target, outer_key};
use crate::verdict::{PuntReason, Verdict};
use sixferry_wire::{checksum, icmpv4, icmpv6, ipv4, ipv6};

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
    if !router && !matches!(target, Target::TunnelAddress(_) | Target::Local) {
        return Ok(None);
    }
    let answers = router || matches!(target, Target::TunnelAddress(_));
    match message_kind(packet, span) {
        Some(icmpv6::ECHO_REQUEST) if answers => echo(context, packet, span, origin).map(Some),
        Some(icmpv6::NEIGHBOUR_SOLICIT) if answers => match origin {
            Origin::Tunnel(id) => solicitation(context, packet, span, id, dst).map(Some),
            Origin::Native { .. } => deliver(context).map(Some),
        },
        _ => deliver(context).map(Some),
    }
}

/// A packet with a link-local source: neighbour discovery or an echo to an address of this tunnel,
/// or it has no business leaving its link.
pub(crate) fn on_link(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    id: TunnelId,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    let own_link_local = context.tables.link_local(id, record);
    let unicast = dst == own_link_local || is_link_address(context.tables, id, dst);
    match message_kind(packet, span) {
        Some(icmpv6::NEIGHBOUR_SOLICIT) if unicast || is_solicited_node(dst) => {
            solicitation(context, packet, span, id, dst)
        }
        Some(icmpv6::ECHO_REQUEST) if unicast => echo(context, packet, span, Origin::Tunnel(id)),
        Some(icmpv6::ROUTER_SOLICIT) if dst == ALL_ROUTERS => punt(
            context,
            PuntReason::RouterSolicitation,
            DropReason::V6SrcScope,
        ),
        _ if dst == DHCPV6_SERVERS => punt(context, PuntReason::Dhcpv6, DropReason::V6SrcScope),
        _ if unicast => deliver(context),
        _ => Err(DropReason::V6SrcScope.into()),
    }
}

/// A link-local or multicast destination with a global source.
pub(crate) fn link_destination(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    id: TunnelId,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    let unicast = dst == context.tables.link_local(id, record);
    match message_kind(packet, span) {
        Some(icmpv6::NEIGHBOUR_SOLICIT) if unicast || is_solicited_node(dst) => {
            solicitation(context, packet, span, id, dst)
        }
        Some(icmpv6::ECHO_REQUEST) if unicast => echo(context, packet, span, Origin::Tunnel(id)),
        _ if unicast => deliver(context),
        _ => Err(DropReason::V6DstInvalid.into()),
    }
}

/// A probe for a duplicate address (source ::): defended if the address is ours.
pub(crate) fn duplicate_probe(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    id: TunnelId,
    record: &TunnelRecord,
    dst: u128,
) -> Result<Verdict, Stop> {
    if message_kind(packet, span) != Some(icmpv6::NEIGHBOUR_SOLICIT) || !is_solicited_node(dst) {
        return Err(DropReason::V6SrcInvalid.into());
    }
    let target = solicited_target(packet, span, 0, dst)?;
    if !is_ours(context.tables, id, record, target) {
        return Err(DropReason::V6SrcInvalid.into());
    }
    advertise(context, packet, span, id, target, ALL_NODES)
}

/// Answers a neighbour solicitation for an address of this tunnel.
fn solicitation(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    span: Span,
    id: TunnelId,
    dst: u128,
) -> Result<Verdict, Stop> {
    let src = packet
        .from(span.start)
        .first_chunk()
        .map_or(0, |b| ipv6::Header(b).src());
    let target = solicited_target(packet, span, src, dst)?;
    let record = context.tables.tunnel(id).ok_or(DropReason::NoTunnel)?;
    if !is_ours(context.tables, id, record, target) {
        return Err(DropReason::V6DstInvalid.into());
    }
    advertise(context, packet, span, id, target, src)
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
    id: TunnelId,
    target: u128,
    to: u128,
) -> Result<Verdict, Stop> {
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    let way = allowed(context, Origin::Tunnel(id), DropReason::NdInvalid, 0)?;
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
    icmp_error::back(context, packet, Origin::Tunnel(id), &way, out)
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
    icmp_error::back(context, packet, origin, &way, span)
}

/// The way back for an answer of `len` bytes, if it fits and the answer rate allows it.
fn allowed(
    context: &mut Context<'_>,
    origin: Origin,
    reason: DropReason,
    len: usize,
) -> Result<NextHopRecord, Stop> {
    let way = icmp_error::way_back(context, origin, reason)?;
    let (tunnel, mtu) = match origin {
        Origin::Tunnel(id) => {
            let mtu = context.tables.tunnel(id).map_or(0, |record| record.mtu);
            let link = usize::from(way.mtu).saturating_sub(ipv4::HEADER_LEN);
            (Some(id), link.min(usize::from(mtu)))
        }
        Origin::Native { .. } => (None, usize::from(way.mtu)),
    };
    // a peer may send more than its tunnel takes back; there is nobody to tell
    if len > mtu {
        return Err(DropReason::V6TooBig.into());
    }
    let limits = context.tables.settings().answers;
    if context.local.answers.allow(&limits, tunnel, context.now) {
        Ok(way)
    } else {
        Err(DropReason::IcmpRateLimited.into())
    }
}

/// For the relay host itself.
fn deliver(context: &Context<'_>) -> Result<Verdict, Stop> {
    punt(
        context,
        PuntReason::HostDelivery,
        DropReason::HostPortAbsent,
    )
}

/// To the subscriber of `reason`, or dropped where there is none.
fn punt(context: &Context<'_>, reason: PuntReason, without: DropReason) -> Result<Verdict, Stop> {
    if context.tables.settings().punt_subscriptions >> reason.index() & 1 == 1 {
        Err(Stop::Punt(reason, PuntInfo::default()))
    } else {
        Err(without.into())
    }
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

/// ICMPv4 errors about tunnel packets (RFC 4213 section 3.4). Tunnels of a fixed MTU learn nothing from
/// them: they are checked and counted.
pub(crate) fn icmp4(
    tables: &Tables,
    packet: &Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let message = packet
        .from(parsed.inner)
        .get(..parsed.end.saturating_sub(parsed.inner))
        .ok_or(DropReason::V4Length)?;
    if checksum::fold(checksum::sum(message)) != 0xffff {
        return Err(DropReason::Icmp4Checksum.into());
    }
    let error = icmpv4::parse_error(message).ok_or(DropReason::Icmp4NoTunnel)?;
    if error.quoted.protocol() != ipv4::PROTO_IPV6 {
        return Err(DropReason::Icmp4NoTunnel.into());
    }
    let key = outer_key(error.quoted.src(), error.quoted.dst());
    let id = tables
        .index()
        .tunnel41(key)
        .ok_or(DropReason::Icmp4NoTunnel)?;
    // RFC 5927: a forger who knows the addresses still has to guess an inner destination
    if let Some(inner) = error.payload.first_chunk::<{ ipv6::HEADER_LEN }>() {
        let target = Target::decode(tables.fib6().lookup(ipv6::Header(inner).dst()));
        if target.tunnel() != Some(TunnelId(id)) {
            return Err(DropReason::Icmp4InnerMismatch.into());
        }
    }
    let too_big = (error.kind, error.code) == (icmpv4::DEST_UNREACHABLE, icmpv4::CODE_FRAG_NEEDED);
    Err(if too_big {
        DropReason::Icmp4StaticMtu
    } else {
        DropReason::Icmp4Consumed
    }
    .into())
}
