//! The kernel's state and what it means for the forwarding tables. Pure: no I/O, no clock.
//!
//! Work per change is constant but for the few changes that are rare by nature: an interface that
//! becomes, or ceases to be, one of ours makes us look at every route once.

mod hops;
mod links;
mod neighbours;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use sixferry_fwd::{
    Ipv4Prefix, Ipv6Prefix, NextHop, NextHopId, PortConfig, PortId, Route, RouteSource,
    TablesBuilder,
};

use self::hops::{Holder, Hops};
use self::links::Links;
use self::neighbours::Seen;
use self::routes::{Candidate, Routes, Target};
use super::types::{
    Address, Change, HostAddresses, KernelRoute, Kind, Link, Placement, PortSpec, Prefix,
    RouteTarget, Via,
};

/// What the mirror needs of the forwarding tables.
pub(crate) trait TableSink {
    /// Adds or replaces a port.
    fn set_port(&mut self, port: PortId, config: PortConfig);
    /// Removes a port whose interface is gone.
    fn remove_port(&mut self, port: PortId);
    /// Adds a next hop.
    fn add_next_hop(&mut self, next_hop: NextHop) -> NextHopId;
    /// Changes a next hop in place.
    fn set_next_hop(&mut self, id: NextHopId, next_hop: NextHop);
    /// Removes a next hop that no route refers to.
    fn remove_next_hop(&mut self, id: NextHopId);
    /// Adds or replaces a source's route to a prefix.
    fn set_route(&mut self, prefix: Prefix, source: RouteSource, route: Route);
    /// Removes a source's route to a prefix.
    fn remove_route(&mut self, prefix: Prefix, source: RouteSource);
}

impl TableSink for TablesBuilder {
    fn set_port(&mut self, port: PortId, config: PortConfig) {
        TablesBuilder::set_port(self, port, config);
    }

    fn remove_port(&mut self, port: PortId) {
        TablesBuilder::remove_port(self, port);
    }

    fn add_next_hop(&mut self, next_hop: NextHop) -> NextHopId {
        TablesBuilder::add_next_hop(self, next_hop)
    }

    fn set_next_hop(&mut self, id: NextHopId, next_hop: NextHop) {
        TablesBuilder::set_next_hop(self, id, next_hop);
    }

    fn remove_next_hop(&mut self, id: NextHopId) {
        TablesBuilder::remove_next_hop(self, id);
    }

    // `Prefix` keeps the families' rules (length, host bits), so `new` never refuses one.
    fn set_route(&mut self, prefix: Prefix, source: RouteSource, route: Route) {
        match prefix.addr() {
            IpAddr::V4(addr) => {
                if let Some(prefix) = Ipv4Prefix::new(addr, prefix.len()) {
                    self.set_route4(prefix, source, route);
                }
            }
            IpAddr::V6(addr) => {
                if let Some(prefix) = Ipv6Prefix::new(addr, prefix.len()) {
                    self.set_route6(prefix, source, route);
                }
            }
        }
    }

    fn remove_route(&mut self, prefix: Prefix, source: RouteSource) {
        match prefix.addr() {
            IpAddr::V4(addr) => {
                if let Some(prefix) = Ipv4Prefix::new(addr, prefix.len()) {
                    self.remove_route4(prefix, source);
                }
            }
            IpAddr::V6(addr) => {
                if let Some(prefix) = Ipv6Prefix::new(addr, prefix.len()) {
                    self.remove_route6(prefix, source);
                }
            }
        }
    }
}

/// What the view watches, and how much of it.
#[derive(Clone, Debug)]
pub(super) struct ViewConfig {
    pub(super) ports: Vec<PortSpec>,
    /// The interface of the host port.
    pub(super) host: Option<String>,
    /// Kernel tables in order of preference.
    pub(super) tables: Vec<u32>,
    pub(super) max_routes: usize,
    pub(super) max_neighbours: usize,
}

/// Something that a dump did not mention.
#[derive(Clone, Debug)]
pub(super) enum Unseen {
    Link(u32),
    Address(Address),
    Neighbour((IpAddr, u32)),
    Routes(Prefix),
}

