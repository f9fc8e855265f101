//! IPv4 addresses inside IPv6 addresses: 6to4 (RFC 3056 section 2) and 6rd (RFC 5969 section 4).
//!
//! 6to4 is 6rd with the prefix 2002::/16 and all 32 bits, so there is one codec:
//!
//! ```text
//! |     n bits     |    o = 32 - m bits     |  128 - n - o bits   |
//! +----------------+------------------------+---------------------+
//! | domain prefix  | IPv4 address, low bits | subnet, interface   |
//! +----------------+------------------------+---------------------+
//! ```

/// Prefix length of 6to4.
pub const SIX_TO_FOUR_LEN: u8 = 16;
/// 2002::/16.
pub const SIX_TO_FOUR: u128 = 0x2002 << 112;
/// 192.88.99.1, the deprecated anycast address of 6to4 relays (RFC 3068, RFC 7526).
pub const SIX_TO_FOUR_ANYCAST: [u8; 4] = [192, 88, 99, 1];
/// Longest delegated prefix: a site needs its /64.
pub const DELEGATED_MAX: u8 = 64;

/// How a domain's IPv6 addresses contain IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    prefix: u128,
    prefix_len: u8,
    common: u32,
    mask_len: u8,
}

impl Embedding {
    /// The mapping of 6to4.
    pub const SIX_TO_FOUR: Self = Self {
        prefix: SIX_TO_FOUR,
        prefix_len: SIX_TO_FOUR_LEN,
        common: 0,
        mask_len: 0,
    };

    /// A 6rd domain: its prefix of `prefix_len` bits (n), and the IPv4 prefix of `mask_len` bits (m)
    /// that all its customers share. `None` unless `m` is at most 32, `n` at least 1, host bits are
    /// zero and the delegated prefix, n + 32 - m bits, is no longer than [`DELEGATED_MAX`].
    #[must_use]
    pub const fn new(prefix: u128, prefix_len: u8, common: u32, mask_len: u8) -> Option<Self> {
        if prefix_len == 0 || mask_len > 32 || prefix_len > DELEGATED_MAX {
            return None;
        }
        if prefix_len + (32 - mask_len) > DELEGATED_MAX {
            return None;
        }
        let host4 = if mask_len == 32 {
            0
        } else {
            u32::MAX >> mask_len
        };
        if common & host4 != 0 || prefix & (u128::MAX >> prefix_len) != 0 {
            return None;
        }
        Some(Self {
            prefix,
            prefix_len,
            common,
            mask_len,
        })
    }

    /// The domain's prefix and its length.
    #[must_use]
    pub const fn prefix(&self) -> (u128, u8) {
        (self.prefix, self.prefix_len)
    }

    /// Length of what one IPv4 address is delegated.
    #[must_use]
    pub const fn delegated_len(&self) -> u8 {
        self.prefix_len + 32 - self.mask_len
    }

    /// Bits of the IPv4 address that stand in the prefix.
    const fn low_bits(&self) -> u32 {
        if self.mask_len == 32 {
            0
        } else {
            u32::MAX >> self.mask_len
        }
    }

