//! Longest prefix match: a tree bitmap of 6-bit strides over copy-on-write arrays.
//!
//! A node covers six bits. `internal` says which prefixes of length 0..=5 below the node have a value
//! (bit `2^len - 1 + prefix bits`, so a longer match has the higher bit), `external` which of the 64
//! children exist. Values and children lie in blocks; a population count finds the one. Unlike a
//! trie that pushes routes into its leaves, changing a route touches one node and one block, whatever
//! its length: the price of a change does not grow with the table.
//!
//! A prefix that is alone where a node would be needs none: it lies in the node's place, whole, as a
//! leaf. A second one in that place makes it a node, and those below it as far as both go the same
//! way; when the second one goes, the first one is a leaf again. So the shape of the tree follows
//! from what is in it, and a node has at least two prefixes below it.
//!
//! The first 16 bits are indexed directly (IPv6: they hold little information, so the entry is in
//! the cache); prefixes shorter than that are expanded there. Where all prefixes below an entry begin
//! alike, as those of an operator with one /32 do, what they share lies beside the entry, and the first
//! node is where they part. Lookups of a batch advance level by level, so the misses of different
//! packets overlap.

mod change;
mod node;
mod path;
mod pool;
mod visit;

use super::cow::CowVec;
use node::{Node, below, internal_bit};
use path::Path;
use pool::Pool;
use std::collections::BTreeMap;

const STRIDE: u32 = 6;
/// Leading bits that are indexed directly.
const DIRECT: u32 = 16;
const NONE: u32 = 0;
/// Node index of "no node".
const NO_NODE: u32 = u32::MAX;

/// One entry of the direct index: the best prefix shorter than the index, and the node below.
#[derive(Clone, Copy, Debug)]
struct Direct {
    value: u32,
    /// Marked with [`HAS_PATH`] when there is more on the way to it than the index.
    node: u32,
}

/// Mark of a node in the direct index; there are fewer nodes than that.
const HAS_PATH: u32 = 1 << 31;

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
    /// Of the entries that are so marked. Apart, for the direct index is to stay in the cache.
    paths: CowVec<Path>,
    nodes: Pool<Node>,
    values: Pool<u32>,
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
    /// Bits of the key that have led here.
    offset: u32,
}

/// Walks in flight: more misses than that a core does not wait for at once.
const LANES: usize = 32;

impl Lpm {
    pub(crate) fn new() -> Self {
        let mut direct = CowVec::new();
        let entries = 1usize << DIRECT;
        let nothing = Direct {
            value: NONE,
            node: NO_NODE,
        };
        direct.reserve(entries - 1, nothing);
        Self {
            direct,
            paths: CowVec::new(),
            nodes: Pool::new(),
            values: Pool::new(),
            short: BTreeMap::new(),
            len: 0,
        }
    }

