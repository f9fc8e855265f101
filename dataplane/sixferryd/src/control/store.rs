//! What the tables do not know of a tunnel: its name, owner and history.
//!
//! One million tunnels must fit in a few hundred MiB, so a record is 40 bytes beside its name, and
//! everything a message shows is rebuilt from the tables. Slots are those of the tables, so a
//! record needs no key. No operation takes longer as the table grows: chunks are added, never
//! moved, and the index is sharded so that growing it rehashes a small part at a time.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use sixferry_fwd::TunnelId;

use super::liveness::Liveness;
use super::session::OwnerId;

const CHUNK: usize = 1024;
const SHARDS: usize = 64;

/// One tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: Box<str>,
    /// Revision of the table that last changed it.
    pub(crate) revision: u64,
    /// Generation of the sync that last confirmed it.
    pub(crate) generation: u32,
    pub(crate) owner: OwnerId,
    pub(crate) liveness: Liveness,
}

/// All tunnels, by slot and by name.
#[derive(Debug)]
pub(crate) struct TunnelStore {
    chunks: Vec<Box<[Option<Record>]>>,
    /// Names are chosen by others: keyed per process.
    index: Vec<HashTable<u32>>,
    hasher: RandomState,
    len: usize,
}

impl TunnelStore {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            index: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: RandomState::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Slots there are, in use or not.
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }

    pub(crate) fn get(&self, tunnel: TunnelId) -> Option<&Record> {
        self.chunks
            .get(tunnel.index() / CHUNK)?
            .get(tunnel.index() % CHUNK)?
            .as_ref()
    }

    pub(crate) fn get_mut(&mut self, tunnel: TunnelId) -> Option<&mut Record> {
        self.chunks
            .get_mut(tunnel.index() / CHUNK)?
            .get_mut(tunnel.index() % CHUNK)?
            .as_mut()
    }

    pub(crate) fn find(&self, id: &str) -> Option<TunnelId> {
        let hash = self.hasher.hash_one(id);
        let shard = self.index.get(shard_of(hash))?;
        shard
            .find(hash, |slot| name(&self.chunks, *slot) == id)
            .map(|slot| TunnelId(*slot))
    }

    /// Puts a record into a free slot under a free name.
    pub(crate) fn insert(&mut self, tunnel: TunnelId, record: Record) {
        while self.chunks.len() <= tunnel.index() / CHUNK {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        let hash = self.hasher.hash_one(&*record.id);
        debug_assert!(self.get(tunnel).is_none() && self.find(&record.id).is_none());
        if let Some(slot) = self
            .chunks
            .get_mut(tunnel.index() / CHUNK)
            .and_then(|chunk| chunk.get_mut(tunnel.index() % CHUNK))
        {
            *slot = Some(record);
            self.len += 1;
        }
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        if let Some(shard) = self.index.get_mut(shard_of(hash)) {
            shard.insert_unique(hash, tunnel.0, |slot| hasher.hash_one(name(chunks, *slot)));
        }
    }

    pub(crate) fn remove(&mut self, tunnel: TunnelId) -> Option<Record> {
        let hash = self.hasher.hash_one(&*self.get(tunnel)?.id);
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        let shard = self.index.get_mut(shard_of(hash))?;
        let rehash = |slot: &u32| hasher.hash_one(name(chunks, *slot));
        if let Entry::Occupied(entry) = shard.entry(hash, |slot| *slot == tunnel.0, rehash) {
            entry.remove();
        }
        self.len -= 1;
        self.chunks
            .get_mut(tunnel.index() / CHUNK)?
            .get_mut(tunnel.index() % CHUNK)?
            .take()
    }

    /// The records of at most `count` slots from `first` on.
    pub(crate) fn range(
        &self,
        first: u32,
        count: u32,
    ) -> impl Iterator<Item = (TunnelId, &Record)> + '_ {
        let end = first.saturating_add(count).min(self.slots());
        (first..end).filter_map(|slot| Some((TunnelId(slot), self.get(TunnelId(slot))?)))
    }
}

fn name(chunks: &[Box<[Option<Record>]>], slot: u32) -> &str {
    let slot = slot as usize;
    let record = chunks
        .get(slot / CHUNK)
        .and_then(|chunk| chunk.get(slot % CHUNK));
    record
        .and_then(Option::as_ref)
        .map_or("", |record| &record.id)
}

/// The upper bits; the table itself uses the lower ones and the top seven.
fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 48).unwrap_or(0) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            revision: 1,
            generation: 0,
            owner: OwnerId(0),
            liveness: Liveness::default(),
        }
    }

    #[test]
    fn names_and_slots_agree_while_it_grows_and_shrinks() {
        let mut store = TunnelStore::new();
        for slot in 0..5000 {
            store.insert(TunnelId(slot), record(&format!("t{slot}")));
        }
        assert_eq!(store.len(), 5000);
        assert_eq!(store.find("t4999"), Some(TunnelId(4999)));
        for slot in (0..5000).step_by(2) {
            assert_eq!(
                &*store.remove(TunnelId(slot)).expect("there").id,
                format!("t{slot}")
            );
        }
        assert_eq!(store.len(), 2500);
        assert_eq!(store.find("t0"), None);
        assert_eq!(store.find("t1"), Some(TunnelId(1)));
        store.insert(TunnelId(0), record("again"));
        assert_eq!(store.find("again"), Some(TunnelId(0)));
        assert_eq!(store.range(0, 10).count(), 6);
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Option<Record>>() <= 32);
    }
}
