//! Routes of all sources, and the FIB that comes of them.

use super::super::record;
use super::super::spec::{Route, RouteSource, RouteView};
use super::super::{Target, key4};
use super::tunnels::claimed;
use super::{Sources, TablesBuilder};
use crate::id::TunnelId;
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use std::net::{Ipv4Addr, Ipv6Addr};

impl TablesBuilder {
    /// Sets what one source says about an IPv6 prefix. A route into a tunnel or domain ends with it;
    /// into one that does not exist it is ignored.
    pub fn set_route6(&mut self, prefix: Ipv6Prefix, source: RouteSource, route: Route) {
        match route {
            Route::Tunnel(id) if !self.is_tunnel(id) => return,
            Route::Domain(id) if !self.domain_specs.contains_key(&id.0) => return,
            _ => {}
        }
        self.remove_route6(prefix, source);
        let sources = self.routes6.entry(prefix).or_default();
        if let Some(slot) = sources.get_mut(source as usize) {
            *slot = Some(route);
        }
        if let Route::Tunnel(id) | Route::Domain(id) = route {
            self.tunnel_routes.entry(id.0).or_default().push(prefix);
            self.covering.insert(prefix);
            self.covering_changed = true;
            if let Route::Tunnel(_) = route
                && let Some(record) = self.records.get_mut(id.index())
            {
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
        if let Some(Route::Tunnel(id) | Route::Domain(id)) = had {
            if let Some(prefixes) = self.tunnel_routes.get_mut(&id.0) {
                // two sources may say the same
                if let Some(at) = prefixes.iter().position(|p| *p == prefix) {
                    prefixes.swap_remove(at);
                }
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
            .and_then(Target::owner);
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
    pub(super) fn insert6(&mut self, prefix: Ipv6Prefix, target: Target) {
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
    pub(super) fn claims(&self, id: TunnelId, prefix: Ipv6Prefix) -> bool {
        let domain = self.domain_specs.get(&id.0);
        domain.is_some_and(|spec| spec.prefix() == prefix)
            || self
                .tunnel(id)
                .is_some_and(|spec| claimed(&spec).any(|(p, _)| p == prefix))
    }

    /// Takes back all routes into a tunnel or domain that is about to go.
    pub(super) fn remove_routes_into(&mut self, id: TunnelId) {
        for prefix in self.tunnel_routes.remove(&id.0).unwrap_or_default() {
            for source in [
                RouteSource::Api,
                RouteSource::Neighbour,
                RouteSource::Kernel,
            ] {
                let sources = self.routes6.get(&prefix);
                let route = sources.and_then(|s| s.get(source as usize)).copied();
                if matches!(route.flatten(), Some(Route::Tunnel(to) | Route::Domain(to)) if to == id)
                {
                    self.remove_route6(prefix, source);
                }
            }
        }
    }
}

pub(super) fn best(sources: &Sources) -> Option<Route> {
    sources.iter().flatten().next().copied()
}

impl From<Route> for Target {
    fn from(route: Route) -> Self {
        match route {
            Route::NextHop(id) => Self::NextHop(id),
            Route::Tunnel(id) => Self::Tunnel(id),
            Route::Domain(id) => Self::Domain(id),
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
            Self::Domain(id) => RouteView::Domain(id),
            Self::NextHop(id) => RouteView::Route(Route::NextHop(id)),
            Self::Local => RouteView::Route(Route::Local),
            Self::Blackhole => RouteView::Route(Route::Blackhole),
            Self::Unreachable => RouteView::Route(Route::Unreachable),
            Self::Prohibit => RouteView::Route(Route::Prohibit),
        })
    }
}
