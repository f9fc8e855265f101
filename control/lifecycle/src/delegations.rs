//! Prefixes of one length out of a pool: the lowest that is neither given nor in quarantine.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use hashbrown::HashMap;
use ipnet::Ipv6Net;

use crate::runs::Runs;

/// The numbers of one delegation pool.
#[derive(Debug)]
pub(crate) struct Delegations {
    prefix: Ipv6Net,
    len: u8,
    used: u64,
    /// Given or in quarantine.
    blocked: Runs,
    quarantine: HashMap<u64, i64>,
    by_end: BTreeSet<(i64, u64)>,
}

impl Delegations {
    /// `None` where the length cannot be cut out of the prefix.
    pub(crate) fn new(prefix: Ipv6Net, len: u8) -> Option<Self> {
        let bits = len.checked_sub(prefix.prefix_len())?;
        (bits < 64 && len <= 128).then(|| Self {
            prefix: prefix.trunc(),
            len,
            used: 0,
            blocked: Runs::default(),
            quarantine: HashMap::new(),
            by_end: BTreeSet::new(),
        })
    }

    pub(crate) fn total(&self) -> u64 {
        1 << (self.len - self.prefix.prefix_len())
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantine.len() as u64
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

    /// Whether it is this pool's and nobody has it. An operator may give one in quarantine by name.
    pub(crate) fn take(&mut self, prefix: Ipv6Net) -> bool {
        let Some(index) = self.index_of(prefix) else {
            return false;
        };
        if let Some(end) = self.quarantine.remove(&index) {
            self.by_end.remove(&(end, index));
        } else if !self.blocked.insert(index) {
            return false;
        }
        self.used += 1;
        true
    }

    /// Whether somebody had it. It is given to nobody before `until`.
    pub(crate) fn free(&mut self, prefix: Ipv6Net, now: i64, until: i64) -> bool {
        let Some(index) = self.index_of(prefix) else {
            return false;
        };
        if !self.blocked.contains(index) || self.quarantine.contains_key(&index) {
            return false;
        }
        self.used -= 1;
        if until > now {
            self.quarantine.insert(index, until);
            self.by_end.insert((until, index));
        } else {
            self.blocked.remove(index);
        }
        true
    }

    /// Ends the quarantines that are over, at most `limit`; how many.
    pub(crate) fn expire(&mut self, now: i64, limit: usize) -> usize {
        let mut ended = 0;
        while ended < limit
            && let Some(&(until, index)) = self.by_end.first()
            && until <= now
        {
            self.by_end.pop_first();
            self.quarantine.remove(&index);
            self.blocked.remove(index);
            ended += 1;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        assert!(pool.free(second, 10, 20));
        assert!(!pool.free(second, 10, 20));
        assert_eq!((pool.used(), pool.quarantined()), (3, 1));
        assert_eq!(lowest(&pool), None);
        assert_eq!(pool.expire(19, 10), 0);
        assert_eq!(pool.expire(20, 10), 1);
        assert_eq!(lowest(&pool), Some(second));
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
        fn as_the_model(steps in proptest::collection::vec((0_u8..3, 0_u64..16, 0_i64..4), 0..150)) {
            let mut pool = pool("2001:db8::/60", 64).unwrap();
            // `None`: given; `Some`: in quarantine until then.
            let mut model: BTreeMap<u64, Option<i64>> = BTreeMap::new();
            let mut now = 0;
            for (kind, which, time) in steps {
                let model_lowest = (0..16).find(|index| !model.contains_key(index));
                prop_assert_eq!(lowest(&pool).and_then(|p| pool.index_of(p)), model_lowest);
                match kind {
                    0 => {
                        if let Some(prefix) = lowest(&pool) {
                            prop_assert!(pool.take(prefix));
                            model.insert(model_lowest.unwrap(), None);
                        }
                    }
                    1 => {
                        let had = model.get(&which) == Some(&None);
                        let prefix = pool.nth(which).unwrap();
                        prop_assert_eq!(pool.free(prefix, now, now + time), had);
                        if had && time > 0 {
                            model.insert(which, Some(now + time));
                        } else if had {
                            model.remove(&which);
                        }
                    }
                    _ => {
                        now += time;
                        pool.expire(now, usize::MAX);
                        model.retain(|_, until| until.is_none_or(|until| until > now));
                    }
                }
                prop_assert_eq!(pool.used() + pool.quarantined(), model.len() as u64);
            }
        }
    }
}
