//! The control thread's working copy of the tables.

use super::covering::Covering;
use super::cow::CowVec;
use super::lpm::Lpm;
use super::outer::{self, OuterTable};
use super::record::{self, CounterTable, TUNNEL_DROPS, TunnelCounters, TunnelRecord};
use super::spec::{
    Dscp, Ecn, EncapKind, MtuMode, NextHop, NextHopState, PortConfig, Route, RouteSource,
    RouteView, Settings, TableError, Ttl, TunnelLink, TunnelSpec, TunnelTotals,
};
use super::{HopState, NextHopRecord, Tables, Target, key4};
use crate::id::{NextHopId, PortId, TunnelId};
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use hashbrown::HashMap;
use sixferry_wire::{ether, ipv6};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What few tunnels have, and so does not stand in every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extra {
    /// Prefixes after the first.
    prefixes: Box<[Ipv6Prefix]>,
    link: Option<TunnelLink>,
    link_local: Option<Ipv6Addr>,
}

/// Routes to one prefix, by [`RouteSource`].
type Sources = [Option<Route>; 3];

/// Builds [`Tables`]. Not for the packet path: it allocates, and one thread owns it.
///
/// Every change either happens whole or is refused with a [`TableError`].
#[derive(Debug)]
pub struct TablesBuilder {
    settings: Arc<Settings>,
    ports: Arc<Vec<Option<PortConfig>>>,
    outer: OuterTable,
    records: CowVec<TunnelRecord>,
    link_locals: CowVec<u128>,
    counters: Arc<Vec<CounterTable>>,
    fib6: Lpm,
    fib4: Lpm,
    next_hops: CowVec<NextHopRecord>,
    extras: HashMap<u32, Box<Extra>>,
    baselines: HashMap<u32, TunnelTotals>,
    free_tunnels: Vec<u32>,
    next_tunnel: u32,
    hops: Vec<Option<NextHop>>,
    free_hops: Vec<u32>,
    routes6: HashMap<Ipv6Prefix, Sources>,
    routes4: HashMap<Ipv4Prefix, Sources>,
    /// Prefixes that API routes send into a tunnel besides its own.
    tunnel_routes: HashMap<u32, Vec<Ipv6Prefix>>,
    locals: HashMap<Ipv4Addr, u32>,
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
            outer: OuterTable::new(seed),
            records: CowVec::new(),
            link_locals: CowVec::new(),
            counters: Arc::new((0..workers).map(|_| CounterTable::new()).collect()),
            fib6: Lpm::new(16),
            fib4: Lpm::new(0),
            next_hops: CowVec::new(),
            extras: HashMap::new(),
            baselines: HashMap::new(),
            free_tunnels: Vec::new(),
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
        let mut local_v4: Vec<u32> = self.locals.keys().map(|a| u32::from(*a)).collect();
        local_v4.sort_unstable();
        Arc::new(Tables {
            settings: self.settings.clone(),
            ports: self.ports.clone(),
            outer: self.outer.clone(),
            records: self.records.clone(),
            link_locals: self.link_locals.clone(),
            counters: self.counters.clone(),
            fib6: self.fib6.clone(),
            fib4: self.fib4.clone(),
            next_hops: self.next_hops.clone(),
            local_v4: Arc::new(local_v4),
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

    // --- next hops ---

    /// Adds a next hop. Ids are used again after [`TablesBuilder::remove_next_hop`].
    pub fn add_next_hop(&mut self, hop: NextHop) -> NextHopId {
        let index = self.free_hops.pop().unwrap_or_else(|| {
            self.hops.push(None);
            u32::try_from(self.hops.len() - 1).unwrap_or(u32::MAX)
        });
        let id = NextHopId(index);
        self.set_next_hop(id, hop);
        id
    }

    /// Changes a next hop in place: every route to it follows at once.
    pub fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) {
        let record = NextHopRecord::new(&hop);
        let Some(slot) = self.hops.get_mut(id.index()) else {
            return;
        };
        *slot = Some(hop);
        self.next_hops.reserve(id.index(), NextHopRecord::GONE);
        self.next_hops.set(id.index(), record);
    }

    /// Takes a next hop out. Remove the routes that name it first: its id is used again.
    pub fn remove_next_hop(&mut self, id: NextHopId) {
        if let Some(slot) = self.hops.get_mut(id.index())
            && slot.take().is_some()
        {
            self.next_hops.set(id.index(), NextHopRecord::GONE);
            self.free_hops.push(id.0);
        }
    }

    /// A next hop as it was set.
    #[must_use]
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(id.index())?.as_ref()
    }