/// What a batch of changes asks of the view's owner.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Gateways that came into use, or went out of it.
    pub(super) gateways: Vec<(Via, bool)>,
    /// Neighbours on connected prefixes that packets are sent to from now on.
    pub(super) neighbours: Vec<(u32, IpAddr)>,
    pub(super) links: bool,
    pub(super) hosts: bool,
    /// Tables that the kernel may have changed without telling.
    pub(super) stale: BTreeSet<Kind>,
}

/// The kernel's state as last heard.
#[derive(Debug)]
pub(super) struct KernelView {
    config: ViewConfig,
    links: Links,
    addresses: HashMap<Address, bool>,
    neighbours: BTreeMap<(IpAddr, u32), Seen>,
    hops: Hops,
    routes: Routes,
    /// Local routes to a single address: anycast ones have no entry in `addresses`.
    local: BTreeSet<IpAddr>,
    /// Mirrored routes by the next-hop object they were made from.
    objects: HashMap<u32, u32>,
    epochs: BTreeMap<Kind, bool>,
    hints: Hints,
    without_port: usize,
    over_limit: u64,
}

impl KernelView {
    pub(super) fn new(config: ViewConfig) -> Self {
        let links = Links::new(config.ports.clone());
        Self {
            config,
            links,
            addresses: HashMap::new(),
            neighbours: BTreeMap::new(),
            hops: Hops::default(),
            routes: Routes::default(),
            local: BTreeSet::new(),
            objects: HashMap::new(),
            epochs: BTreeMap::new(),
            hints: Hints::default(),
            without_port: 0,
            over_limit: 0,
        }
    }

    /// Takes note of one change and carries it over into the tables.
    pub(super) fn apply(&mut self, change: &Change, sink: &mut dyn TableSink) {
        match change {
            Change::Link(link) => self.set_link(link.clone(), sink),
            Change::LinkGone(ifindex) => self.remove_link(*ifindex, sink),
            Change::Address(address) => {
                let epoch = self.epoch(Kind::Addresses);
                if self.addresses.insert(address.clone(), epoch).is_none() {
                    self.hints.hosts = true;
                }
            }
            Change::AddressGone(address) => self.remove_address(address),
            Change::Route(route, placement) => self.set_route(route, *placement, sink),
            Change::RouteGone(route) => self.remove_route(route, sink),
            Change::NexthopObjectGone(id) => {
                // Routes of a deleted object: IPv6 announces each, IPv4 none.
                if self.objects.contains_key(id) {
                    self.hints.stale.insert(Kind::Routes4);
                }
            }
            Change::Neighbour(n) => self.set_neighbour(n.ifindex, n.addr, n.state.mac(), sink),
            Change::NeighbourGone { ifindex, addr } => {
                self.set_neighbour(*ifindex, *addr, None, sink);
            }
        }
    }

    /// What has to be done beyond the tables, since the last call.
    pub(super) fn take_hints(&mut self) -> Hints {
        std::mem::take(&mut self.hints)
    }

    /// A dump of `kind` starts: [`Self::unseen`] tells at its end what it did not mention.
    pub(super) fn begin_dump(&mut self, kind: Kind) {
        let epoch = self.epochs.entry(kind).or_default();
        *epoch = !*epoch;
    }

    /// A consistent dump of `kind` is complete: what it did not mention, to be forgotten.
    pub(super) fn unseen(&self, kind: Kind) -> Vec<Unseen> {
        let epoch = self.epoch(kind);
        match kind {
            Kind::Links => {
                let links = self.links.not_seen(epoch);
                links.into_iter().map(Unseen::Link).collect()
            }
            Kind::Addresses => {
                let unseen = self.addresses.iter().filter(|(_, seen)| **seen != epoch);
                unseen.map(|(a, _)| Unseen::Address(a.clone())).collect()
            }
            Kind::Neighbours => {
                let unseen = self.neighbours.iter().filter(|(_, n)| n.epoch != epoch);
                unseen.map(|(key, _)| Unseen::Neighbour(*key)).collect()
            }
            Kind::Routes4 | Kind::Routes6 => {
                let stale = |list: &[Candidate]| list.iter().any(|c| c.epoch != epoch);
                let prefixes = self.routes.prefixes(kind == Kind::Routes6, stale);
                prefixes.into_iter().map(Unseen::Routes).collect()
            }
        }
    }

