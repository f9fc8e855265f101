//! Prefixes of one length out of a pool: the lowest that is neither given nor in quarantine.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::runs::Runs;

/// The numbers of one delegation pool.
#[derive(Debug)]
pub(crate) struct Delegations {
    prefix: Ipv6Net,
    len: u8,
    given: Runs,
    /// In quarantine; an operator may give one of them by name.
    held: Runs,
    /// Either.
    blocked: Runs,
}

impl Delegations {
    /// `None` where the length cannot be cut out of the prefix.
    pub(crate) fn new(prefix: Ipv6Net, len: u8) -> Option<Self> {
        let bits = len.checked_sub(prefix.prefix_len())?;
        (bits < 64 && len <= 128).then(|| Self {
            prefix: prefix.trunc(),
            len,
            given: Runs::default(),
            held: Runs::default(),
            blocked: Runs::default(),
        })
    }

    /// What they are cut out of.
    pub(crate) fn prefix(&self) -> Ipv6Net {
        self.prefix
    }

    /// Of each.
    pub(crate) fn len(&self) -> u8 {
        self.len
    }

    pub(crate) fn total(&self) -> u64 {
        1 << (self.len - self.prefix.prefix_len())
    }

    pub(crate) fn used(&self) -> u64 {
        self.given.len()
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.blocked.len() - self.given.len()
    }

    /// The number of a prefix; `None` if it is none of this pool's.
    pub(crate) fn index_of(&self, prefix: Ipv6Net) -> Option<u64> {
        if prefix.prefix_len() != self.len || !self.prefix.contains(&prefix) {
            return None;
        }
        let offset = u128::from(prefix.network()) - u128::from(self.prefix.network());
        u64::try_from(offset.checked_shr(u32::from(128 - self.len)).unwrap_or(0)).ok()
    }

    fn nth(&self, index: u64) -> Option<Ipv6Net> {
        let shift = u32::from(128 - self.len);
        let offset = u128::from(index).checked_shl(shift).unwrap_or(0);
        let address = u128::from(self.prefix.network()) + offset;
        Ipv6Net::new(Ipv6Addr::from(address), self.len).ok()
    }

    /// All that are free, lowest first.
    pub(crate) fn free_ones(&self) -> impl Iterator<Item = Ipv6Net> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let index = self.blocked.next_missing(next?)?;
            next = index.checked_add(1);
            (index < self.total()).then(|| self.nth(index)).flatten()
        })
    }

    /// Whether it is this pool's and nobody has it.
    pub(crate) fn take(&mut self, prefix: Ipv6Net) -> bool {
        let Some(index) = self.index_of(prefix) else {
            return false;
        };
        self.blocked.insert(index);
        self.given.insert(index)
    }

    /// Whether somebody had it.
    pub(crate) fn free(&mut self, prefix: Ipv6Net) -> bool {
        let Some(index) = self.index_of(prefix) else {
            return false;
        };
        let had = self.given.remove(index);
        if had && !self.held.contains(index) {
            self.blocked.remove(index);
        }
        had
    }

    /// Puts one into quarantine.
    pub(crate) fn hold(&mut self, prefix: Ipv6Net) {
        if let Some(index) = self.index_of(prefix) {
            self.held.insert(index);
            self.blocked.insert(index);
        }
    }

    /// Ends a quarantine.
    pub(crate) fn let_go(&mut self, prefix: Ipv6Net) {
        if let Some(index) = self.index_of(prefix)
            && self.held.remove(index)
            && !self.given.contains(index)
        {
            self.blocked.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(prefix: &str, len: u8) -> Option<Delegations> {
        Delegations::new(prefix.parse().unwrap(), len)
    }

    fn lowest(pool: &Delegations) -> Option<Ipv6Net> {
        pool.free_ones().next()
    }

    #[test]
    fn lowest_first_and_quarantine_holds() {
        let mut pool = pool("2001:db8::/62", 64).unwrap();
        assert_eq!(pool.total(), 4);
        let mut given = Vec::new();
        while let Some(prefix) = lowest(&pool) {
            assert!(pool.take(prefix));
            assert!(!pool.take(prefix));
            given.push(prefix.to_string());
        }
        let expected = ["2001:db8::/64", "2001:db8:0:1::/64", "2001:db8:0:2::/64"];
        assert_eq!(given[..3], expected);
        let second: Ipv6Net = given[1].parse().unwrap();
        assert!(pool.free(second));
        assert!(!pool.free(second));
        assert_eq!(lowest(&pool), Some(second));
        pool.hold(second);
        assert_eq!((pool.used(), pool.quarantined()), (3, 1));
        assert_eq!(lowest(&pool), None);
        pool.let_go(second);
        assert_eq!(lowest(&pool), Some(second));
        assert_eq!((pool.used(), pool.quarantined()), (3, 0));
    }

    #[test]
    fn only_its_own_numbers() {
        let mut numbers = pool("2001:db8::/48", 56).unwrap();
        for foreign in ["2001:db8:1::/56", "2001:db8::/57", "2001:db8::/48"] {
            assert!(!numbers.take(foreign.parse().unwrap()), "{foreign}");
        }
        assert!(pool("2001:db8::/48", 47).is_none());
        assert!(pool("::/0", 64).is_none());
        assert_eq!(pool("2001:db8::/48", 48).unwrap().total(), 1);
    }

    #[test]
    fn a_million_numbers_are_no_burden() {
        let mut pool = pool("2001:db8::/32", 56).unwrap();
        for _ in 0..1_000_000 {
            let next = lowest(&pool).unwrap();
            pool.take(next);
        }
        assert_eq!(pool.used(), 1_000_000);
    }

    proptest! {
        #[test]
        fn as_the_model(steps in proptest::collection::vec((0_u8..5, 0_u64..16), 0..150)) {
            let mut pool = pool("2001:db8::/60", 64).unwrap();
            let mut given = BTreeSet::new();
            let mut held = BTreeSet::new();
            for (kind, which) in steps {
                let free = |index: &u64| !given.contains(index) && !held.contains(index);
                let model_lowest = (0..16).find(free);
                prop_assert_eq!(lowest(&pool).and_then(|p| pool.index_of(p)), model_lowest);
                let prefix = pool.nth(which).unwrap();
                match kind {
                    0 => {
                        if let Some(index) = model_lowest {
                            prop_assert!(pool.take(pool.nth(index).unwrap()));
                            given.insert(index);
                        }
                    }
                    // By name, out of the quarantine too.
                    1 => prop_assert_eq!(pool.take(prefix), given.insert(which)),
                    2 => prop_assert_eq!(pool.free(prefix), given.remove(&which)),
                    3 => {
                        pool.hold(prefix);
                        held.insert(which);
                    }
                    _ => {
                        pool.let_go(prefix);
                        held.remove(&which);
                    }
                }
                prop_assert_eq!(pool.used(), given.len() as u64);
                prop_assert_eq!(pool.quarantined(), held.difference(&given).count() as u64);
            }
        }
    }
}