    // --- routes ---

    /// Sets what one source says about an IPv6 prefix. A route into a tunnel ends with the tunnel;
    /// into one that does not exist it is ignored.
    pub fn set_route6(&mut self, prefix: Ipv6Prefix, source: RouteSource, route: Route) {
        if let Route::Tunnel(id) = route
            && self.tunnel(id).is_none()
        {
            return;
        }
        self.remove_route6(prefix, source);
        let sources = self.routes6.entry(prefix).or_default();
        if let Some(slot) = sources.get_mut(source as usize) {
            *slot = Some(route);
        }
        if let Route::Tunnel(id) = route {
            self.tunnel_routes.entry(id.0).or_default().push(prefix);
            self.covering.insert(prefix);
            self.covering_changed = true;
            if let Some(record) = self.records.get_mut(id.index()) {
                record.flags |= record::MORE;
            }
        }
        self.install6(prefix);
    }

    /// Takes back what one source said; false when it had said nothing.
    pub fn remove_route6(&mut self, prefix: Ipv6Prefix, source: RouteSource) -> bool {
        let Some(sources) = self.routes6.get_mut(&prefix) else {
            return false;
        };
        let had = sources.get_mut(source as usize).and_then(Option::take);
        if sources.iter().all(Option::is_none) {
            self.routes6.remove(&prefix);
        }
        if let Some(Route::Tunnel(id)) = had {
            if let Some(prefixes) = self.tunnel_routes.get_mut(&id.0) {
                prefixes.retain(|p| *p != prefix);
            }
            self.covering.remove(prefix);
            self.covering_changed = true;
        }
        if had.is_some() {
            self.install6(prefix);
        }
        had.is_some()
    }

    /// Sets what one source says about an IPv4 prefix.
    pub fn set_route4(&mut self, prefix: Ipv4Prefix, source: RouteSource, route: Route) {
        let sources = self.routes4.entry(prefix).or_default();
        if let Some(slot) = sources.get_mut(source as usize) {
            *slot = Some(route);
        }
        self.install4(prefix);
    }

    /// Takes back what one source said; false when it had said nothing.
    pub fn remove_route4(&mut self, prefix: Ipv4Prefix, source: RouteSource) -> bool {
        let Some(sources) = self.routes4.get_mut(&prefix) else {
            return false;
        };
        let had = sources
            .get_mut(source as usize)
            .is_some_and(|slot| slot.take().is_some());
        if sources.iter().all(Option::is_none) {
            self.routes4.remove(&prefix);
        }
        if had {
            self.install4(prefix);
        }
        had
    }

    /// Longest match of an IPv6 address.
    #[must_use]
    pub fn lookup6(&self, address: Ipv6Addr) -> Option<(Ipv6Prefix, RouteView)> {
        let (value, len) = self.fib6.find(u128::from(address))?;
        let prefix = Ipv6Prefix::containing(address, u8::try_from(len).ok()?);
        Some((prefix, Target::decode(value).view()?))
    }

    /// Longest match of an IPv4 address.
    #[must_use]
    pub fn lookup4(&self, address: Ipv4Addr) -> Option<(Ipv4Prefix, RouteView)> {
        let (value, len) = self.fib4.find(key4(u32::from(address)))?;
        let prefix = Ipv4Prefix::containing(address, u8::try_from(len).ok()?);
        Some((prefix, Target::decode(value).view()?))
    }

    /// Writes the best source's route into the FIB, unless a tunnel owns the prefix.
    fn install6(&mut self, prefix: Ipv6Prefix) {
        let (key, len) = (prefix.bits(), u32::from(prefix.len()));
        let owned = self
            .fib6
            .get(key, len)
            .map(Target::decode)
            .and_then(Target::tunnel);
        if owned.is_some_and(|id| self.claims(id, prefix)) {
            return;
        }
        match self.routes6.get(&prefix).and_then(best) {
            Some(route) => self.insert6(prefix, Target::from(route)),
            None => _ = self.fib6.remove(key, len),
        }
    }

    fn install4(&mut self, prefix: Ipv4Prefix) {
        let (key, len) = (key4(prefix.bits()), u32::from(prefix.len()));
        match self.routes4.get(&prefix).and_then(best) {
            Some(route) => _ = self.fib4.insert(key, len, Target::from(route).encode()),
            None => _ = self.fib4.remove(key, len),
        }
    }

