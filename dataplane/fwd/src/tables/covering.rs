//! Which IPv6 destinations the steering program must take off the native side.
//!
//! The kernel's longest-prefix-match map is asked for every native packet, so it holds at most
//! [`LIMIT`] prefixes that cover all tunnels' prefixes. While there are few they are exact; when
//! there are more, they are cut shorter until they fit. A cut prefix may take packets that belong to
//! no tunnel: those follow the mirrored routes, as they would have in the kernel.

use crate::prefix::Ipv6Prefix;
use hashbrown::HashMap;

/// Most prefixes in the set.
pub(crate) const LIMIT: usize = 1024;

/// Lengths tried, longest first. The last leaves at most 256 prefixes.
const LENGTHS: [u8; 15] = [128, 96, 64, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 8];

#[derive(Debug)]
pub(crate) struct Covering {
    /// Index into [`LENGTHS`].
    level: usize,
    counts: HashMap<Ipv6Prefix, u32>,
    pools: Vec<Ipv6Prefix>,
}

impl Covering {
    /// Of more pools than half the limit the rest is left out: what they would cover is counted like
    /// any other prefix.
    pub(crate) fn new(mut pools: Vec<Ipv6Prefix>) -> Self {
        pools.truncate(LIMIT / 2);
        Self {
            level: 0,
            counts: HashMap::new(),
            pools,
        }
    }

    fn cut(&self, prefix: Ipv6Prefix) -> Ipv6Prefix {
        let len = LENGTHS.get(self.level).copied().unwrap_or(8);
        Ipv6Prefix::containing(prefix.address(), prefix.len().min(len))
    }

    fn pooled(&self, prefix: Ipv6Prefix) -> bool {
        self.pools.iter().any(|pool| pool.covers(prefix))
    }

    pub(crate) fn insert(&mut self, prefix: Ipv6Prefix) {
        if self.pooled(prefix) {
            return;
        }
        *self.counts.entry(self.cut(prefix)).or_insert(0) += 1;
        while self.counts.len() + self.pools.len() > LIMIT && self.level + 1 < LENGTHS.len() {
            self.level += 1;
            let finer = std::mem::take(&mut self.counts);
            for (prefix, count) in finer {
                *self.counts.entry(self.cut(prefix)).or_insert(0) += count;
            }
        }
    }

    pub(crate) fn remove(&mut self, prefix: Ipv6Prefix) {
        if self.pooled(prefix) {
            return;
        }
        let cut = self.cut(prefix);
        if let Some(count) = self.counts.get_mut(&cut) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&cut);
            }
        }
        if self.counts.is_empty() {
            self.level = 0;
        }
    }

    /// The set, without prefixes that lie inside another.
    pub(crate) fn prefixes(&self) -> Vec<Ipv6Prefix> {
        let mut all: Vec<_> = self
            .pools
            .iter()
            .chain(self.counts.keys())
            .copied()
            .collect();
        all.sort_unstable_by_key(|p| (p.bits(), p.len()));
        let mut out: Vec<Ipv6Prefix> = Vec::with_capacity(all.len());
        for prefix in all {
            if !out.last().is_some_and(|last| last.covers(prefix)) {
                out.push(prefix);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn always_covers_and_stays_small(
            prefixes in prop::collection::hash_set((any::<u32>(), 16u8..=128), 1..3000),
            keep in 0usize..3000,
        ) {
            let mut covering = Covering::new(vec![]);
            let all: Vec<_> = prefixes
                .into_iter()
                .map(|(bits, len)| Ipv6Prefix::containing(Ipv6Addr::from(u128::from(bits) << 80 | 0x2001 << 112), len))
                .collect();
            for p in &all {
                covering.insert(*p);
            }
            let check = |covering: &Covering, held: &[Ipv6Prefix]| {
                let set = covering.prefixes();
                set.len() <= LIMIT && held.iter().all(|p| set.iter().any(|s| s.covers(*p)))
            };
            prop_assert!(check(&covering, &all));
            let keep = keep.min(all.len());
            for p in &all[keep..] {
                covering.remove(*p);
            }
            prop_assert!(check(&covering, &all[..keep]));
            for p in &all[..keep] {
                covering.remove(*p);
            }
            prop_assert!(covering.prefixes().is_empty());
        }
    }

    #[test]
    fn a_pool_stands_for_its_prefixes() {
        let pool: Ipv6Prefix = "2001:db8::/32".parse().expect("prefix");
        let mut covering = Covering::new(vec![pool]);
        for i in 0..5000u128 {
            covering.insert(Ipv6Prefix::containing(
                Ipv6Addr::from((0x2001_0db8_0000 + i) << 80),
                48,
            ));
        }
        covering.insert("2001:db9:1::/48".parse().expect("prefix"));
        assert_eq!(covering.prefixes().len(), 2);
    }
}
