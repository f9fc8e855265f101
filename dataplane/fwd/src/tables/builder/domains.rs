//! 6to4 and 6rd domains.

use super::super::Target;
use super::super::domain::{DomainKind, DomainRecord, DomainSpec};
use super::super::error::TableError;
use super::super::record::TunnelRecord;
use super::super::spec::{Dscp, Ttl, TunnelSpec};
use super::TablesBuilder;
use crate::id::TunnelId;
use sixferry_wire::{embed, ipv6};
use std::net::Ipv4Addr;
use std::sync::Arc;

impl TablesBuilder {
    /// Most domains: each is asked, one after the other, whether an address embeds one of ours.
    pub const MAX_DOMAINS: usize = 64;

    /// How many domains there are.
    #[must_use]
    pub fn domain_count(&self) -> usize {
        self.domain_specs.len()
    }

    /// A domain as it was set.
    #[must_use]
    pub fn domain(&self, id: TunnelId) -> Option<DomainSpec> {
        self.domain_specs.get(&id.0).cloned()
    }

    /// The domain that works at this address of ours.
    #[must_use]
    pub fn domain_by_local(&self, local: Ipv4Addr) -> Option<TunnelId> {
        self.index.index().domain(u32::from(local))
    }

    /// Adds a domain. Its id is of the same kind as a tunnel's, and so are its counters.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn insert_domain(&mut self, spec: &DomainSpec) -> Result<TunnelId, TableError> {
        if self.domain_specs.len() >= Self::MAX_DOMAINS {
            return Err(TableError::Full {
                limit: Self::MAX_DOMAINS,
            });
        }
        self.check_domain(spec, None)?;
        let id = self.take_id();
        let free = self.domains.iter().position(Option::is_none);
        let side = free.unwrap_or_else(|| {
            Arc::make_mut(&mut self.domains).push(None);
            self.domains.len() - 1
        });
        self.claim(spec.prefix(), Target::Domain(id));
        self.write_domain(id, spec, side);
        Ok(id)
    }

    /// Changes a domain. Its counters go on.
    ///
    /// # Errors
    /// Any [`TableError`]; nothing has changed then.
    pub fn update_domain(&mut self, id: TunnelId, spec: &DomainSpec) -> Result<(), TableError> {
        let old = self.domain(id).ok_or(TableError::NoSuchTunnel)?;
        if old == *spec {
            return Ok(());
        }
        self.check_domain(spec, Some(id))?;
        let side = self.records.get(id.index()).map_or(0, |r| r.side as usize);
        if old.prefix() != spec.prefix() {
            self.release(old.prefix(), Target::Domain(id));
            self.claim(spec.prefix(), Target::Domain(id));
        }
        for local in addresses(&old) {
            self.release_local(local, true);
        }
        self.write_domain(id, spec, side);
        Ok(())
    }

    /// Takes a domain out, with the routes into it.
    ///
    /// # Errors
    /// [`TableError::NoSuchTunnel`].
    pub fn remove_domain(&mut self, id: TunnelId) -> Result<(), TableError> {
        let spec = self
            .domain_specs
            .remove(&id.0)
            .ok_or(TableError::NoSuchTunnel)?;
        self.remove_routes_into(id);
        self.release(spec.prefix(), Target::Domain(id));
        for local in addresses(&spec) {
            self.release_local(local, true);
        }
        if let Some(record) = self.records.get(id.index())
            && let Some(slot) = Arc::make_mut(&mut self.domains).get_mut(record.side as usize)
        {
            *slot = None;
        }
        if self.domain_specs.is_empty() {
            self.domains = Arc::default();
        }
        self.records.set(id.index(), TunnelRecord::FREE);
        self.index_domains();
        self.free_tunnels.give(id.0);
        Ok(())
    }

    fn write_domain(&mut self, id: TunnelId, spec: &DomainSpec, side: usize) {
        let Some(domain) = DomainRecord::new(spec) else {
            return;
        };
        let place = u32::try_from(side).unwrap_or(u32::MAX);
        let record = TunnelRecord::domain(spec, domain.source, place);
        self.records.set(id.index(), record);
        if let Some(slot) = Arc::make_mut(&mut self.domains).get_mut(side) {
            *slot = Some(domain);
        }
        for local in addresses(spec) {
            self.add_local(local, true);
        }
        self.domain_specs.insert(id.0, spec.clone());
        self.index_domains();
    }

    fn index_domains(&mut self) {
        let all = self
            .domain_specs
            .iter()
            .flat_map(|(id, spec)| addresses(spec).map(|local| (u32::from(local), TunnelId(*id))));
        let all = all.collect();
        self.index.set_domains(all);
    }

    fn check_domain(&self, spec: &DomainSpec, own: Option<TunnelId>) -> Result<(), TableError> {
        spec.check()?;
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
        // RFC 3964 section 6.1: two mechanisms at one address cannot tell their packets apart
        for local in addresses(spec) {
            let taken = self.domain_by_local(local).filter(|by| Some(*by) != own);
            if let Some(by) = taken {
                return Err(TableError::LocalInUse { local, by });
            }
        }
        let prefix = spec.prefix();
        let holder = self
            .fib6
            .get(prefix.bits(), u32::from(prefix.len()))
            .and_then(|value| Target::decode(value).owner());
        match holder.filter(|by| Some(*by) != own && self.claims(*by, prefix)) {
            Some(by) => Err(TableError::PrefixInUse { prefix, by }),
            None => Ok(()),
        }
    }
}

/// Where a domain's packets arrive: the local address, and 6to4's anycast address.
fn addresses(spec: &DomainSpec) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let six_to_four = matches!(spec.kind, DomainKind::SixToFour { .. });
    let anycast = (six_to_four && spec.anycast())
        .then(|| Ipv4Addr::from(embed::SIX_TO_FOUR_ANYCAST))
        .filter(|a| *a != spec.local);
    [Some(spec.local), anycast].into_iter().flatten()
}