    /// Inserts into the FIB and tells the tunnel that covers the prefix, whose record alone can no
    /// longer say whose a source is.
    fn insert6(&mut self, prefix: Ipv6Prefix, target: Target) {
        let (key, len) = (prefix.bits(), u32::from(prefix.len()));
        if self.fib6.insert(key, len, target.encode()).is_some() {
            return;
        }
        let Some((value, _)) = self.fib6.covering(key, len) else {
            return;
        };
        let Some(id) = Target::decode(value).tunnel() else {
            return;
        };
        let plain = self
            .records
            .get(id.index())
            .is_some_and(|r| !r.has(record::NESTED));
        if plain && let Some(record) = self.records.get_mut(id.index()) {
            record.flags |= record::NESTED;
        }
    }

    /// Whether a prefix is one of the tunnel's own, link and address included.
    fn claims(&self, id: TunnelId, prefix: Ipv6Prefix) -> bool {
        self.tunnel(id)
            .is_some_and(|spec| claimed(&spec).any(|(p, _)| p == prefix))
    }

    // --- tunnels ---

    /// How many tunnels there are.
    #[must_use]
    pub const fn tunnel_count(&self) -> usize {
        self.outer.len()
    }

    /// The tunnel of these outer addresses.
    #[must_use]
    pub fn tunnel_by_outer(&self, local: Ipv4Addr, remote: Ipv4Addr) -> Option<TunnelId> {
        self.outer
            .lookup(outer::key(local.octets(), remote.octets()))
            .map(TunnelId)
    }

