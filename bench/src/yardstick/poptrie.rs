//! Longest prefix match without updates: a direct index of 16 bits, then steps of 6 bits with population
//! counts, values pushed to the leaves (Asai and Ohara, SIGCOMM 2015).

use prefetch_index::prefetch_index;

/// Lookups in flight.
pub(super) const LANES: usize = 8;

const DIRECT: u32 = 16;
const STRIDE: u32 = 6;
/// Marks an entry of the direct index as a value.
const VALUE: u32 = 1 << 31;

/// Prefix, length, value.
pub(super) type Route = (u128, u32, u32);

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Slots that have a child.
    vector: u64,
    /// Slots without one whose value differs from that of the one before.
    leaves: u64,
    children: u32,
    values: u32,
}

#[derive(Debug)]
pub(super) struct Poptrie {
    direct: Vec<u32>,
    nodes: Vec<Node>,
    values: Vec<u32>,
}

#[inline]
const fn slot(key: u128, offset: u32, bits: u32) -> usize {
    ((key << offset) >> (128 - bits)) as usize
}

/// What each of a node's slots holds: the best value that ends here, and the routes that go on.
struct Slots<'r> {
    value: Vec<u32>,
    deeper: Vec<&'r [Route]>,
}

impl<'r> Slots<'r> {
    /// `routes` are sorted, and lie below the node's first bit at `offset`.
    fn new(routes: &'r [Route], offset: u32, bits: u32, inherited: u32) -> Self {
        let count = 1 << bits;
        let mut best = vec![(0, inherited); count];
        let mut deeper: Vec<&[Route]> = vec![&[]; count];
        let mut rest = routes;
        while let Some(((key, len, value), after)) = rest.split_first() {
            let at = slot(*key, offset, bits);
            if *len > offset + bits {
                // shorter routes come before longer ones: from here on all of this slot go deeper
                let end = rest.partition_point(|(key, ..)| slot(*key, offset, bits) == at);
                let (these, after) = rest.split_at(end);
                deeper[at] = these;
                rest = after;
                continue;
            }
            for entry in &mut best[at..at + (1 << (offset + bits - len))] {
                if entry.0 <= *len {
                    *entry = (*len, *value);
                }
            }
            rest = after;
        }
        Self {
            value: best.into_iter().map(|(_, value)| value).collect(),
            deeper,
        }
    }
}

impl Poptrie {
    pub(super) fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_unstable_by_key(|(key, len, _)| (*key, *len));
        let mut trie = Self {
            direct: Vec::new(),
            nodes: Vec::new(),
            values: Vec::new(),
        };
        let top = Slots::new(&routes, 0, DIRECT, 0);
        for (value, deeper) in top.value.into_iter().zip(top.deeper) {
            let entry = if deeper.is_empty() {
                value | VALUE
            } else {
                let node = trie.nodes.len() as u32;
                trie.nodes.push(Node::default());
                trie.fill(node as usize, deeper, DIRECT, value);
                node
            };
            trie.direct.push(entry);
        }
        trie
    }

    fn fill(&mut self, at: usize, routes: &[Route], offset: u32, inherited: u32) {
        let slots = Slots::new(routes, offset, STRIDE, inherited);
        let mut node = Node {
            values: self.values.len() as u32,
            children: self.nodes.len() as u32,
            ..Node::default()
        };
        let mut last = None;
        for (i, (value, deeper)) in slots.value.iter().zip(&slots.deeper).enumerate() {
            if !deeper.is_empty() {
                node.vector |= 1 << i;
                self.nodes.push(Node::default());
            } else if last != Some(*value) {
                node.leaves |= 1 << i;
                self.values.push(*value);
                last = Some(*value);
            }
        }
        self.nodes[at] = node;
        let children = slots.value.iter().zip(&slots.deeper);
        let children = children.filter(|(_, deeper)| !deeper.is_empty());
        for (child, (value, deeper)) in (node.children as usize..).zip(children) {
            self.fill(child, deeper, offset + STRIDE, *value);
        }
    }

    /// Up to [`LANES`] lookups in step.
    #[inline]
    pub(super) fn lookup(&self, keys: &[u128], out: &mut [u32]) {
        let mut at = [0u32; LANES];
        let mut live = 0u32;
        for (lane, ((key, at), out)) in keys.iter().zip(&mut at).zip(out.iter_mut()).enumerate() {
            let entry = self.direct[slot(*key, 0, DIRECT)];
            if entry & VALUE == 0 {
                *at = entry;
                live |= 1 << lane;
                prefetch_index(&self.nodes, entry as usize);
            } else {
                *out = entry & !VALUE;
            }
        }
        let mut offset = DIRECT;
        while live != 0 {
            let mut rest = live;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let node = &self.nodes[at[lane] as usize];
                let slot = slot(keys[lane], offset, STRIDE);
                let below = (2u64 << slot).wrapping_sub(1);
                if node.vector >> slot & 1 == 1 {
                    at[lane] = node.children + (node.vector & below).count_ones() - 1;
                    prefetch_index(&self.nodes, at[lane] as usize);
                } else {
                    let value = node.values + (node.leaves & below).count_ones() - 1;
                    out[lane] = self.values[value as usize];
                    live &= !(1 << lane);
                }
            }
            offset += STRIDE;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        (self.direct.len() + self.values.len()) * size_of::<u32>()
            + self.nodes.len() * size_of::<Node>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn agrees_with_a_search_of_all_routes() {
        let mut rng = Rng::new(3);
        let mut routes: Vec<Route> = vec![(0, 0, 1)];
        for value in 2..2000 {
            let len = rng.below(65) as u32;
            let few = u128::from(rng.bits() & 0x0f0f_0f0f_0f0f_0f0f) << 64;
            let key = if len == 0 {
                0
            } else {
                few & (u128::MAX << (128 - len))
            };
            if !routes.iter().any(|(k, l, _)| (*k, *l) == (key, len)) {
                routes.push((key, len, value));
            }
        }
        let trie = Poptrie::new(routes.clone());
        let holds =
            |route: &&Route, key: u128| route.1 == 0 || (key ^ route.0) >> (128 - route.1) == 0;
        for _ in 0..5000 {
            let keys: [u128; LANES] =
                std::array::from_fn(|_| u128::from(rng.bits() & 0x0f0f_0f0f_0f0f_0f0f) << 64);
            let mut found = [0; LANES];
            trie.lookup(&keys, &mut found);
            for (key, found) in keys.into_iter().zip(found) {
                let best = routes.iter().filter(|route| holds(route, key));
                let best = best
                    .max_by_key(|(_, len, _)| *len)
                    .map(|(.., value)| *value);
                assert_eq!(Some(found), best, "{key:#x}");
            }
        }
    }
}
