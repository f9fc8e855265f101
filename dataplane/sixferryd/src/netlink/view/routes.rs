//! The kernel's routes, by prefix, in order of preference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;

use super::super::types::{Placement, Prefix};
use super::hops::HopIndex;

/// One route to a prefix. A full feed has a million of them: 16 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) target: Target,
    pub(super) metric: u32,
    /// The next-hop object it was made from, 0 for none.
    pub(super) object: u32,
    /// Position of its table among the configured ones.
    pub(super) rank: u8,
    /// The dump that saw it last.
    pub(super) epoch: bool,
}

impl Candidate {
    fn order(self) -> (u8, u32) {
        (self.rank, self.metric)
    }
}

/// What a route does: a hop, or one of the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target(u32);

impl Target {
    pub(super) const LOCAL: Self = Self(u32::MAX);
    pub(super) const BLACKHOLE: Self = Self(u32::MAX - 1);
    pub(super) const UNREACHABLE: Self = Self(u32::MAX - 2);
    pub(super) const PROHIBIT: Self = Self(u32::MAX - 3);
    /// A unicast route without any next hop that we understand.
    pub(super) const NOWHERE: Self = Self(u32::MAX - 4);

    pub(super) fn hop(index: HopIndex) -> Self {
        Self(index)
    }

    pub(super) fn as_hop(self) -> Option<HopIndex> {
        (self.0 < Self::NOWHERE.0).then_some(self.0)
    }
}

#[derive(Debug)]
enum Candidates {
    One(Candidate),
    #[expect(
        clippy::box_collection,
        reason = "keeps the table's entries at 16 bytes"
    )]
    Many(Box<Vec<Candidate>>),
}

impl Candidates {
    fn as_slice(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(list) => list,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_mut(candidate),
            Self::Many(list) => list,
        }
    }

    fn from_vec(mut list: Vec<Candidate>) -> Option<Self> {
        match list.len() {
            0 => None,
            1 => list.pop().map(Self::One),
            _ => Some(Self::Many(Box::new(list))),
        }
    }
}

type Key4 = ([u8; 4], u8);
type Key6 = ([u8; 16], u8);

enum Key {
    V4(Key4),
    V6(Key6),
}

fn key(prefix: Prefix) -> Key {
    match prefix.addr() {
        IpAddr::V4(a) => Key::V4((a.octets(), prefix.len())),
        IpAddr::V6(a) => Key::V6((a.octets(), prefix.len())),
    }
}

/// Both families' routes.
#[derive(Debug)]
pub(super) struct Routes {
    v4: HashMap<Key4, Candidates>,
    v6: HashMap<Key6, Candidates>,
    /// How many prefixes of each length there are, so that a lookup tries only those.
    lens4: [u32; 33],
    lens6: [u32; 129],
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            v4: HashMap::new(),
            v6: HashMap::new(),
            lens4: [0; 33],
            lens6: [0; 129],
        }
    }
}

