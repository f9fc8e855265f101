//! Neighbours: MAC addresses of gateways, and routes to neighbours on connected prefixes.

use std::net::IpAddr;

use sixferry_fwd::{Route, RouteSource, link_scoped};

use super::super::types::{Kind, Prefix, Via};
use super::hops::{Holder, HopIndex};
use super::routes::Candidate;
use super::{KernelView, TableSink};

/// A neighbour that can be sent to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) mac: [u8; 6],
    /// The dump that saw it last.
    pub(super) epoch: bool,
    /// Its own route, while it has one: the address the tables know it by, and the hop.
    route: Option<(IpAddr, HopIndex)>,
}

impl KernelView {
    /// A neighbour has this MAC address now, or none.
    pub(super) fn set_neighbour(
        &mut self,
        ifindex: u32,
        addr: IpAddr,
        mac: Option<[u8; 6]>,
        sink: &mut dyn TableSink,
    ) {
        let key = (addr, ifindex);
        let Some(mac) = mac else {
            if let Some(seen) = self.neighbours.remove(&key) {
                self.drop_neighbour_route(seen.route, sink);
                self.refresh_gateway(ifindex, addr, sink);
            }
            return;
        };
        let epoch = self.epoch(Kind::Neighbours);
        if let Some(seen) = self.neighbours.get_mut(&key) {
            seen.epoch = epoch;
            if std::mem::replace(&mut seen.mac, mac) != mac {
                self.refresh_gateway(ifindex, addr, sink);
            }
            return;
        }
        if self.neighbours.len() >= self.config.max_neighbours {
            self.over_limit += 1;
            return;
        }
        self.neighbours.insert(
            key,
            Seen {
                mac,
                epoch,
                route: None,
            },
        );
        self.refresh_gateway(ifindex, addr, sink);
        self.settle_neighbour(addr, ifindex, sink);
    }

    fn refresh_gateway(&mut self, ifindex: u32, addr: IpAddr, sink: &mut dyn TableSink) {
        if let Some(hop) = self.hops.find(Via {
            ifindex,
            gateway: Some(addr),
        }) {
            self.refresh_hop(hop, sink);
        }
    }

    /// Gives a neighbour a route of its own, or takes it away.
    pub(super) fn settle_neighbour(
        &mut self,
        addr: IpAddr,
        ifindex: u32,
        sink: &mut dyn TableSink,
    ) {
        let Some(seen) = self.neighbours.get(&(addr, ifindex)).copied() else {
            return;
        };
        let wanted = self.neighbour_key(addr, ifindex);
        if wanted == seen.route.map(|(key, _)| key) {
            return;
        }
        self.drop_neighbour_route(seen.route, sink);
        let route = wanted.map(|key| {
            let via = Via {
                ifindex,
                gateway: Some(addr),
            };
            let hop = self.acquire_hop(via, Holder::NeighbourRoute, sink);
            if let Some((id, _)) = self.hops.get(hop).and_then(|hop| hop.entry) {
                let prefix = Prefix::host(key);
                sink.set_route(prefix, RouteSource::Neighbour, Route::NextHop(id));
                // A link-local address is the gateway of a route, or nobody's destination.
                if key == addr {
                    self.hints.neighbours.push((ifindex, addr));
                }
            }
            (key, hop)
        });
        if let Some(seen) = self.neighbours.get_mut(&(addr, ifindex)) {
            seen.route = route;
        }
    }

    /// The address under which a neighbour has a route of its own, if it should have one.
    ///
    /// It should while the kernel would send straight to it: an old entry on another interface
    /// must not attract the traffic of the address.
    fn neighbour_key(&self, addr: IpAddr, ifindex: u32) -> Option<IpAddr> {
        let (port, tag) = self.links.egress(ifindex)?.class();
        match addr {
            IpAddr::V6(a) if a.is_unicast_link_local() => {
                let vid = tag.map_or(0, |(vid, _)| vid);
                Some(link_scoped(a, port, vid).into())
            }
            _ => (self.direct_link(self.routes.lookup(addr)) == Some(ifindex)).then_some(addr),
        }
    }

    fn drop_neighbour_route(
        &mut self,
        route: Option<(IpAddr, HopIndex)>,
        sink: &mut dyn TableSink,
    ) {
        if let Some((key, hop)) = route {
            sink.remove_route(Prefix::host(key), RouteSource::Neighbour);
            self.release_hop(hop, Holder::NeighbourRoute, sink);
        }
    }

    /// After the route to a prefix has changed: which neighbours in it are reached directly.
    pub(super) fn recover_neighbours(
        &mut self,
        prefix: Prefix,
        before: Option<Candidate>,
        after: Option<Candidate>,
        sink: &mut dyn TableSink,
    ) {
        let direct = (self.direct_link(before), self.direct_link(after));
        let replaced = before.is_some() && after.is_some();
        // A default route that moves to another gateway covers every neighbour and concerns none.
        if replaced && direct == (None, None) {
            return;
        }
        let range = (prefix.addr(), 0)..=(prefix.last(), u32::MAX);
        let inside: Vec<_> = self.neighbours.range(range).map(|(key, _)| *key).collect();
        // Routes are taken before others are given: two interfaces may swap a prefix.
        for given in [false, true] {
            for (addr, ifindex) in &inside {
                let has = self
                    .neighbours
                    .get(&(*addr, *ifindex))
                    .is_some_and(|n| n.route.is_some());
                if has != given {
                    self.settle_neighbour(*addr, *ifindex, sink);
                }
            }
        }
    }

    fn direct_link(&self, route: Option<Candidate>) -> Option<u32> {
        self.hops.direct_link(route?.target.as_hop()?)
    }
}