    /// Adds a tunnel.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn insert_tunnel(&mut self, spec: &TunnelSpec) -> Result<TunnelId, TableError> {
        if self.tunnel_count() >= Self::MAX_TUNNELS {
            return Err(TableError::Full {
                limit: Self::MAX_TUNNELS,
            });
        }
        self.validate(spec, None)?;
        let id = TunnelId(self.free_tunnels.pop().unwrap_or_else(|| {
            self.next_tunnel += 1;
            self.next_tunnel - 1
        }));
        self.records.reserve(id.index(), TunnelRecord::FREE);
        for counters in Arc::make_mut(&mut self.counters) {
            counters.reserve(id.index());
        }
        self.outer
            .insert(outer::key(spec.local.octets(), spec.remote.octets()), id.0);
        *self.locals.entry(spec.local).or_insert(0) += 1;
        for (prefix, target) in claimed(spec) {
            self.claim(prefix, target(id));
        }
        self.write(id, spec);
        Ok(id)
    }

    /// Changes a tunnel. Its counters go on; a spec equal to the present one changes nothing.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn update_tunnel(&mut self, id: TunnelId, spec: &TunnelSpec) -> Result<(), TableError> {
        let old = self.tunnel(id).ok_or(TableError::NoSuchTunnel)?;
        if old == *spec {
            return Ok(());
        }
        self.validate(spec, Some(id))?;
        if (old.local, old.remote) != (spec.local, spec.remote) {
            self.outer
                .remove(outer::key(old.local.octets(), old.remote.octets()));
            self.outer
                .insert(outer::key(spec.local.octets(), spec.remote.octets()), id.0);
            *self.locals.entry(spec.local).or_insert(0) += 1;
            self.release_local(old.local);
        }
        // what stays is not touched, so its packets never miss a route
        let kept = |prefix: Ipv6Prefix, within: &TunnelSpec, kind: Target| {
            claimed(within).any(|(p, t)| p == prefix && t(id) == kind)
        };
        for (prefix, target) in claimed(&old).filter(|(p, t)| !kept(*p, spec, t(id))) {
            self.release(prefix, target(id));
        }
        for (prefix, target) in claimed(spec).filter(|(p, t)| !kept(*p, &old, t(id))) {
            self.claim(prefix, target(id));
        }
        self.write(id, spec);
        Ok(())
    }

    /// Takes a tunnel out.
    ///
    /// # Errors
    /// [`TableError::NoSuchTunnel`].
    pub fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), TableError> {
        let spec = self.tunnel(id).ok_or(TableError::NoSuchTunnel)?;
        for prefix in self.tunnel_routes.remove(&id.0).unwrap_or_default() {
            for source in [
                RouteSource::Api,
                RouteSource::Neighbour,
                RouteSource::Kernel,
            ] {
                let route = self
                    .routes6
                    .get(&prefix)
                    .and_then(|s| s.get(source as usize));
                if route.copied().flatten() == Some(Route::Tunnel(id)) {
                    self.remove_route6(prefix, source);
                }
            }
        }
        self.outer
            .remove(outer::key(spec.local.octets(), spec.remote.octets()));
        self.release_local(spec.local);
        for (prefix, target) in claimed(&spec) {
            self.release(prefix, target(id));
        }
        self.records.set(id.index(), TunnelRecord::FREE);
        self.extras.remove(&id.0);
        if self.link_locals.get(id.index()).is_some_and(|a| *a != 0) {
            self.link_locals.set(id.index(), 0);
        }
        // counters never go back: the next tunnel of this id starts from here
        let totals = self.raw_counters(id);
        if totals == TunnelTotals::default() {
            self.baselines.remove(&id.0);
        } else {
            self.baselines.insert(id.0, totals);
        }
        self.free_tunnels.push(id.0);
        Ok(())
    }

    /// A tunnel as it was set.
    #[must_use]
    pub fn tunnel(&self, id: TunnelId) -> Option<TunnelSpec> {
        let record = self
            .records
            .get(id.index())
            .filter(|r| r.has(record::IN_USE))?;
        let extra = self.extras.get(&id.0);
        let pick = |flag, yes, no| if record.has(flag) { yes } else { no };
        let mut prefixes = Vec::with_capacity(1 + extra.map_or(0, |e| e.prefixes.len()));
        if record.prefix & record.prefix_mask == record.prefix && record.prefix_mask != 0 {
            let len = u8::try_from(record.prefix_mask.count_ones()).unwrap_or(128);
            prefixes.push(Ipv6Prefix::containing(Ipv6Addr::from(record.prefix), len));
        }
        prefixes.extend(extra.iter().flat_map(|e| e.prefixes.iter().copied()));
        Some(TunnelSpec {
            local: Ipv4Addr::from(record.local),
            remote: Ipv4Addr::from(record.remote),
            encap: EncapKind::SixInFour,
            prefixes,
            link: extra.and_then(|e| e.link),
            link_local: extra.and_then(|e| e.link_local),
            mtu: record.mtu,
            mtu_mode: if record.has(record::DF) {
                MtuMode::Managed
            } else {
                MtuMode::Static
            },
            ttl: pick(record::TTL_INHERIT, Ttl::Inherit, Ttl::Fixed(record.ttl)),
            dscp: if record.has(record::DSCP_COPY) {
                Dscp::Copy
            } else {
                Dscp::Fixed(record.tos >> 2)
            },
            dscp_decap_copy: record.has(record::DSCP_DECAP_COPY),
            ecn: if record.has(record::ECN_COMPAT) {
                Ecn::Compat
            } else {
                Ecn::Normal
            },
            strict_source: record.has(record::STRICT),
            up: record.has(record::UP),
        })
    }

    /// What a tunnel carried since it was added.
    #[must_use]
    pub fn tunnel_counters(&self, id: TunnelId) -> Option<TunnelTotals> {
        self.records
            .get(id.index())
            .filter(|r| r.has(record::IN_USE))?;
        let mut totals = self.raw_counters(id);
        if let Some(base) = self.baselines.get(&id.0) {
            totals.in_packets = totals.in_packets.wrapping_sub(base.in_packets);
            totals.in_bytes = totals.in_bytes.wrapping_sub(base.in_bytes);
            totals.out_packets = totals.out_packets.wrapping_sub(base.out_packets);
            totals.out_bytes = totals.out_bytes.wrapping_sub(base.out_bytes);
            totals.ecn_unusual = totals.ecn_unusual.saturating_sub(base.ecn_unusual);
            for (reason, count) in &mut totals.drops {
                let before = base
                    .drops
                    .iter()
                    .find(|(r, _)| r == reason)
                    .map_or(0, |(_, n)| *n);
                *count = count.saturating_sub(before);
            }
            totals.drops.retain(|(_, count)| *count != 0);
        }
        Some(totals)
    }

    fn raw_counters(&self, id: TunnelId) -> TunnelTotals {
        let mut totals = TunnelTotals::default();
        let mut drops = [0u64; TUNNEL_DROPS.len()];
        for worker in self
            .counters
            .iter()
            .filter_map(|table| table.get(id.index()))
        {
            let TunnelCounters {
                in_packets,
                in_bytes,
                out_packets,
                out_bytes,
                ..
            } = worker;
            totals.in_packets += in_packets.load(Ordering::Relaxed);
            totals.in_bytes += in_bytes.load(Ordering::Relaxed);
            totals.out_packets += out_packets.load(Ordering::Relaxed);
            totals.out_bytes += out_bytes.load(Ordering::Relaxed);
            totals.ecn_unusual += u64::from(worker.ecn_unusual.load(Ordering::Relaxed));
            for (sum, one) in drops.iter_mut().zip(&worker.drops) {
                *sum += u64::from(one.load(Ordering::Relaxed));
            }
        }
        let counted = TUNNEL_DROPS.iter().copied().zip(drops);
        totals.drops = counted.filter(|(_, count)| *count != 0).collect();
        totals
    }

    /// Writes the record and what goes with it.
    fn write(&mut self, id: TunnelId, spec: &TunnelSpec) {
        let nested = spec
            .prefixes
            .first()
            .is_some_and(|p| self.fib6.has_longer(p.bits(), u32::from(p.len())));
        let mut record = TunnelRecord::new(spec, nested);
        if self.tunnel_routes.contains_key(&id.0) {
            record.flags |= record::MORE;
        }
        if self.records.get(id.index()) != Some(&record) {
            self.records.set(id.index(), record);
        }
        let extra = Extra {
            prefixes: spec.prefixes.iter().skip(1).copied().collect(),
            link: spec.link,
            link_local: spec.link_local,
        };
        let link_local = spec.link_local.map_or(0, u128::from);
        if link_local != 0 {
            self.link_locals.reserve(id.index(), 0);
        }
        if self
            .link_locals
            .get(id.index())
            .is_some_and(|now| *now != link_local)
        {
            self.link_locals.set(id.index(), link_local);
        }
        if extra == Extra::default() {
            self.extras.remove(&id.0);
        } else {
            self.extras.insert(id.0, Box::new(extra));
        }
    }

    fn claim(&mut self, prefix: Ipv6Prefix, target: Target) {
        self.insert6(prefix, target);
        self.covering.insert(prefix);
        self.covering_changed = true;
    }

    /// Gives a prefix back to whatever else routes it.
    fn release(&mut self, prefix: Ipv6Prefix, target: Target) {
        let (key, len) = (prefix.bits(), u32::from(prefix.len()));
        if self.fib6.get(key, len) == Some(target.encode()) {
            match self.routes6.get(&prefix).and_then(best) {
                Some(route) => _ = self.fib6.insert(key, len, Target::from(route).encode()),
                None => _ = self.fib6.remove(key, len),
            }
        }
        self.covering.remove(prefix);
        self.covering_changed = true;
    }

    fn release_local(&mut self, local: Ipv4Addr) {
        if let Some(count) = self.locals.get_mut(&local) {
            *count -= 1;
            if *count == 0 {
                self.locals.remove(&local);
            }
        }
    }

    fn validate(&self, spec: &TunnelSpec, own: Option<TunnelId>) -> Result<(), TableError> {
        check_fields(spec)?;
        let (local, remote) = (spec.local, spec.remote);
        if let Some(by) = self
            .tunnel_by_outer(local, remote)
            .filter(|by| Some(*by) != own)
        {
            return Err(TableError::OuterInUse { local, remote, by });
        }
        for (at, (prefix, _)) in claimed(spec).enumerate() {
            if claimed(spec).skip(at + 1).any(|(other, _)| other == prefix) {
                return Err(TableError::PrefixRepeated { prefix });
            }
            let holder = self
                .fib6
                .get(prefix.bits(), u32::from(prefix.len()))
                .and_then(|value| Target::decode(value).tunnel());
            // a route over the API may point into a tunnel too: only the tunnel's own claim counts
            if let Some(by) = holder.filter(|by| Some(*by) != own && self.claims(*by, prefix)) {
                return Err(TableError::PrefixInUse { prefix, by });
            }
        }
        Ok(())
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

    /// Local addresses of the tunnels.
    pub fn local_v4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.locals.keys().copied()
    }

    /// Bytes of all tables the packet path reads.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.outer.bytes()
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

