//! Prefixes as the tables know them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::id::PortId;

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsePrefixError {
    /// Not `address/length`.
    Syntax,
    /// The length is beyond the address.
    Length,
    /// Bits are set after the prefix.
    HostBits,
}

impl fmt::Display for ParsePrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not of the form address/length",
            Self::Length => "length is beyond the address",
            Self::HostBits => "bits are set after the prefix",
        })
    }
}

impl std::error::Error for ParsePrefixError {}

macro_rules! prefix {
    ($name:ident, $addr:ty, $int:ty, $bits:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            bits: $int,
            len: u8,
        }

        impl $name {
            /// `None` when `len` is beyond the address or bits are set after the prefix.
            #[must_use]
            pub fn new(address: $addr, len: u8) -> Option<Self> {
                let bits = <$int>::from(address);
                (len <= $bits && bits & !Self::mask(len) == 0).then_some(Self { bits, len })
            }

            /// The prefix of `len` bits that holds `address`; `len` beyond the address counts as
            /// the whole address.
            #[must_use]
            pub fn containing(address: $addr, len: u8) -> Self {
                let len = if len > $bits { $bits } else { len };
                Self {
                    bits: <$int>::from(address) & Self::mask(len),
                    len,
                }
            }

            /// The prefix of all addresses.
            #[must_use]
            pub const fn all() -> Self {
                Self { bits: 0, len: 0 }
            }

            const fn mask(len: u8) -> $int {
                if len == 0 {
                    0
                } else {
                    <$int>::MAX << ($bits - len)
                }
            }

            /// First address.
            #[must_use]
            pub fn address(self) -> $addr {
                <$addr>::from(self.bits)
            }

            /// First address as a number.
            #[must_use]
            pub const fn bits(self) -> $int {
                self.bits
            }

            /// Length in bits.
            #[must_use]
            #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a count")]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// Whether `address` lies in it.
            #[must_use]
            pub fn contains(self, address: $addr) -> bool {
                <$int>::from(address) & Self::mask(self.len) == self.bits
            }

            /// Whether `other` lies in it or equals it.
            #[must_use]
            pub fn covers(self, other: Self) -> bool {
                self.len <= other.len && other.bits & Self::mask(self.len) == self.bits
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.address(), self.len)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParsePrefixError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let (address, len) = text.split_once('/').ok_or(ParsePrefixError::Syntax)?;
                let address: $addr = address.parse().map_err(|_| ParsePrefixError::Syntax)?;
                let len: u8 = len.parse().map_err(|_| ParsePrefixError::Syntax)?;
                if len > $bits {
                    return Err(ParsePrefixError::Length);
                }
                Self::new(address, len).ok_or(ParsePrefixError::HostBits)
            }
        }
    };
}

prefix!(
    Ipv6Prefix,
    Ipv6Addr,
    u128,
    128,
    "An IPv6 prefix; host bits are zero."
);
prefix!(
    Ipv4Prefix,
    Ipv4Addr,
    u32,
    32,
    "An IPv4 prefix; host bits are zero."
);

/// A link-local address with its link written into the zero bits behind fe80::/10, as the tables key
/// it: the same fe80::1 may be one neighbour on each link. `vlan` is the VLAN id, 0 for untagged.
/// Other addresses come back unchanged.
#[must_use]
pub fn link_scoped(address: Ipv6Addr, port: PortId, vlan: u16) -> Ipv6Addr {
    let bits = u128::from(address);
    if bits >> 118 != 0x3fa {
        return address;
    }
    let scope = (u128::from(port.0) + 1) << 12 | u128::from(vlan & 0x0fff);
    Ipv6Addr::from(bits & (u128::MAX >> 64 | 0x3ff << 118) | scope << 88)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_errors() {
        let p: Ipv6Prefix = "2001:db8::/32".parse().expect("prefix");
        assert_eq!(p.to_string(), "2001:db8::/32");
        assert!(p.contains("2001:db8:1::1".parse().expect("address")));
        assert_eq!(
            "2001:db8::1/32".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::HostBits)
        );
        assert_eq!(
            "2001:db8::/129".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::Length)
        );
        assert_eq!(
            "2001:db8::".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::Syntax)
        );
        assert!(
            "0.0.0.0/0"
                .parse::<Ipv4Prefix>()
                .is_ok_and(|p| p.contains([1, 2, 3, 4].into()))
        );
    }

    #[test]
    fn link_scope_keeps_links_apart() {
        let a: Ipv6Addr = "fe80::1".parse().expect("address");
        assert_ne!(link_scoped(a, PortId(0), 0), link_scoped(a, PortId(1), 0));
        assert_ne!(link_scoped(a, PortId(0), 0), link_scoped(a, PortId(0), 100));
        let global: Ipv6Addr = "2001:db8::1".parse().expect("address");
        assert_eq!(link_scoped(global, PortId(0), 7), global);
    }
}
