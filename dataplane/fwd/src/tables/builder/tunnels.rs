//! Tunnels.

use super::super::error::TableError;
use super::super::index::{UdpMatch, port_key};
use super::super::live::Endpoint;
use super::super::record::{self, NO_SIDE, TunnelRecord};
use super::super::spec::{Dscp, Ecn, EncapKind, MtuMode, Rebind, Ttl, TunnelSpec, UdpEncap};
use super::super::{Target, outer};
use super::check::check_fields;
use super::routes::best;
use super::{Extra, TablesBuilder};
use crate::id::TunnelId;
use crate::prefix::Ipv6Prefix;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A tunnel that was taken out and can be put back.
#[derive(Debug)]
pub struct TakenTunnel {
    id: TunnelId,
    spec: TunnelSpec,
    side: (u32, u16),
}

impl TakenTunnel {
    /// The id it had.
    #[must_use]
    pub const fn id(&self) -> TunnelId {
        self.id
    }
}

impl TablesBuilder {
    /// How many tunnels there are, domains not counted.
    #[must_use]
    pub const fn tunnel_count(&self) -> usize {
        self.tunnels
    }

    /// The 6in4 tunnel of these outer addresses.
    #[must_use]
    pub fn tunnel_by_outer(&self, local: Ipv4Addr, remote: Ipv4Addr) -> Option<TunnelId> {
        let key = outer::key(local.octets(), remote.octets());
        self.index.index().tunnel41(key).map(TunnelId)
    }

    /// The UDP tunnel at this address and port of ours; where several share the port, the one whose
    /// configured peer is `remote`.
    #[must_use]
    pub fn tunnel_by_port(
        &self,
        local: (Ipv4Addr, u16),
        remote: Option<(Ipv4Addr, u16)>,
    ) -> Option<TunnelId> {
        let index = self.index.index();
        match index.udp(port_key(local.0.octets(), local.1))? {
            UdpMatch::Tunnel(id) => Some(TunnelId(id)),
            UdpMatch::Group(group) => {
                let (address, port) = remote?;
                let peer = Endpoint {
                    address: address.octets(),
                    port,
                };
                index.peer(group, peer).map(TunnelId)
            }
        }
    }

    /// A free id, with room for what belongs to it.
    pub(super) fn take_id(&mut self) -> TunnelId {
        let id = TunnelId(self.free_tunnels.take().unwrap_or_else(|| {
            self.next_tunnel += 1;
            self.next_tunnel - 1
        }));
        self.records.reserve(id.index(), TunnelRecord::FREE);
        for counters in Arc::make_mut(&mut self.counters) {
            counters.reserve(id.index());
        }
        self.set_baseline(id);
        id
    }

    /// Whether a tunnel, not a domain, has this id.
    pub(super) fn is_tunnel(&self, id: TunnelId) -> bool {
        self.records
            .get(id.index())
            .is_some_and(|r| r.has(record::IN_USE) && !r.has(record::DOMAIN))
    }

