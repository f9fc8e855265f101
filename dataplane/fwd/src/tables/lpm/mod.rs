//! Longest prefix match: a tree bitmap of 6-bit strides over copy-on-write arrays.
//!
//! A node covers six bits. `internal` says which prefixes of length 0..=5 below the node have a value
//! (bit `2^len - 1 + prefix bits`, so a longer match has the higher bit), `external` which of the 64
//! children exist. Values and children lie in blocks; a population count finds the one. Unlike a
//! trie that pushes routes into its leaves, changing a route touches one node and one block, whatever
//! its length: the price of a change does not grow with the table.
//!
//! The first 16 bits are indexed directly (IPv6: they hold little information, so the entry is in
//! the cache); prefixes shorter than that are expanded there. Lookups of a batch advance level by
//! level, so the misses of different packets overlap.

mod blocks;
mod visit;

use super::cow::CowVec;
use blocks::{Blocks, block_size};
use std::collections::BTreeMap;

const STRIDE: u32 = 6;
/// Leading bits that are indexed directly.
const DIRECT: u32 = 16;
const NONE: u32 = 0;
/// Node index of "no node".
const NO_NODE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    internal: u64,
    external: u64,
    children: u32,
    values: u32,
}

const EMPTY: Node = Node {
    internal: 0,
    external: 0,
    children: 0,
    values: 0,
};

/// One entry of the direct index: the best prefix shorter than the index, and the node below.
#[derive(Clone, Copy, Debug)]
struct Direct {
    value: u32,
    node: u32,
}

/// For each 6-bit slot, the `internal` bits of the prefixes that hold it.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const COVERS: [u64; 64] = {
    let mut table = [0u64; 64];
    let mut slot = 0;
    while slot < 64 {
        let mut len = 0;
        while len < STRIDE {
            table[slot] |= 1 << ((1 << len) - 1 + (slot >> (STRIDE - len)));
            len += 1;
        }
        slot += 1;
    }
    table
};

/// A longest-prefix-match table from 128-bit keys (IPv4: the high 32 bits) to non-zero values.
#[derive(Clone, Debug)]
pub(crate) struct Lpm {
    direct: CowVec<Direct>,
    nodes: CowVec<Node>,
    values: CowVec<u32>,
    node_blocks: Blocks,
    value_blocks: Blocks,
    /// Prefixes shorter than the direct index, which expansion alone could not give back.
    short: BTreeMap<(u32, u128), u32>,
    len: usize,
}

/// One lookup among several, below the direct index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    key: u128,
    node: u32,
    values: u32,
    /// `internal` bits up to and including the best match, 0 when `values` is the value itself.
    best: u64,
}

/// Walks in flight: more misses than that a core does not wait for at once.
const LANES: usize = 32;

impl Lpm {
    pub(crate) fn new() -> Self {
        let mut direct = CowVec::new();
        let entries = 1usize << DIRECT;
        direct.reserve(
            entries - 1,
            Direct {
                value: NONE,
                node: NO_NODE,
            },
        );
        let mut values = CowVec::new();
        values.reserve(0, NONE);
        Self {
            direct,
            nodes: CowVec::new(),
            values,
            node_blocks: Blocks::default(),
            value_blocks: Blocks::default(),
            short: BTreeMap::new(),
            len: 0,
        }
    }

