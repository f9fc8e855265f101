//! Routes: those of the API, whose next hops follow the kernel's neighbours, and a list of what
//! the netlink mirror put into the tables.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use sixferry_fwd::{
    Ipv4Prefix, Ipv6Prefix, NextHop, NextHopId, NextHopState, PortConfig, PortId, PortKind, Route,
    RouteSource, RouteView, TablesBuilder, link_scoped,
};

use super::error::Error;
use super::session::OwnerId;
use super::shared::Gateway;
use super::{Atomicity, Control, Counts, Outcome, WriteMode};
use crate::netlink::Prefix;

/// Most routes over the API.
pub(crate) const MAX_ROUTES: usize = 262_144;
/// Most different next hops of API routes.
pub(crate) const MAX_HOPS: usize = 4096;

/// A prefix as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown(pub(crate) Prefix);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.addr(), self.0.len())
    }
}

/// A next hop as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HopKey {
    pub(crate) port: PortId,
    /// 0: untagged.
    pub(crate) vlan: u16,
    pub(crate) gateway: Option<IpAddr>,
}

impl HopKey {
    fn vlan_tag(&self) -> Option<u16> {
        (self.vlan != 0).then_some(self.vlan)
    }
}

/// A domain's place in the list of domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DomainSlot(pub(super) u8);

/// What an API route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Forward(HopKey),
    Domain(DomainSlot),
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A route of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApiRoute {
    pub(crate) owner: OwnerId,
    pub(crate) generation: u32,
    pub(crate) action: Action,
}

/// One entry of a message.
#[derive(Clone, Debug)]
pub(crate) enum RouteOp {
    /// The port is given by name: it is looked up when the entry is applied.
    Upsert {
        prefix: Prefix,
        action: WantedAction,
        mode: WriteMode,
    },
    Delete {
        prefix: Prefix,
        must_exist: bool,
    },
    /// Could not be read.
    Bad(Error),
}

/// An action whose port is still a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantedAction {
    Forward {
        port: String,
        vlan: u16,
        gateway: Option<IpAddr>,
    },
    /// The domain is given by id.
    Domain(String),
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A port as routes need it.
#[derive(Clone, Debug)]
struct KnownPort {
    id: PortId,
    name: String,
    /// `None` until the mirror has seen the interface.
    config: Option<PortConfig>,
}

#[derive(Debug, Default)]
pub(super) struct RouteStore {
    pub(super) api: BTreeMap<Prefix, ApiRoute>,
    /// Moves with every change of `api`.
    pub(super) revision: u64,
    /// Next hops of API routes and how many routes use each.
    pub(super) hops: HashMap<HopKey, (NextHopId, u32)>,
    /// Next hops came or went since the gateways were last taken.
    hops_changed: bool,
    /// What the mirror installed, for listings.
    pub(super) mirrored: BTreeMap<(Prefix, Origin), Route>,
    ports: Vec<KnownPort>,
}

/// Where a listed route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Api,
    Neighbour,
    Kernel,
}

struct Undo {
    prefix: Prefix,
    before: Option<ApiRoute>,
}

impl Control {
    /// Gives a port its name, by which API routes refer to it.
    pub(crate) fn name_port(&mut self, id: PortId, name: &str) {
        self.routes.ports.retain(|port| port.id != id);
        self.routes.ports.push(KnownPort {
            id,
            name: name.to_owned(),
            config: None,
        });
    }

    /// Changes a port, or takes it away.
    pub(crate) fn set_port(&mut self, id: PortId, config: Option<PortConfig>) {
        if let Some(known) = self.routes.ports.iter_mut().find(|port| port.id == id) {
            known.config.clone_from(&config);
        }
        match config {
            Some(config) => self.builder_mut().set_port(id, config),
            None => self.builder_mut().remove_port(id),
        }
    }

    /// Name of a port.
    pub(crate) fn port_name(&self, id: PortId) -> Option<&str> {
        self.routes
            .ports
            .iter()
            .find(|port| port.id == id)
            .map(|port| port.name.as_str())
    }

