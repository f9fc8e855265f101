//! Pass two: all tables for all packets, so that the misses of one wait for those of the others.

use crate::batch::BATCH_MAX;
use crate::classify::{Kind, Parsed};
use crate::id::{PortId, TunnelId};
use crate::packet::Packet;
use crate::prefix::link_scoped;
use crate::rewrite::FarEnd;
use crate::tables::{Lpm, Tables, Target, Tunnels, UdpMatch, Walk, key4, record};
use arrayvec::ArrayVec;
use sixferry_wire::ipv6;
use std::net::Ipv6Addr;

/// Lookups of addresses, begun by pass one: most end in the first table, the others are walks that go on
/// together in pass two.
pub(crate) struct Walks<'t> {
    fib: &'t Lpm,
    tunnels: Tunnels<'t>,
    // two a packet at most, so there is always room
    walks: ArrayVec<Walk, { 2 * BATCH_MAX }>,
    whose: ArrayVec<u8, { 2 * BATCH_MAX }>,
    /// Whether any packet leaves by a tunnel.
    leaves: bool,
}

/// Marks the walk of a native packet's source: it must belong to no tunnel, and is where an error would go.
const SOURCE: u8 = 1 << 7;

impl<'t> Walks<'t> {
    pub(crate) fn new(fib: &'t Lpm, tunnels: Tunnels<'t>) -> Self {
        Self {
            fib,
            tunnels,
            walks: ArrayVec::new(),
            whose: ArrayVec::new(),
            leaves: false,
        }
    }

    /// The value of `key` if it is found at once; else 0, and a walk is begun.
    #[inline]
    fn enter(&mut self, key: u128, whose: u8) -> u32 {
        self.fib
            .enter(key)
            .unwrap_or_else(|walk| self.begin(walk, whose))
    }

    /// [`Walks::enter`] for what mostly lies in no tunnel's prefix: its walk mostly ends with one step.
    #[inline]
    fn enter_outside(&mut self, key: u128, whose: u8) -> u32 {
        match self.fib.at_once(key) {
            Some(value) => value,
            None => self.step_outside(key, whose),
        }
    }

    // apart: many packets end in the direct index, and pass one is to stay small
    #[inline(never)]
    fn step_outside(&mut self, key: u128, whose: u8) -> u32 {
        self.fib
            .enter_and_step(key)
            .unwrap_or_else(|walk| self.begin(walk, whose))
    }

    #[inline]
    fn begin(&mut self, walk: Walk, whose: u8) -> u32 {
        _ = (self.walks.try_push(walk), self.whose.try_push(whose));
        0
    }

    /// Where packet `at` goes, if that is found at once.
    #[inline]
    pub(crate) fn destination(&mut self, dst: u128, at: u8) -> u32 {
        let target = self.enter(dst, at);
        self.heading(target)
    }

    /// [`Walks::destination`] of a packet out of a tunnel, which mostly goes into none.
    #[inline]
    pub(crate) fn beyond(&mut self, dst: u128, at: u8) -> u32 {
        let target = self.enter_outside(dst, at);
        self.heading(target)
    }

    /// What was found at once, which may lead into a tunnel.
    #[inline]
    fn heading(&mut self, target: u32) -> u32 {
        if Target::next_hop(target).is_none() {
            self.leaving(target);
        }
        target
    }

    /// Whose the source of the native packet `at` is, if that is found at once. A link-local neighbour is
    /// looked up on the link it sent from.
    #[inline]
    pub(crate) fn source(&mut self, src: u128, port: PortId, vlan: u16, at: u8) -> u32 {
        let key = if ipv6::is_link_local(src) {
            u128::from(link_scoped(Ipv6Addr::from(src), port, vlan))
        } else {
            src
        };
        self.enter_outside(key, at | SOURCE)
    }

    /// Starts fetching the tunnel or domain a packet leaves by, if it does.
    #[inline]
    fn leaving(&mut self, target: u32) {
        if let Some(id) = Target::egress(target) {
            self.leaves = true;
            self.tunnels.prefetch(id);
        }
    }

    /// Ends all walks.
    #[inline(never)]
    fn finish(&mut self, parsed: &mut [Parsed]) {
        self.fib.finish(&mut self.walks);
        for at in 0..self.walks.len() {
            let (Some(walk), Some(whose)) = (self.walks.get(at), self.whose.get(at)) else {
                continue;
            };
            let (target, whose) = (self.fib.result(walk), *whose);
            let Some(p) = parsed.get_mut(usize::from(whose & !SOURCE)) else {
                continue;
            };
            if whose & SOURCE == 0 {
                p.dst_target = target;
                self.leaving(target);
            } else {
                p.src_target = target;
            }
        }
    }
}

/// Looks up outer keys, then ends the lookups of inner addresses, fetching what pass three will read.
#[inline(never)]
pub(crate) fn lookup(
    parsed: &mut [Parsed],
    packets: &[Packet<'_>],
    tables: &Tables,
    walks: &mut Walks<'_>,
) {
    let tunnels = walks.tunnels;
    for p in parsed.iter_mut() {
        let tunnel = match p.kind {
            Kind::Outer => proto41(tables, p),
            Kind::Udp => udp(tables, p),
            _ => continue,
        };
        p.set_tunnel(tunnel);
        if let Some(id) = tunnel {
            tunnels.prefetch(TunnelId(id));
        }
    }
    if !walks.walks.is_empty() {
        walks.finish(parsed);
    }
    if walks.leaves {
        remotes(parsed, packets, tables, tunnels);
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
    match tables.index().udp_at(p.home, p.key)? {
        UdpMatch::Tunnel(id) => Some(id),
        UdpMatch::Group(group) => tables.index().peer(group, p.peer),
    }
}

/// IPv4 routes to the far ends of the tunnels that packets leave by.
#[inline(never)]
fn remotes(parsed: &mut [Parsed], packets: &[Packet<'_>], tables: &Tables, tunnels: Tunnels<'_>) {
    let mut walks = ArrayVec::<Walk, BATCH_MAX>::new();
    let mut whose = ArrayVec::<u8, BATCH_MAX>::new();
    let fib = tables.fib4();
    for (at, (p, packet)) in (0u8..).zip(parsed.iter_mut().zip(packets)) {
        let Some(id) = Target::egress(p.dst_target) else {
            continue;
        };
        let Some(record) = tunnels.record(id).filter(|r| r.has(record::IN_USE)) else {
            continue;
        };
        let far = if record.has(record::DOMAIN | record::UDP) {
            FarEnd::of(tables, record, p.addresses(packet).1).map(|far| far.address)
        } else {
            Some(record.remote)
        };
        if let Some(address) = far {
            let entered = fib.enter(key4(u32::from_be_bytes(address)));
            p.set_remote_target(entered.unwrap_or_else(|walk| {
                _ = (walks.try_push(walk), whose.try_push(at));
                0
            }));
        }
    }
    if walks.is_empty() {
        return;
    }
    fib.finish(&mut walks);
    for (walk, at) in walks.iter().zip(whose) {
        if let Some(p) = parsed.get_mut(usize::from(at)) {
            p.set_remote_target(fib.result(walk));
        }
    }
}
