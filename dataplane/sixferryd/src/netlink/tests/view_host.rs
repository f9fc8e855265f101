//! A host for the view's tests: changes go in, checked tables come out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sixferry_fwd::NextHopState;

use super::super::super::types::{Care, Change, Neighbour, NeighbourState, Vlan, VlanPolicy};
use super::super::*;

/// Of all our interfaces.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const MAIN: u32 = 254;
pub(super) const LOCAL: u32 = 255;

/// Tables that refuse nonsense: a route to a next hop that is not there, or the removal of one
/// that a route still names.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) ports: BTreeMap<u8, PortConfig>,
    pub(super) hops: BTreeMap<u32, NextHop>,
    pub(super) routes: BTreeMap<(Prefix, u8), Route>,
    pub(super) next_id: u32,
    pub(super) route_writes: usize,
}

impl Tables {
    pub(super) fn route(&self, prefix: &str) -> Option<Route> {
        self.routes
            .get(&(p(prefix), RouteSource::Kernel as u8))
            .copied()
    }

    pub(super) fn hop(&self, prefix: &str) -> NextHop {
        self.hop_of(self.route(prefix))
    }

    pub(super) fn neighbour(&self, addr: &str) -> Option<NextHop> {
        let key = (Prefix::host(ip(addr)), RouteSource::Neighbour as u8);
        self.routes.get(&key).map(|route| self.hop_of(Some(*route)))
    }

    pub(super) fn hop_of(&self, route: Option<Route>) -> NextHop {
        match route {
            Some(Route::NextHop(id)) => self.hops[&id.0],
            other => panic!("not a next hop: {other:?}"),
        }
    }
}

impl TableSink for Tables {
    fn set_port(&mut self, port: PortId, config: PortConfig) {
        self.ports.insert(port.0, config);
    }

    fn remove_port(&mut self, port: PortId) {
        assert!(self.ports.remove(&port.0).is_some());
    }

    fn add_next_hop(&mut self, next_hop: NextHop) -> NextHopId {
        self.next_id += 1;
        self.hops.insert(self.next_id, next_hop);
        NextHopId(self.next_id)
    }

    fn set_next_hop(&mut self, id: NextHopId, next_hop: NextHop) {
        let old = self.hops.insert(id.0, next_hop);
        assert!(
            old.is_some_and(|old| old != next_hop),
            "a write that changes nothing"
        );
    }

    fn remove_next_hop(&mut self, id: NextHopId) {
        assert!(self.hops.remove(&id.0).is_some());
        assert!(
            !self.routes.values().any(|r| *r == Route::NextHop(id)),
            "still in use"
        );
    }

    fn set_route(&mut self, prefix: Prefix, source: RouteSource, route: Route) {
        if let Route::NextHop(id) = route {
            assert!(self.hops.contains_key(&id.0), "route to a missing next hop");
        }
        self.route_writes += 1;
        self.routes.insert((prefix, source as u8), route);
    }

    fn remove_route(&mut self, prefix: Prefix, source: RouteSource) {
        assert!(
            self.routes.remove(&(prefix, source as u8)).is_some(),
            "no route {prefix:?}"
        );
    }
}

pub(super) struct Host {
    pub(super) view: KernelView,
    pub(super) tables: Tables,
}

impl Host {
    /// Ports eth0 (2) and eth1 (3), a management NIC (9).
    pub(super) fn new() -> Self {
        let mut host = Self::bare(vec![port(0, "eth0"), port(1, "eth1"), port(2, "wan")]);
        for link in [link(2, "eth0"), link(3, "eth1"), link(9, "mgmt")] {
            host.apply(Change::Link(link));
        }
        host.view.take_hints();
        host
    }

    pub(super) fn bare(ports: Vec<PortSpec>) -> Self {
        let view = KernelView::new(ViewConfig {
            ports,
            host: Some("sixferry0".to_owned()),
            tables: vec![LOCAL, MAIN],
            max_routes: 1000,
            max_neighbours: 100,
        });
        Self {
            view,
            tables: Tables::default(),
        }
    }

    pub(super) fn apply(&mut self, change: Change) {
        self.view.apply(&change, &mut self.tables);
    }

    pub(super) fn end_dump(&mut self, kind: Kind) {
        let unseen = self.view.unseen(kind);
        self.view.forget(&unseen, &mut self.tables);
        assert!(self.view.unseen(kind).is_empty());
    }

    pub(super) fn route(&mut self, prefix: &str, vias: &[Via]) {
        self.apply(Change::Route(unicast(prefix, 0, vias), Placement::First));
    }

    pub(super) fn gone(&mut self, prefix: &str, vias: &[Via]) {
        self.apply(Change::RouteGone(unicast(prefix, 0, vias)));
    }

    pub(super) fn neighbour(&mut self, ifindex: u32, addr: &str, mac: Option<[u8; 6]>) {
        let state = mac.map_or(NeighbourState::Unresolved, NeighbourState::Learnt);
        let addr = ip(addr);
        self.apply(Change::Neighbour(Neighbour {
            ifindex,
            addr,
            state,
            nud: crate::live::NeighbourState::Incomplete,
            care: Care::None,
        }));
    }

    pub(super) fn set_up(&mut self, ifindex: u32, name: &str, up: bool) {
        self.apply(Change::Link(Link {
            up,
            running: up,
            ..link(ifindex, name)
        }));
    }
}

pub(super) fn port(id: u8, name: &str) -> PortSpec {
    PortSpec {
        id: PortId(id),
        name: name.into(),
        vlans: VlanPolicy::Auto,
    }
}

pub(super) fn link(ifindex: u32, name: &str) -> Link {
    Link {
        ifindex,
        name: name.into(),
        kind: String::new(),
        mac: Some(MAC),
        mtu: 1500,
        up: true,
        running: true,
        vlan: None,
        controller: None,
        rx_queues: 1,
        tx_queues: 1,
        xdp: None,
    }
}

pub(super) fn vlan(ifindex: u32, name: &str, parent: u32, vid: u16) -> Link {
    Link {
        vlan: Some(Vlan {
            parent,
            vid,
            ad: false,
        }),
        mtu: 1496,
        ..link(ifindex, name)
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(super) fn p(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').expect("prefix");
    Prefix::of(ip(addr), len.parse().expect("length")).expect("prefix")
}

pub(super) fn via(ifindex: u32, gateway: &str) -> Via {
    Via {
        ifindex,
        gateway: (!gateway.is_empty()).then(|| ip(gateway)),
    }
}

pub(super) fn unicast(prefix: &str, metric: u32, vias: &[Via]) -> KernelRoute {
    KernelRoute {
        prefix: p(prefix),
        table: MAIN,
        metric,
        nexthop_object: 0,
        target: RouteTarget::Unicast(vias.to_vec()),
    }
}

pub(super) fn special(prefix: &str, table: u32, target: RouteTarget) -> KernelRoute {
    KernelRoute {
        prefix: p(prefix),
        table,
        metric: 0,
        nexthop_object: 0,
        target,
    }
}

pub(super) fn resolved(mac: [u8; 6]) -> NextHopState {
    NextHopState::Resolved { dst_mac: mac }
}
