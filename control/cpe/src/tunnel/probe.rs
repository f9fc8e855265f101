//! A packet of our own that the relay will believe: an ICMPv6 echo request (RFC 4443 section 4.1).
//!
//! A relay that learns where its peer is wants to see an IPv6 packet with a source of that peer; an
//! empty datagram proves nothing.

use std::net::Ipv6Addr;

use sixferry_wire::{icmpv6, ipv6};

/// Length of the ICMPv6 message: no data follows its header.
const MESSAGE_LEN: usize = 8;
/// Length of the packet.
pub const LEN: usize = ipv6::HEADER_LEN + MESSAGE_LEN;
const HOP_LIMIT: u8 = 64;

/// An echo request with this sequence number.
#[must_use]
pub fn echo_request(source: Ipv6Addr, destination: Ipv6Addr, sequence: u16) -> [u8; LEN] {
    let (src, dst) = (u128::from(source), u128::from(destination));
    let [high, low] = sequence.to_be_bytes();
    let mut message = [icmpv6::ECHO_REQUEST, 0, 0, 0, 0, 0, high, low];
    let [high, low] = icmpv6::compute_checksum(src, dst, &message).to_be_bytes();
    (message[2], message[3]) = (high, low);
    let mut header = [0; ipv6::HEADER_LEN];
    ipv6::Repr {
        payload_len: MESSAGE_LEN as u16,
        next_header: ipv6::NH_ICMPV6,
        hop_limit: HOP_LIMIT,
        src,
        dst,
    }
    .emit(&mut header);
    let mut packet = [0; LEN];
    let (head, body) = packet.split_at_mut(ipv6::HEADER_LEN);
    head.copy_from_slice(&header);
    body.copy_from_slice(&message);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_well_formed_and_its_checksum_right() {
        let source: Ipv6Addr = "2001:db8:ffff::6".parse().expect("address");
        let destination: Ipv6Addr = "2001:db8:ffff::5".parse().expect("address");
        let packet = echo_request(source, destination, 0x1234);
        let header = ipv6::Header(packet.first_chunk().expect("a header"));
        assert_eq!(header.version(), 6);
        assert_eq!(header.payload_len(), MESSAGE_LEN);
        assert_eq!(
            (header.src(), header.dst()),
            (source.into(), destination.into())
        );
        let message = &packet[ipv6::HEADER_LEN..];
        assert!(icmpv6::checksum_ok(header.src(), header.dst(), message));
        assert_eq!(message[0], icmpv6::ECHO_REQUEST);
        assert_eq!(message[6..], [0x12, 0x34]);
    }
}
