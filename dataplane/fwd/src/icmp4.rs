//! ICMPv4 errors about our outer packets (RFC 4213 section 3.4, RFC 1191, RFC 4459 section 3.2).
//!
//! Anybody can forge one, so it must quote a packet that we could have sent: the outer addresses of a
//! tunnel, and where inner bytes are quoted, a destination that leads into that tunnel (after RFC
//! 5927). What is quoted may then be answered to the inner source as ICMPv6, within the rate of
//! errors.

use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::icmp_error::{self, Message, Origin, Report};
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::{Context, Stop};
use crate::rewrite::{FarEnd, Span, overhead};
use crate::tables::live::{Endpoint, plateau_below};
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{Tables, Target, UdpMatch, outer_key, port_key};
use crate::verdict::Verdict;
use sixferry_wire::{checksum, icmpv4, icmpv6, ipv4, ipv6, udp};

/// A link whose MTU is not known carries this.
const ETHERNET_MTU: u16 = 1500;
/// Least MTU of an IPv4 link (RFC 791).
const MIN_MTU4: u16 = 68;

/// What an error quotes of our packet.
struct Quote {
    id: TunnelId,
    limit_key: u64,
    /// The inner packet, as far as it is quoted: empty, or at least its header.
    inner: Span,
    src: u128,
    dst: u128,
    /// Total length of the outer packet.
    outer_len: u16,
}

/// Handles one ICMPv4 packet.
pub(crate) fn error(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    parsed: &Parsed,
) -> Result<Verdict, Stop> {
    let tables = context.tables;
    let message = packet
        .from(parsed.inner())
        .get(..parsed.end().saturating_sub(parsed.inner()))
        .ok_or(DropReason::V4Length)?;
    if checksum::fold(checksum::sum(message)) != 0xffff {
        return Err(DropReason::Icmp4Checksum.into());
    }
    let error = icmpv4::parse_error(message).ok_or(DropReason::Icmp4NoTunnel)?;
    let quote = quoted(tables, &error, parsed.end())?;
    let record = tables.tunnel(quote.id).ok_or(DropReason::Icmp4NoTunnel)?;
    if quote.inner.len() > 0 && !leads_into(tables, record, &quote, error.quoted.dst()) {
        return Err(DropReason::Icmp4InnerMismatch.into());
    }
    let (kind, code, mtu) = (error.kind, error.code, error.mtu);
    // a packet that must wait for its neighbour comes again: nothing is learnt from it yet
    if quote.inner.len() > 0
        && let Err(stop @ Stop::Punt(..)) = way_to_source(context, &quote)
    {
        return Err(stop);
    }
    if (kind, code) == (icmpv4::DEST_UNREACHABLE, icmpv4::CODE_FRAG_NEEDED) {
        return fragmentation_needed(context, packet, &quote, record, mtu);
    }
    note(context, &quote, record, kind, code);
    let unreachable = match (kind, code) {
        (icmpv4::DEST_UNREACHABLE, 0..=3 | 5..=13) | (icmpv4::TIME_EXCEEDED, 0) => Message {
            kind: icmpv6::DEST_UNREACHABLE,
            code: icmpv6::CODE_ADDRESS,
            parameter: 0,
        },
        _ => return Err(DropReason::Icmp4Consumed.into()),
    };
    relay(context, packet, &quote, unreachable)
}

/// The tunnel whose packet is quoted, and what of it.
fn quoted(tables: &Tables, error: &icmpv4::Error<'_>, end: usize) -> Result<Quote, DropReason> {
    let (local, remote) = (error.quoted.src(), error.quoted.dst());
    let (id, rest) = match error.quoted.protocol() {
        ipv4::PROTO_IPV6 => {
            let tunnel = tables.index().tunnel41(outer_key(local, remote));
            let domain = || tables.index().domain(u32::from_be_bytes(local));
            (tunnel.map(TunnelId).or_else(domain), error.payload)
        }
        ipv4::PROTO_UDP => {
            let (header, rest) = error
                .payload
                .split_first_chunk::<{ udp::HEADER_LEN }>()
                .ok_or(DropReason::Icmp4NoTunnel)?;
            (
                udp_tunnel(tables, local, remote, udp::Header(header), rest),
                rest,
            )
        }
        _ => return Err(DropReason::Icmp4NoTunnel),
    };
    let id = id.ok_or(DropReason::Icmp4NoTunnel)?;
    let limit_key = icmp_error::limit_key(tables, id, remote);
    // a later fragment of ours does not begin with an inner header
    let whole = error.quoted.fragment_word() & 0x1fff == 0;
    let header = rest.first_chunk().map(ipv6::Header).filter(|_| whole);
    let outer_len = u16::try_from(error.quoted.total_len()).unwrap_or(u16::MAX);
    let Some(header) = header.filter(|h| h.version() == 6) else {
        return Ok(Quote {
            id,
            limit_key,
            inner: Span { start: end, end },
            src: 0,
            dst: 0,
            outer_len,
        });
    };
    let start = end.saturating_sub(rest.len());
    let whole = start + ipv6::HEADER_LEN + header.payload_len();
    Ok(Quote {
        id,
        limit_key,
        inner: Span {
            start,
            end: end.min(whole),
        },
        src: header.src(),
        dst: header.dst(),
        outer_len,
    })
}