    /// Whether an IPv6 address lies in the domain.
    #[inline]
    #[must_use]
    pub const fn contains(&self, address: u128) -> bool {
        (address ^ self.prefix) >> (128 - self.prefix_len as u32) == 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to the low bits")]
    /// The IPv4 address inside an IPv6 address of the domain.
    #[inline]
    #[must_use]
    pub const fn embedded(&self, address: u128) -> Option<u32> {
        if !self.contains(address) {
            return None;
        }
        let shift = 128 - self.delegated_len() as u32;
        Some(self.common | ((address >> shift) as u32 & self.low_bits()))
    }

    /// The prefix delegated to an IPv4 address; `None` for one outside the shared IPv4 prefix.
    #[inline]
    #[must_use]
    pub const fn delegated(&self, address: u32) -> Option<u128> {
        if address & !self.low_bits() != self.common {
            return None;
        }
        let shift = 128 - self.delegated_len() as u32;
        Some(self.prefix | (((address & self.low_bits()) as u128) << shift))
    }
}

/// Whether an IPv4 address cannot be a peer on the Internet: RFC 3964 section 5.3.1 and the blocks
/// of RFC 6890 that are not globally reachable.
#[inline]
#[must_use]
pub const fn is_martian(address: u32) -> bool {
    let [a, b, c, _] = address.to_be_bytes();
    match a {
        0 | 10 | 127 | 224.. => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => matches!((b, c), (168, _) | (0, 0 | 2)),
        198 => b & 0xfe == 18 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    }
}

/// Whether an IPv4 address cannot be any unicast peer, on a private network either.
#[inline]
#[must_use]
pub const fn is_impossible(address: u32) -> bool {
    let first = address >> 24;
    first == 0 || first == 127 || first >= 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v6(text: &str) -> u128 {
        u128::from(text.parse::<Ipv6Addr>().expect("address"))
    }

    fn v4(text: &str) -> u32 {
        u32::from(text.parse::<Ipv4Addr>().expect("address"))
    }

    #[test]
    fn six_to_four() {
        let e = Embedding::SIX_TO_FOUR;
        assert_eq!(
            e.embedded(v6("2002:c633:6401:7::1")),
            Some(v4("198.51.100.1"))
        );
        assert_eq!(
            e.delegated(v4("198.51.100.1")),
            Some(v6("2002:c633:6401::"))
        );
        assert_eq!(e.delegated_len(), 48);
        assert_eq!(e.embedded(v6("2001:db8::1")), None);
    }

    #[test]
    fn the_example_of_rfc_5969() {
        // section 7.1: 2001:db8::/32, 10.0.0.0/8, customer 10.100.100.1
        let e = Embedding::new(v6("2001:db8::"), 32, v4("10.0.0.0"), 8).expect("domain");
        assert_eq!(
            e.delegated(v4("10.100.100.1")),
            Some(v6("2001:db8:6464:100::"))
        );
        assert_eq!(e.delegated_len(), 56);
        assert_eq!(
            e.embedded(v6("2001:db8:6464:1ff::1")),
            Some(v4("10.100.100.1"))
        );
        assert_eq!(e.delegated(v4("11.100.100.1")), None);
    }

    #[test]
    fn refused_domains() {
        assert!(
            Embedding::new(v6("2001:db8::"), 32, v4("10.0.0.1"), 8).is_none(),
            "host bits"
        );
        assert!(
            Embedding::new(v6("2001:db8::1"), 32, 0, 0).is_none(),
            "host bits"
        );
        assert!(
            Embedding::new(v6("2001:db8::"), 33, 0, 0).is_none(),
            "65 bits"
        );
        assert!(Embedding::new(0, 0, 0, 0).is_none());
        assert!(Embedding::new(v6("2001:db8::"), 32, 0, 33).is_none());
        assert!(Embedding::new(v6("2001:db8::"), 64, v4("10.0.0.1"), 32).is_some());
    }

    proptest! {
        /// Against arithmetic on lists of bits.
        #[test]
        fn agrees_with_bit_lists(
            n in 1u8..=63, m in 0u8..=32, prefix in any::<u128>(), common in any::<u32>(),
            address in any::<u32>(), rest in any::<u128>(),
        ) {
            prop_assume!(n + (32 - m) <= 64);
            let prefix = prefix & !(u128::MAX >> n);
            let low = if m == 32 { 0 } else { u32::MAX >> m };
            let common = common & !low;
            let e = Embedding::new(prefix, n, common, m).expect("valid");
            let address = common | (address & low);
            let bit6 = |i: u8| prefix >> (127 - i) & 1;
            let bit4 = |i: u8| u128::from(address >> (31 - i) & 1);
            let mut model = 0u128;
            for i in 0..n {
                model |= bit6(i) << (127 - i);
            }
            for i in m..32 {
                model |= bit4(i) << (127 - (n + i - m));
            }
            prop_assert_eq!(e.delegated(address), Some(model));
            let host = model | (rest & (u128::MAX >> e.delegated_len()));
            prop_assert_eq!(e.embedded(host), Some(address));
            prop_assert!(e.contains(host));
            let outside = host ^ (1 << (128 - u32::from(n)));
            prop_assert_eq!(e.embedded(outside), None);
        }
    }

    #[test]
    fn martians() {
        for bad in [
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "169.254.9.9",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.9",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
        ] {
            assert!(is_martian(v4(bad)), "{bad}");
        }
        for good in [
            "8.0.0.1",
            "9.1.2.3",
            "133.4.5.6",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "192.88.99.1",
            "198.17.0.1",
            "198.20.0.1",
            "198.51.101.1",
            "203.0.112.1",
            "223.255.255.255",
        ] {
            assert!(!is_martian(v4(good)), "{good}");
        }
        assert!(is_impossible(v4("127.0.0.1")) && !is_impossible(v4("10.0.0.1")));
    }
}
