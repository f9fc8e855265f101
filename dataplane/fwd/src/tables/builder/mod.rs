//! The control thread's working copy of the tables.

mod check;
mod counters;
mod domains;
mod hops;
mod learnt;
mod routes;
mod tunnels;

use super::covering::Covering;
use super::cow::CowVec;
use super::domain::{DomainRecord, DomainSpec};
use super::index::IndexBuilder;
use super::live::LiveTable;
use super::lpm::Lpm;
use super::record::{CounterTable, TunnelRecord};
use super::spec::{NextHop, PortConfig, Route, Settings, TunnelLink, TunnelTotals};
use super::{NextHopRecord, Tables};
use crate::id::{PortId, TunnelId};
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use hashbrown::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
pub use tunnels::TakenTunnel;
use tunnels::claimed;

/// What few tunnels have, and so does not stand in every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extra {
    /// Prefixes after the first.
    prefixes: Box<[Ipv6Prefix]>,
    link: Option<TunnelLink>,
    link_local: Option<Ipv6Addr>,
    /// Other UDP tunnels have the same local port.
    shared: bool,
    /// Path MTU known at the start.
    path_mtu: Option<u16>,
}

/// Routes to one prefix, by [`RouteSource`].
type Sources = [Option<Route>; 3];

/// Numbers that nobody has any more. They rest for two snapshots before somebody gets them: a worker
/// with an older snapshot may still count and teach under them.
#[derive(Debug, Default)]
struct Freed {
    ready: Vec<u32>,
    resting: Vec<u32>,
    fresh: Vec<u32>,
}

impl Freed {
    fn give(&mut self, number: u32) {
        self.fresh.push(number);
    }

    fn take(&mut self) -> Option<u32> {
        self.ready.pop()
    }

    /// Gives a number back to who had it, if no snapshot was taken since; the last one given up is
    /// found at once.
    fn take_back(&mut self, number: u32) -> bool {
        let at = self.fresh.iter().rposition(|n| *n == number);
        at.map(|at| self.fresh.swap_remove(at)).is_some()
    }

    /// A snapshot was taken.
    fn age(&mut self) {
        self.ready.append(&mut self.resting);
        std::mem::swap(&mut self.resting, &mut self.fresh);
    }
}

/// Builds [`Tables`]. Not for the packet path: it allocates, and one thread owns it.
///
/// Every change either happens whole or is refused with a [`TableError`].
#[derive(Debug)]
pub struct TablesBuilder {
    settings: Arc<Settings>,
    ports: Arc<Vec<Option<PortConfig>>>,
    index: IndexBuilder,
    records: CowVec<TunnelRecord>,
    link_locals: CowVec<u128>,
    counters: Arc<Vec<CounterTable>>,
    fib6: Lpm,
    fib4: Lpm,
    next_hops: CowVec<NextHopRecord>,
    live: LiveTable,
    /// Generation of each slot of `live`.
    generations: Vec<u16>,
    free_live: Freed,
    domains: Arc<Vec<Option<DomainRecord>>>,
    domain_specs: HashMap<u32, DomainSpec>,
    broadcasts: Arc<Vec<u32>>,
    tunnels: usize,
    extras: HashMap<u32, Box<Extra>>,
    baselines: HashMap<u32, TunnelTotals>,
    free_tunnels: Freed,
    next_tunnel: u32,
    hops: Vec<Option<NextHop>>,
    free_hops: Vec<u32>,
    routes6: HashMap<Ipv6Prefix, Sources>,
    routes4: HashMap<Ipv4Prefix, Sources>,
    /// Prefixes that API routes send into a tunnel besides its own.
    tunnel_routes: HashMap<u32, Vec<Ipv6Prefix>>,
    /// Local addresses: tunnels and domains there, and how many of these are not UDP.
    locals: HashMap<Ipv4Addr, (u32, u32)>,
    covering: Covering,
    covering_changed: bool,
}

impl TablesBuilder {
    /// Most tunnels.
    pub const MAX_TUNNELS: usize = 1 << 22;

    /// Empty tables for this many workers.
    #[must_use]
    pub fn new(settings: Settings, workers: usize) -> Self {
        let seed = settings.hash_seed;
        Self {
            settings: Arc::new(settings),
            ports: Arc::new(vec![None; PortId::MAX]),
            index: IndexBuilder::new(seed),
            records: CowVec::new(),
            link_locals: CowVec::new(),
            counters: Arc::new((0..workers).map(|_| CounterTable::new()).collect()),
            fib6: Lpm::new(),
            fib4: Lpm::new(),
            next_hops: CowVec::new(),
            live: LiveTable::new(),
            generations: Vec::new(),
            free_live: Freed::default(),
            domains: Arc::new(Vec::new()),
            domain_specs: HashMap::new(),
            broadcasts: Arc::new(Vec::new()),
            tunnels: 0,
            extras: HashMap::new(),
            baselines: HashMap::new(),
            free_tunnels: Freed::default(),
            next_tunnel: 0,
            hops: Vec::new(),
            free_hops: Vec::new(),
            routes6: HashMap::new(),
            routes4: HashMap::new(),
            tunnel_routes: HashMap::new(),
            locals: HashMap::new(),
            covering: Covering::new(Vec::new()),
            covering_changed: false,
        }
    }

