//! Domains: 6to4 and 6rd. Few, so a message is applied to plain lists; owners, syncs and roll-back
//! work as they do for tunnels.

use std::net::Ipv6Addr;
use std::sync::Arc;

use sixferry_fwd::{DomainSpec, TableError, TablesBuilder, TunnelId, TunnelTotals};

use super::domain_spec::{DomainPatch, way_out};
use super::error::Error;
use super::routes::{ApiRoute, DomainSlot};
use super::session::OwnerId;
use super::spec::check_id;
use super::{Atomicity, Control, Counts, Outcome, WriteMode};
use crate::netlink::Prefix;

/// Most domains.
pub(crate) const MAX_DOMAINS: usize = TablesBuilder::MAX_DOMAINS;
/// Where the fields of a domain are in an entry.
const IN_UPSERT: &str = "upsert.domain.";

/// What the tables do not know of a domain.
#[derive(Clone, Debug)]
struct Record {
    id: Box<str>,
    tunnel: TunnelId,
    owner: OwnerId,
    generation: u32,
    /// Revision of the domain table that last changed it.
    revision: u64,
}

/// All domains. A place is kept by the routes into it, so it never moves.
#[derive(Debug, Default)]
pub(super) struct DomainStore {
    slots: Vec<Option<Record>>,
    revision: u64,
}

impl DomainStore {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    fn iter(&self) -> impl Iterator<Item = (DomainSlot, &Record)> + '_ {
        (0..)
            .map(DomainSlot)
            .zip(&self.slots)
            .filter_map(|(slot, record)| Some((slot, record.as_ref()?)))
    }

    fn find(&self, id: &str) -> Option<DomainSlot> {
        self.iter()
            .find(|(_, r)| *r.id == *id)
            .map(|(slot, _)| slot)
    }

    fn get(&self, slot: DomainSlot) -> Option<&Record> {
        self.slots.get(usize::from(slot.0))?.as_ref()
    }

    fn get_mut(&mut self, slot: DomainSlot) -> Option<&mut Record> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut()
    }

    fn put(&mut self, slot: DomainSlot, record: Option<Record>) -> Option<Record> {
        let at = usize::from(slot.0);
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots
            .get_mut(at)
            .and_then(|place| std::mem::replace(place, record))
    }

    fn free(&self) -> Option<DomainSlot> {
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or(self.slots.len());
        u8::try_from(at)
            .ok()
            .filter(|_| at < MAX_DOMAINS)
            .map(DomainSlot)
    }
}

/// One entry of a message.
#[derive(Clone, Debug)]
pub(crate) enum DomainOp {
    Upsert {
        id: String,
        patch: Box<DomainPatch>,
        mode: WriteMode,
    },
    Delete {
        id: String,
        must_exist: bool,
    },
    /// Could not be read.
    Bad(Error),
}

/// How to take an entry back.
enum Undo {
    Created(DomainSlot),
    Updated {
        slot: DomainSlot,
        spec: DomainSpec,
        revision: u64,
    },
    /// Only the sync's mark moved.
    Confirmed {
        slot: DomainSlot,
        generation: u32,
    },
    Deleted {
        slot: DomainSlot,
        spec: DomainSpec,
        record: Record,
        totals: TunnelTotals,
        routes: Vec<(Prefix, ApiRoute)>,
    },
}

#[derive(Default)]
struct Transaction {
    undo: Vec<Undo>,
    counts: Counts,
    revision: u64,
}

/// A domain as a message shows it.
#[derive(Clone, Debug)]
pub(crate) struct DomainView {
    pub(crate) id: String,
    pub(crate) owner: Arc<str>,
    pub(crate) spec: DomainSpec,
    pub(crate) totals: Option<TunnelTotals>,
    pub(crate) generation: u32,
    pub(crate) stale: bool,
    pub(crate) revision: u64,
}

