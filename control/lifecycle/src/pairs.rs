//! The address pair of a numbered link: with unit n and prefix P, the relay has
//! P + 4(n+1)+1 and the user P + 4(n+1)+2. Every pair thus fills the middle of a /126 of its own,
//! which is the link's prefix at the dataplane.

use std::net::Ipv6Addr;

use hashbrown::{HashMap, HashSet};
use ipnet::Ipv6Net;

use crate::AddressPair;
use crate::runs::Runs;

/// The pair of a unit; `None` where it does not fit into the prefix, or the prefix has no room for
/// whole blocks of four.
pub(crate) fn pair_of(prefix: Ipv6Net, unit: u32) -> Option<AddressPair> {
    if prefix.prefix_len() > 126 {
        return None;
    }
    let base = u128::from(prefix.network());
    let block = base.checked_add(4 * (u128::from(unit) + 1))?;
    let pair = AddressPair {
        client: Ipv6Addr::from(block + 2),
        server: Ipv6Addr::from(block + 1),
    };
    prefix.contains(&pair.client).then_some(pair)
}

/// The /126 of a pair.
pub(crate) fn link_of(pair: &AddressPair) -> Ipv6Net {
    // A length up to 128 is always good.
    Ipv6Net::new(pair.server, 126).map_or_else(|_| pair.server.into(), |net| net.trunc())
}

/// Units whose pair is taken, by the network address their pairs are counted from.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    bases: HashMap<u128, Runs>,
    servers: HashSet<Ipv6Addr>,
}

impl Pairs {
    pub(crate) fn taken(&self, prefix: Ipv6Net) -> Option<&Runs> {
        self.bases.get(&u128::from(prefix.network()))
    }

    /// Whether it was free.
    pub(crate) fn take(&mut self, pair: &AddressPair, unit: u32) -> bool {
        if !self.servers.insert(pair.server) {
            return false;
        }
        let units = self.bases.entry(base_of(pair, unit)).or_default();
        units.insert(unit.into());
        true
    }

    /// Whether it was taken.
    pub(crate) fn free(&mut self, pair: &AddressPair, unit: u32) -> bool {
        if !self.servers.remove(&pair.server) {
            return false;
        }
        let base = base_of(pair, unit);
        if let Some(units) = self.bases.get_mut(&base) {
            units.remove(unit.into());
            if units.is_empty() {
                self.bases.remove(&base);
            }
        }
        true
    }
}

/// The network address a pair was counted from: a tunnel keeps its pair, not the prefix.
fn base_of(pair: &AddressPair, unit: u32) -> u128 {
    let block = u128::from(pair.server) & !3;
    block.saturating_sub(4 * (u128::from(unit) + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(prefix: &str, unit: u32) -> Option<(String, String)> {
        let pair = pair_of(prefix.parse().unwrap(), unit)?;
        Some((pair.server.to_string(), pair.client.to_string()))
    }

    #[test]
    fn the_table_of_the_original() {
        for (unit, server, client) in [
            (0, "5", "6"),
            (1, "9", "a"),
            (10, "2d", "2e"),
            (255, "401", "402"),
            (16382, "fffd", "fffe"),
            (16383, "1:1", "1:2"),
        ] {
            let address = |tail: &str| format!("2001:db8:ffff::{tail}");
            let expected = Some((address(server), address(client)));
            assert_eq!(pair("2001:db8:ffff::/64", unit), expected, "{unit}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(pair("2001:db8::/127", 0), None);
        assert_eq!(pair("2001:db8::/126", 0), None);
        assert!(pair("2001:db8::/125", 0).is_some());
        assert_eq!(pair("2001:db8::/125", 1), None);
        assert_eq!(pair("2001:db8::/112", 16383), None);
        assert!(pair("2001:db8::/64", u32::MAX).is_some());
        assert_eq!(pair("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126", 0), None);
    }

    #[test]
    fn another_stem_does_not_get_the_same_addresses() {
        let prefix: Ipv6Net = "2001:db8::/64".parse().unwrap();
        let mut pairs = Pairs::default();
        let first = pair_of(prefix, 3).unwrap();
        assert!(pairs.take(&first, 3));
        assert!(!pairs.take(&first, 3));
        assert!(pairs.taken(prefix).unwrap().contains(3));
        assert!(pairs.free(&first, 3) && !pairs.free(&first, 3));
        assert!(pairs.taken(prefix).is_none());
    }

    proptest! {
        #[test]
        fn every_pair_has_its_own_link(a in 0_u32..1_000_000, b in 0_u32..1_000_000) {
            let prefix: Ipv6Net = "2001:db8:1::/64".parse().unwrap();
            let (one, two) = (pair_of(prefix, a).unwrap(), pair_of(prefix, b).unwrap());
            prop_assert_eq!(link_of(&one) == link_of(&two), a == b);
            prop_assert!(link_of(&one).contains(&one.client));
            prop_assert!(link_of(&one).contains(&one.server));
            prop_assert_eq!(base_of(&one, a), u128::from(prefix.network()));
        }
    }
}
