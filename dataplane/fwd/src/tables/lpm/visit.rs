//! Looking at what lies inside a prefix.

use super::node::{Node, internal_bit, internal_prefix};
use super::{DIRECT, Lpm, NONE, STRIDE, mask};

impl Lpm {
    /// Whether any prefix longer than `len` lies inside `key/len`.
    pub(crate) fn has_longer(&self, key: u128, len: u32) -> bool {
        if len < DIRECT {
            let mut found = false;
            self.visit(key, len, &mut |_, at, _| {
                found = at > len;
                !found
            });
            return found;
        }
        let Some((node, offset)) = self.place_of(key, len) else {
            return false;
        };
        if let Some(leaf) = node.leaf() {
            return leaf.len > len && mask(leaf.key, len) == key;
        }
        // no node is empty: a child says that something lies below it
        if len < offset {
            return true;
        }
        let within = len - offset;
        let at = internal_bit(key, offset, len) + 1 - (1 << within);
        let slots = 1u32 << (STRIDE - within);
        let range = (u64::MAX >> (64 - slots)) << (at * slots);
        let longer = (within + 1..STRIDE).any(|l| {
            let count = 1u32 << (l - within);
            let bits = (1u64 << count) - 1;
            node.internal >> ((1 << l) - 1 + at * count) & bits != 0
        });
        longer || node.external & range != 0
    }

    /// Calls `f(prefix, length, value)` for every prefix inside `key/len`, itself included, in no
    /// particular order, until `f` returns false.
    pub(crate) fn visit(&self, key: u128, len: u32, f: &mut impl FnMut(u128, u32, u32) -> bool) {
        for (&(at, prefix), &value) in &self.short {
            if at >= len && mask(prefix, len) == key && !f(prefix, at, value) {
                return;
            }
        }
        if len < DIRECT {
            let first = Self::direct_index(key);
            let count = 1usize << (DIRECT - len);
            for index in first..first + count {
                if let Some((root, path)) = self.root(index)
                    && let Some(node) = self.nodes.get(root)
                    && !self.visit_node(node, path.key(), path.bits(), f)
                {
                    return;
                }
            }
            return;
        }
        let Some((node, offset)) = self.place_of(key, len) else {
            return;
        };
        let base = match self.root(Self::direct_index(key)) {
            Some((_, path)) if len < offset => path.key(),
            _ => mask(key, offset),
        };
        // inside this node only what lies below key/len counts
        let mut inside = |prefix: u128, at: u32, value: u32| {
            at < len || mask(prefix, len) != key || f(prefix, at, value)
        };
        self.visit_node(&node, base, offset, &mut inside);
    }

    fn visit_node(
        &self,
        node: &Node,
        base: u128,
        offset: u32,
        f: &mut dyn FnMut(u128, u32, u32) -> bool,
    ) -> bool {
        if let Some(leaf) = node.leaf() {
            return f(leaf.key, leaf.len, leaf.value);
        }
        let mut bits = node.internal;
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let (prefix, len) = internal_prefix(base, offset, bit);
            if !f(prefix, len, self.value_at(node, bit).unwrap_or(NONE)) {
                return false;
            }
        }
        let mut slots = node.external;
        let mut nth = node.children;
        while slots != 0 {
            let slot = slots.trailing_zeros();
            slots &= slots - 1;
            // the last level, of less than six bits, has no children
            let shift = 128u32.saturating_sub(offset + STRIDE);
            let below = base | u128::from(slot) << shift;
            // at most 19 deep: the key's length bounds the recursion
            if let Some(child) = self.nodes.get(nth)
                && !self.visit_node(child, below, offset + STRIDE, f)
            {
                return false;
            }
            nth += 1;
        }
        true
    }
}
