//! ICMPv6 (RFC 4443) and the neighbour discovery messages (RFC 4861) a tunnel end answers.

use crate::{checksum, ipv6};

/// Destination unreachable.
pub const DEST_UNREACHABLE: u8 = 1;
/// Packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Router solicitation.
pub const ROUTER_SOLICIT: u8 = 133;
/// Neighbour solicitation.
pub const NEIGHBOUR_SOLICIT: u8 = 135;
/// Neighbour advertisement.
pub const NEIGHBOUR_ADVERT: u8 = 136;
/// Redirect.
pub const REDIRECT: u8 = 137;

/// Code of [`DEST_UNREACHABLE`]: no route.
pub const CODE_NO_ROUTE: u8 = 0;
/// Code of [`DEST_UNREACHABLE`]: administratively prohibited.
pub const CODE_PROHIBITED: u8 = 1;
/// Code of [`DEST_UNREACHABLE`]: beyond the scope of the source address.
pub const CODE_SCOPE: u8 = 2;
/// Code of [`DEST_UNREACHABLE`]: address unreachable.
pub const CODE_ADDRESS: u8 = 3;

/// Most extension headers looked at before giving up (our own bound: RFC 8200 sets none).
const MAX_EXTENSIONS: usize = 8;

/// Whether the IPv6 packet whose fixed header names `next_header` and continues with `payload` is
/// an ICMPv6 error or a redirect, about which no error may be sent (RFC 4443 section 2.4 e.1, e.2).
///
/// Extension headers are walked. A later fragment shows no ICMPv6 header; it belongs to a datagram
/// whose first fragment decides, so it counts as no error.
#[must_use]
pub fn is_error_or_redirect(next_header: u8, payload: &[u8]) -> bool {
    let mut next = next_header;
    let mut rest = payload;
    for _ in 0..MAX_EXTENSIONS {
        let step = match next {
            ipv6::NH_ICMPV6 => {
                return rest
                    .first()
                    .is_some_and(|kind| *kind < ECHO_REQUEST || *kind == REDIRECT);
            }
            ipv6::NH_HOP_BY_HOP | ipv6::NH_ROUTING | ipv6::NH_DEST_OPTIONS => match rest {
                [following, len, ..] => Some((*following, (usize::from(*len) + 1) * 8)),
                _ => None,
            },
            ipv6::NH_FRAGMENT => match rest.first_chunk::<8>() {
                Some(head) if u16::from_be_bytes([head[2], head[3]]) & 0xfff8 == 0 => {
                    Some((head[0], 8))
                }
                _ => None,
            },
            _ => None,
        };
        let Some((following, len)) = step else {
            return false;
        };
        let Some(after) = rest.get(len..) else {
            return false;
        };
        next = following;
        rest = after;
    }
    false
}

/// Checksum over an ICMPv6 message whose checksum field is zero.
#[must_use]
pub fn compute_checksum(src: u128, dst: u128, message: &[u8]) -> u16 {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let pseudo = checksum::pseudo_v6(&src.to_be_bytes(), &dst.to_be_bytes(), ipv6::NH_ICMPV6, len);
    checksum::finish(pseudo + checksum::sum(message))
}

/// Whether the checksum inside `message` is right.
#[must_use]
pub fn checksum_ok(src: u128, dst: u128, message: &[u8]) -> bool {
    compute_checksum(src, dst, message) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_behind_extension_headers() {
        assert!(is_error_or_redirect(58, &[3, 0, 0, 0]));
        assert!(is_error_or_redirect(58, &[REDIRECT, 0]));
        assert!(!is_error_or_redirect(58, &[128, 0]));
        assert!(!is_error_or_redirect(58, &[]));
        assert!(!is_error_or_redirect(17, &[1, 0, 0, 0]));
        let mut packet = vec![60, 0, 0, 0, 0, 0, 0, 0];
        packet.extend_from_slice(&[58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.push(1);
        assert!(is_error_or_redirect(0, &packet));
        for len in 0..packet.len() {
            assert!(!is_error_or_redirect(0, packet.get(..len).unwrap_or(&[])));
        }
        // a fragment that is not the first
        assert!(!is_error_or_redirect(44, &[58, 0, 0, 8, 0, 0, 0, 0, 1]));
        assert!(is_error_or_redirect(44, &[58, 0, 0, 1, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn endless_extension_chain_ends() {
        let chain = [[0u8, 0, 0, 0, 0, 0, 0, 0]; 64].concat();
        assert!(!is_error_or_redirect(0, &chain));
    }

    #[test]
    fn computed_checksum_verifies() {
        let mut message = vec![128, 0, 0, 0, 1, 2, 3, 4, 5];
        let [c0, c1] = compute_checksum(1, 2, &message).to_be_bytes();
        message[2] = c0;
        message[3] = c1;
        assert!(checksum_ok(1, 2, &message));
        message[8] ^= 1;
        assert!(!checksum_ok(1, 2, &message));
    }
}