/// What a tunnel puts into the FIB: its prefixes, its link, its own address on the link.
fn claimed(spec: &TunnelSpec) -> impl Iterator<Item = (Ipv6Prefix, fn(TunnelId) -> Target)> + '_ {
    let prefixes = spec
        .prefixes
        .iter()
        .map(|p| (*p, Target::Tunnel as fn(TunnelId) -> Target));
    let link = spec.link.iter().flat_map(|link| {
        [
            (link.prefix, Target::TunnelLink as fn(TunnelId) -> Target),
            (
                Ipv6Prefix::containing(link.address, 128),
                Target::TunnelAddress as _,
            ),
        ]
    });
    prefixes.chain(link)
}

fn check_fields(spec: &TunnelSpec) -> Result<(), TableError> {
    if spec.local == spec.remote {
        return Err(TableError::OuterAddress {
            address: spec.remote,
        });
    }
    for address in [spec.local, spec.remote] {
        let first = address.octets()[0];
        if first == 0 || first == 127 || first >= 224 {
            return Err(TableError::OuterAddress { address });
        }
    }
    if !(ipv6::MIN_MTU..=TunnelSpec::MAX_MTU).contains(&spec.mtu) {
        return Err(TableError::Mtu { mtu: spec.mtu });
    }
    if spec.ttl == Ttl::Fixed(0) {
        return Err(TableError::Ttl);
    }
    if let Dscp::Fixed(dscp) = spec.dscp
        && dscp > 63
    {
        return Err(TableError::Dscp { dscp });
    }
    if spec.prefixes.len() > TunnelSpec::MAX_PREFIXES {
        return Err(TableError::TooManyPrefixes {
            count: spec.prefixes.len(),
        });
    }
    if let Some(link) = spec.link
        && (!link.prefix.contains(link.address) || link.prefix.len() == 128)
    {
        return Err(TableError::LinkAddress {
            address: link.address,
            prefix: link.prefix,
        });
    }
    if let Some(address) = spec
        .link_local
        .filter(|a| !ipv6::is_link_local(u128::from(*a)))
    {
        return Err(TableError::LinkLocal { address });
    }
    for (prefix, _) in claimed(spec) {
        let bits = prefix.bits();
        let unusable = ipv6::is_invalid_source(bits) || ipv6::is_link_local(bits);
        if prefix.len() < 8 || unusable {
            return Err(TableError::PrefixInvalid { prefix });
        }
    }
    Ok(())
}

