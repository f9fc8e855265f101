//! Looking at what lies inside a prefix.

use super::{DIRECT, Lpm, NONE, STRIDE, internal_bit, mask};

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
        let Some((node, offset)) = self.node_of(key, len) else {
            return false;
        };
        let Some(node) = self.nodes.get(node as usize) else {
            return false;
        };
        // no node is empty: a child says that something lies below it
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

    /// The node that holds prefixes of this length, and how many bits lead to it.
    fn node_of(&self, key: u128, len: u32) -> Option<(u32, u32)> {
        let mut node = self.direct.get(Self::direct_index(key))?.node;
        let mut offset = DIRECT;
        while len >= offset + STRIDE {
            node = self.child(node, Self::slot(key, offset))?;
            offset += STRIDE;
        }
        Some((node, offset))
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
                let Some(entry) = self.direct.get(index) else {
                    return;
                };
                let base = (index as u128) << (128 - DIRECT);
                if !self.visit_node(entry.node, base, DIRECT, f) {
                    return;
                }
            }
            return;
        }
        let Some((node, offset)) = self.node_of(key, len) else {
            return;
        };
        // inside this node only what lies below key/len counts
        let mut inside = |prefix: u128, at: u32, value: u32| {
            at < len || mask(prefix, len) != key || f(prefix, at, value)
        };
        self.visit_node(node, mask(key, offset), offset, &mut inside);
    }

    fn visit_node(
        &self,
        node: u32,
        base: u128,
        offset: u32,
        f: &mut dyn FnMut(u128, u32, u32) -> bool,
    ) -> bool {
        let Some(node) = self.nodes.get(node as usize) else {
            return true;
        };
        let mut bits = node.internal;
        let mut nth = 0;
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let within = (bit + 1).ilog2();
            let top = u128::from(bit + 1 - (1 << within));
            let shift = 128 - offset - within;
            let prefix = if shift >= 128 {
                base
            } else {
                base | top << shift
            };
            let value = self
                .values
                .get(node.values as usize + nth)
                .copied()
                .unwrap_or(NONE);
            nth += 1;
            if !f(prefix, offset + within, value) {
                return false;
            }
        }
        let mut slots = node.external;
        let mut nth = 0;
        while slots != 0 {
            let slot = slots.trailing_zeros();
            slots &= slots - 1;
            let below = match 128u32.checked_sub(offset + STRIDE) {
                Some(shift) => base | u128::from(slot) << shift,
                None => base | u128::from(slot) >> (offset + STRIDE - 128),
            };
            // at most 22 deep: the key's length bounds the recursion
            if !self.visit_node(node.children + nth, below, offset + STRIDE, f) {
                return false;
            }
            nth += 1;
        }
        true
    }
}
