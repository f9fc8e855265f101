//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept unfolded in a `u64` and in *big-endian word order*: a sum of parts equals the sum of
//! the whole as long as every part but the last has an even length.

/// Unfolded one's complement sum of `data`, taken as big-endian 16-bit words; an odd last byte is
/// padded with zero (RFC 1071 section 4.1).
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u64 {
    let (chunks, rest) = data.as_chunks::<8>();
    let mut total = 0u64;
    for chunk in chunks {
        let word = u64::from_be_bytes(*chunk);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    let (words, odd) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = odd {
        total += u64::from(*last) << 8;
    }
    total
}

/// Folds an unfolded sum to 16 bits, not complemented.
#[inline]
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) as u16
}

/// 0xffff times this is 1 modulo 2^64.
const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;

/// Whether a header of 20 bytes sums up to what a right checksum makes of it. The order of the bytes in a
/// word does not matter for that (RFC 1071 section 2 B), so none is swapped.
#[inline]
#[must_use]
pub fn is_sound(header: &[u8; 20]) -> bool {
    let ([first, second], rest) = header.as_chunks::<8>() else {
        return false;
    };
    let [a, b, c, d] = *rest else {
        return false;
    };
    // a carry out of 64 bits counts as one, as one out of 16 does
    let (total, carry) = u64::from_ne_bytes(*first).overflowing_add(u64::from_ne_bytes(*second));
    let rest = u64::from(u32::from_ne_bytes([a, b, c, d])) + u64::from(carry);
    let (total, carry) = total.overflowing_add(rest);
    let total = total + u64::from(carry);
    // all ones after folding: a multiple of 2^16 - 1, but not the one that stays zero. 2^64 - 1 is a
    // multiple of it, so those are what its inverse modulo 2^64 makes small.
    total != 0 && total.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The checksum field for an unfolded sum: the complement of [`fold`].
#[inline]
#[must_use]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Checksum after one 16-bit word changed from `old` to `new`: HC' = ~(~HC + ~m + m') (RFC 1624
/// equation 3).
#[inline]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(!checksum as u64 + !old as u64 + new as u64)
}

/// Unfolded sum of the IPv6 pseudo-header (RFC 8200 section 8.1) for an upper-layer packet of
/// `len` bytes.
#[inline]
#[must_use]
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], next_header: u8, len: u32) -> u64 {
    sum(src) + sum(dst) + u64::from(len >> 16) + u64::from(len & 0xffff) + u64::from(next_header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
    fn reference(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u32::from(u16::from_be_bytes([
                pair.first().copied().unwrap_or(0),
                low,
            ]));
            total = (total & 0xffff) + (total >> 16);
        }
        !(((total & 0xffff) + (total >> 16)) & 0xffff) as u16
    }

    #[test]
    fn rfc1071_example_sums_to_ddf2() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&data)), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_plain_definition(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(finish(sum(&data)), reference(&data));
        }

        #[test]
        fn a_header_is_sound_if_its_sum_is_all_ones(header in any::<[u8; 20]>(), zeroes in 0usize..20, fix in any::<bool>()) {
            let mut header = header;
            header[..zeroes].fill(0);
            if fix {
                header[10..12].fill(0);
                let sum = finish(sum(&header));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            prop_assert_eq!(is_sound(&header), fold(sum(&header)) == 0xffff);
            prop_assert!(!fix || is_sound(&header) || header == [0; 20]);
        }

        #[test]
        fn parts_add_up(a in prop::collection::vec(any::<u8>(), 0..40), b in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut even = a.clone();
            if even.len() % 2 == 1 {
                even.push(0);
            }
            let whole: Vec<u8> = even.iter().chain(&b).copied().collect();
            prop_assert_eq!(fold(sum(&even) + sum(&b)), fold(sum(&whole)));
        }

        #[test]
        fn update_equals_recomputation(mut data in prop::collection::vec(any::<u8>(), 20..=20), at in 0usize..9, new in any::<u16>()) {
            // a checksum over a buffer that holds at least one non-zero word, as every header does
            data[0] = 0x45;
            let old = u16::from_be_bytes([data[2 * at + 2], data[2 * at + 3]]);
            let before = finish(sum(&data));
            data[2 * at + 2..2 * at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), finish(sum(&data)));
        }
    }
}
