//! Exact match on the outer addresses of configured tunnels: one cache line a lookup.
//!
//! A bucket is a line of five keys (local and remote address in one word) and their tunnels. The hash
//! is keyed by a seed the operator's start draws, because the remote addresses are chosen by others;
//! a bucket that is full spills into its neighbours, but only so far, or the table grows.

use super::cow::CowVec;

const SLOTS: usize = 5;
/// Most buckets a lookup reads. Growth keeps the load below this bound's reach.
const PROBES: usize = 4;
const FREE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    keys: [u64; SLOTS],
    tunnels: [u32; SLOTS],
    /// Whether a key that belongs here lies in a later bucket.
    spilled: u32,
}

const EMPTY: Bucket = Bucket {
    keys: [0; SLOTS],
    tunnels: [FREE; SLOTS],
    spilled: 0,
};

impl Bucket {
    /// The tunnel of a key, or [`FREE`]: all five without a branch, for which slot has the key is anybody's
    /// guess.
    #[inline(always)]
    fn find(&self, key: u64) -> u32 {
        let slots = self.keys.iter().zip(&self.tunnels);
        slots.fold(FREE, |found, (have, tunnel)| {
            if *have == key {
                found.min(*tunnel)
            } else {
                found
            }
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct OuterTable {
    buckets: CowVec<Bucket>,
    mask: usize,
    seed: u64,
    len: usize,
}

/// Key of a tunnel: local address in the high half, remote in the low.
#[inline]
pub(crate) const fn key(local: [u8; 4], remote: [u8; 4]) -> u64 {
    (u32::from_be_bytes(local) as u64) << 32 | u32::from_be_bytes(remote) as u64
}

impl OuterTable {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_buckets(seed, 16)
    }

    fn with_buckets(seed: u64, count: usize) -> Self {
        let mut buckets = CowVec::new();
        buckets.reserve(count - 1, EMPTY);
        Self {
            buckets,
            mask: count - 1,
            seed,
            len: 0,
        }
    }

    #[cfg(test)]
    const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "folding takes both halves; 2^32 buckets are 256 GiB"
    )]
    /// Multiply and fold with a secret on both sides: a remote peer cannot aim at a bucket.
    #[inline(always)]
    const fn home(&self, key: u64) -> u32 {
        let product = (key ^ self.seed) as u128 * ((self.seed.rotate_left(32) | 1) as u128);
        let mixed = (product >> 64) as u64 ^ product as u64;
        let again = (mixed ^ mixed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (again >> 20) as u32 & self.mask as u32
    }

    /// Starts fetching the line that [`OuterTable::lookup_at`] will read, and says which it is.
    #[inline(always)]
    pub(crate) fn prefetch(&self, key: u64) -> u32 {
        let home = self.home(key);
        self.buckets.prefetch(home as usize);
        home
    }

    /// The tunnel of these outer addresses.
    #[inline]
    pub(crate) fn lookup(&self, key: u64) -> Option<u32> {
        self.lookup_at(self.home(key), key)
    }

    /// [`OuterTable::lookup`] where the key's home is known.
    #[inline(always)]
    pub(crate) fn lookup_at(&self, home: u32, key: u64) -> Option<u32> {
        let bucket = self.buckets.get(home as usize)?;
        let found = bucket.find(key);
        if found == FREE && bucket.spilled != 0 {
            return self.lookup_further(home as usize, key);
        }
        (found != FREE).then_some(found)
    }

    #[inline(never)]
    fn lookup_further(&self, home: usize, key: u64) -> Option<u32> {
        for probe in 1..PROBES {
            let bucket = self.buckets.get((home + probe) & self.mask)?;
            let found = bucket.find(key);
            if found != FREE {
                return Some(found);
            }
            if bucket.spilled == 0 {
                return None;
            }
        }
        None
    }

    /// All keys, in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        (0..=self.mask)
            .filter_map(|at| self.buckets.get(at))
            .flat_map(|b| b.keys.iter().zip(&b.tunnels))
            .filter(|(_, tunnel)| **tunnel != FREE)
            .map(|(key, _)| *key)
    }

    /// Adds a key that is not in the table.
    pub(crate) fn insert(&mut self, key: u64, tunnel: u32) {
        // half full: five of ten slots, so that a second bucket is rarely read
        while self.len * 2 >= (self.mask + 1) * SLOTS || !self.place(key, tunnel) {
            self.grow();
        }
        self.len += 1;
    }

    fn place(&mut self, key: u64, tunnel: u32) -> bool {
        let mut at = self.home(key) as usize;
        for probe in 0..PROBES {
            let room = self
                .buckets
                .get(at)
                .is_some_and(|b| b.tunnels.contains(&FREE));
            if room && let Some(bucket) = self.buckets.get_mut(at) {
                let free = bucket.keys.iter_mut().zip(&mut bucket.tunnels);
                if let Some((k, t)) = free.into_iter().find(|(_, t)| **t == FREE) {
                    *k = key;
                    *t = tunnel;
                }
                self.mark_spill(key, probe);
                return true;
            }
            at = (at + 1) & self.mask;
        }
        false
    }

    /// Notes in the first `probes` buckets of `key` that one of theirs lies further on.
    fn mark_spill(&mut self, key: u64, probes: usize) {
        let home = self.home(key) as usize;
        for i in 0..probes {
            if let Some(bucket) = self.buckets.get_mut((home + i) & self.mask) {
                bucket.spilled = bucket.spilled.saturating_add(1);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: u64) -> bool {
        let home = self.home(key) as usize;
        for probe in 0..PROBES {
            let at = (home + probe) & self.mask;
            let found = self.buckets.get(at).is_some_and(|b| {
                b.keys
                    .iter()
                    .zip(&b.tunnels)
                    .any(|(k, t)| *k == key && *t != FREE)
            });
            if !found {
                continue;
            }
            if let Some(bucket) = self.buckets.get_mut(at) {
                let slots = bucket.keys.iter_mut().zip(&mut bucket.tunnels);
                for (k, t) in slots.filter(|(k, t)| **k == key && **t != FREE) {
                    *k = 0;
                    *t = FREE;
                }
            }
            for i in 0..probe {
                if let Some(bucket) = self.buckets.get_mut((home + i) & self.mask) {
                    bucket.spilled = bucket.spilled.saturating_sub(1);
                }
            }
            self.len -= 1;
            return true;
        }
        false
    }

    fn grow(&mut self) {
        let mut size = (self.mask + 1) * 2;
        'size: loop {
            let mut larger = Self::with_buckets(self.seed, size);
            for i in 0..=self.mask {
                let Some(bucket) = self.buckets.get(i) else {
                    continue;
                };
                for (key, tunnel) in bucket.keys.iter().zip(&bucket.tunnels) {
                    if *tunnel != FREE && !larger.place(*key, *tunnel) {
                        size *= 2;
                        continue 'size;
                    }
                }
            }
            larger.len = self.len;
            *self = larger;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_bucket_is_one_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
        assert_eq!(align_of::<Bucket>(), 64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_map(seed in any::<u64>(), ops in prop::collection::vec((any::<bool>(), 0u64..400), 1..1500)) {
            let mut table = OuterTable::new(seed);
            let mut model = HashMap::new();
            for (i, (add, key)) in ops.iter().enumerate() {
                let i = u32::try_from(i).unwrap_or(0);
                if *add && !model.contains_key(key) {
                    table.insert(*key, i);
                    model.insert(*key, i);
                } else if !*add {
                    prop_assert_eq!(table.remove(*key), model.remove(key).is_some());
                }
            }
            prop_assert_eq!(table.len(), model.len());
            for key in 0..400 {
                prop_assert_eq!(table.lookup(key), model.get(&key).copied());
            }
        }
    }

    #[test]
    fn a_hundred_thousand_neighbouring_addresses() {
        let mut table = OuterTable::new(0x1234_5678_9abc_def0);
        for i in 0..100_000u32 {
            table.insert(u64::from(0xc612_0000 + i), i);
        }
        for i in 0..100_000u32 {
            assert_eq!(table.lookup(u64::from(0xc612_0000 + i)), Some(i));
        }
        assert_eq!(table.lookup(1), None);
        assert!(table.bytes() < 100_000 * 64, "{}", table.bytes());
    }
}
