//! IPv6 header (RFC 8200 section 3) and the address classes a relay has to know.
//!
//! ```text
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic Class |           Flow Label                  |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                         Source Address (16)                   |
//! |                      Destination Address (16)                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// The smallest MTU every IPv6 link offers (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Next header: hop-by-hop options.
pub const NH_HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const NH_ROUTING: u8 = 43;
/// Next header: fragment.
pub const NH_FRAGMENT: u8 = 44;
/// Next header: ICMPv6.
pub const NH_ICMPV6: u8 = 58;
/// Next header: destination options.
pub const NH_DEST_OPTIONS: u8 = 60;

/// A read-only view of the fixed header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(pub &'a [u8; HEADER_LEN]);

impl Header<'_> {
    /// Version nibble.
    #[inline]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.0[0] >> 4
    }
    /// Traffic class: DSCP and ECN.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        (self.0[0] << 4) | (self.0[1] >> 4)
    }
    /// Payload length in bytes.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }
    /// Next header.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> u8 {
        self.0[6]
    }
    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.0[7]
    }
    /// Source address as a number.
    #[inline]
    #[must_use]
    pub fn src(&self) -> u128 {
        let (_, rest) = self.0.split_at(8);
        rest.first_chunk()
            .map_or(0, |bytes| u128::from_be_bytes(*bytes))
    }
    /// Destination address as a number.
    #[inline]
    #[must_use]
    pub fn dst(&self) -> u128 {
        self.0
            .last_chunk()
            .map_or(0, |bytes| u128::from_be_bytes(*bytes))
    }
}

/// Writes the traffic class, leaving version and flow label alone.
#[inline]
pub const fn set_traffic_class(header: &mut [u8; HEADER_LEN], class: u8) {
    header[0] = (header[0] & 0xf0) | (class >> 4);
    header[1] = (header[1] & 0x0f) | (class << 4);
}

/// Writes the hop limit.
#[inline]
pub const fn set_hop_limit(header: &mut [u8; HEADER_LEN], hop_limit: u8) {
    header[7] = hop_limit;
}

/// What a header of ours says: traffic class and flow label zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Payload length in bytes.
    pub payload_len: u16,
    /// Next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
}

impl Repr {
    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let [l0, l1] = self.payload_len.to_be_bytes();
        let (head, addresses) = out.split_at_mut(8);
        head.copy_from_slice(&[0x60, 0, 0, 0, l0, l1, self.next_header, self.hop_limit]);
        let (src, dst) = addresses.split_at_mut(16);
        src.copy_from_slice(&self.src.to_be_bytes());
        dst.copy_from_slice(&self.dst.to_be_bytes());
    }
}

/// ff00::/8.
#[inline]
#[must_use]
pub const fn is_multicast(address: u128) -> bool {
    address >> 120 == 0xff
}

/// fe80::/10.
#[inline]
#[must_use]
pub const fn is_link_local(address: u128) -> bool {
    address >> 118 == 0x3fa
}

/// Sources no packet on the wire may carry (RFC 4213 section 3.6): multicast, ::/96 (unspecified,
/// loopback and IPv4-compatible), ::ffff:0:0/96.
#[inline]
#[must_use]
pub const fn is_invalid_source(address: u128) -> bool {
    is_multicast(address) || address >> 32 == 0 || address >> 32 == 0xffff
}

/// The IPv4 address embedded in a 6to4 address (2002::/16, RFC 3056), if it is one.
#[inline]
#[must_use]
pub const fn embedded_6to4(address: u128) -> Option<u32> {
    if address >> 112 == 0x2002 {
        Some(((address >> 80) & 0xffff_ffff) as u32)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn a(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().map_or(0, u128::from)
    }

    #[test]
    fn address_classes() {
        assert!(is_multicast(a("ff02::1")) && !is_multicast(a("fe80::1")));
        assert!(is_link_local(a("fe80::1")) && is_link_local(a("febf::1")));
        assert!(!is_link_local(a("fec0::1")) && !is_link_local(a("2001:db8::1")));
        for bad in ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff05::2"] {
            assert!(is_invalid_source(a(bad)), "{bad}");
        }
        for good in ["2001:db8::1", "fe80::1", "2002:c000:201::1", "::1:0:0:1"] {
            assert!(!is_invalid_source(a(good)), "{good}");
        }
        assert_eq!(embedded_6to4(a("2002:c633:6401::1")), Some(0xc633_6401));
        assert_eq!(embedded_6to4(a("2001:db8::1")), None);
    }

    #[test]
    fn traffic_class_edit_keeps_version_and_flow() {
        let mut header = [0u8; HEADER_LEN];
        header[..4].copy_from_slice(&[0x6a, 0xbc, 0xde, 0xf0]);
        set_traffic_class(&mut header, 0x5f);
        assert_eq!(header[..4], [0x65, 0xfc, 0xde, 0xf0]);
        assert_eq!(Header(&header).traffic_class(), 0x5f);
    }

    #[test]
    fn repr_round_trip() {
        let repr = Repr {
            payload_len: 1240,
            next_header: NH_ICMPV6,
            hop_limit: 64,
            src: a("2001:db8::1"),
            dst: a("2001:db8::2"),
        };
        let mut out = [0u8; HEADER_LEN];
        repr.emit(&mut out);
        let header = Header(&out);
        assert_eq!(header.version(), 6);
        assert_eq!(header.payload_len(), 1240);
        assert_eq!(header.next_header(), NH_ICMPV6);
        assert_eq!(header.hop_limit(), 64);
        assert_eq!((header.src(), header.dst()), (repr.src, repr.dst));
    }
}
