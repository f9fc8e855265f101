//! Putting prefixes in and taking them out.

use super::super::cow::CowVec;
use super::node::{Leaf, Node, below, internal_bit, internal_prefix};
use super::path::Path;
use super::pool::Element;
use super::{DIRECT, Direct, HAS_PATH, Lpm, NO_NODE, NONE, STRIDE, mask};

impl Lpm {
    /// Sets the value of a prefix (host bits zero); returns the former value. `value` must not be 0.
    pub(crate) fn insert(&mut self, key: u128, len: u32, value: u32) -> Option<u32> {
        if len < DIRECT {
            let former = self.short.insert((len, key), value);
            self.len += usize::from(former.is_none());
            self.expand_short(key, len);
            return former;
        }
        let leaf = Leaf { key, len, value };
        let former = self.insert_long(leaf);
        self.len += usize::from(former.is_none());
        former
    }

    fn insert_long(&mut self, new: Leaf) -> Option<u32> {
        let Leaf { key, len, .. } = new;
        let index = Self::direct_index(key);
        let Some((root, path)) = self.root(index) else {
            let node = self.nodes.insert(0, 0, 0, Node::of_leaf(new));
            self.set_root(index, node, DIRECT, key);
            return None;
        };
        self.raise(index, path.common(key).min(len));
        let (_, path) = self.root(index)?;
        let former = self.insert_below(root, path.bits(), new);
        self.settle(index);
        former
    }

    /// Makes `node` the first one below an entry, `bits` of `key` being the way to it.
    fn set_root(&mut self, index: usize, node: u32, bits: u32, key: u128) {
        let marked = if bits == DIRECT {
            node
        } else {
            self.paths.reserve(index, Path::NONE);
            self.paths.set(index, Path::new(key, bits));
            node | HAS_PATH
        };
        self.set_node(index, marked);
    }

    fn set_node(&mut self, index: usize, node: u32) {
        if let Some(entry) = self.direct.get(index).copied()
            && entry.node != node
        {
            self.direct.set(index, Direct { node, ..entry });
        }
    }

    fn insert_below(&mut self, root: u32, bits: u32, new: Leaf) -> Option<u32> {
        let Leaf { key, len, value } = new;
        let (mut at, mut offset) = (root, bits);
        loop {
            let mut node = self.nodes.get(at).copied()?;
            if let Some(leaf) = node.leaf() {
                if leaf.is(key, len) {
                    self.nodes.set(at, Node::of_leaf(new));
                    return Some(leaf.value);
                }
                node = self.with(Node::EMPTY, leaf, offset);
                self.nodes.set(at, node);
            }
            if len < offset + STRIDE {
                let bit = internal_bit(key, offset, len);
                if node.internal >> bit & 1 == 1 {
                    let value_at = node.values + below(node.internal, bit);
                    let former = self.values.get(value_at).copied();
                    self.values.set(value_at, value);
                    return former;
                }
            } else {
                let slot = Self::slot(key, offset);
                if node.has_child(slot) {
                    at = node.child(slot);
                    offset += STRIDE;
                    continue;
                }
            }
            node = self.with(node, new, offset);
            self.nodes.set(at, node);
            return None;
        }
    }

    /// `node` with a prefix that it does not have, and for which it has no child.
    fn with(&mut self, node: Node, leaf: Leaf, offset: u32) -> Node {
        if leaf.len < offset + STRIDE {
            let bit = internal_bit(leaf.key, offset, leaf.len);
            let (count, nth) = (node.internal.count_ones(), below(node.internal, bit));
            return Node {
                internal: node.internal | 1 << bit,
                values: self.values.insert(node.values, count, nth, leaf.value),
                ..node
            };
        }
        let slot = Self::slot(leaf.key, offset);
        let (count, nth) = (node.external.count_ones(), node.child_rank(slot));
        let leaf = Node::of_leaf(leaf);
        Node {
            external: node.external | 1 << slot,
            children: self.nodes.insert(node.children, count, nth, leaf),
            ..node
        }
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
        let (root, way) = self.root(index)?;
        if way.common(key).min(len) < way.bits() {
            return None;
        }
        let mut path = Vec::with_capacity(24);
        let (mut at, mut offset) = (root, way.bits());
        let former = loop {
            let node = self.nodes.get(at).copied()?;
            if let Some(leaf) = node.leaf() {
                if !leaf.is(key, len) {
                    return None;
                }
                let Some(parent) = path.pop() else {
                    self.nodes.release(at, 1);
                    self.set_node(index, NO_NODE);
                    if self.nodes.is_empty() {
                        self.paths = CowVec::new();
                    }
                    break leaf.value;
                };
                offset -= STRIDE;
                self.remove_child(parent, Self::slot(key, offset));
                self.merge(parent, &mut path, key, offset);
                break leaf.value;
            }
            if len < offset + STRIDE {
                let former = self.remove_value(at, internal_bit(key, offset, len))?;
                self.merge(at, &mut path, key, offset);
                break former;
            }
            let slot = Self::slot(key, offset);
            if !node.has_child(slot) {
                return None;
            }
            path.push(at);
            at = node.child(slot);
            offset += STRIDE;
        };
        self.settle(index);
        self.len -= 1;
        Some(former)
    }

