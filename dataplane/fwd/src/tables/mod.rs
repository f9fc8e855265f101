//! The tables: an immutable snapshot for the packet path, and the builder that makes it.
//!
//! `fib6` and `fib4` map destinations to tunnels and next hops, `outer` maps outer addresses to
//! tunnels. A tunnel's prefixes *are* the routes to it: one truth serves forwarding and the source
//! check. Every part is shared between snapshots in chunks, so a change costs what it touches.

mod builder;
mod covering;
mod cow;
mod domain;
mod error;
mod index;
pub(crate) mod live;
mod lpm;
mod outer;
pub(crate) mod record;
mod spec;

pub use builder::{TablesBuilder, TakenTunnel};
pub use domain::{DomainKind, DomainSpec, SixRdRole, SixToFourRole, Urpf};
pub use error::TableError;
pub use spec::{
    Dscp, Ecn, EncapKind, MtuMode, NextHop, NextHopState, OuterOptions, PortConfig, PortKind,
    RateLimits, Rebind, Route, RouteSource, RouteView, Settings, Ttl, TunnelLink, TunnelSpec,
    TunnelTotals, UdpEncap,
};

use crate::id::{NextHopId, PortId, TunnelId};
use cow::{Chunks, CowVec};
pub(crate) use domain::{DomainRecord, Role};
pub(crate) use index::{Index, UdpMatch, port_key};
use live::{Live, LiveTable};
pub(crate) use lpm::{Lpm, Walk};
pub(crate) use outer::key as outer_key;
use record::{CounterTable, TunnelCounters, TunnelRecord};
use sixferry_wire::ether::Mac;
use std::sync::Arc;

/// An immutable snapshot of everything the packet path looks up.
#[derive(Debug)]
pub struct Tables {
    settings: Arc<Settings>,
    ports: Arc<Vec<Option<PortConfig>>>,
    index: Index,
    records: CowVec<TunnelRecord>,
    link_locals: CowVec<u128>,
    counters: Arc<Vec<CounterTable>>,
    fib6: Lpm,
    fib4: Lpm,
    next_hops: CowVec<NextHopRecord>,
    live: LiveTable,
    domains: Arc<Vec<Option<DomainRecord>>>,
    broadcasts: Arc<Vec<u32>>,
    local_v4: Arc<Vec<u32>>,
    /// The relay's own address.
    router: u128,
    /// A bit for each Ethernet port that is up.
    plain_ports: u32,
}

/// What a destination leads to, as the FIB stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    NoRoute,
    Tunnel(TunnelId),
    TunnelLink(TunnelId),
    TunnelAddress(TunnelId),
    Domain(TunnelId),
    NextHop(NextHopId),
    Local,
    Blackhole,
    Unreachable,
    Prohibit,
}

const TAG_SHIFT: u32 = 29;
const INDEX_MASK: u32 = (1 << TAG_SHIFT) - 1;

impl Target {
    /// Three bits of kind, 29 of index; 0 is "no route", as the FIB needs it.
    pub(crate) const fn encode(self) -> u32 {
        let (tag, index) = match self {
            Self::NoRoute => (0, 0),
            Self::Tunnel(id) => (1, id.0),
            Self::TunnelLink(id) => (2, id.0),
            Self::TunnelAddress(id) => (3, id.0),
            Self::NextHop(id) => (4, id.0),
            Self::Domain(id) => (6, id.0),
            Self::Local => (5, 0),
            Self::Blackhole => (5, 1),
            Self::Unreachable => (5, 2),
            Self::Prohibit => (5, 3),
        };
        (tag << TAG_SHIFT) | (index & INDEX_MASK)
    }

    #[inline]
    pub(crate) const fn decode(value: u32) -> Self {
        let index = value & INDEX_MASK;
        match (value >> TAG_SHIFT, index) {
            (1, _) => Self::Tunnel(TunnelId(index)),
            (2, _) => Self::TunnelLink(TunnelId(index)),
            (3, _) => Self::TunnelAddress(TunnelId(index)),
            (4, _) => Self::NextHop(NextHopId(index)),
            (6, _) => Self::Domain(TunnelId(index)),
            (5, 0) => Self::Local,
            (5, 1) => Self::Blackhole,
            (5, 2) => Self::Unreachable,
            (5, 3) => Self::Prohibit,
            _ => Self::NoRoute,
        }
    }