    /// How many prefixes have a value.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.direct.bytes() + self.paths.bytes() + self.nodes.bytes() + self.values.bytes()
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
        let mut walk = Walk {
            key,
            node: NO_NODE,
            values: NONE,
            best: 0,
            offset: DIRECT,
        };
        let index = Self::direct_index(key);
        let Some(entry) = self.direct.get(index) else {
            return walk;
        };
        walk.values = entry.value;
        if entry.node & HAS_PATH == 0 {
            walk.node = entry.node;
        } else if entry.node != NO_NODE
            && let Some(path) = self.paths.get(index)
            && path.leads_to(key)
        {
            walk.node = entry.node & !HAS_PATH;
            walk.offset = path.bits();
        }
        walk
    }

    /// One level down. False when the walk has ended.
    #[inline]
    fn step(&self, walk: &mut Walk) -> bool {
        let Some(node) = self.nodes.get(walk.node) else {
            return false;
        };
        if node.is_leaf() {
            if node.leaf_holds(walk.key) {
                walk.values = node.values;
                walk.best = 0;
            }
            return false;
        }
        let slot = Self::slot(walk.key, walk.offset);
        let matches = node.internal & COVERS.get(slot).copied().unwrap_or(0);
        if matches != 0 {
            walk.values = node.values;
            // all set bits of `internal` up to the longest match
            walk.best = node.internal & (u64::MAX >> matches.leading_zeros());
        }
        walk.node = node.child(slot);
        walk.offset += STRIDE;
        node.has_child(slot)
    }

    /// Value of the longest prefix that holds `key`, 0 when there is none.
    #[inline]
    pub(crate) fn lookup(&self, key: u128) -> u32 {
        let mut walk = self.start(key);
        while self.step(&mut walk) {}
        self.result(&walk)
    }

    /// The value of `key` if the direct index has it, else where to walk from.
    #[inline]
    pub(crate) fn enter(&self, key: u128) -> Result<u32, Walk> {
        let walk = self.start(key);
        if walk.node == NO_NODE {
            return Ok(walk.values);
        }
        self.nodes.prefetch(walk.node);
        Err(walk)
    }

    /// The value of `key` if the direct index has it.
    #[inline]
    pub(crate) fn at_once(&self, key: u128) -> Option<u32> {
        let walk = self.start(key);
        (walk.node == NO_NODE).then_some(walk.values)
    }

    /// [`Lpm::enter`] with the first step done: for keys that mostly end there, since first nodes are as
    /// few, and as near, as entries of the direct index. Others would wait for each other here.
    #[inline]
    pub(crate) fn enter_and_step(&self, key: u128) -> Result<u32, Walk> {
        let mut walk = self.start(key);
        if self.step(&mut walk) {
            self.nodes.prefetch(walk.node);
        } else if walk.best == 0 {
            return Ok(walk.values);
        } else {
            self.values.prefetch(walk.values);
            walk.node = NO_NODE;
        }
        Err(walk)
    }

    /// Goes to the end of all walks in step, so that their misses overlap.
    pub(crate) fn finish(&self, walks: &mut [Walk]) {
        for walks in walks.chunks_mut(LANES) {
            let mut live = u32::MAX >> (LANES - walks.len());
            while live != 0 {
                let mut rest = live;
                while rest != 0 {
                    let lane = rest.trailing_zeros();
                    rest &= rest - 1;
                    let Some(walk) = walks.get_mut(lane as usize) else {
                        continue;
                    };
                    if self.step(walk) {
                        self.nodes.prefetch(walk.node);
                    } else {
                        live &= !(1 << lane);
                        if walk.best != 0 {
                            self.values.prefetch(walk.values);
                        }
                    }
                }
            }
        }
    }

    /// What a finished walk has found.
    #[inline]
    pub(crate) fn result(&self, walk: &Walk) -> u32 {
        if walk.best == 0 {
            return walk.values;
        }
        let last = walk.best.count_ones() - 1;
        self.values.get(walk.values + last).copied().unwrap_or(NONE)
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, key: u128, len: u32) -> Option<u32> {
        if len < DIRECT {
            return self.short.get(&(len, key)).copied();
        }
        let (node, offset) = self.place_of(key, len)?;
        if let Some(leaf) = node.leaf() {
            return leaf.is(key, len).then_some(leaf.value);
        }
        let bit = (len >= offset).then(|| internal_bit(key, offset, len))?;
        if node.internal >> bit & 1 == 0 {
            return None;
        }
        self.value_at(&node, bit)
    }

    /// The uppermost place below which `key/len` lies, or that lies below it, and how many bits lead
    /// there.
    fn root_of(&self, key: u128, len: u32) -> Option<(Node, u32)> {
        let (root, path) = self.root(Self::direct_index(key))?;
        let offset = path.bits();
        if path.common(key) < offset.min(len) {
            return None;
        }
        Some((*self.nodes.get(root)?, offset))
    }

    /// The first node below an entry of the direct index, and the way to it.
    fn root(&self, index: usize) -> Option<(u32, Path)> {
        let node = self.direct.get(index)?.node;
        if node == NO_NODE {
            None
        } else if node & HAS_PATH == 0 {
            Some((node, Path::new((index as u128) << (128 - DIRECT), DIRECT)))
        } else {
            Some((node & !HAS_PATH, *self.paths.get(index)?))
        }
    }

    /// The leaf on the way to prefixes of this length, or else the node that holds them or lies below
    /// them, and how many bits lead to it.
    fn place_of(&self, key: u128, len: u32) -> Option<(Node, u32)> {
        let (mut node, mut offset) = self.root_of(key, len)?;
        while len >= offset + STRIDE && !node.is_leaf() {
            node = self.child(&node, Self::slot(key, offset))?;
            offset += STRIDE;
        }
        Some((node, offset))
    }

    fn child(&self, node: &Node, slot: usize) -> Option<Node> {
        if !node.has_child(slot) {
            return None;
        }
        self.nodes.get(node.child(slot)).copied()
    }

    /// The value of a prefix that the node has.
    fn value_at(&self, node: &Node, bit: u32) -> Option<u32> {
        let at = node.values + below(node.internal, bit);
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
        let root = self.root_of(key, len);
        let (mut place, mut offset) = root.map_or((None, len), |(node, at)| (Some(node), at));
        while let Some(node) = place {
            if let Some(leaf) = node.leaf() {
                let covers = leaf.len < len && leaf.holds(key);
                best = covers.then_some((leaf.value, leaf.len)).or(best);
                break;
            }
            if len <= offset {
                break;
            }
            let slot = Self::slot(key, offset);
            let mut matches = node.internal & COVERS.get(slot).copied().unwrap_or(0);
            let last = len < offset + STRIDE;
            if last {
                // only the prefixes of this node that are shorter than `len`
                matches &= (1 << ((1 << (len - offset)) - 1)) - 1;
            }
            if let Some(bit) = matches.checked_ilog2() {
                let value = self.value_at(&node, bit);
                best = value.map(|value| (value, offset + (bit + 1).ilog2()));
            }
            if last {
                break;
            }
            place = self.child(&node, slot);
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
}

const fn mask(key: u128, len: u32) -> u128 {
    if len == 0 {
        0
    } else {
        key & (u128::MAX << (128 - len))
    }
}

#[cfg(test)]
mod tests;