    /// Puts nodes above the first one, until no more than `bits` lead to it.
    fn raise(&mut self, index: usize, bits: u32) {
        let Some((root, path)) = self.root(index) else {
            return;
        };
        let (key, mut offset) = (path.key(), path.bits());
        while offset > bits
            && let Some(below) = self.nodes.get(root).copied()
        {
            offset -= STRIDE;
            let above = Node {
                external: 1 << Self::slot(key, offset),
                children: self.nodes.insert(0, 0, 0, below),
                ..Node::EMPTY
            };
            self.nodes.set(root, above);
        }
        if offset != path.bits() {
            self.set_root(index, root, offset, key);
        }
    }

    /// Takes nodes off the top that hold nothing and lead to one child.
    fn settle(&mut self, index: usize) {
        let Some((root, path)) = self.root(index) else {
            return;
        };
        let (mut key, mut offset) = (path.key(), path.bits());
        while let Some(node) = self.nodes.get(root).copied()
            && let Some(slot) = node.only_way()
            && offset + STRIDE <= Path::MAX
            && let Some(child) = self.nodes.get(node.children).copied()
        {
            offset += STRIDE;
            key |= u128::from(slot) << (128 - offset);
            self.nodes.set(root, child);
            self.nodes.release(node.children, 1);
        }
        if self.nodes.get(root).is_some_and(Node::is_leaf) {
            offset = DIRECT;
        }
        if offset != path.bits() {
            self.set_root(index, root, offset, key);
        }
    }

    /// Makes the node at `at` a leaf if only one prefix is left in it, then those above it.
    fn merge(&mut self, mut at: u32, path: &mut Vec<u32>, key: u128, mut offset: u32) {
        while let Some(leaf) = self.lone(at, key, offset) {
            self.nodes.set(at, Node::of_leaf(leaf));
            let Some(parent) = path.pop() else {
                return;
            };
            at = parent;
            offset -= STRIDE;
        }
    }

    /// The prefix that is alone in a node, taken out of it.
    fn lone(&mut self, at: u32, key: u128, offset: u32) -> Option<Leaf> {
        let node = self.nodes.get(at).copied()?;
        match (node.internal.count_ones(), node.external.count_ones()) {
            (1, 0) => {
                let bit = node.internal.trailing_zeros();
                let (key, len) = internal_prefix(mask(key, offset), offset, bit);
                let value = self.value_at(&node, bit)?;
                self.values.release(node.values, 1);
                Some(Leaf { key, len, value })
            }
            (0, 1) => {
                let leaf = self.nodes.get(node.children)?.leaf()?;
                self.nodes.release(node.children, 1);
                Some(leaf)
            }
            _ => None,
        }
    }

    fn remove_child(&mut self, at: u32, slot: usize) {
        if let Some(node) = self.nodes.get(at).copied() {
            let (count, nth) = (node.external.count_ones(), node.child_rank(slot));
            let node = Node {
                external: node.external & !(1 << slot),
                children: self.nodes.remove(node.children, count, nth),
                ..node
            };
            self.nodes.set(at, node);
        }
    }

    fn remove_value(&mut self, at: u32, bit: u32) -> Option<u32> {
        let node = self.nodes.get(at).copied()?;
        if node.internal >> bit & 1 == 0 {
            return None;
        }
        let former = self.value_at(&node, bit)?;
        let (count, nth) = (node.internal.count_ones(), below(node.internal, bit));
        let node = Node {
            internal: node.internal & !(1 << bit),
            values: self.values.remove(node.values, count, nth),
            ..node
        };
        self.nodes.set(at, node);
        Some(former)
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
}