fn best(sources: &Sources) -> Option<Route> {
    sources.iter().flatten().next().copied()
}

impl From<Route> for Target {
    fn from(route: Route) -> Self {
        match route {
            Route::NextHop(id) => Self::NextHop(id),
            Route::Tunnel(id) => Self::Tunnel(id),
            Route::Local => Self::Local,
            Route::Blackhole => Self::Blackhole,
            Route::Unreachable => Self::Unreachable,
            Route::Prohibit => Self::Prohibit,
        }
    }
}

impl Target {
    fn view(self) -> Option<RouteView> {
        Some(match self {
            Self::NoRoute => return None,
            Self::Tunnel(id) => RouteView::Tunnel(id),
            Self::TunnelLink(id) => RouteView::TunnelLink(id),
            Self::TunnelAddress(id) => RouteView::TunnelAddress(id),
            Self::NextHop(id) => RouteView::Route(Route::NextHop(id)),
            Self::Local => RouteView::Route(Route::Local),
            Self::Blackhole => RouteView::Route(Route::Blackhole),
            Self::Unreachable => RouteView::Route(Route::Unreachable),
            Self::Prohibit => RouteView::Route(Route::Prohibit),
        })
    }
}

impl NextHopRecord {
    const GONE: Self = Self {
        state: HopState::Down,
        port: PortId(0),
        mtu: 0,
        tag: None,
        src_mac: [0; 6],
        dst_mac: [0; 6],
    };

    fn new(hop: &NextHop) -> Self {
        let (state, dst_mac) = match hop.state {
            NextHopState::Resolved { dst_mac } => (HopState::Resolved, dst_mac),
            NextHopState::Unresolved { .. } => (HopState::Gateway, [0; 6]),
            NextHopState::OnLink => (HopState::OnLink, [0; 6]),
            NextHopState::Down => (HopState::Down, [0; 6]),
        };
        let tpid = if hop.vlan_service_tag {
            ether::TYPE_8021AD
        } else {
            ether::TYPE_8021Q
        };
        Self {
            state,
            port: hop.port,
            mtu: hop.mtu,
            tag: hop.vlan.map(|vlan| (vlan, tpid)),
            src_mac: hop.src_mac,
            dst_mac,
        }
    }
}