    /// The tables as they are now. Costs a few thousand reference counts, not a copy.
    #[must_use]
    pub fn snapshot(&mut self) -> Arc<Tables> {
        self.free_tunnels.age();
        self.free_live.age();
        let mut local_v4: Vec<u32> = self.locals.keys().map(|a| u32::from(*a)).collect();
        local_v4.sort_unstable();
        Arc::new(Tables {
            settings: self.settings.clone(),
            ports: self.ports.clone(),
            index: self.index.index().clone(),
            records: self.records.clone(),
            link_locals: self.link_locals.clone(),
            counters: self.counters.clone(),
            fib6: self.fib6.clone(),
            fib4: self.fib4.clone(),
            next_hops: self.next_hops.clone(),
            live: self.live.clone(),
            domains: self.domains.clone(),
            broadcasts: self.broadcasts.clone(),
            local_v4: Arc::new(local_v4),
            router: self.settings.router_address.into(),
            plain_ports: self.plain_ports(),
        })
    }

    fn plain_ports(&self) -> u32 {
        let plain = |port: &PortConfig| port.up && port.kind != super::PortKind::RawIp;
        let ports = self.ports.iter().take(PortId::MAX).rev();
        ports.fold(0, |bits, port| {
            bits << 1 | u32::from(port.as_ref().is_some_and(plain))
        })
    }

    /// The relay's own rules.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Replaces the rules. The hash seed of a running table stays what it was.
    pub fn set_settings(&mut self, settings: Settings) {
        let hash_seed = self.settings.hash_seed;
        self.settings = Arc::new(Settings {
            hash_seed,
            ..settings
        });
    }

    /// Declares or changes a port; ids from [`PortId::MAX`] on are ignored.
    pub fn set_port(&mut self, id: PortId, mut config: PortConfig) {
        config.vlans.sort_unstable();
        config.vlans.dedup();
        if let Some(slot) = Arc::make_mut(&mut self.ports).get_mut(id.index()) {
            *slot = Some(config);
        }
    }

    /// Takes a port away: its packets drop.
    pub fn remove_port(&mut self, id: PortId) {
        if let Some(slot) = Arc::make_mut(&mut self.ports).get_mut(id.index()) {
            *slot = None;
        }
    }

    // --- what the steering program needs ---

    /// Prefixes the operator gives as covering tunnels' prefixes. Rebuilds the set.
    pub fn set_steering_pools(&mut self, pools: Vec<Ipv6Prefix>) {
        let mut covering = Covering::new(pools);
        for index in 0..self.next_tunnel {
            if let Some(spec) = self.tunnel(TunnelId(index)) {
                for (prefix, _) in claimed(&spec) {
                    covering.insert(prefix);
                }
            }
        }
        for spec in self.domain_specs.values() {
            covering.insert(spec.prefix());
        }
        for prefix in self.tunnel_routes.values().flatten() {
            covering.insert(*prefix);
        }
        self.covering = covering;
        self.covering_changed = true;
    }

    /// At most 1024 prefixes that cover every tunnel's prefixes.
    #[must_use]
    pub fn covering(&self) -> Vec<Ipv6Prefix> {
        self.covering.prefixes()
    }

    /// Whether [`TablesBuilder::covering`] may have changed since this was last asked.
    pub fn take_covering_changed(&mut self) -> bool {
        std::mem::take(&mut self.covering_changed)
    }

    /// Our UDP addresses and ports that tunnels use.
    pub fn udp_endpoints(&self) -> impl Iterator<Item = (Ipv4Addr, u16)> + '_ {
        self.index.udp_endpoints()
    }

    /// Directed broadcast addresses of the connected subnets, which 6to4 and 6rd peers cannot have
    /// (RFC 3056 section 9).
    pub fn set_broadcasts(&mut self, broadcasts: impl IntoIterator<Item = Ipv4Addr>) {
        let mut broadcasts: Vec<u32> = broadcasts.into_iter().map(u32::from).collect();
        broadcasts.sort_unstable();
        broadcasts.dedup();
        if *self.broadcasts != broadcasts {
            self.broadcasts = Arc::new(broadcasts);
        }
    }

    /// Local addresses that receive protocol 41: those of 6in4 tunnels and of domains.
    pub fn proto41_v4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let proto41 = self.locals.iter().filter(|(_, (_, n))| *n > 0);
        proto41.map(|(local, _)| *local)
    }

    /// Local addresses of all tunnels and domains.
    pub fn local_v4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.locals.keys().copied()
    }

    /// Bytes of all tables the packet path reads.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.index.index().bytes()
            + self.live.bytes()
            + self.records.bytes()
            + self.link_locals.bytes()
            + self.counters.iter().map(CounterTable::bytes).sum::<usize>()
            + self.fib6.bytes()
            + self.fib4.bytes()
            + self.next_hops.bytes()
    }

    /// How many IPv6 routes there are, tunnels' prefixes included.
    #[must_use]
    pub const fn route6_count(&self) -> usize {
        self.fib6.len()
    }

    /// How many IPv4 routes there are.
    #[must_use]
    pub const fn route4_count(&self) -> usize {
        self.fib4.len()
    }
}
