//! Prefixes that were taken back, of all pools there are or were: until when nobody gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

type Key = (u128, u8);

/// Prefixes in quarantine.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    ends: BTreeMap<Key, i64>,
    by_end: BTreeSet<(i64, Key)>,
}

fn key(prefix: Ipv6Net) -> Key {
    (u128::from(prefix.network()), prefix.prefix_len())
}

fn net((base, len): Key) -> Option<Ipv6Net> {
    Ipv6Net::new(Ipv6Addr::from(base), len).ok()
}

impl Freed {
    /// Keeps a prefix until then; the later of two times counts.
    pub(crate) fn hold(&mut self, prefix: Ipv6Net, until: i64) {
        let key = key(prefix);
        let end = self.ends.entry(key).or_insert(until);
        self.by_end.remove(&(*end, key));
        *end = until.max(*end);
        self.by_end.insert((*end, key));
    }

    /// Those inside a prefix.
    pub(crate) fn inside(&self, prefix: Ipv6Net) -> impl Iterator<Item = Ipv6Net> {
        let last = (u128::from(prefix.broadcast()), 128);
        let keys = self.ends.range(key(prefix)..=last).map(|(key, _)| *key);
        keys.filter_map(net)
    }

    /// Whether one has something of this prefix.
    pub(crate) fn overlaps(&self, prefix: Ipv6Net) -> bool {
        let mut around = (0..prefix.prefix_len()).filter_map(|len| {
            let around = Ipv6Net::new(prefix.addr(), len).ok()?;
            self.ends.get(&key(around.trunc()))
        });
        around.next().is_some() || self.inside(prefix).next().is_some()
    }

    /// Ends those that are over, at most `limit`.
    pub(crate) fn expire(&mut self, now: i64, limit: usize) -> Vec<Ipv6Net> {
        let mut ended = Vec::new();
        while ended.len() < limit
            && let Some(&(until, key)) = self.by_end.first()
            && until <= now
        {
            self.by_end.pop_first();
            self.ends.remove(&key);
            ended.extend(net(key));
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_later_end_counts_and_overlaps_are_found_both_ways() {
        let mut freed = Freed::default();
        freed.hold(net("2001:db8:1::/56"), 20);
        freed.hold(net("2001:db8:1::/56"), 10);
        freed.hold(net("2001:db8:2::/48"), 15);
        for (prefix, expected) in [
            ("2001:db8:1::/56", true),
            ("2001:db8:1:1::/64", true),
            ("2001:db8:1:100::/56", false),
            ("2001:db8:2:ff::/64", true),
            ("2001:db8::/32", true),
            ("2001:db8:3::/48", false),
        ] {
            assert_eq!(freed.overlaps(net(prefix)), expected, "{prefix}");
        }
        assert_eq!(freed.inside(net("2001:db8:1::/48")).count(), 1);
        assert_eq!(freed.expire(10, 9), []);
        assert_eq!(freed.expire(15, 9), [net("2001:db8:2::/48")]);
        assert_eq!(freed.expire(20, 9), [net("2001:db8:1::/56")]);
        assert!(!freed.overlaps(net("2001:db8::/32")));
    }
}