impl Routes {
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) fn count(&self, v6: bool) -> usize {
        if v6 { self.v6.len() } else { self.v4.len() }
    }

    fn slot(&self, prefix: Prefix) -> Option<&Candidates> {
        match key(prefix) {
            Key::V4(k) => self.v4.get(&k),
            Key::V6(k) => self.v6.get(&k),
        }
    }

    fn slot_mut(&mut self, prefix: Prefix) -> Option<&mut Candidates> {
        match key(prefix) {
            Key::V4(k) => self.v4.get_mut(&k),
            Key::V6(k) => self.v6.get_mut(&k),
        }
    }

    /// The route in force.
    pub(super) fn best(&self, prefix: Prefix) -> Option<Candidate> {
        self.slot(prefix)?.as_slice().first().copied()
    }

    /// All routes to a prefix, the one in force first.
    pub(super) fn all(&self, prefix: Prefix) -> &[Candidate] {
        self.slot(prefix).map_or(&[], Candidates::as_slice)
    }

    /// Adds a route. Those it replaces are returned.
    pub(super) fn insert(
        &mut self,
        prefix: Prefix,
        new: Candidate,
        placement: Placement,
        replaces: impl Fn(&Candidate) -> bool,
    ) -> Vec<Candidate> {
        let mut removed = Vec::new();
        let Some(slot) = self.slot_mut(prefix) else {
            self.put(prefix, Candidates::One(new));
            return removed;
        };
        let mut list = slot.as_slice().to_vec();
        list.retain(|c| {
            let gone = c.order() == new.order() && (c.target == new.target || replaces(c));
            if gone {
                removed.push(*c);
            }
            !gone
        });
        let at = match placement {
            Placement::Last => list.iter().position(|c| c.order() > new.order()),
            _ => list.iter().position(|c| c.order() >= new.order()),
        };
        list.insert(at.unwrap_or(list.len()), new);
        if let Some(candidates) = Candidates::from_vec(list) {
            *slot = candidates;
        }
        removed
    }

    /// Marks a route as seen by the current dump; `false` if it is not known.
    pub(super) fn touch(&mut self, prefix: Prefix, seen: Candidate) -> bool {
        let Some(slot) = self.slot_mut(prefix) else {
            return false;
        };
        let same = |c: &&mut Candidate| {
            c.order() == seen.order() && c.target == seen.target && c.object == seen.object
        };
        match slot.as_mut_slice().iter_mut().find(same) {
            Some(candidate) => {
                candidate.epoch = seen.epoch;
                true
            }
            None => false,
        }
    }

    /// Removes the routes that `which` picks.
    pub(super) fn remove(
        &mut self,
        prefix: Prefix,
        which: impl Fn(&Candidate) -> bool,
    ) -> Vec<Candidate> {
        let Some(slot) = self.slot_mut(prefix) else {
            return Vec::new();
        };
        let (removed, kept): (Vec<_>, Vec<_>) = slot.as_slice().iter().partition(|c| which(c));
        if removed.is_empty() {
            return removed;
        }
        match Candidates::from_vec(kept) {
            Some(candidates) => *slot = candidates,
            None => self.take(prefix),
        }
        removed
    }

    fn put(&mut self, prefix: Prefix, candidates: Candidates) {
        match key(prefix) {
            Key::V4(k) => {
                self.v4.insert(k, candidates);
                self.lens4[usize::from(k.1)] += 1;
            }
            Key::V6(k) => {
                self.v6.insert(k, candidates);
                self.lens6[usize::from(k.1)] += 1;
            }
        }
    }

    fn take(&mut self, prefix: Prefix) {
        match key(prefix) {
            Key::V4(k) => {
                self.v4.remove(&k);
                self.lens4[usize::from(k.1)] -= 1;
            }
            Key::V6(k) => {
                self.v6.remove(&k);
                self.lens6[usize::from(k.1)] -= 1;
            }
        }
    }

    /// The longest prefix that holds an address.
    pub(super) fn lookup(&self, addr: IpAddr) -> Option<Candidate> {
        let lens: &[u32] = if addr.is_ipv4() {
            &self.lens4
        } else {
            &self.lens6
        };
        let lens = lens
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, count)| **count > 0);
        lens.filter_map(|(len, _)| Prefix::of(addr, u8::try_from(len).ok()?))
            .find_map(|prefix| self.best(prefix))
    }

    /// Prefixes of a family with a route that `which` picks.
    pub(super) fn prefixes(&self, v6: bool, which: impl Fn(&[Candidate]) -> bool) -> Vec<Prefix> {
        if v6 {
            let picked = self.v6.iter().filter(|(_, c)| which(c.as_slice()));
            picked
                .filter_map(|((a, len), _)| Prefix::of(Ipv6Addr::from(*a).into(), *len))
                .collect()
        } else {
            let picked = self.v4.iter().filter(|(_, c)| which(c.as_slice()));
            picked
                .filter_map(|((a, len), _)| Prefix::of(Ipv4Addr::from(*a).into(), *len))
                .collect()
        }
    }
}

/// What a prefix costs beside its key.
#[cfg(test)]
pub(super) const ENTRY_LEN: usize = std::mem::size_of::<Candidates>();