fn udp_tunnel(
    tables: &Tables,
    local: [u8; 4],
    remote: [u8; 4],
    header: udp::Header<'_>,
    inner: &[u8],
) -> Option<TunnelId> {
    let peer = Endpoint {
        address: remote,
        port: header.dst_port(),
    };
    let id = match tables.index().udp(port_key(local, header.src_port()))? {
        UdpMatch::Tunnel(id) => TunnelId(id),
        UdpMatch::Group(group) => match tables.index().peer(group, peer) {
            Some(id) => TunnelId(id),
            // a peer that has moved is known by what lies behind it
            None => {
                let inner = ipv6::Header(inner.first_chunk()?);
                Target::decode(tables.fib6().lookup(inner.dst())).tunnel()?
            }
        },
    };
    let record = tables.tunnel(id)?;
    let here =
        record.has(record::UDP) && (record.local, record.local_port) == (local, header.src_port());
    (here && crate::udp::endpoint(tables, record) == peer).then_some(id)
}

/// Whether a packet like the quoted one would have left by this tunnel, to this address.
fn leads_into(tables: &Tables, record: &TunnelRecord, quote: &Quote, remote: [u8; 4]) -> bool {
    match Target::decode(tables.fib6().lookup(quote.dst)) {
        Target::Tunnel(id) | Target::TunnelLink(id) => id == quote.id,
        Target::Domain(id) => {
            let far = FarEnd::of(tables, record, quote.dst);
            id == quote.id && far.is_some_and(|far| far.address == remote)
        }
        _ => false,
    }
}

/// RFC 1191: a router has a link that is too small.
fn fragmentation_needed(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    quote: &Quote,
    record: &TunnelRecord,
    reported: u16,
) -> Result<Verdict, Stop> {
    let live = match context.tables.live(record) {
        Some(live) if record.has(record::DYNAMIC) => live,
        // no DF was set, or the operator knows better
        _ => return Err(DropReason::Icmp4StaticMtu.into()),
    };
    let link = match context.tables.route4(record.remote) {
        Target::NextHop(id) => context.tables.next_hop(id).map_or(ETHERNET_MTU, |h| h.mtu),
        _ => ETHERNET_MTU,
    };
    let reported = match reported {
        // a router older than RFC 1191
        0 => plateau_below(quote.outer_len),
        mtu => mtu.max(MIN_MTU4),
    };
    let reported = reported.max(record.min_path_mtu);
    let lowered = if context.local.dry_run {
        let known = live.estimate(record.generation).unwrap_or(link);
        reported < known.min(link)
    } else {
        live.lower(record.generation, reported, link, context.now)
    };
    if !lowered {
        return Err(DropReason::Icmp4NoChange.into());
    }
    if !context.local.dry_run && live.may_report(context.now) {
        context.local.tell(Event::PathMtu {
            tunnel: quote.id,
            mtu: reported,
        });
    }
    let inner_mtu = reported.saturating_sub(overhead(record)).max(ipv6::MIN_MTU);
    let message = Message {
        kind: icmpv6::PACKET_TOO_BIG,
        code: 0,
        parameter: u32::from(inner_mtu),
    };
    relay(context, packet, quote, message)
}

fn note(context: &mut Context<'_>, quote: &Quote, record: &TunnelRecord, kind: u8, code: u8) {
    let Some(live) = context.tables.live(record) else {
        return;
    };
    if context.local.dry_run {
        return;
    }
    live.count_error();
    if live.may_report(context.now) {
        context.local.tell(Event::OuterError {
            tunnel: quote.id,
            kind,
            code,
        });
    }
}

fn source_of(tables: &Tables, quote: &Quote) -> Origin {
    let source = Target::decode(tables.fib6().lookup(quote.src));
    Origin::towards(tables, source, quote.src)
}

fn way_to_source(context: &Context<'_>, quote: &Quote) -> Result<(), Stop> {
    let origin = source_of(context.tables, quote);
    icmp_error::way_back(context, origin, DropReason::Icmp4Consumed).map(|_| ())
}

/// Sends the inner source what a router told us.
fn relay(
    context: &mut Context<'_>,
    packet: &mut Packet<'_>,
    quote: &Quote,
    message: Message,
) -> Result<Verdict, Stop> {
    let span = quote.inner;
    let header = packet.from(span.start).first_chunk().map(ipv6::Header);
    let is_icmp = header.is_some_and(|h| h.next_header() == ipv6::NH_ICMPV6);
    // too short to tell whether an error would answer an error (RFC 4443 section 2.4 e.1)
    if span.len() == 0 || (is_icmp && span.len() == ipv6::HEADER_LEN) {
        return Err(DropReason::Icmp4Consumed.into());
    }
    let origin = source_of(context.tables, quote);
    let report = Report {
        span,
        origin,
        message,
        reason: DropReason::Icmp4Consumed,
        limited_by: Some(quote.limit_key),
    };
    icmp_error::report(context, packet, report)
}
