//! Exact match on 32 bits: eight keys and their values in one line, full lines spill into the next.

use prefetch_index::prefetch_index;

const SLOTS: usize = 8;
const FREE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    keys: [u32; SLOTS],
    values: [u32; SLOTS],
}

#[derive(Debug)]
pub(super) struct Buckets {
    buckets: Vec<Bucket>,
    mask: usize,
}

impl Buckets {
    pub(super) fn with_capacity(keys: usize) -> Self {
        let count = (keys / (SLOTS / 2)).next_power_of_two();
        let empty = Bucket {
            keys: [0; SLOTS],
            values: [FREE; SLOTS],
        };
        Self {
            buckets: vec![empty; count],
            mask: count - 1,
        }
    }

    #[inline]
    const fn home(&self, key: u32) -> usize {
        let mixed = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 32)) as usize & self.mask
    }

    /// Adds a key that is not there yet.
    pub(super) fn insert(&mut self, key: u32, value: u32) {
        let mut at = self.home(key);
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(free) = bucket.values.iter().position(|value| *value == FREE) {
                bucket.keys[free] = key;
                bucket.values[free] = value;
                return;
            }
            at = (at + 1) & self.mask;
        }
    }

    #[inline]
    pub(super) fn get(&self, key: u32) -> Option<u32> {
        let mut at = self.home(key);
        loop {
            let bucket = self.buckets.get(at)?;
            let slots = bucket.keys.iter().zip(&bucket.values);
            let found = slots.fold(FREE, |found, (have, value)| {
                if *have == key {
                    found.min(*value)
                } else {
                    found
                }
            });
            if found != FREE {
                return Some(found);
            }
            if bucket.values[SLOTS - 1] == FREE {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, key: u32) {
        prefetch_index(&self.buckets, self.home(key));
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_it_was_given_and_nothing_else() {
        let mut buckets = Buckets::with_capacity(1000);
        for key in 0..1000 {
            buckets.insert(key * 7, key);
        }
        for key in 0..7000 {
            assert_eq!(buckets.get(key), (key % 7 == 0).then_some(key / 7));
        }
    }
}
