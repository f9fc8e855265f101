//! A place in the tree: a node, or a prefix that has no other beside it.

use super::mask;
use super::pool::Element;

/// Bit of `internal` that no prefix has: the place is a leaf's.
const LEAF: u64 = 1 << 63;

/// Six bits of the key. A leaf lies in the same fields: the high half of its key in `external`, the low
/// one in `children` and in the low half of `internal`, its length above that, its value in `values`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Which prefixes of length 0..=5 below this node have a value.
    pub(super) internal: u64,
    /// Which of the 64 children exist.
    pub(super) external: u64,
    /// Block of the children.
    pub(super) children: u32,
    /// Block of the values.
    pub(super) values: u32,
}

/// A prefix and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) key: u128,
    pub(super) len: u32,
    pub(super) value: u32,
}

impl Element for Node {
    const EMPTY: Self = Self {
        internal: 0,
        external: 0,
        children: 0,
        values: 0,
    };

    fn linking_to(next: u32) -> Self {
        Self {
            children: next,
            ..Self::EMPTY
        }
    }

    fn link(self) -> u32 {
        self.children
    }
}

impl Leaf {
    pub(super) const fn holds(&self, key: u128) -> bool {
        mask(key, self.len) == self.key
    }

    pub(super) const fn is(&self, key: u128, len: u32) -> bool {
        self.key == key && self.len == len
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "takes words apart into their halves"
)]
impl Node {
    pub(super) const fn of_leaf(leaf: Leaf) -> Self {
        let low = leaf.key as u64;
        Self {
            internal: LEAF | (leaf.len as u64) << 32 | low & 0xffff_ffff,
            external: (leaf.key >> 64) as u64,
            children: (low >> 32) as u32,
            values: leaf.value,
        }
    }

    #[inline]
    pub(super) const fn is_leaf(&self) -> bool {
        self.internal & LEAF != 0
    }

    #[inline]
    const fn leaf_len(&self) -> u32 {
        (self.internal >> 32) as u8 as u32
    }

    #[inline]
    const fn leaf_key(&self) -> u128 {
        let low = (self.children as u64) << 32 | self.internal & 0xffff_ffff;
        (self.external as u128) << 64 | low as u128
    }

    /// Whether this leaf's prefix holds `key`.
    #[inline]
    pub(super) const fn leaf_holds(&self, key: u128) -> bool {
        let len = self.leaf_len();
        // routed prefixes rarely reach into the lower half: spare the wide shift
        if len <= 64 {
            (self.external ^ (key >> 64) as u64) >> ((64 - len) & 63) == 0
        } else {
            (self.leaf_key() ^ key) >> ((128 - len) & 127) == 0
        }
    }

    /// The slot of the only child of a node that has nothing else.
    pub(super) const fn only_way(&self) -> Option<u32> {
        if self.internal == 0 && self.external.is_power_of_two() {
            Some(self.external.trailing_zeros())
        } else {
            None
        }
    }

    pub(super) const fn leaf(&self) -> Option<Leaf> {
        if !self.is_leaf() {
            return None;
        }
        Some(Leaf {
            key: self.leaf_key(),
            len: self.leaf_len(),
            value: self.values,
        })
    }

    pub(super) const fn has_child(&self, slot: usize) -> bool {
        self.external >> slot & 1 == 1
    }

    /// Where the child is, if it exists, or would be.
    #[inline]
    pub(super) const fn child(&self, slot: usize) -> u32 {
        self.children + self.child_rank(slot)
    }

    #[inline]
    pub(super) const fn child_rank(&self, slot: usize) -> u32 {
        (self.external & ((1u64 << slot) - 1)).count_ones()
    }
}

/// Place of a prefix in `internal`: by length, then by value.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most five bits are left"
)]
pub(super) const fn internal_bit(key: u128, offset: u32, len: u32) -> u32 {
    let within = len - offset;
    let top = if within == 0 {
        0
    } else {
        ((key << offset) >> (128 - within)) as u32
    };
    (1 << within) - 1 + top
}

/// The prefix that `internal_bit` gives this place to: its key and its length.
pub(super) const fn internal_prefix(base: u128, offset: u32, bit: u32) -> (u128, u32) {
    let within = (bit + 1).ilog2();
    let top = (bit + 1 - (1 << within)) as u128;
    let len = offset + within;
    // `within` 0: nothing to place, and the shift could be as wide as the key
    let key = if within == 0 {
        base
    } else {
        base | top << (128 - len)
    };
    (key, len)
}

/// How many of the bits below `bit` are set.
pub(super) const fn below(bits: u64, bit: u32) -> u32 {
    (bits & ((1u64 << bit) - 1)).count_ones()
}