impl Control {
    /// Applies the entries in order on behalf of `owner`.
    pub(crate) fn program_domains(
        &mut self,
        owner: OwnerId,
        ops: Vec<DomainOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        let mut tx = Transaction {
            revision: self.domains.revision,
            ..Transaction::default()
        };
        let mut outcome = Outcome::default();
        for (index, op) in ops.into_iter().enumerate() {
            if let Err(error) = self.domain_op(owner, op, &mut tx) {
                outcome.failures.push((index, error));
                if atomicity == Atomicity::AllOrNothing {
                    outcome.rolled_back = true;
                    break;
                }
            }
        }
        if outcome.rolled_back {
            tx.counts = Counts::default();
        }
        if outcome.rolled_back || validate_only {
            self.undo_domains(tx.undo);
        } else {
            self.domains.revision = tx.revision;
        }
        outcome.counts = tx.counts;
        let outcome = self.finish(outcome);
        Outcome {
            revision: self.domains.revision,
            ..outcome
        }
    }

    fn domain_op(
        &mut self,
        owner: OwnerId,
        op: DomainOp,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        match op {
            DomainOp::Bad(error) => Err(error),
            DomainOp::Delete { id, must_exist } => match self.domains.find(&id) {
                Some(slot) => {
                    self.check_domain_owner(owner, slot)?;
                    self.delete_domain(slot, tx);
                    tx.counts.deleted += 1;
                    Ok(())
                }
                None if must_exist => Err(Error::DomainNotFound(id)),
                None => {
                    tx.counts.unchanged += 1;
                    Ok(())
                }
            },
            DomainOp::Upsert { id, patch, mode } => match (self.domains.find(&id), mode) {
                (Some(slot), WriteMode::Create) => {
                    let owner = self.domain_owner(slot);
                    Err(Error::DomainExists { id, owner })
                }
                (Some(slot), _) => {
                    self.check_domain_owner(owner, slot)?;
                    let updated = self.update_domain(slot, *patch, tx);
                    updated.map_err(|error| error.below(IN_UPSERT))
                }
                (None, WriteMode::Update) => Err(Error::DomainNotFound(id)),
                (None, _) => {
                    let created = self.create_domain(owner, id, *patch, tx);
                    created.map_err(|error| error.below(IN_UPSERT))
                }
            },
        }
    }

    fn check_domain_owner(&self, owner: OwnerId, slot: DomainSlot) -> Result<(), Error> {
        match self.domains.get(slot) {
            Some(record) if record.owner != owner => Err(Error::DomainOwned {
                id: record.id.to_string(),
                owner: self.owners.name(record.owner),
            }),
            _ => Ok(()),
        }
    }

    fn domain_owner(&self, slot: DomainSlot) -> Arc<str> {
        let record = self.domains.get(slot);
        record.map_or_else(|| Arc::from(""), |r| self.owners.name(r.owner))
    }

    fn create_domain(
        &mut self,
        owner: OwnerId,
        id: String,
        patch: DomainPatch,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        check_id(&id).map_err(|v| Error::violations(vec![v]))?;
        if let Some(tunnel) = self.store.find(&id) {
            let owner = self.owner_name(tunnel);
            let what = "tunnel";
            return Err(Error::IdInUse { what, id, owner });
        }
        let spec = patch.apply(None)?;
        let slot = self.domains.free().ok_or(Error::TableFull {
            what: "domains",
            limit: MAX_DOMAINS,
        })?;
        let inserted = self.builder.insert_domain(&spec);
        let tunnel = inserted.map_err(|error| self.domain_refused(error))?;
        tx.revision += 1;
        let record = Record {
            id: id.into(),
            tunnel,
            owner,
            generation: self.owners.get(owner).map_or(0, |o| o.generation()),
            revision: tx.revision,
        };
        self.domains.put(slot, Some(record));
        if let Some(owner) = self.owners.get_mut(owner) {
            owner.domains += 1;
        }
        tx.undo.push(Undo::Created(slot));
        tx.counts.created += 1;
        Ok(())
    }

    fn update_domain(
        &mut self,
        slot: DomainSlot,
        patch: DomainPatch,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        let Some(record) = self.domains.get(slot) else {
            return Ok(());
        };
        let (tunnel, generation) = (record.tunnel, record.generation);
        let current = self.owners.get(record.owner).map_or(0, |o| o.generation());
        let Some(old) = self.builder.domain(tunnel) else {
            return Ok(());
        };
        let new = patch.apply(Some(&old))?;
        let changed = new != old;
        if changed {
            let updated = self.builder.update_domain(tunnel, &new);
            updated.map_err(|error| self.domain_refused(error))?;
            tx.revision += 1;
        }
        let Some(record) = self.domains.get_mut(slot) else {
            return Ok(());
        };
        if generation != current {
            tx.undo.push(Undo::Confirmed { slot, generation });
            record.generation = current;
        }
        if changed {
            tx.undo.push(Undo::Updated {
                slot,
                spec: old,
                revision: record.revision,
            });
            record.revision = tx.revision;
            tx.counts.updated += 1;
        } else {
            tx.counts.unchanged += 1;
        }
        Ok(())
    }

