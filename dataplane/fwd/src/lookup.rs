//! Pass two: all tables for all packets, so that the misses of one wait for those of the others.

use crate::batch::BATCH_MAX;
use crate::classify::{Kind, Parsed};
use crate::id::{PortId, TunnelId};
use crate::packet::Packet;
use crate::prefix::link_scoped;
use crate::rewrite::FarEnd;
use crate::tables::{Tables, Target, UdpMatch, key4};
use arrayvec::ArrayVec;
use sixferry_wire::ipv6;
use std::net::Ipv6Addr;

/// Looks up outer keys, then inner addresses, fetching what pass three will read.
#[inline]
pub(crate) fn lookup(
    parsed: &mut [Parsed],
    packets: &[Packet<'_>],
    tables: &Tables,
    worker: usize,
) {
    for p in parsed.iter_mut() {
        p.tunnel = match p.kind {
            Kind::Outer => proto41(tables, p),
            Kind::Udp => udp(tables, p),
            _ => None,
        };
        if let Some(id) = p.tunnel {
            tables.prefetch_tunnel(TunnelId(id), worker);
        }
    }
    addresses(parsed, packets, tables);
    let mut leaves = false;
    for p in parsed.iter() {
        if let Some(id) = egress(p) {
            tables.prefetch_tunnel(id, worker);
            leaves = true;
        }
    }
    if leaves {
        remotes(parsed, tables);
    }
}

/// Configured tunnels come before domains.
#[inline]
fn proto41(tables: &Tables, p: &Parsed) -> Option<u32> {
    tables.index().tunnel41(p.key).or_else(|| {
        let local = u32::from_be_bytes(p.local());
        tables.index().domain(local).map(|id| id.0)
    })
}

#[inline]
fn udp(tables: &Tables, p: &Parsed) -> Option<u32> {
    match tables.index().udp(p.key)? {
        UdpMatch::Tunnel(id) => Some(id),
        UdpMatch::Group(group) => tables.index().peer(group, p.peer),
    }
}

/// The tunnel or domain a packet leaves by, if it does.
#[inline]
fn egress(p: &Parsed) -> Option<TunnelId> {
    match p.kind {
        Kind::Outer | Kind::Udp | Kind::Native => Target::egress(p.dst_target),
        _ => None,
    }
}

/// IPv4 routes to the far ends of the tunnels that packets leave by.
#[inline]
fn remotes(parsed: &mut [Parsed], tables: &Tables) {
    let mut keys = ArrayVec::<u128, BATCH_MAX>::new();
    let mut found = [0u32; BATCH_MAX];
    for p in parsed.iter_mut() {
        if let Some(record) = egress(p).and_then(|id| tables.tunnel(id))
            && let Some(far) = FarEnd::of(tables, record, p.dst)
        {
            _ = keys.try_push(key4(u32::from_be_bytes(far.address)));
            p.remote_target = Some(0);
        }
    }
    if keys.is_empty() {
        return;
    }
    tables.fib4().lookup_all(&keys, &mut found);
    let mut results = found.iter().copied();
    for p in parsed.iter_mut().filter(|p| p.remote_target.is_some()) {
        p.remote_target = results.next();
    }
}

/// Destinations of all packets, and sources of native ones: a native source must belong to no tunnel,
/// and is where an error would go.
#[inline]
fn addresses(parsed: &mut [Parsed], packets: &[Packet<'_>], tables: &Tables) {
    let mut keys = ArrayVec::<u128, { 2 * BATCH_MAX }>::new();
    let mut found = [0u32; 2 * BATCH_MAX];
    // two keys a packet at most, so there is always room
    let mut add = |key| _ = keys.try_push(key);
    for (p, packet) in parsed.iter().zip(packets) {
        match p.kind {
            Kind::Outer | Kind::Udp if p.tunnel.is_some() => add(p.dst),
            Kind::Native => {
                add(p.dst);
                add(source_key(p, packet.rx_port()));
            }
            _ => {}
        }
    }
    tables.fib6().lookup_all(&keys, &mut found);
    let mut results = found.iter().copied();
    for p in parsed.iter_mut() {
        match p.kind {
            Kind::Outer | Kind::Udp if p.tunnel.is_some() => {
                p.dst_target = results.next().unwrap_or(0);
            }
            Kind::Native => {
                p.dst_target = results.next().unwrap_or(0);
                p.src_target = results.next().unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// A link-local neighbour is looked up on the link it sent from.
#[inline]
fn source_key(p: &Parsed, port: PortId) -> u128 {
    if ipv6::is_link_local(p.src) {
        u128::from(link_scoped(Ipv6Addr::from(p.src), port, p.vlan))
    } else {
        p.src
    }
}
