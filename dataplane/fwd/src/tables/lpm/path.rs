//! The way from the direct index to the first node.

use super::DIRECT;

/// Bits that all prefixes below an entry of the direct index begin with, and behind them a 1: with them
/// known, no nodes are needed until prefixes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path(u64);

impl Path {
    /// Most bits: the 1 behind them needs room.
    pub(super) const MAX: u32 = 63;

    /// No way at all.
    pub(super) const NONE: Self = Self(1 << (Self::MAX - DIRECT));

    pub(super) const fn new(key: u128, bits: u32) -> Self {
        let high = (key >> 64) as u64;
        Self(high & !(u64::MAX >> bits) | 1 << (Self::MAX - bits))
    }

    /// How many bits lead to the node.
    #[inline]
    pub(super) const fn bits(self) -> u32 {
        Self::MAX - self.0.trailing_zeros()
    }

    #[inline]
    pub(super) const fn leads_to(self, key: u128) -> bool {
        let other = self.0 ^ (key >> 64) as u64;
        other >> self.0.trailing_zeros() >> 1 == 0
    }

    /// With how many of the bits `key` begins.
    pub(super) const fn common(self, key: u128) -> u32 {
        let same = (self.0 ^ (key >> 64) as u64).leading_zeros();
        if same < self.bits() {
            same
        } else {
            self.bits()
        }
    }

    pub(super) const fn key(self) -> u128 {
        ((self.0 & (self.0 - 1)) as u128) << 64
    }
}
