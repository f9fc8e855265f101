//! IPv6 in UDP: who may send for a tunnel, and when its peer has moved.
//!
//! A NAT between the peer and us forgets mappings, so the peer's address and port may change. But
//! whoever can guess an inner address could pretend to be the moved peer and draw the downlink to
//! himself: what a packet from elsewhere does is the operator's choice ([`crate::Rebind`]), and even
//! then only a packet with a right inner source counts, once in ten seconds (once in one if it comes from
//! the same address).

use crate::classify::Parsed;
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::id::TunnelId;
use crate::packet::Packet;
use crate::process::Context;
use crate::tables::live::Endpoint;
use crate::tables::record::{self, TunnelRecord};
use crate::tables::{Tables, Target};
use sixferry_wire::{embed, ipv4, udp};
use std::net::Ipv4Addr;

/// Where a tunnel's peer is now.
#[inline]
pub(crate) fn endpoint(tables: &Tables, record: &TunnelRecord) -> Endpoint {
    tables
        .live(record)
        .and_then(|live| live.endpoint(record.generation))
        .unwrap_or_else(|| record.configured())
}

/// The tunnel whose peer may be speaking from a new place, on a port that several tunnels share: the
/// inner source says whose packet it claims to be. `key` is that of our address and port.
#[cold]
pub(crate) fn by_inner_source(tables: &Tables, src: u128, key: u64) -> Option<TunnelId> {
    if src == 0 || !tables.index().shares_port(key) {
        return None;
    }
    let id = Target::decode(tables.fib6().lookup(src)).tunnel()?;
    let record = tables.tunnel(id)?;
    let here = crate::tables::port_key(record.local, record.local_port);
    (record.has(record::UDP) && here == key).then_some(id)
}

/// Checks what the datagram says of itself and of its sender. `Ok(true)`: it comes from elsewhere and
/// has yet to prove its inner source.
pub(crate) fn sender(
    context: &Context<'_>,
    packet: &Packet<'_>,
    parsed: &Parsed,
    record: &TunnelRecord,
) -> Result<bool, DropReason> {
    let datagram = packet
        .from(parsed.inner().saturating_sub(udp::HEADER_LEN))
        .get(..parsed.end().saturating_sub(parsed.inner()) + udp::HEADER_LEN)
        .ok_or(DropReason::UdpLength)?;
    let outer = packet
        .from(parsed.l3())
        .first_chunk()
        .ok_or(DropReason::V4Truncated)?;
    let outer = ipv4::Header(outer);
    if !udp::checksum_ok(outer.src(), outer.dst(), datagram) {
        return Err(DropReason::UdpChecksum);
    }
    // port 0: a peer that is not known yet, and nobody sends from there
    let elsewhere = parsed.peer.port == 0 || endpoint(context.tables, record) != parsed.peer;
    if parsed.inner() == parsed.end() && !elsewhere {
        return Err(DropReason::UdpKeepalive);
    }
    // an empty datagram proves nothing
    let hopeless = !record.has(record::REBIND_CONTROL | record::REBIND_INNER)
        || parsed.inner() == parsed.end()
        || (record.moves_port_only() && parsed.peer.address != record.remote)
        || !can_be_a_peer(context.tables, parsed.peer);
    if elsewhere && hopeless {
        return Err(DropReason::UdpRemoteMismatch);
    }
    Ok(elsewhere)
}

/// Whether a peer may move here: what no configuration could name is not learnt either.
fn can_be_a_peer(tables: &Tables, peer: Endpoint) -> bool {
    let address = u32::from_be_bytes(peer.address);
    peer.port != 0
        && !embed::is_impossible(address)
        && !tables.is_broadcast(address)
        && !tables.is_local_v4(address)
}

/// A packet from elsewhere has proven its inner source.
#[cold]
pub(crate) fn moved(
    context: &mut Context<'_>,
    parsed: &Parsed,
    id: TunnelId,
    record: &TunnelRecord,
) -> Result<(), DropReason> {
    if context.local.dry_run {
        let follows = record.has(record::REBIND_INNER);
        return follows.then_some(()).ok_or(DropReason::UdpRemoteMismatch);
    }
    let from = endpoint(context.tables, record);
    let Some(live) = context.tables.live(record) else {
        return Err(DropReason::UdpRemoteMismatch);
    };
    if record.has(record::REBIND_INNER) {
        let port_only = record.moves_port_only();
        if !live.adopt(record.generation, parsed.peer, port_only, context.now) {
            return Err(DropReason::UdpRemoteMismatch);
        }
        context.local.tell(Event::EndpointChanged {
            tunnel: id,
            from: pair(from),
            to: pair(parsed.peer),
        });
        return Ok(());
    }
    if live.may_announce(context.now) {
        context.local.tell(Event::EndpointMismatch {
            tunnel: id,
            seen: pair(parsed.peer),
        });
    }
    Err(DropReason::UdpRemoteMismatch)
}

fn pair(endpoint: Endpoint) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(endpoint.address), endpoint.port)
}