    /// The port of that name, the first one for an empty name, once its interface is known.
    pub(crate) fn known_port(&self, name: &str) -> Option<(PortId, PortConfig)> {
        let ports = &self.routes.ports;
        let known = if name.is_empty() {
            ports.first()
        } else {
            ports.iter().find(|port| port.name == name)
        };
        known.and_then(|port| Some((port.id, port.config.clone()?)))
    }

    /// Routes of the API.
    pub(crate) fn route_count(&self) -> usize {
        self.routes.api.len()
    }

    /// Applies the entries in order on behalf of `owner`.
    pub(crate) fn program_routes(
        &mut self,
        owner: OwnerId,
        ops: Vec<RouteOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        let mut undo = Vec::new();
        let mut outcome = Outcome::default();
        for (index, op) in ops.into_iter().enumerate() {
            if let Err(error) = self.route_op(owner, op, &mut undo, &mut outcome.counts) {
                outcome.failures.push((index, error));
                if atomicity == Atomicity::AllOrNothing {
                    outcome.rolled_back = true;
                    outcome.counts = Counts::default();
                    break;
                }
            }
        }
        if outcome.rolled_back || validate_only {
            for Undo { prefix, before } in undo.into_iter().rev() {
                self.put_route(prefix, before);
            }
        }
        self.finish(outcome)
    }

    fn route_op(
        &mut self,
        owner: OwnerId,
        op: RouteOp,
        undo: &mut Vec<Undo>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        match op {
            RouteOp::Bad(error) => Err(error),
            RouteOp::Delete { prefix, must_exist } => {
                let before = self.own_route(owner, prefix)?;
                if before.is_some() {
                    self.put_route(prefix, None);
                    undo.push(Undo { prefix, before });
                    counts.deleted += 1;
                } else if must_exist {
                    return Err(Error::RouteNotFound(Shown(prefix).to_string()));
                } else {
                    counts.unchanged += 1;
                }
                Ok(())
            }
            RouteOp::Upsert {
                prefix,
                action,
                mode,
            } => {
                let before = self.own_route(owner, prefix)?;
                match (&before, mode) {
                    (Some(_), WriteMode::Create) => {
                        let (prefix, owner) = (Shown(prefix).to_string(), self.owners.name(owner));
                        return Err(Error::RouteExists { prefix, owner });
                    }
                    (None, WriteMode::Update) => {
                        return Err(Error::RouteNotFound(Shown(prefix).to_string()));
                    }
                    _ => {}
                }
                let action = self.resolve_action(action)?;
                if before.is_none() && self.routes.api.len() >= MAX_ROUTES {
                    return Err(Error::TableFull {
                        what: "API routes",
                        limit: MAX_ROUTES,
                    });
                }
                let generation = self.owners.get(owner).map_or(0, |o| o.generation());
                let after = ApiRoute {
                    owner,
                    generation,
                    action,
                };
                match before {
                    None => counts.created += 1,
                    Some(old) if old.action == action => counts.unchanged += 1,
                    Some(_) => counts.updated += 1,
                }
                self.put_route(prefix, Some(after));
                undo.push(Undo { prefix, before });
                Ok(())
            }
        }
    }

    fn own_route(&self, owner: OwnerId, prefix: Prefix) -> Result<Option<ApiRoute>, Error> {
        let before = self.routes.api.get(&prefix).copied();
        match before {
            Some(route) if route.owner != owner => {
                let owner = self.owners.name(route.owner);
                Err(Error::RouteOwned {
                    prefix: Shown(prefix).to_string(),
                    owner,
                })
            }
            before => Ok(before),
        }
    }

    fn resolve_action(&self, wanted: WantedAction) -> Result<Action, Error> {
        Ok(match wanted {
            WantedAction::Blackhole => Action::Blackhole,
            WantedAction::Unreachable => Action::Unreachable,
            WantedAction::Prohibit => Action::Prohibit,
            WantedAction::Domain(id) => Action::Domain(self.route_domain(&id)?),
            WantedAction::Forward {
                port,
                vlan,
                gateway,
            } => {
                let known = self.routes.ports.iter().find(|known| known.name == port);
                let id = known.map(|known| known.id).ok_or(Error::NoSuchPort(port))?;
                let key = HopKey {
                    port: id,
                    vlan,
                    gateway,
                };
                if !self.routes.hops.contains_key(&key) && self.routes.hops.len() >= MAX_HOPS {
                    return Err(Error::TableFull {
                        what: "next hops",
                        limit: MAX_HOPS,
                    });
                }
                Action::Forward(key)
            }
        })
    }