    /// How many prefixes have a value.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.direct.bytes() + self.nodes.bytes() + self.values.bytes()
    }

    #[inline]
    const fn direct_index(key: u128) -> usize {
        (key >> (128 - DIRECT)) as usize
    }

    #[inline]
    const fn slot(key: u128, offset: u32) -> usize {
        // routed prefixes rarely reach into the lower half: spare the wide shift
        if offset <= 64 - STRIDE {
            ((((key >> 64) as u64) << offset) >> (64 - STRIDE)) as usize
        } else {
            ((key << offset) >> (128 - STRIDE)) as usize
        }
    }

    #[inline]
    fn start(&self, key: u128) -> Walk {
        let entry = self.direct.get(Self::direct_index(key));
        let (value, node) = entry.map_or((NONE, NO_NODE), |e| (e.value, e.node));
        Walk {
            key,
            node,
            values: value,
            best: 0,
        }
    }

    /// One level down. False when the walk has ended.
    #[inline]
    fn step(&self, walk: &mut Walk, offset: u32) -> bool {
        let Some(node) = self.nodes.get(walk.node as usize) else {
            return false;
        };
        let slot = Self::slot(walk.key, offset);
        let matches = node.internal & COVERS.get(slot).copied().unwrap_or(0);
        if matches != 0 {
            walk.values = node.values;
            // all set bits of `internal` up to the longest match
            walk.best = node.internal & (u64::MAX >> matches.leading_zeros());
        }
        if node.external >> slot & 1 == 0 {
            walk.node = NO_NODE;
            return false;
        }
        walk.node = node.children + (node.external & ((1u64 << slot) - 1)).count_ones();
        true
    }

    /// Value of the longest prefix that holds `key`, 0 when there is none.
    #[inline]
    pub(crate) fn lookup(&self, key: u128) -> u32 {
        let mut walk = self.start(key);
        let mut offset = DIRECT;
        while walk.node != NO_NODE && self.step(&mut walk, offset) {
            offset += STRIDE;
        }
        self.result(&walk)
    }

    /// The value of `key` if the direct index has it, else where to walk from.
    #[inline]
    pub(crate) fn enter(&self, key: u128) -> Result<u32, Walk> {
        let walk = self.start(key);
        if walk.node == NO_NODE {
            return Ok(walk.values);
        }
        self.nodes.prefetch(walk.node as usize);
        Err(walk)
    }

    /// Goes to the end of all walks in step, so that their misses overlap.
    pub(crate) fn finish(&self, walks: &mut [Walk]) {
        for walks in walks.chunks_mut(LANES) {
            let mut live = u32::MAX >> (LANES - walks.len());
            let mut offset = DIRECT;
            while live != 0 {
                let mut rest = live;
                while rest != 0 {
                    let lane = rest.trailing_zeros();
                    rest &= rest - 1;
                    let Some(walk) = walks.get_mut(lane as usize) else {
                        continue;
                    };
                    if self.step(walk, offset) {
                        self.nodes.prefetch(walk.node as usize);
                    } else {
                        live &= !(1 << lane);
                        if walk.best != 0 {
                            self.values.prefetch(walk.values as usize);
                        }
                    }
                }
                offset += STRIDE;
            }
        }
    }

    /// What a finished walk has found.
    #[inline]
    pub(crate) fn result(&self, walk: &Walk) -> u32 {
        if walk.best == 0 {
            return walk.values;
        }
        self.values
            .get(walk.values as usize + walk.best.count_ones() as usize - 1)
            .copied()
            .unwrap_or(NONE)
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, key: u128, len: u32) -> Option<u32> {
        if len < DIRECT {
            return self.short.get(&(len, key)).copied();
        }
        let mut node = self.direct.get(Self::direct_index(key))?.node;
        let mut offset = DIRECT;
        while len >= offset + STRIDE {
            node = self.child(node, Self::slot(key, offset))?;
            offset += STRIDE;
        }
        let node = self.nodes.get(node as usize)?;
        let bit = internal_bit(key, offset, len);
        if node.internal >> bit & 1 == 0 {
            return None;
        }
        let at = node.values as usize + below(node.internal, bit) as usize;
        self.values.get(at).copied()
    }

    /// Longest prefix shorter than `len` that holds `key`: its value and length.
    pub(crate) fn covering(&self, key: u128, len: u32) -> Option<(u32, u32)> {
        let short = |below: u32| {
            self.short
                .range(..(below, 0))
                .rev()
                .find(|((at, prefix), _)| mask(key, *at) == *prefix)
                .map(|((at, _), value)| (*value, *at))
        };
        if len <= DIRECT {
            return short(len);
        }
        let mut best = None;
        let mut at = self.direct.get(Self::direct_index(key))?.node;
        let mut offset = DIRECT;
        while let Some(node) = self.nodes.get(at as usize).copied() {
            let slot = Self::slot(key, offset);
            let mut matches = node.internal & COVERS.get(slot).copied().unwrap_or(0);
            let last = len < offset + STRIDE;
            if last {
                // only the prefixes of this node that are shorter than `len`
                matches &= (1 << ((1 << (len - offset)) - 1)) - 1;
            }
            if let Some(bit) = matches.checked_ilog2() {
                let value = self
                    .values
                    .get((node.values + below(node.internal, bit)) as usize);
                best = value.map(|value| (*value, offset + (bit + 1).ilog2()));
            }
            if last {
                break;
            }
            at = self.child(at, slot).unwrap_or(NO_NODE);
            offset += STRIDE;
        }
        best.or_else(|| short(DIRECT))
    }

    /// Longest prefix that holds `key`: its value and length. Slower than [`Lpm::lookup`].
    pub(crate) fn find(&self, key: u128) -> Option<(u32, u32)> {
        self.get(key, 128)
            .map(|value| (value, 128))
            .or_else(|| self.covering(key, 128))
    }

    fn child(&self, node: u32, slot: usize) -> Option<u32> {
        let node = self.nodes.get(node as usize)?;
        if node.external >> slot & 1 == 0 {
            return None;
        }
        Some(node.children + (node.external & ((1u64 << slot) - 1)).count_ones())
    }

    /// Sets the value of a prefix (host bits zero); returns the former value. `value` must not be 0.
    pub(crate) fn insert(&mut self, key: u128, len: u32, value: u32) -> Option<u32> {
        if len < DIRECT {
            let former = self.short.insert((len, key), value);
            self.len += usize::from(former.is_none());
            self.expand_short(key, len);
            return former;
        }
        let index = Self::direct_index(key);
        let entry = self.direct.get(index).copied()?;
        let mut at = entry.node;
        if at == NO_NODE {
            at = self.node_blocks.alloc(1);
            self.nodes.reserve(at as usize, EMPTY);
            self.nodes.set(at as usize, EMPTY);
            self.direct.set(index, Direct { node: at, ..entry });
        }
        let mut offset = DIRECT;
        while len >= offset + STRIDE {
            at = self.ensure_child(at, Self::slot(key, offset));
            offset += STRIDE;
        }
        let bit = internal_bit(key, offset, len);
        let node = self.nodes.get(at as usize).copied().unwrap_or(EMPTY);
        let nth = below(node.internal, bit);
        if node.internal >> bit & 1 == 1 {
            let slot = (node.values + nth) as usize;
            let former = self.values.get(slot).copied();
            self.values.set(slot, value);
            return former;
        }
        let count = node.internal.count_ones();
        let values = self.grow_values(node.values, count, nth, value);
        let node = Node {
            internal: node.internal | 1 << bit,
            values,
            ..node
        };
        self.nodes.set(at as usize, node);
        self.len += 1;
        None
    }

    /// Takes a prefix out; returns its value.
    pub(crate) fn remove(&mut self, key: u128, len: u32) -> Option<u32> {
        if len < DIRECT {
            let former = self.short.remove(&(len, key))?;
            self.len -= 1;
            self.expand_short(key, len);
            return Some(former);
        }
        let index = Self::direct_index(key);
        let entry = self.direct.get(index).copied()?;
        let mut path = Vec::with_capacity(24);
        let mut at = entry.node;
        let mut offset = DIRECT;
        while len >= offset + STRIDE {
            let slot = Self::slot(key, offset);
            let child = self.child(at, slot)?;
            path.push((at, slot));
            at = child;
            offset += STRIDE;
        }
        let node = self.nodes.get(at as usize).copied()?;
        let bit = internal_bit(key, offset, len);
        if node.internal >> bit & 1 == 0 {
            return None;
        }
        let nth = below(node.internal, bit);
        let former = self.values.get((node.values + nth) as usize).copied();
        let values = self.shrink_values(node.values, node.internal.count_ones(), nth);
        let node = Node {
            internal: node.internal & !(1 << bit),
            values,
            ..node
        };
        self.nodes.set(at as usize, node);
        self.len -= 1;
        // take empty nodes off the path, so that a table that shrinks gives its memory back
        let mut empty = node.internal == 0 && node.external == 0;
        while empty {
            let Some((parent, slot)) = path.pop() else {
                self.node_blocks.free(entry.node, 1);
                self.direct.set(
                    index,
                    Direct {
                        node: NO_NODE,
                        ..entry
                    },
                );
                break;
            };
            self.remove_child(parent, slot);
            let node = self.nodes.get(parent as usize).copied().unwrap_or(EMPTY);
            empty = node.internal == 0 && node.external == 0;
        }
        former
    }

    /// Writes the best short prefix into every direct entry below `key/len`.
    fn expand_short(&mut self, key: u128, len: u32) {
        let first = Self::direct_index(key);
        let count = 1usize << (DIRECT - len);
        // every short prefix that can be best somewhere in the range, shortest first
        let relevant: Vec<(u32, u128, u32)> = self
            .short
            .iter()
            .filter(|((at, prefix), _)| {
                let common = len.min(*at);
                mask(*prefix, common) == mask(key, common)
            })
            .map(|((at, prefix), value)| (*at, *prefix, *value))
            .collect();
        for index in first..first + count {
            let base = (index as u128) << (128 - DIRECT);
            let best = relevant
                .iter()
                .rev()
                .find(|(at, prefix, _)| mask(base, *at) == *prefix)
                .map_or(NONE, |(_, _, value)| *value);
            if let Some(entry) = self.direct.get(index).copied()
                && entry.value != best
            {
                self.direct.set(
                    index,
                    Direct {
                        value: best,
                        ..entry
                    },
                );
            }
        }
    }

    fn ensure_child(&mut self, at: u32, slot: usize) -> u32 {
        if let Some(child) = self.child(at, slot) {
            return child;
        }
        let node = self.nodes.get(at as usize).copied().unwrap_or(EMPTY);
        let count = node.external.count_ones();
        let nth = (node.external & ((1u64 << slot) - 1)).count_ones();
        let children = if count > 0 && count < block_size(count) {
            for i in (nth..count).rev() {
                self.copy_node(node.children + i, node.children + i + 1);
            }
            node.children
        } else {
            let block = self.node_blocks.alloc(count + 1);
            self.nodes
                .reserve((block + block_size(count + 1)) as usize, EMPTY);
            for i in 0..count {
                self.copy_node(node.children + i, block + i + u32::from(i >= nth));
            }
            if count > 0 {
                self.node_blocks.free(node.children, count);
            }
            block
        };
        self.nodes.set((children + nth) as usize, EMPTY);
        let node = Node {
            external: node.external | 1 << slot,
            children,
            ..node
        };
        self.nodes.set(at as usize, node);
        children + nth
    }

    fn remove_child(&mut self, at: u32, slot: usize) {
        let node = self.nodes.get(at as usize).copied().unwrap_or(EMPTY);
        let count = node.external.count_ones();
        let nth = (node.external & ((1u64 << slot) - 1)).count_ones();
        let external = node.external & !(1 << slot);
        let mut children = node.children;
        if count == 1 {
            self.node_blocks.free(node.children, 1);
            children = 0;
        } else if block_size(count - 1) < block_size(count) {
            let block = self.node_blocks.alloc(count - 1);
            self.nodes
                .reserve((block + block_size(count - 1)) as usize, EMPTY);
            for i in (0..count).filter(|i| *i != nth) {
                self.copy_node(node.children + i, block + i - u32::from(i > nth));
            }
            self.node_blocks.free(node.children, count);
            children = block;
        } else {
            for i in nth + 1..count {
                self.copy_node(node.children + i, node.children + i - 1);
            }
        }
        self.nodes.set(
            at as usize,
            Node {
                external,
                children,
                ..node
            },
        );
    }

    fn copy_node(&mut self, from: u32, to: u32) {
        if let Some(node) = self.nodes.get(from as usize).copied() {
            self.nodes.set(to as usize, node);
        }
    }

    fn grow_values(&mut self, old: u32, count: u32, nth: u32, value: u32) -> u32 {
        let mut kept = [NONE; 64];
        self.read_values(old, count, &mut kept);
        let block = if count > 0 && count < block_size(count) {
            old
        } else {
            if count > 0 {
                self.value_blocks.free(old, count);
            }
            let block = self.value_blocks.alloc(count + 1);
            self.values
                .reserve((block + block_size(count + 1)) as usize, NONE);
            block
        };
        let kept = kept.iter().take(count as usize).copied();
        let (before, after) = (kept.clone().take(nth as usize), kept.skip(nth as usize));
        for (i, v) in (block as usize..).zip(before.chain([value]).chain(after)) {
            self.values.set(i, v);
        }
        block
    }

    fn shrink_values(&mut self, old: u32, count: u32, nth: u32) -> u32 {
        let mut kept = [NONE; 64];
        self.read_values(old, count, &mut kept);
        let block = if count == 1 {
            self.value_blocks.free(old, 1);
            return 0;
        } else if block_size(count - 1) < block_size(count) {
            self.value_blocks.free(old, count);
            let block = self.value_blocks.alloc(count - 1);
            self.values
                .reserve((block + block_size(count - 1)) as usize, NONE);
            block
        } else {
            old
        };
        let kept = kept.iter().take(count as usize).copied().enumerate();
        let rest = kept.filter(|(i, _)| *i != nth as usize).map(|(_, v)| v);
        for (i, v) in (block as usize..).zip(rest) {
            self.values.set(i, v);
        }
        block
    }

    fn read_values(&self, from: u32, count: u32, out: &mut [u32; 64]) {
        for (i, slot) in out.iter_mut().take(count as usize).enumerate() {
            *slot = self.values.get(from as usize + i).copied().unwrap_or(NONE);
        }
    }
}

const fn mask(key: u128, len: u32) -> u128 {
    if len == 0 {
        0
    } else {
        key & (u128::MAX << (128 - len))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "at most five bits are left"
)]
/// Place of a prefix in `internal`: by length, then by value.
const fn internal_bit(key: u128, offset: u32, len: u32) -> u32 {
    let within = len - offset;
    let top = if within == 0 {
        0
    } else {
        ((key << offset) >> (128 - within)) as u32
    };
    (1 << within) - 1 + top
}

const fn below(bits: u64, bit: u32) -> u32 {
    (bits & ((1u64 << bit) - 1)).count_ones()
}

#[cfg(test)]
mod tests;
