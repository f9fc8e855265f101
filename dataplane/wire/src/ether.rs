//! Ethernet II framing with at most one 802.1Q or 802.1ad tag.
//!
//! ```text
//!  0               6              12      14      16      18
//! +---------------+---------------+-------+-------+-------+
//! | destination   | source        | TPID  | TCI   | type  |   tagged
//! +---------------+---------------+-------+-------+-------+
//! | destination   | source        | type  |                   untagged
//! +---------------+---------------+-------+
//! ```

/// Length of an untagged header.
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag.
pub const TAG_LEN: usize = 4;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// TPID of an 802.1Q tag.
pub const TYPE_8021Q: u16 = 0x8100;
/// TPID of an 802.1ad (service) tag.
pub const TYPE_8021AD: u16 = 0x88a8;

/// A hardware address.
pub type Mac = [u8; 6];

/// What an Ethernet header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// EtherType of the payload.
    pub ether_type: u16,
    /// VLAN id of the tag, if there is one.
    pub vlan: Option<u16>,
    /// Bytes before the payload: 14 or 18.
    pub len: usize,
}

/// Parses the header of `frame`; `None` when it is shorter than its own header.
#[inline]
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Header> {
    let header = frame.first_chunk::<HEADER_LEN>()?;
    let ether_type = u16::from_be_bytes([header[12], header[13]]);
    if ether_type != TYPE_8021Q && ether_type != TYPE_8021AD {
        return Some(Header {
            ether_type,
            vlan: None,
            len: HEADER_LEN,
        });
    }
    let tagged = frame.first_chunk::<{ HEADER_LEN + TAG_LEN }>()?;
    Some(Header {
        ether_type: u16::from_be_bytes([tagged[16], tagged[17]]),
        vlan: Some(u16::from_be_bytes([tagged[14], tagged[15]]) & 0x0fff),
        len: HEADER_LEN + TAG_LEN,
    })
}

/// Writes an untagged header.
#[inline]
pub fn emit(out: &mut [u8; HEADER_LEN], dst: Mac, src: Mac, ether_type: u16) {
    let [d0, d1, d2, d3, d4, d5] = dst;
    let [s0, s1, s2, s3, s4, s5] = src;
    let [t0, t1] = ether_type.to_be_bytes();
    *out = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
}

/// Writes a header with one tag of priority 0.
#[inline]
pub fn emit_tagged(
    out: &mut [u8; HEADER_LEN + TAG_LEN],
    dst: Mac,
    src: Mac,
    tpid: u16,
    vlan: u16,
    ether_type: u16,
) {
    let [d0, d1, d2, d3, d4, d5] = dst;
    let [s0, s1, s2, s3, s4, s5] = src;
    let [p0, p1] = tpid.to_be_bytes();
    let [v0, v1] = (vlan & 0x0fff).to_be_bytes();
    let [t0, t1] = ether_type.to_be_bytes();
    *out = [
        d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, p0, p1, v0, v1, t0, t1,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_round_trip() {
        let mut out = [0u8; 18];
        emit_tagged(&mut out, [1; 6], [2; 6], TYPE_8021Q, 100, TYPE_IPV6);
        assert_eq!(
            parse(&out),
            Some(Header {
                ether_type: TYPE_IPV6,
                vlan: Some(100),
                len: 18
            })
        );
    }

    #[test]
    fn untagged_round_trip() {
        let mut out = [0u8; 14];
        emit(&mut out, [1; 6], [2; 6], TYPE_IPV4);
        assert_eq!(
            parse(&out),
            Some(Header {
                ether_type: TYPE_IPV4,
                vlan: None,
                len: 14
            })
        );
    }

    #[test]
    fn truncated_is_none() {
        let mut out = [0u8; 18];
        emit_tagged(&mut out, [1; 6], [2; 6], TYPE_8021AD, 1, TYPE_IPV6);
        for len in 0..18 {
            assert_eq!(parse(out.get(..len).unwrap_or(&[])), None, "{len}");
        }
    }
}
