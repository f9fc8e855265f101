//! UDP header (RFC 768) over IPv4, as IPv6-in-UDP tunnels use it: bare IPv6 follows, no shim.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! |            Length             |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::{checksum, ipv4};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A view of a UDP header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(pub &'a [u8; HEADER_LEN]);

impl Header<'_> {
    /// Source port.
    #[inline]
    #[must_use]
    pub const fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Header and payload, in bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// Whether the length field says there is not even a header.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() < HEADER_LEN
    }

    /// Checksum; 0 means that none was computed, which IPv4 permits.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}

/// Unfolded sum of the pseudo header of RFC 768.
#[inline]
fn pseudo(src: [u8; 4], dst: [u8; 4], len: usize) -> u64 {
    checksum::sum(&src) + checksum::sum(&dst) + u64::from(ipv4::PROTO_UDP) + len as u64
}

/// Whether the checksum of `datagram` (header and payload, nothing behind) is right or absent.
#[must_use]
pub fn checksum_ok(src: [u8; 4], dst: [u8; 4], datagram: &[u8]) -> bool {
    let absent = datagram.get(6..8) == Some(&[0, 0]);
    absent || checksum::fold(pseudo(src, dst, datagram.len()) + checksum::sum(datagram)) == 0xffff
}

/// Checksum to send with `datagram`, whose checksum field is zero. Never 0: that would say "none".
#[must_use]
pub fn compute_checksum(src: [u8; 4], dst: [u8; 4], datagram: &[u8]) -> u16 {
    match checksum::finish(pseudo(src, dst, datagram.len()) + checksum::sum(datagram)) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Writes a header with an empty checksum.
#[inline]
pub const fn emit(out: &mut [u8; HEADER_LEN], src_port: u16, dst_port: u16, len: u16) {
    let [s0, s1] = src_port.to_be_bytes();
    let [d0, d1] = dst_port.to_be_bytes();
    let [l0, l1] = len.to_be_bytes();
    *out = [s0, s1, d0, d1, l0, l1, 0, 0];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_verifies_and_damage_is_seen(
            src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), ports in any::<[u16; 2]>(),
            payload in prop::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>(),
        ) {
            let len = u16::try_from(HEADER_LEN + payload.len()).expect("short");
            let mut head = [0; HEADER_LEN];
            emit(&mut head, ports[0], ports[1], len);
            let mut datagram = head.to_vec();
            datagram.extend_from_slice(&payload);
            let sum = compute_checksum(src, dst, &datagram);
            prop_assert_ne!(sum, 0);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(checksum_ok(src, dst, &datagram));
            let header = Header(datagram.first_chunk().expect("header"));
            prop_assert_eq!((header.src_port(), header.dst_port()), (ports[0], ports[1]));
            prop_assert_eq!((header.len(), header.checksum()), (usize::from(len), sum));
            let (at, bits) = (flip.0 % datagram.len(), flip.1);
            // 0xff and 0x00 pairs are the same number in ones' complement; one bit never is
            datagram[at] ^= 1 << (bits & 7);
            let zeroed = datagram[6..8] == [0, 0];
            prop_assert!(zeroed || !checksum_ok(src, dst, &datagram));
        }
    }

    #[test]
    fn no_checksum_is_fine() {
        assert!(checksum_ok([1; 4], [2; 4], &[0, 1, 0, 2, 0, 8, 0, 0]));
    }
}
