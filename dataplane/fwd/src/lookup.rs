//! Pass two: all tables for all packets, so that the misses of one wait for those of the others.

use crate::batch::BATCH_MAX;
use crate::classify::{Kind, Parsed};
use crate::id::{PortId, TunnelId};
use crate::packet::Packet;
use crate::prefix::link_scoped;
use crate::rewrite::FarEnd;
use crate::tables::{Tables, Target, UdpMatch, Walk, key4};
use arrayvec::ArrayVec;
use sixferry_wire::ipv6;
use std::net::Ipv6Addr;

/// Walks that have yet to end, and whose they are.
type Walks = (
    ArrayVec<Walk, { 2 * BATCH_MAX }>,
    ArrayVec<u8, { 2 * BATCH_MAX }>,
);

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
            _ => continue,
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
    tables.index().tunnel41_at(p.home, p.key).or_else(|| {
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
#[inline(never)]
fn remotes(parsed: &mut [Parsed], tables: &Tables) {
    let (mut walks, mut whose): Walks = Default::default();
    for (at, p) in (0u8..).zip(parsed.iter_mut()) {
        if let Some(record) = egress(p).and_then(|id| tables.tunnel(id))
            && let Some(far) = FarEnd::of(tables, record, p.dst)
        {
            let entered = tables.fib4().enter(key4(u32::from_be_bytes(far.address)));
            p.remote_target = Some(entered.unwrap_or_else(|walk| {
                _ = (walks.try_push(walk), whose.try_push(at));
                0
            }));
        }
    }
    tables.fib4().finish(&mut walks);
    for (walk, at) in walks.iter().zip(whose) {
        if let Some(p) = parsed.get_mut(usize::from(at)) {
            p.remote_target = Some(tables.fib4().result(walk));
        }
    }
}

/// Destinations of all packets, and sources of native ones: a native source must belong to no tunnel,
/// and is where an error would go.
#[inline]
fn addresses(parsed: &mut [Parsed], packets: &[Packet<'_>], tables: &Tables) {
    const SOURCE: u8 = 1 << 7;
    let fib = tables.fib6();
    let (mut walks, mut whose): Walks = Default::default();
    // two walks a packet at most, so there is always room
    let mut enter = |key, whose_it_is| {
        fib.enter(key).unwrap_or_else(|walk| {
            _ = (walks.try_push(walk), whose.try_push(whose_it_is));
            0
        })
    };
    for (at, (p, packet)) in (0u8..).zip(parsed.iter_mut().zip(packets)) {
        match p.kind {
            Kind::Outer | Kind::Udp if p.tunnel.is_some() => p.dst_target = enter(p.dst, at),
            Kind::Native => {
                p.dst_target = enter(p.dst, at);
                p.src_target = enter(source_key(p, packet.rx_port()), at | SOURCE);
            }
            _ => {}
        }
    }
    if walks.is_empty() {
        return;
    }
    fib.finish(&mut walks);
    for (walk, at) in walks.iter().zip(whose) {
        if let Some(p) = parsed.get_mut(usize::from(at & !SOURCE)) {
            let target = if at & SOURCE == 0 {
                &mut p.dst_target
            } else {
                &mut p.src_target
            };
            *target = fib.result(walk);
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
