//! Who has which prefix: no prefix of one account lies inside another account's. What an account has
//! twice (its own prefix, routed into its tunnel) is one entry.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::{AccountId, TunnelId};

/// Prefixes of accounts and tunnels.
#[derive(Debug)]
pub(crate) struct Claims {
    claims: BTreeMap<(u128, u8), Claim>,
    /// How many there are of each length: most lengths are never looked for.
    lens: [u32; 129],
}

/// One prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) prefix: Ipv6Net,
    pub(crate) account: AccountId,
    /// It is the account's own.
    pub(crate) own: bool,
    /// It is routed into this tunnel.
    pub(crate) tunnel: Option<TunnelId>,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            claims: BTreeMap::new(),
            lens: [0; 129],
        }
    }
}

fn key(prefix: Ipv6Net) -> (u128, u8) {
    (u128::from(prefix.network()), prefix.prefix_len())
}

impl Claims {
    /// A claim that overlaps the prefix and for which `other` holds.
    pub(crate) fn overlapping(
        &self,
        prefix: Ipv6Net,
        other: impl Fn(&Claim) -> bool,
    ) -> Option<&Claim> {
        for len in (0..=prefix.prefix_len()).filter(|len| self.lens[usize::from(*len)] > 0) {
            let around = Ipv6Net::new(prefix.addr(), len).ok()?.trunc();
            if let Some(claim) = self.claims.get(&key(around)).filter(|c| other(c)) {
                return Some(claim);
            }
        }
        let last = (u128::from(prefix.broadcast()), 128);
        let mut inside = self
            .claims
            .range(key(prefix)..=last)
            .map(|(_, claim)| claim);
        inside.find(|claim| other(claim))
    }

    /// The tunnel a prefix is routed into.
    pub(crate) fn holder(&self, prefix: Ipv6Net) -> Option<TunnelId> {
        self.claims.get(&key(prefix))?.tunnel
    }

    fn edit(&mut self, prefix: Ipv6Net, account: AccountId, change: impl FnOnce(&mut Claim)) {
        let (base, len) = key(prefix);
        let claim = self.claims.entry((base, len)).or_insert_with(|| {
            self.lens[usize::from(len)] += 1;
            Claim {
                prefix: Ipv6Net::new(Ipv6Addr::from(base), len).unwrap_or(prefix),
                account,
                own: false,
                tunnel: None,
            }
        });
        change(claim);
        if !claim.own && claim.tunnel.is_none() {
            self.claims.remove(&(base, len));
            self.lens[usize::from(len)] -= 1;
        }
    }

    pub(crate) fn set_own(&mut self, prefix: Ipv6Net, account: AccountId, own: bool) {
        self.edit(prefix, account, |claim| claim.own = own);
    }

    pub(crate) fn route(&mut self, prefix: Ipv6Net, account: AccountId, tunnel: TunnelId) {
        self.edit(prefix, account, |claim| claim.tunnel = Some(tunnel));
    }

    pub(crate) fn unroute(&mut self, prefix: Ipv6Net, account: AccountId, tunnel: TunnelId) {
        self.edit(prefix, account, |claim| {
            claim.tunnel = claim.tunnel.filter(|holder| *holder != tunnel);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    #[test]
    fn overlaps_are_found_both_ways_and_own_ones_ignored() {
        let mut claims = Claims::default();
        let (alice, bob) = (AccountId(1), AccountId(2));
        claims.set_own(net("2001:db8:1::/48"), alice, true);
        let foreign = |prefix: &str, account: AccountId| {
            let claim = claims.overlapping(net(prefix), |c| c.account != account);
            claim.map(|c| c.prefix)
        };
        for inside in [
            "2001:db8:1::/48",
            "2001:db8:1:2::/64",
            "2001:db8::/32",
            "::/0",
        ] {
            assert_eq!(
                foreign(inside, bob),
                Some(net("2001:db8:1::/48")),
                "{inside}"
            );
            assert_eq!(foreign(inside, alice), None, "{inside}");
        }
        assert_eq!(foreign("2001:db8:2::/48", bob), None);
    }

    #[test]
    fn a_prefix_is_free_when_neither_account_nor_tunnel_has_it() {
        let mut claims = Claims::default();
        let (alice, tunnel) = (AccountId(1), TunnelId(7));
        let prefix = net("2001:db8:1::/48");
        claims.set_own(prefix, alice, true);
        claims.route(prefix, alice, tunnel);
        assert_eq!(claims.holder(prefix), Some(tunnel));
        claims.set_own(prefix, alice, false);
        assert!(claims.overlapping(prefix, |_| true).is_some());
        claims.unroute(prefix, alice, TunnelId(8));
        assert_eq!(claims.holder(prefix), Some(tunnel));
        claims.unroute(prefix, alice, tunnel);
        assert!(claims.overlapping(net("::/0"), |_| true).is_none());
        assert_eq!(claims.lens[48], 0);
    }

    proptest! {
        #[test]
        fn as_a_list(
            owned in proptest::collection::vec((0_u16..64, 0_u8..7, 0_i64..3), 0..12),
            asked in (0_u16..64, 0_u8..7, 0_i64..3),
        ) {
            // Six bits of address, /10 to /16: overlaps are common.
            let net = |bits: u16, len: u8| {
                let address = Ipv6Addr::from(u128::from(bits) << 112);
                Ipv6Net::new(address, 10 + len).unwrap().trunc()
            };
            let mut claims = Claims::default();
            let mut model: Vec<(Ipv6Net, AccountId)> = Vec::new();
            for (bits, len, account) in owned {
                let prefix = net(bits, len);
                if !model.iter().any(|(p, _)| *p == prefix) {
                    claims.set_own(prefix, AccountId(account), true);
                    model.push((prefix, AccountId(account)));
                }
            }
            let (prefix, account) = (net(asked.0, asked.1), AccountId(asked.2));
            let found = claims.overlapping(prefix, |c| c.account != account).is_some();
            let overlaps = |p: &Ipv6Net| p.contains(&prefix) || prefix.contains(p);
            let expected = model.iter().any(|(p, a)| *a != account && overlaps(p));
            prop_assert_eq!(found, expected);
        }
    }
}