    /// Makes `prefix` say this and nothing else; the tables are touched only if the action differs.
    fn put_route(&mut self, prefix: Prefix, after: Option<ApiRoute>) {
        let before = match after {
            Some(route) => self.routes.api.insert(prefix, route),
            None => self.routes.api.remove(&prefix),
        };
        if before.map(|r| r.owner) != after.map(|r| r.owner) {
            if let Some(owner) = before.and_then(|r| self.owners.get_mut(r.owner)) {
                owner.routes = owner.routes.saturating_sub(1);
            }
            if let Some(owner) = after.and_then(|r| self.owners.get_mut(r.owner)) {
                owner.routes += 1;
            }
        }
        let (old, new) = (before.map(|r| r.action), after.map(|r| r.action));
        if old != new || before.map(|r| r.owner) != after.map(|r| r.owner) {
            self.routes.revision += 1;
        }
        if old == new {
            return;
        }
        match new {
            Some(action) => {
                let route = self.acquire(action);
                set_route(&mut self.builder, prefix, RouteSource::Api, route);
            }
            None => {
                remove_route(&mut self.builder, prefix, RouteSource::Api);
            }
        }
        if let Some(Action::Forward(key)) = old {
            self.release(key);
        }
    }

    /// Takes the routes into a domain away, whoever wrote them, and gives them.
    pub(super) fn remove_routes_into(&mut self, slot: DomainSlot) -> Vec<(Prefix, ApiRoute)> {
        let into = |(_, r): &(&Prefix, &ApiRoute)| r.action == Action::Domain(slot);
        let all = self.routes.api.iter().filter(into);
        let routes: Vec<_> = all.map(|(prefix, route)| (*prefix, *route)).collect();
        for (prefix, _) in &routes {
            self.put_route(*prefix, None);
        }
        routes
    }

    /// Puts routes back.
    pub(super) fn restore_routes(&mut self, routes: Vec<(Prefix, ApiRoute)>) {
        for (prefix, route) in routes {
            self.put_route(prefix, Some(route));
        }
    }

    fn acquire(&mut self, action: Action) -> Route {
        let key = match action {
            Action::Forward(key) => key,
            Action::Blackhole => return Route::Blackhole,
            Action::Unreachable => return Route::Unreachable,
            Action::Prohibit => return Route::Prohibit,
            Action::Domain(slot) => {
                let tunnel = self.domain_tunnel(slot);
                return tunnel.map_or(Route::Unreachable, Route::Domain);
            }
        };
        if let Some((id, users)) = self.routes.hops.get_mut(&key) {
            *users += 1;
            return Route::NextHop(*id);
        }
        let hop = self.routes.resolve(key, &self.builder);
        let id = self.builder.add_next_hop(hop);
        self.routes.hops.insert(key, (id, 1));
        self.routes.hops_changed = true;
        Route::NextHop(id)
    }