    /// Forgets what a dump did not mention. A whole feed may vanish: the caller gives slices.
    pub(super) fn forget(&mut self, unseen: &[Unseen], sink: &mut dyn TableSink) {
        for what in unseen {
            match what {
                Unseen::Link(ifindex) => self.remove_link(*ifindex, sink),
                Unseen::Address(address) => {
                    self.hints.hosts |= self.addresses.remove(address).is_some();
                }
                Unseen::Neighbour((addr, ifindex)) => {
                    self.set_neighbour(*ifindex, *addr, None, sink);
                }
                Unseen::Routes(prefix) => {
                    let v6 = prefix.addr().is_ipv6();
                    let epoch = self.epoch(if v6 { Kind::Routes6 } else { Kind::Routes4 });
                    self.drop_routes(*prefix, |c| c.epoch != epoch, sink);
                }
            }
        }
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// Addresses of the host, put together anew.
    pub(super) fn host_addresses(&self) -> HostAddresses {
        let mut hosts = HostAddresses::default();
        for addr in self
            .addresses
            .keys()
            .map(|a| a.addr)
            .chain(self.local.iter().copied())
        {
            match addr {
                IpAddr::V4(a) => {
                    hosts.v4.insert(a);
                }
                IpAddr::V6(a) if a.is_unicast_link_local() || a == Ipv6Addr::LOCALHOST => {}
                IpAddr::V6(a) => {
                    hosts.v6.insert(a);
                }
            }
        }
        for address in self.addresses.keys() {
            hosts.v4_broadcast.extend(address.broadcast);
            hosts.v4_broadcast.extend(subnet_broadcast(address));
        }
        hosts
    }

    pub(super) fn route_count(&self, v6: bool) -> usize {
        self.routes.count(v6)
    }

    pub(super) fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// Routes whose destination no port reaches.
    pub(super) fn routes_without_port(&self) -> usize {
        self.without_port
    }

    /// Routes and neighbours refused because there were too many.
    pub(super) fn over_limit(&self) -> u64 {
        self.over_limit
    }

    #[cfg(test)]
    pub(super) fn hop_count(&self) -> usize {
        self.hops.len()
    }

    fn epoch(&self, kind: Kind) -> bool {
        self.epochs.get(&kind).copied().unwrap_or_default()
    }

    fn remove_address(&mut self, address: &Address) {
        if self.addresses.remove(address).is_some() {
            self.hints.hosts = true;
        }
        // With an interface's last IPv4 address its routes go, unannounced.
        if address.addr.is_ipv4() {
            self.hints.stale.insert(Kind::Routes4);
        }
    }

    /// Whether packets of the host go to us by this route: nothing a worker could follow.
    fn is_to_us(&self, target: &RouteTarget) -> bool {
        let (RouteTarget::Unicast(vias), Some(host)) = (target, &self.config.host) else {
            return false;
        };
        let ours = |via: &Via| self.links.name(via.ifindex) == Some(host);
        !vias.is_empty() && vias.iter().all(ours)
    }

    fn set_route(&mut self, route: &KernelRoute, placement: Placement, sink: &mut dyn TableSink) {
        if self.is_to_us(&route.target) {
            return;
        }
        let Some(rank) = self.rank(route.table) else {
            return;
        };
        let prefix = route.prefix;
        let v6 = prefix.addr().is_ipv6();
        let epoch = self.epoch(if v6 { Kind::Routes6 } else { Kind::Routes4 });
        let mut new = Candidate {
            target: Target::NOWHERE,
            metric: route.metric,
            object: route.nexthop_object,
            rank,
            epoch,
        };
        if let Some(target) = self.known_target(&route.target) {
            new.target = target;
            if placement == Placement::Last && self.routes.touch(prefix, new) {
                return;
            }
        }
        if self.routes.len() >= self.config.max_routes && self.routes.best(prefix).is_none() {
            self.over_limit += 1;
            return;
        }
        let replaced = self.replaced(prefix, &route.target, &new, placement);
        new.target = self.acquire_target(&route.target, sink);
        let before = self.routes.best(prefix);
        let removed = self
            .routes
            .insert(prefix, new, placement, |c| replaced.contains(&c.target));
        if new.object != 0 {
            *self.objects.entry(new.object).or_default() += 1;
        }
        self.settle(prefix, before, removed, sink);
    }

    /// Routes of the same order that a new one supersedes.
    fn replaced(
        &self,
        prefix: Prefix,
        target: &RouteTarget,
        new: &Candidate,
        placement: Placement,
    ) -> Vec<Target> {
        let peers = self.routes.all(prefix).iter();
        let mut peers = peers.filter(|c| (c.rank, c.metric) == (new.rank, new.metric));
        let replace = placement == Placement::Replace;
        if prefix.addr().is_ipv4() {
            return peers
                .next()
                .filter(|_| replace)
                .map(|c| c.target)
                .into_iter()
                .collect();
        }
        // IPv6 announces a multipath route anew, complete, with each next hop that joins it, and
        // `replace` swaps all next hops with a gateway at once (net/ipv6/ip6_fib.c).
        let new_vias = match target {
            RouteTarget::Unicast(vias) => vias.as_slice(),
            _ => &[],
        };
        let gateway = |vias: &[Via]| vias.iter().any(|via| via.gateway.is_some());
        let mut replaced = Vec::new();
        for peer in peers {
            let vias = peer
                .target
                .as_hop()
                .map(|hop| self.hops.vias(hop))
                .unwrap_or_default();
            let superseded = if gateway(new_vias) && gateway(&vias) {
                replace || vias.iter().all(|via| new_vias.contains(via))
            } else {
                replace && !gateway(new_vias) && !gateway(&vias) && replaced.is_empty()
            };
            if superseded {
                replaced.push(peer.target);
            }
        }
        replaced
    }

    fn remove_route(&mut self, route: &KernelRoute, sink: &mut dyn TableSink) {
        if self.is_to_us(&route.target) {
            return;
        }
        let Some(rank) = self.rank(route.table) else {
            return;
        };
        let prefix = route.prefix;
        let same = |c: &Candidate| (c.rank, c.metric) == (rank, route.metric);
        let peers = self.routes.all(prefix).iter().copied().filter(same);
        if let Some(target) = self.known_target(&route.target)
            && peers.clone().any(|c| c.target == target)
        {
            self.drop_routes(prefix, |c| same(c) && c.target == target, sink);
            return;
        }
        if let RouteTarget::Unicast(gone) = &route.target
            && prefix.addr().is_ipv6()
        {
            for peer in peers.clone() {
                let vias = peer
                    .target
                    .as_hop()
                    .map(|hop| self.hops.vias(hop))
                    .unwrap_or_default();
                if !gone.is_empty() && gone.iter().all(|via| vias.contains(via)) {
                    let rest: Vec<Via> = vias.into_iter().filter(|v| !gone.contains(v)).collect();
                    self.shrink_route(prefix, peer, &rest, sink);
                    return;
                }
            }
        }
        if !self.routes.all(prefix).is_empty() {
            let v6 = prefix.addr().is_ipv6();
            self.hints
                .stale
                .insert(if v6 { Kind::Routes6 } else { Kind::Routes4 });
        }
    }

    /// A multipath route lost some of its next hops.
    fn shrink_route(
        &mut self,
        prefix: Prefix,
        old: Candidate,
        rest: &[Via],
        sink: &mut dyn TableSink,
    ) {
        let target = self.acquire_target(&RouteTarget::Unicast(rest.to_vec()), sink);
        let before = self.routes.best(prefix);
        let new = Candidate { target, ..old };
        let removed = self
            .routes
            .insert(prefix, new, Placement::First, |c| c.target == old.target);
        if new.object != 0 {
            *self.objects.entry(new.object).or_default() += 1;
        }
        self.settle(prefix, before, removed, sink);
    }

    fn drop_routes(
        &mut self,
        prefix: Prefix,
        which: impl Fn(&Candidate) -> bool,
        sink: &mut dyn TableSink,
    ) {
        let before = self.routes.best(prefix);
        let removed = self.routes.remove(prefix, which);
        self.settle(prefix, before, removed, sink);
    }

    fn rank(&self, table: u32) -> Option<u8> {
        let rank = self.config.tables.iter().position(|t| *t == table)?;
        u8::try_from(rank).ok()
    }

    /// A route's target, if nothing new has to be made for it.
    fn known_target(&self, target: &RouteTarget) -> Option<Target> {
        Some(match target {
            RouteTarget::Unicast(vias) if vias.is_empty() => Target::NOWHERE,
            RouteTarget::Unicast(vias) => Target::hop(self.hops.find_route(vias)?),
            RouteTarget::Local => Target::LOCAL,
            RouteTarget::Blackhole => Target::BLACKHOLE,
            RouteTarget::Unreachable => Target::UNREACHABLE,
            RouteTarget::Prohibit => Target::PROHIBIT,
        })
    }

    fn acquire_target(&mut self, target: &RouteTarget, sink: &mut dyn TableSink) -> Target {
        match target {
            RouteTarget::Unicast(vias) => match vias.as_slice() {
                [] => Target::NOWHERE,
                [via] => Target::hop(self.acquire_hop(*via, Holder::Route, sink)),
                vias => Target::hop(self.acquire_group(vias, sink)),
            },
            other => self.known_target(other).unwrap_or(Target::NOWHERE),
        }
    }

    /// Brings the tables in line after the routes to a prefix have changed, then lets go of what
    /// the removed ones used.
    fn settle(
        &mut self,
        prefix: Prefix,
        before: Option<Candidate>,
        removed: Vec<Candidate>,
        sink: &mut dyn TableSink,
    ) {
        let after = self.routes.best(prefix);
        let target = |c: Option<Candidate>| c.map(|c| c.target);
        if target(before) != target(after) {
            let (old, new) = (
                before.map(|c| self.meaning(c)),
                after.map(|c| self.meaning(c)),
            );
            match new {
                Some(route) if old != new => sink.set_route(prefix, RouteSource::Kernel, route),
                None => sink.remove_route(prefix, RouteSource::Kernel),
                _ => {}
            }
            self.without_port += usize::from(after.is_some_and(|c| self.portless(c)));
            self.without_port -= usize::from(before.is_some_and(|c| self.portless(c)));
            self.note_local(prefix, after);
            self.recover_neighbours(prefix, before, after, sink);
        }
        for candidate in removed {
            if let Some(count) = self.objects.get_mut(&candidate.object) {
                *count -= 1;
                if *count == 0 {
                    self.objects.remove(&candidate.object);
                }
            }
            if let Some(hop) = candidate.target.as_hop() {
                self.release_hop(hop, Holder::Route, sink);
            }
        }
    }

    fn note_local(&mut self, prefix: Prefix, after: Option<Candidate>) {
        if prefix.is_host() {
            let changed = if after.is_some_and(|c| c.target == Target::LOCAL) {
                self.local.insert(prefix.addr())
            } else {
                self.local.remove(&prefix.addr())
            };
            self.hints.hosts |= changed;
        }
    }

    /// The route that the tables hold for a candidate.
    fn meaning(&self, candidate: Candidate) -> Route {
        match candidate.target {
            Target::LOCAL => Route::Local,
            Target::BLACKHOLE => Route::Blackhole,
            Target::PROHIBIT => Route::Prohibit,
            target => match target.as_hop().and_then(|hop| self.hops.get(hop)?.entry) {
                Some((id, _)) => Route::NextHop(id),
                None => Route::Unreachable,
            },
        }
    }

    /// Whether a route is unreachable only because no port of ours leads there.
    fn portless(&self, candidate: Candidate) -> bool {
        match candidate.target.as_hop() {
            Some(hop) => self.hops.get(hop).is_none_or(|hop| hop.entry.is_none()),
            None => candidate.target == Target::NOWHERE,
        }
    }
}

/// The broadcast address a subnet has even if none was configured.
fn subnet_broadcast(address: &Address) -> Option<Ipv4Addr> {
    // RFC 3021: a /31 has none, nor has a single address.
    match (address.addr, address.prefix_len) {
        (IpAddr::V4(_), 1..=30) => match Prefix::of(address.addr, address.prefix_len)?.last() {
            IpAddr::V4(last) => Some(last),
            IpAddr::V6(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
#[path = "tests/view.rs"]
mod tests;
