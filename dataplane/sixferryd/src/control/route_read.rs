//! Listing and looking up routes.

use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use sixferry_fwd::{NextHop, NextHopState, PortId, Route, RouteView};

use super::Control;
use super::routes::{Action, ApiRoute, Origin};
use super::session::OwnerId;
use crate::netlink::Prefix;

/// A route as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub(crate) prefix: Prefix,
    pub(crate) origin: Origin,
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) generation: u32,
    pub(crate) stale: bool,
    pub(crate) route: Route,
    /// Of a FORWARD: how it is set now.
    pub(crate) next_hop: Option<NextHop>,
    pub(crate) gateway: Option<IpAddr>,
}

impl Control {
    /// Up to `most` routes after `after`, in order, and whether there are more.
    pub(crate) fn list_routes(
        &self,
        after: Option<(Origin, Prefix)>,
        only: Option<Origin>,
        owner: Option<OwnerId>,
        most: usize,
    ) -> (Vec<RouteEntry>, bool) {
        let mut found = Vec::new();
        let api_from = match after {
            Some((Origin::Api, prefix)) => Some(Bound::Excluded(prefix)),
            None => Some(Bound::Unbounded),
            Some(_) => None,
        };
        if let Some(from) = api_from
            && only.is_none_or(|o| o == Origin::Api)
        {
            let range = self.routes.api.range((from, Bound::Unbounded));
            let mine = range.filter(|(_, r)| owner.is_none_or(|o| o == r.owner));
            found.extend(
                mine.take(most + 1)
                    .map(|(prefix, r)| self.api_entry(*prefix, r)),
            );
        }
        if found.len() <= most && owner.is_none() && only != Some(Origin::Api) {
            let from = match after {
                Some((origin, prefix)) if origin != Origin::Api => {
                    Bound::Excluded((prefix, origin))
                }
                _ => Bound::Unbounded,
            };
            let range = self.routes.mirrored.range((from, Bound::Unbounded));
            let wanted = range.filter(|((_, origin), _)| only.is_none_or(|o| o == *origin));
            let room = most + 1 - found.len();
            found.extend(wanted.take(room).map(|((p, o), r)| self.entry(*p, *o, *r)));
        }
        let more = found.len() > most;
        found.truncate(most);
        (found, more)
    }

    fn api_entry(&self, prefix: Prefix, route: &ApiRoute) -> RouteEntry {
        let (resolved, gateway) = match route.action {
            Action::Forward(key) => {
                let id = self.routes.hops.get(&key).map(|(id, _)| *id);
                (id.map_or(Route::Blackhole, Route::NextHop), key.gateway)
            }
            Action::Domain(slot) => {
                let tunnel = self.domain_tunnel(slot);
                (tunnel.map_or(Route::Unreachable, Route::Domain), None)
            }
            Action::Blackhole => (Route::Blackhole, None),
            Action::Unreachable => (Route::Unreachable, None),
            Action::Prohibit => (Route::Prohibit, None),
        };
        let owner = self.owners.get(route.owner);
        RouteEntry {
            owner: Some(self.owners.name(route.owner)),
            generation: route.generation,
            stale: owner.is_some_and(|o| o.is_stale(route.generation)),
            gateway,
            ..self.entry(prefix, Origin::Api, resolved)
        }
    }

    fn entry(&self, prefix: Prefix, origin: Origin, route: Route) -> RouteEntry {
        let next_hop = match route {
            Route::NextHop(id) => self.builder.next_hop(id).copied(),
            _ => None,
        };
        let gateway = match next_hop.map(|hop| hop.state) {
            Some(NextHopState::Unresolved { gateway }) => Some(gateway),
            _ => None,
        };
        RouteEntry {
            prefix,
            origin,
            owner: None,
            generation: 0,
            stale: false,
            route,
            next_hop,
            gateway,
        }
    }

    /// What a destination leads to.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<(Prefix, RouteView)> {
        match address {
            IpAddr::V4(a) => {
                let (p, view) = self.builder.lookup4(a)?;
                Some((Prefix::of(p.address().into(), p.len())?, view))
            }
            IpAddr::V6(a) => {
                let (p, view) = self.builder.lookup6(a)?;
                Some((Prefix::of(p.address().into(), p.len())?, view))
            }
        }
    }

    /// The connected prefix an address of the host lies in, if a port leads there: port, VLAN (0:
    /// untagged) and length of the prefix.
    pub(crate) fn connected(&self, address: IpAddr) -> Option<(PortId, u16, u8)> {
        let longest = if address.is_ipv4() { 31 } else { 127 };
        (0..=longest).rev().find_map(|len| {
            let prefix = Prefix::of(address, len)?;
            let route = self.routes.mirrored.get(&(prefix, Origin::Kernel))?;
            let Route::NextHop(id) = route else {
                return None;
            };
            let hop = self.builder.next_hop(*id)?;
            let direct = hop.state == NextHopState::OnLink;
            direct.then_some((hop.port, hop.vlan.unwrap_or(0), len))
        })
    }

    /// The listing's entry for what a lookup found.
    pub(crate) fn entry_of(&self, prefix: Prefix, route: Route) -> RouteEntry {
        if let Some(api) = self.routes.api.get(&prefix) {
            return self.api_entry(prefix, api);
        }
        let neighbour = self
            .routes
            .mirrored
            .contains_key(&(prefix, Origin::Neighbour));
        let origin = if neighbour {
            Origin::Neighbour
        } else {
            Origin::Kernel
        };
        self.entry(prefix, origin, route)
    }
}