    fn release(&mut self, key: HopKey) {
        let Some((id, users)) = self.routes.hops.get_mut(&key) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            let id = *id;
            self.routes.hops.remove(&key);
            self.routes.hops_changed = true;
            self.builder.remove_next_hop(id);
        }
    }

    /// Follows what the mirror learnt about the gateways of API routes.
    pub(crate) fn refresh_hops(&mut self) {
        let mut changed = Vec::new();
        for (key, (id, _)) in &self.routes.hops {
            let hop = self.routes.resolve(*key, &self.builder);
            if self.builder.next_hop(*id) != Some(&hop) {
                changed.push((*id, hop));
            }
        }
        if !changed.is_empty() {
            self.touch();
        }
        for (id, hop) in changed {
            self.builder.set_next_hop(id, hop);
        }
    }

    /// The gateways the kernel should keep resolved, if they changed.
    pub(super) fn take_gateways(&mut self) -> Option<Vec<Gateway>> {
        let changed = std::mem::take(&mut self.routes.hops_changed);
        let gateway = |key: &HopKey| Some((key.port, key.vlan_tag(), key.gateway?));
        changed.then(|| self.routes.hops.keys().filter_map(gateway).collect())
    }

    /// A route of the mirror, for the tables and the listings.
    pub(crate) fn set_mirrored(&mut self, prefix: Prefix, source: RouteSource, route: Route) {
        self.routes.mirrored.insert((prefix, origin(source)), route);
        set_route(self.builder_mut(), prefix, source, route);
    }

    /// Takes a route of the mirror back.
    pub(crate) fn remove_mirrored(&mut self, prefix: Prefix, source: RouteSource) {
        self.routes.mirrored.remove(&(prefix, origin(source)));
        remove_route(self.builder_mut(), prefix, source);
    }

    /// Removes up to `most` routes that a sync did not confirm; whether there may be more.
    pub(super) fn sweep_routes(
        &mut self,
        owner: OwnerId,
        generation: u32,
        most: usize,
    ) -> (u64, bool) {
        if self.owners.get(owner).is_none_or(|o| o.routes == 0) {
            return (0, false);
        }
        let doomed: Vec<Prefix> = self
            .routes
            .api
            .iter()
            .filter(|(_, r)| r.owner == owner && r.generation != generation)
            .map(|(prefix, _)| *prefix)
            .take(most)
            .collect();
        for prefix in &doomed {
            self.put_route(*prefix, None);
        }
        if !doomed.is_empty() {
            self.touch();
        }
        (doomed.len() as u64, doomed.len() == most)
    }
}

impl RouteStore {
    /// The next hop as the tables allow it now: its neighbour's route if there is one.
    fn resolve(&self, key: HopKey, builder: &TablesBuilder) -> NextHop {
        let known = self.ports.iter().find(|port| port.id == key.port);
        let port = known.and_then(|port| port.config.as_ref());
        let mac = match port.map(|port| port.kind) {
            Some(PortKind::Ethernet { mac }) => mac,
            _ => [0; 6],
        };
        let up = port.is_some_and(|port| port.up);
        let mut hop = NextHop {
            port: key.port,
            vlan: key.vlan_tag(),
            vlan_service_tag: false,
            src_mac: mac,
            mtu: port.map_or(1280, |port| port.mtu),
            state: if up {
                NextHopState::OnLink
            } else {
                NextHopState::Down
            },
        };
        let Some(gateway) = key.gateway.filter(|_| up) else {
            return hop;
        };
        hop.state = NextHopState::Unresolved { gateway };
        let found = match gateway {
            IpAddr::V4(a) => builder.lookup4(a).map(|(_, view)| view),
            IpAddr::V6(a) => builder
                .lookup6(link_scoped(a, key.port, key.vlan))
                .map(|(_, view)| view),
        };
        if let Some(RouteView::Route(Route::NextHop(id))) = found
            && let Some(through) = builder.next_hop(id)
            && (through.port, through.vlan) == (hop.port, hop.vlan)
        {
            hop.src_mac = through.src_mac;
            hop.mtu = through.mtu;
            hop.vlan_service_tag = through.vlan_service_tag;
            if let NextHopState::Resolved { .. } = through.state {
                hop.state = through.state;
            }
        }
        hop
    }
}

fn origin(source: RouteSource) -> Origin {
    match source {
        RouteSource::Api => Origin::Api,
        RouteSource::Neighbour => Origin::Neighbour,
        RouteSource::Kernel => Origin::Kernel,
    }
}

fn set_route(builder: &mut TablesBuilder, prefix: Prefix, source: RouteSource, route: Route) {
    match prefix.addr() {
        IpAddr::V4(a) => {
            builder.set_route4(Ipv4Prefix::containing(a, prefix.len()), source, route);
        }
        IpAddr::V6(a) => {
            builder.set_route6(Ipv6Prefix::containing(a, prefix.len()), source, route);
        }
    }
}

fn remove_route(builder: &mut TablesBuilder, prefix: Prefix, source: RouteSource) {
    match prefix.addr() {
        IpAddr::V4(a) => {
            builder.remove_route4(Ipv4Prefix::containing(a, prefix.len()), source);
        }
        IpAddr::V6(a) => {
            builder.remove_route6(Ipv6Prefix::containing(a, prefix.len()), source);
        }
    }
}
