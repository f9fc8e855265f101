//! Writing tunnels: one message's entries against the tables, whole or entry by entry.

use std::sync::Arc;

use sixferry_fwd::{TableError, TakenTunnel, TunnelId, TunnelSpec};

use super::error::Error;
use super::liveness::Liveness;
use super::patch::TunnelPatch;
use super::session::OwnerId;
use super::spec::check_id;
use super::store::Record;
use super::watch::Change;
use super::{Atomicity, Control, Counts, Outcome, WriteMode};

/// Where the fields of a tunnel are in an entry.
const IN_UPSERT: &str = "upsert.tunnel.";

/// One entry of a message.
#[derive(Clone, Debug)]
pub(crate) enum TunnelOp {
    Upsert {
        id: String,
        patch: Box<TunnelPatch>,
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
    Created(TunnelId),
    Updated {
        tunnel: TunnelId,
        spec: TunnelSpec,
        liveness: Liveness,
        revision: u64,
    },
    /// Only the sync's mark moved.
    Confirmed {
        tunnel: TunnelId,
        generation: u32,
    },
    Deleted {
        taken: TakenTunnel,
        record: Record,
    },
}

/// A message while it is being applied.
#[derive(Default)]
struct Transaction {
    undo: Vec<Undo>,
    changes: Vec<Change>,
    counts: Counts,
}

impl Control {
    /// Applies the entries in order on behalf of `owner`.
    pub(crate) fn program_tunnels(
        &mut self,
        owner: OwnerId,
        ops: Vec<TunnelOp>,
        atomicity: Atomicity,
        validate_only: bool,
    ) -> Outcome {
        let mut tx = Transaction::default();
        let mut outcome = Outcome::default();
        for (index, op) in ops.into_iter().enumerate() {
            if let Err(error) = self.tunnel_op(owner, op, &mut tx) {
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
            self.undo_tunnels(owner, tx.undo);
        } else {
            for change in tx.changes {
                self.log.push(change);
            }
        }
        outcome.counts = tx.counts;
        self.finish(outcome)
    }

    fn tunnel_op(
        &mut self,
        owner: OwnerId,
        op: TunnelOp,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        match op {
            TunnelOp::Bad(error) => Err(error),
            TunnelOp::Delete { id, must_exist } => match self.store.find(&id) {
                Some(tunnel) => {
                    self.check_owner(owner, tunnel, &id)?;
                    self.delete(tunnel, tx);
                    tx.counts.deleted += 1;
                    Ok(())
                }
                None if must_exist => Err(Error::TunnelNotFound(id)),
                None => {
                    tx.counts.unchanged += 1;
                    Ok(())
                }
            },
            TunnelOp::Upsert { id, patch, mode } => match (self.store.find(&id), mode) {
                (Some(tunnel), WriteMode::Create) => {
                    let owner = self.owner_name(tunnel);
                    Err(Error::TunnelExists { id, owner })
                }
                (Some(tunnel), _) => {
                    self.check_owner(owner, tunnel, &id)?;
                    let updated = self.update(tunnel, *patch, tx);
                    updated.map_err(|error| error.below(IN_UPSERT))
                }
                (None, WriteMode::Update) => Err(Error::TunnelNotFound(id)),
                (None, _) => {
                    let created = self.create(owner, id, *patch, tx);
                    created.map_err(|error| error.below(IN_UPSERT))
                }
            },
        }
    }

    fn check_owner(&self, owner: OwnerId, tunnel: TunnelId, id: &str) -> Result<(), Error> {
        match self.store.get(tunnel) {
            Some(record) if record.owner != owner => {
                let owner = self.owners.name(record.owner);
                Err(Error::TunnelOwned {
                    id: id.to_owned(),
                    owner,
                })
            }
            _ => Ok(()),
        }
    }

    fn create(
        &mut self,
        owner: OwnerId,
        id: String,
        patch: TunnelPatch,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        check_id(&id).map_err(|v| Error::violations(vec![v]))?;
        if let Some(domain) = self.domain(&id) {
            let (what, owner) = ("domain", domain.owner);
            return Err(Error::IdInUse { what, id, owner });
        }
        let (spec, liveness) = patch.apply(None)?;
        let tunnel = self
            .builder
            .insert_tunnel(&spec)
            .map_err(|e| self.refused(e))?;
        let generation = self.owners.get(owner).map_or(0, |o| o.generation());
        let revision = self.next_revision(tx);
        self.store.insert(
            tunnel,
            Record {
                id: id.into(),
                revision,
                generation,
                owner,
                liveness,
            },
        );
        self.rewatched.note(tunnel, Liveness::default(), liveness);
        if let Some(owner) = self.owners.get_mut(owner) {
            owner.tunnels += 1;
        }
        tx.undo.push(Undo::Created(tunnel));
        tx.changes.push(Change::Upserted(tunnel));
        tx.counts.created += 1;
        Ok(())
    }

    fn update(
        &mut self,
        tunnel: TunnelId,
        patch: TunnelPatch,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        let watched = self.store.get(tunnel).map(|record| record.liveness);
        let (Some(old), Some(watched)) = (self.builder.tunnel(tunnel), watched) else {
            return Err(Error::violations(Vec::new()));
        };
        let (new, liveness) = patch.apply(Some((&old, watched)))?;
        let changed = new != old || liveness != watched;
        if new != old {
            self.builder
                .update_tunnel(tunnel, &new)
                .map_err(|e| self.refused(e))?;
        }
        let next = self.next_revision(tx);
        let Some(record) = self.store.get_mut(tunnel) else {
            return Ok(());
        };
        let generation = self.owners.get(record.owner).map_or(0, |o| o.generation());
        if record.generation != generation {
            tx.undo.push(Undo::Confirmed {
                tunnel,
                generation: record.generation,
            });
            record.generation = generation;
        }
        if changed {
            tx.undo.push(Undo::Updated {
                tunnel,
                spec: old,
                liveness: watched,
                revision: record.revision,
            });
            record.revision = next;
            record.liveness = liveness;
            if liveness != watched {
                self.rewatched.note(tunnel, watched, liveness);
            }
            tx.changes.push(Change::Upserted(tunnel));
            tx.counts.updated += 1;
        } else {
            tx.counts.unchanged += 1;
        }
        Ok(())
    }

    fn delete(&mut self, tunnel: TunnelId, tx: &mut Transaction) {
        let Ok(taken) = self.builder.take_tunnel(tunnel) else {
            return;
        };
        let Some(record) = self.store.remove(tunnel) else {
            return;
        };
        self.rewatched
            .note(tunnel, record.liveness, Liveness::default());
        let owner = self.owners.name(record.owner);
        if let Some(owner) = self.owners.get_mut(record.owner) {
            owner.tunnels = owner.tunnels.saturating_sub(1);
        }
        tx.changes.push(Change::Removed {
            id: record.id.clone(),
            owner,
        });
        tx.undo.push(Undo::Deleted { taken, record });
    }

    /// In reverse, so every step finds the tables as its entry left them and cannot be refused.
    fn undo_tunnels(&mut self, owner: OwnerId, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Created(tunnel) => {
                    let removed = self.builder.remove_tunnel(tunnel);
                    debug_assert_eq!(removed, Ok(()));
                    if let Some(record) = self.store.remove(tunnel) {
                        let off = Liveness::default();
                        self.rewatched.note(tunnel, record.liveness, off);
                    }
                    if let Some(owner) = self.owners.get_mut(owner) {
                        owner.tunnels = owner.tunnels.saturating_sub(1);
                    }
                }
                Undo::Updated {
                    tunnel,
                    spec,
                    liveness,
                    revision,
                } => {
                    let updated = self.builder.update_tunnel(tunnel, &spec);
                    debug_assert_eq!(updated, Ok(()));
                    if let Some(record) = self.store.get_mut(tunnel) {
                        self.rewatched.note(tunnel, record.liveness, liveness);
                        record.liveness = liveness;
                        record.revision = revision;
                    }
                }
                Undo::Confirmed { tunnel, generation } => {
                    if let Some(record) = self.store.get_mut(tunnel) {
                        record.generation = generation;
                    }
                }
                Undo::Deleted { taken, record } => {
                    let tunnel = taken.id();
                    let restored = self.builder.restore_tunnel(&taken);
                    debug_assert_eq!(restored, Ok(()));
                    if let Some(owner) = self.owners.get_mut(record.owner) {
                        owner.tunnels += 1;
                    }
                    self.rewatched
                        .note(tunnel, Liveness::default(), record.liveness);
                    self.store.insert(tunnel, record);
                }
            }
        }
    }