    /// The next hop of a value as the FIB stores it: [`Target::decode`] where nothing else counts.
    #[inline]
    pub(crate) const fn next_hop(value: u32) -> Option<NextHopId> {
        if value >> TAG_SHIFT == 4 {
            Some(NextHopId(value & INDEX_MASK))
        } else {
            None
        }
    }

    /// The tunnel whose prefix a value stands for, likewise.
    #[inline]
    pub(crate) const fn into_tunnel(value: u32) -> Option<TunnelId> {
        if value >> TAG_SHIFT == 1 {
            Some(TunnelId(value & INDEX_MASK))
        } else {
            None
        }
    }

    /// The tunnel or domain that a packet with this target leaves by, likewise.
    #[inline]
    pub(crate) const fn egress(value: u32) -> Option<TunnelId> {
        if let 1 | 2 | 6 = value >> TAG_SHIFT {
            Some(TunnelId(value & INDEX_MASK))
        } else {
            None
        }
    }

    /// Whether a value as the FIB stores it has an [`Target::owner`], likewise.
    #[inline]
    pub(crate) const fn is_owned(value: u32) -> bool {
        matches!(value >> TAG_SHIFT, 1 | 2 | 3 | 6)
    }

    /// The tunnel or domain whose address space this is.
    pub(crate) const fn owner(self) -> Option<TunnelId> {
        match self {
            Self::Domain(id) => Some(id),
            other => other.tunnel(),
        }
    }

    /// The tunnel whose address space this is.
    #[inline]
    pub(crate) const fn tunnel(self) -> Option<TunnelId> {
        match self {
            Self::Tunnel(id) | Self::TunnelLink(id) | Self::TunnelAddress(id) => Some(id),
            _ => None,
        }
    }
}

/// A next hop as the packet path reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextHopRecord {
    pub(crate) state: HopState,
    pub(crate) port: PortId,
    pub(crate) mtu: u16,
    /// VLAN id and TPID of the tag to push.
    pub(crate) tag: Option<(u16, u16)>,
    pub(crate) src_mac: Mac,
    pub(crate) dst_mac: Mac,
}

/// Whether a next hop can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopState {
    Resolved,
    /// A gateway that has to be resolved.
    Gateway,
    /// The destination itself has to be resolved.
    OnLink,
    Down,
}

/// Where all tunnels are, found once for all packets of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnels<'t> {
    records: Chunks<'t, TunnelRecord>,
    counters: Chunks<'t, TunnelCounters>,
}

impl<'t> Tunnels<'t> {
    /// The record in a tunnel's place: a tunnel's only with [`record::IN_USE`].
    #[inline]
    pub(crate) fn record(self, id: TunnelId) -> Option<&'t TunnelRecord> {
        self.records.get(id.index())
    }

    #[inline]
    pub(crate) fn counters(self, id: TunnelId) -> Option<&'t TunnelCounters> {
        self.counters.get(id.index())
    }

    /// Starts fetching both.
    #[inline]
    pub(crate) fn prefetch(self, id: TunnelId) {
        self.records.prefetch(id.index());
        self.counters.prefetch(id.index());
    }
}