    /// Adds a tunnel.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn insert_tunnel(&mut self, spec: &TunnelSpec) -> Result<TunnelId, TableError> {
        if self.tunnels >= Self::MAX_TUNNELS {
            return Err(TableError::Full {
                limit: Self::MAX_TUNNELS,
            });
        }
        self.validate(spec, None)?;
        let id = self.take_id();
        let side = self.new_side(spec);
        self.install(id, spec, side);
        Ok(id)
    }

    fn install(&mut self, id: TunnelId, spec: &TunnelSpec, side: (u32, u16)) {
        self.tunnels += 1;
        self.index.insert(spec, id);
        self.add_local(spec.local, is_proto41(spec));
        for (prefix, target) in claimed(spec) {
            self.claim(prefix, target(id));
        }
        self.write(id, spec, side);
    }

    /// Changes a tunnel. Its counters go on; a spec equal to the present one changes nothing, and what
    /// is learnt stays unless the far end is told anew.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn update_tunnel(&mut self, id: TunnelId, spec: &TunnelSpec) -> Result<(), TableError> {
        let old = self.tunnel(id).ok_or(TableError::NoSuchTunnel)?;
        if old == *spec {
            return Ok(());
        }
        self.validate(spec, Some((id, &old)))?;
        if !same_key(&old, spec) {
            self.index.remove(&old, id);
            self.index.insert(spec, id);
        }
        self.add_local(spec.local, is_proto41(spec));
        self.release_local(old.local, is_proto41(&old));
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
        let side = self.changed_side(id, &old, spec);
        self.write(id, spec, side);
        Ok(())
    }

    /// Takes a tunnel out.
    ///
    /// # Errors
    /// [`TableError::NoSuchTunnel`].
    pub fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), TableError> {
        self.take_tunnel(id).map(drop)
    }

    /// Takes a tunnel out so that it can be put back with [`Self::restore_tunnel`].
    ///
    /// # Errors
    /// [`TableError::NoSuchTunnel`].
    pub fn take_tunnel(&mut self, id: TunnelId) -> Result<TakenTunnel, TableError> {
        let spec = self.tunnel(id).ok_or(TableError::NoSuchTunnel)?;
        let record = self.records.get(id.index());
        let side = record.map_or((NO_SIDE, 0), |r| (r.side, r.generation));
        self.remove_routes_into(id);
        self.index.remove(&spec, id);
        self.release_local(spec.local, is_proto41(&spec));
        for (prefix, target) in claimed(&spec) {
            self.release(prefix, target(id));
        }
        self.free_side(id);
        self.records.set(id.index(), TunnelRecord::FREE);
        self.extras.remove(&id.0);
        if self.link_locals.get(id.index()).is_some_and(|a| *a != 0) {
            self.link_locals.set(id.index(), 0);
        }
        self.tunnels -= 1;
        self.free_tunnels.give(id.0);
        Ok(TakenTunnel { id, spec, side })
    }

    /// Puts a tunnel back where it was, with its id, its counters and what it had learnt, as if it
    /// had never been away; only routes into it besides its own prefixes are lost.
    ///
    /// # Errors
    /// Any [`TableError`]; [`TableError::NoSuchTunnel`] once a snapshot was taken without it.
    pub fn restore_tunnel(&mut self, taken: &TakenTunnel) -> Result<(), TableError> {
        let TakenTunnel { id, spec, side } = taken;
        self.validate(spec, None)?;
        if !self.free_tunnels.take_back(id.0) {
            return Err(TableError::NoSuchTunnel);
        }
        if side.0 != NO_SIDE {
            self.free_live.take_back(side.0);
        }
        self.install(*id, spec, *side);
        Ok(())
    }

    /// A tunnel as it was set.
    #[must_use]
    pub fn tunnel(&self, id: TunnelId) -> Option<TunnelSpec> {
        let record = self
            .records
            .get(id.index())
            .filter(|r| r.has(record::IN_USE) && !r.has(record::DOMAIN))?;
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
            encap: if record.has(record::UDP) {
                EncapKind::Udp(UdpEncap {
                    local_port: record.local_port,
                    remote_port: record.remote_port,
                    shared: extra.is_some_and(|e| e.shared),
                    rebind: match record.flags & (record::REBIND_CONTROL | record::REBIND_INNER) {
                        record::REBIND_CONTROL => Rebind::Control,
                        record::REBIND_INNER => Rebind::InnerSource,
                        both if both != 0 => Rebind::InnerSourcePort,
                        _ => Rebind::Deny,
                    },
                })
            } else {
                EncapKind::SixInFour
            },
            prefixes,
            link: extra.and_then(|e| e.link),
            link_local: extra.and_then(|e| e.link_local),
            mtu: record.mtu,
            mtu_mode: match record.flags & (record::DF | record::DYNAMIC) {
                record::DF => MtuMode::Managed,
                record::DYNAMIC => MtuMode::Dynamic,
                _ => MtuMode::Static,
            },
            path_mtu: extra.and_then(|e| e.path_mtu),
            min_path_mtu: record.min_path_mtu,
            mss_clamp: record.has(record::MSS_CLAMP),
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

    /// Writes the record and what goes with it.
    fn write(&mut self, id: TunnelId, spec: &TunnelSpec, (side, generation): (u32, u16)) {
        let nested = spec
            .prefixes
            .first()
            .is_some_and(|p| self.fib6.has_longer(p.bits(), u32::from(p.len())));
        let mut record = TunnelRecord::new(spec, nested, side, generation);
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
            shared: matches!(spec.encap, EncapKind::Udp(udp) if udp.shared),
            path_mtu: spec.path_mtu,
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

    pub(super) fn claim(&mut self, prefix: Ipv6Prefix, target: Target) {
        self.insert6(prefix, target);
        self.covering.insert(prefix);
        self.covering_changed = true;
    }

    /// Gives a prefix back to whatever else routes it.
    pub(super) fn release(&mut self, prefix: Ipv6Prefix, target: Target) {
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

    pub(super) fn add_local(&mut self, local: Ipv4Addr, proto41: bool) {
        let (all, of_proto41) = self.locals.entry(local).or_insert((0, 0));
        *all += 1;
        *of_proto41 += u32::from(proto41);
    }

    pub(super) fn release_local(&mut self, local: Ipv4Addr, proto41: bool) {
        if let Some((all, of_proto41)) = self.locals.get_mut(&local) {
            *all -= 1;
            *of_proto41 -= u32::from(proto41);
            if *all == 0 {
                self.locals.remove(&local);
            }
        }
    }

    fn validate(
        &self,
        spec: &TunnelSpec,
        own: Option<(TunnelId, &TunnelSpec)>,
    ) -> Result<(), TableError> {
        check_fields(spec)?;
        self.index.check(spec, own)?;
        let own = own.map(|(id, _)| id);
        for (at, (prefix, _)) in claimed(spec).enumerate() {
            if claimed(spec).skip(at + 1).any(|(other, _)| other == prefix) {
                return Err(TableError::PrefixRepeated { prefix });
            }
            let holder = self
                .fib6
                .get(prefix.bits(), u32::from(prefix.len()))
                .and_then(|value| Target::decode(value).owner());
            // a route over the API may point into a tunnel too: only the tunnel's own claim counts
            if let Some(by) = holder.filter(|by| Some(*by) != own && self.claims(*by, prefix)) {
                return Err(TableError::PrefixInUse { prefix, by });
            }
        }
        Ok(())
    }
}

/// What a tunnel puts into the FIB: its prefixes, its link, its own address on the link.
pub(super) fn claimed(
    spec: &TunnelSpec,
) -> impl Iterator<Item = (Ipv6Prefix, fn(TunnelId) -> Target)> + '_ {
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

fn is_proto41(spec: &TunnelSpec) -> bool {
    spec.encap == EncapKind::SixInFour
}

/// Whether both have the same place in the index.
fn same_key(a: &TunnelSpec, b: &TunnelSpec) -> bool {
    a.local == b.local
        && match (a.encap, b.encap) {
            (EncapKind::SixInFour, EncapKind::SixInFour) => a.remote == b.remote,
            (EncapKind::Udp(x), EncapKind::Udp(y)) => {
                (a.remote, x.local_port, x.shared, x.rebind)
                    == (b.remote, y.local_port, y.shared, y.rebind)
                    && (!x.shared || x.remote_port == y.remote_port)
            }
            _ => false,
        }
}
