//! ICMPv4 error messages (RFC 792, RFC 1191) about our outer packets.

use crate::ipv4;

/// Destination unreachable.
pub const DEST_UNREACHABLE: u8 = 3;
/// Code of [`DEST_UNREACHABLE`]: fragmentation needed and DF set.
pub const CODE_FRAG_NEEDED: u8 = 4;
/// Source quench, deprecated (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// An error message and the packet it quotes.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// Next-hop MTU of "fragmentation needed"; 0 from routers older than RFC 1191.
    pub mtu: u16,
    /// The quoted IPv4 header.
    pub quoted: ipv4::Header<'a>,
    /// What follows the quoted header (options skipped), at least 8 bytes.
    pub payload: &'a [u8],
}

/// Parses an ICMP message whose checksum has been verified. `None` when it is no error message or
/// quotes less than a header and 8 bytes (RFC 792).
#[must_use]
pub fn parse_error(icmp: &[u8]) -> Option<Error<'_>> {
    let (head, quoted) = icmp.split_first_chunk::<8>()?;
    if !matches!(
        head[0],
        DEST_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    ) {
        return None;
    }
    let header = ipv4::Header(quoted.first_chunk()?);
    let len = header.header_len();
    if header.version() != 4 || len < ipv4::HEADER_LEN {
        return None;
    }
    let payload = quoted.get(len..)?;
    if payload.len() < 8 {
        return None;
    }
    Some(Error {
        kind: head[0],
        code: head[1],
        mtu: u16::from_be_bytes([head[6], head[7]]),
        quoted: header,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_is_none() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 80];
        let mut outer = [0u8; 20];
        ipv4::Repr {
            tos: 0,
            total_len: 100,
            identification: 1,
            df: false,
            ttl: 1,
            protocol: 41,
            src: [1; 4],
            dst: [2; 4],
        }
        .emit(&mut outer);
        message.extend_from_slice(&outer);
        message.extend_from_slice(&[0; 8]);
        for len in 0..message.len() {
            assert!(
                parse_error(message.get(..len).unwrap_or(&[])).is_none(),
                "{len}"
            );
        }
        let error = parse_error(&message);
        assert!(error.is_some_and(|e| e.mtu == 1360 && e.quoted.protocol() == 41 && e.code == 4));
    }

    #[test]
    fn echo_is_no_error() {
        assert!(parse_error(&[8; 64]).is_none());
    }
}