impl Tables {
    /// The relay's own rules.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortConfig> {
        self.ports.get(id.index())?.as_ref()
    }

    /// For [`is_plain_port`].
    #[inline]
    pub(crate) const fn plain_ports(&self) -> u32 {
        self.plain_ports
    }

    /// The relay's own address.
    #[inline]
    pub(crate) const fn router(&self) -> u128 {
        self.router
    }

    /// The tunnel's record, unless it has gone.
    #[inline]
    pub(crate) fn tunnel(&self, id: TunnelId) -> Option<&TunnelRecord> {
        self.records
            .get(id.index())
            .filter(|record| record.has(record::IN_USE))
    }

    /// All tunnels as one worker reads and counts them, for a batch.
    #[inline]
    pub(crate) fn tunnels(&self, worker: usize) -> Tunnels<'_> {
        let none = Chunks::new(&[]);
        Tunnels {
            records: self.records.chunks(),
            counters: self.counters.get(worker).map_or(none, CounterTable::chunks),
        }
    }

    /// One worker's counters of a tunnel.
    #[inline]
    pub(crate) fn counters(&self, worker: usize, id: TunnelId) -> Option<&TunnelCounters> {
        self.counters.get(worker)?.get(id.index())
    }

    /// Our link-local address on a tunnel.
    pub(crate) fn link_local(&self, id: TunnelId, record: &TunnelRecord) -> u128 {
        match self.link_locals.get(id.index()) {
            Some(address) if *address != 0 => *address,
            _ => default_link_local(record.local),
        }
    }

    #[inline]
    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    /// The domain of a record that has [`record::DOMAIN`].
    #[inline]
    pub(crate) fn domain(&self, record: &TunnelRecord) -> Option<&DomainRecord> {
        self.domains.get(record.side as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn has_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    pub(crate) fn domains(&self) -> impl Iterator<Item = &DomainRecord> {
        self.domains.iter().flatten()
    }

    /// What is learnt about a tunnel.
    #[inline]
    pub(crate) fn live(&self, record: &TunnelRecord) -> Option<&Live> {
        if record.has(record::DOMAIN) {
            return None;
        }
        self.live.get(record.side)
    }

    /// Whether an IPv4 address is the directed broadcast address of a connected subnet.
    pub(crate) fn is_broadcast(&self, address: u32) -> bool {
        self.broadcasts.binary_search(&address).is_ok()
    }

    #[inline]
    pub(crate) const fn fib6(&self) -> &Lpm {
        &self.fib6
    }

    #[inline]
    pub(crate) const fn fib4(&self) -> &Lpm {
        &self.fib4
    }

    /// Whether a tunnel ends at this IPv4 address of ours.
    #[inline]
    pub(crate) fn is_tunnel_local(&self, address: [u8; 4]) -> bool {
        self.local_v4
            .binary_search(&u32::from_be_bytes(address))
            .is_ok()
    }

    #[inline]
    pub(crate) fn route4(&self, address: [u8; 4]) -> Target {
        Target::decode(self.fib4.lookup(key4(u32::from_be_bytes(address))))
    }

    #[inline]
    pub(crate) fn next_hop(&self, id: NextHopId) -> Option<&NextHopRecord> {
        self.next_hops.get(id.index())
    }

    /// Whether an IPv4 address is ours: a tunnel's local address or one of the host's.
    pub(crate) fn is_local_v4(&self, address: u32) -> bool {
        self.local_v4.binary_search(&address).is_ok()
            || Target::decode(self.fib4.lookup(key4(address))) == Target::Local
    }
}

/// Whether this is one of [`Tables::plain_ports`]: an Ethernet port that is up.
#[inline]
pub(crate) const fn is_plain_port(plain_ports: u32, id: PortId) -> bool {
    id.index() < PortId::MAX && plain_ports >> id.index() & 1 == 1
}

/// fe80::/96 with the local IPv4 address below (RFC 4213 section 3.7).
pub(crate) const fn default_link_local(local: [u8; 4]) -> u128 {
    0xfe80 << 112 | u32::from_be_bytes(local) as u128
}

/// An IPv4 address as the key of a 128-bit table.
#[inline]
pub(crate) const fn key4(address: u32) -> u128 {
    (address as u128) << 96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_encoding() {
        for target in [
            Target::NoRoute,
            Target::Tunnel(TunnelId(0)),
            Target::Tunnel(TunnelId(INDEX_MASK)),
            Target::TunnelLink(TunnelId(7)),
            Target::TunnelAddress(TunnelId(8)),
            Target::NextHop(NextHopId(0)),
            Target::Domain(TunnelId(9)),
            Target::Local,
            Target::Blackhole,
            Target::Unreachable,
            Target::Prohibit,
        ] {
            assert_eq!(Target::decode(target.encode()), target);
            let value = target.encode();
            assert_eq!(value == 0, target == Target::NoRoute);
            let hop = Target::next_hop(value).map(Target::NextHop);
            assert_eq!(hop, matches!(target, Target::NextHop(_)).then_some(target));
            let into = Target::into_tunnel(value).map(Target::Tunnel);
            assert_eq!(into, matches!(target, Target::Tunnel(_)).then_some(target));
            let leaves_by = match target {
                Target::Tunnel(id) | Target::TunnelLink(id) | Target::Domain(id) => Some(id),
                _ => None,
            };
            assert_eq!(Target::egress(value), leaves_by);
            assert_eq!(Target::is_owned(value), target.owner().is_some());
            assert_ne!(value, u32::MAX);
        }
    }
}