    /// Removes up to `most` tunnels among `slots` slots from `first` on that a sync did not
    /// confirm. Gives how many, and the slot to go on with.
    pub(super) fn sweep_tunnels(
        &mut self,
        owner: OwnerId,
        generation: u32,
        first: u32,
        slots: u32,
        most: usize,
    ) -> (u64, Option<u32>) {
        let doomed: Vec<TunnelId> = self
            .store
            .range(first, slots)
            .filter(|(_, r)| r.owner == owner && r.generation != generation)
            .map(|(tunnel, _)| tunnel)
            .take(most)
            .collect();
        let next = match doomed.last() {
            Some(last) if doomed.len() == most => last.0 + 1,
            _ => first.saturating_add(slots),
        };
        let mut tx = Transaction::default();
        for tunnel in &doomed {
            self.delete(*tunnel, &mut tx);
        }
        for change in tx.changes {
            self.log.push(change);
        }
        if !doomed.is_empty() {
            self.touch();
        }
        (
            doomed.len() as u64,
            (next < self.store.slots()).then_some(next),
        )
    }

    /// Revision the next change of this message will have in the log.
    fn next_revision(&self, tx: &Transaction) -> u64 {
        self.log.revision() + tx.changes.len() as u64 + 1
    }

    pub(super) fn owner_name(&self, tunnel: TunnelId) -> Arc<str> {
        self.store
            .get(tunnel)
            .map_or_else(|| Arc::from(""), |r| self.owners.name(r.owner))
    }

    pub(super) fn refused(&self, error: TableError) -> Error {
        match error {
            TableError::OuterInUse { local, remote, by } => {
                let (_, id, owner) = self.holder(by);
                Error::OuterInUse {
                    local,
                    remote,
                    id,
                    owner,
                }
            }
            TableError::PrefixInUse { prefix, by } => {
                let (what, id, owner) = self.holder(by);
                Error::PrefixInUse {
                    prefix,
                    what,
                    id,
                    owner,
                }
            }
            TableError::PortInUse { local, port, by } => {
                let (_, id, owner) =
                    by.map_or_else(|| ("", String::new(), Arc::from("")), |by| self.holder(by));
                Error::PortInUse {
                    local,
                    port,
                    id,
                    owner,
                }
            }
            TableError::Full { limit } => Error::TableFull {
                what: "tunnels",
                limit,
            },
            other => Error::field(other.field(), other.to_string()),
        }
    }
}