    fn delete_domain(&mut self, slot: DomainSlot, tx: &mut Transaction) {
        let Some(tunnel) = self.domains.get(slot).map(|r| r.tunnel) else {
            return;
        };
        let Some(spec) = self.builder.domain(tunnel) else {
            return;
        };
        let totals = self.totals(tunnel).unwrap_or_default();
        // Before the domain itself: no route may name what is gone.
        let routes = self.remove_routes_into(slot);
        let removed = self.builder.remove_domain(tunnel);
        debug_assert_eq!(removed, Ok(()));
        self.carried.remove(&tunnel.0);
        let Some(record) = self.domains.put(slot, None) else {
            return;
        };
        if let Some(owner) = self.owners.get_mut(record.owner) {
            owner.domains = owner.domains.saturating_sub(1);
        }
        tx.revision += 1;
        tx.undo.push(Undo::Deleted {
            slot,
            spec,
            record,
            totals,
            routes,
        });
    }

    /// In reverse, so every step finds the tables as its entry left them and cannot be refused.
    fn undo_domains(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Created(slot) => {
                    let Some(record) = self.domains.put(slot, None) else {
                        continue;
                    };
                    let removed = self.builder.remove_domain(record.tunnel);
                    debug_assert_eq!(removed, Ok(()));
                    if let Some(owner) = self.owners.get_mut(record.owner) {
                        owner.domains = owner.domains.saturating_sub(1);
                    }
                }
                Undo::Updated {
                    slot,
                    spec,
                    revision,
                } => {
                    if let Some(record) = self.domains.get_mut(slot) {
                        record.revision = revision;
                        let updated = self.builder.update_domain(record.tunnel, &spec);
                        debug_assert_eq!(updated, Ok(()));
                    }
                }
                Undo::Confirmed { slot, generation } => {
                    if let Some(record) = self.domains.get_mut(slot) {
                        record.generation = generation;
                    }
                }
                Undo::Deleted {
                    slot,
                    spec,
                    record,
                    totals,
                    routes,
                } => self.undelete_domain(slot, &spec, record, totals, routes),
            }
        }
    }

    fn undelete_domain(
        &mut self,
        slot: DomainSlot,
        spec: &DomainSpec,
        record: Record,
        totals: TunnelTotals,
        routes: Vec<(Prefix, ApiRoute)>,
    ) {
        let Ok(tunnel) = self.builder.insert_domain(spec) else {
            debug_assert!(false, "what was there fits again");
            return;
        };
        // The tables count it from 0; readers must not notice.
        if totals != TunnelTotals::default() {
            self.carried.insert(tunnel.0, totals);
        }
        if let Some(owner) = self.owners.get_mut(record.owner) {
            owner.domains += 1;
        }
        self.domains.put(slot, Some(Record { tunnel, ..record }));
        self.restore_routes(routes);
    }

    /// Removes every domain of the owner that a sync did not confirm. There are few: one slice.
    pub(super) fn sweep_domains(&mut self, owner: OwnerId, generation: u32) -> u64 {
        let doomed: Vec<DomainSlot> = self
            .domains
            .iter()
            .filter(|(_, r)| r.owner == owner && r.generation != generation)
            .map(|(slot, _)| slot)
            .collect();
        let mut tx = Transaction {
            revision: self.domains.revision,
            ..Transaction::default()
        };
        for slot in &doomed {
            self.delete_domain(*slot, &mut tx);
        }
        self.domains.revision = tx.revision;
        if !doomed.is_empty() {
            self.touch();
        }
        doomed.len() as u64
    }

    pub(super) fn domain_refused(&self, error: TableError) -> Error {
        match error {
            TableError::LocalInUse { local, by } => {
                let (_, id, owner) = self.holder(by);
                Error::LocalInUse { local, id, owner }
            }
            TableError::Full { limit } => Error::TableFull {
                what: "domains",
                limit,
            },
            // A tunnel's words for what a domain has under its own.
            TableError::DomainShape { .. } | TableError::PrefixInvalid { .. } => {
                Error::field("mechanism", error.to_string())
            }
            other => self.refused(other),
        }
    }

    /// Kind, name and owner of whatever has this place in the tables.
    pub(super) fn holder(&self, by: TunnelId) -> (&'static str, String, Arc<str>) {
        if let Some(record) = self.store.get(by) {
            let owner = self.owners.name(record.owner);
            return ("tunnel", record.id.to_string(), owner);
        }
        let found = self.domains.iter().find(|(_, r)| r.tunnel == by);
        found.map_or_else(
            || ("tunnel", String::new(), Arc::from("")),
            |(_, r)| ("domain", r.id.to_string(), self.owners.name(r.owner)),
        )
    }

    // --- what routes ask ---

    /// The domain a route names, if it has a way out.
    pub(super) fn route_domain(&self, id: &str) -> Result<DomainSlot, Error> {
        let missing = || Error::NoSuchDomain(id.to_owned());
        let slot = self.domains.find(id).ok_or_else(missing)?;
        let spec = self
            .domain_tunnel(slot)
            .and_then(|t| self.builder.domain(t));
        match spec {
            Some(spec) if way_out(&spec.kind).is_some() => Ok(slot),
            _ => Err(Error::NoWayOut(id.to_owned())),
        }
    }

    /// Where a domain is in the tables.
    pub(super) fn domain_tunnel(&self, slot: DomainSlot) -> Option<TunnelId> {
        self.domains.get(slot).map(|r| r.tunnel)
    }

    // --- reading ---

    /// Domains in the table.
    pub(crate) fn domain_count(&self) -> usize {
        self.domains.iter().count()
    }

    /// The id of the domain at this place of the tables.
    pub(crate) fn domain_name(&self, tunnel: TunnelId) -> Option<&str> {
        let found = self.domains.iter().find(|(_, r)| r.tunnel == tunnel);
        found.map(|(_, r)| &*r.id)
    }

    /// Id and owner of the domain at this place of the tables.
    pub(super) fn domain_named(&self, tunnel: TunnelId) -> Option<(Arc<str>, Arc<str>)> {
        let (_, record) = self.domains.iter().find(|(_, r)| r.tunnel == tunnel)?;
        Some(((&*record.id).into(), self.owners.name(record.owner)))
    }

    /// The domain of that id.
    pub(crate) fn domain(&self, id: &str) -> Option<DomainView> {
        self.domain_view(self.domains.get(self.domains.find(id)?)?)
    }

    fn domain_view(&self, record: &Record) -> Option<DomainView> {
        let owner = self.owners.get(record.owner)?;
        Some(DomainView {
            id: record.id.to_string(),
            owner: Arc::clone(&owner.name),
            spec: self.builder.domain(record.tunnel)?,
            totals: self.totals(record.tunnel),
            generation: record.generation,
            stale: owner.is_stale(record.generation),
            revision: record.revision,
        })
    }

    /// Up to `most` domains after the one named `after`, by id, and whether there are more.
    pub(crate) fn list_domains(
        &self,
        after: Option<&str>,
        owner: Option<OwnerId>,
        most: usize,
    ) -> (Vec<DomainView>, bool) {
        let mut found: Vec<&Record> = self
            .domains
            .iter()
            .map(|(_, record)| record)
            .filter(|r| owner.is_none_or(|owner| owner == r.owner))
            .filter(|r| after.is_none_or(|after| *r.id > *after))
            .collect();
        found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let more = found.len() > most;
        found.truncate(most);
        let views = found.into_iter().filter_map(|r| self.domain_view(r));
        (views.collect(), more)
    }

    /// The domain whose prefix covers the address, longest first.
    pub(crate) fn domain_of_inner(&self, address: Ipv6Addr) -> Option<DomainView> {
        let views = self.domains.iter().filter_map(|(_, r)| self.domain_view(r));
        views
            .filter(|view| view.spec.prefix().contains(address))
            .max_by_key(|view| view.spec.prefix().len())
    }

    /// The only domain there is.
    pub(crate) fn only_domain(&self) -> Option<DomainView> {
        let mut all = self.domains.iter();
        let (_, first) = all.next()?;
        all.next().is_none().then(|| self.domain_view(first))?
    }
}
