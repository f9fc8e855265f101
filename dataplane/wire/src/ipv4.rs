//! IPv4 header (RFC 791), as the outer header of a tunnel sees it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |Type of Service|          Total Length         |
//! |         Identification        |Flags|      Fragment Offset    |
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! |                       Source Address                          |
//! |                    Destination Address                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::checksum;

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol number of IPv6 in IPv4 (RFC 4213).
pub const PROTO_IPV6: u8 = 41;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// The don't-fragment bit in [`Header::fragment_word`].
pub const DF: u16 = 0x4000;
/// The more-fragments bit in [`Header::fragment_word`].
pub const MF: u16 = 0x2000;

/// A read-only view of the fixed part of a header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(pub &'a [u8; HEADER_LEN]);

impl Header<'_> {
    /// Version nibble.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.0[0] >> 4
    }
    /// Header length in bytes as the IHL field says; 0 to 60, unchecked.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        ((self.0[0] & 0x0f) as usize) * 4
    }
    /// DSCP and ECN.
    #[inline]
    #[must_use]
    pub const fn tos(&self) -> u8 {
        self.0[1]
    }
    /// Total length in bytes.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> usize {
        u16::from_be_bytes([self.0[2], self.0[3]]) as usize
    }
    /// Identification.
    #[inline]
    #[must_use]
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }
    /// Flags and fragment offset, one word.
    #[inline]
    #[must_use]
    pub const fn fragment_word(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
    /// Whether this is one of several fragments, the last included.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment_word() & (MF | 0x1fff) != 0
    }
    /// Time to live.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.0[8]
    }
    /// Protocol.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.0[9]
    }
    /// Source address, network order.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }
    /// Destination address, network order.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }
}

/// What an outer header of ours says: no options, no fragments of our own making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// DSCP and ECN.
    pub tos: u8,
    /// Total length in bytes.
    pub total_len: u16,
    /// Identification: 0 when `df` is set (RFC 6864 section 4.1).
    pub identification: u16,
    /// Don't fragment.
    pub df: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Repr {
    /// The unfolded sum of the words that are the same for every packet of a tunnel: version, IHL,
    /// protocol and addresses. TOS, length, ID, flags and TTL are added per packet by [`Repr::emit_with`].
    #[must_use]
    pub fn template_sum(protocol: u8, src: [u8; 4], dst: [u8; 4]) -> u64 {
        0x4500 + u64::from(protocol) + checksum::sum(&src) + checksum::sum(&dst)
    }

    /// Writes the header, its checksum computed from scratch.
    #[inline(never)]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        self.emit_with(out, Self::template_sum(self.protocol, self.src, self.dst));
    }

    /// Writes the header; `template_sum` must be what [`Repr::template_sum`] gives for its protocol
    /// and addresses. The result equals [`Repr::emit`] for every input.
    #[inline(always)]
    pub fn emit_with(&self, out: &mut [u8; HEADER_LEN], template_sum: u64) {
        let fragment_word = if self.df { DF } else { 0 };
        let sum = template_sum
            + u64::from(self.tos)
            + u64::from(self.total_len)
            + u64::from(self.identification)
            + u64::from(fragment_word)
            + (u64::from(self.ttl) << 8);
        // whole words: stored byte by byte the header takes twice the instructions
        let first = 0x45 << 56
            | u64::from(self.tos) << 48
            | u64::from(self.total_len) << 32
            | u64::from(self.identification) << 16
            | u64::from(fragment_word);
        let second = u32::from(self.ttl) << 24
            | u32::from(self.protocol) << 16
            | u32::from(checksum::finish(sum));
        let (front, addresses) = out.split_at_mut(12);
        let (front, middle) = front.split_at_mut(8);
        front.copy_from_slice(&first.to_be_bytes());
        middle.copy_from_slice(&second.to_be_bytes());
        let (src, dst) = addresses.split_at_mut(4);
        src.copy_from_slice(&self.src);
        dst.copy_from_slice(&self.dst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn template_checksum_equals_the_full_sum(
            tos in any::<u8>(), total_len in any::<u16>(), identification in any::<u16>(), df in any::<bool>(),
            ttl in any::<u8>(), protocol in any::<u8>(), src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(),
        ) {
            let repr = Repr { tos, total_len, identification, df, ttl, protocol, src, dst };
            let template = Repr::template_sum(protocol, src, dst);
            let mut out = [0u8; HEADER_LEN];
            repr.emit_with(&mut out, template);
            // a correct header sums to all ones, checksum field included (RFC 1071)
            prop_assert_eq!(checksum::fold(checksum::sum(&out)), 0xffff);
            let mut zeroed = out;
            zeroed[10] = 0;
            zeroed[11] = 0;
            prop_assert_eq!(u16::from_be_bytes([out[10], out[11]]), checksum::finish(checksum::sum(&zeroed)));
        }

        #[test]
        fn parse_reads_back_what_emit_wrote(
            tos in any::<u8>(), total_len in any::<u16>(), identification in any::<u16>(), df in any::<bool>(),
            ttl in any::<u8>(), src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(),
        ) {
            let repr = Repr { tos, total_len, identification, df, ttl, protocol: PROTO_IPV6, src, dst };
            let mut out = [0u8; HEADER_LEN];
            repr.emit(&mut out);
            let header = Header(&out);
            prop_assert_eq!(header.version(), 4);
            prop_assert_eq!(header.header_len(), 20);
            prop_assert_eq!(header.tos(), tos);
            prop_assert_eq!(header.total_len(), usize::from(total_len));
            prop_assert_eq!(header.identification(), identification);
            prop_assert_eq!(header.fragment_word() & DF != 0, df);
            prop_assert!(!header.is_fragment());
            prop_assert_eq!(header.ttl(), ttl);
            prop_assert_eq!(header.protocol(), PROTO_IPV6);
            prop_assert_eq!((header.src(), header.dst()), (src, dst));
        }
    }
}
