//! What must hold for every packet that leaves, whatever came in: read by etherparse, which shares
//! no code with the relay.

use crate::frame::{INSIDE_MAC, OUTSIDE_MAC, RELAY_MAC};
use crate::population::{INSIDE, OUTSIDE};
use crate::relay::{LOCALS, TUN, VLAN};
use etherparse::{
    EtherType, Ethernet2Slice, Icmpv6Slice, IpNumber, Ipv4Slice, Ipv6HeaderSlice, SingleVlanSlice,
};
use sixferry_fwd::PortId;
use std::net::Ipv6Addr;

/// An ICMPv6 error never exceeds this (RFC 4443 section 2.4 c).
const ERROR_MAX: usize = 1280;

/// Checks one packet.
///
/// # Panics
/// When it is not what a relay may send.
pub(crate) fn check(port: PortId, bytes: &[u8], answer: bool) {
    match port {
        OUTSIDE => {
            let (ether_type, packet) = link(bytes, OUTSIDE_MAC);
            assert_eq!(ether_type, EtherType::IPV4, "only tunnels are outside");
            check_ipv4(packet, answer);
        }
        INSIDE => {
            let (ether_type, packet) = link(bytes, INSIDE_MAC);
            assert_eq!(ether_type, EtherType::IPV6, "only IPv6 is inside");
            check_ipv6(packet, answer);
        }
        TUN => check_ipv6(bytes, answer),
        PortId(other) => panic!("left by port {other}, which does not exist"),
    }
}

/// Checks a packet for the relay host itself: it ends here, so its hop limit may be used up.
///
/// # Panics
/// When it is not one whole IPv6 packet between addresses a host can have.
pub(crate) fn check_delivered(bytes: &[u8]) {
    let header = Ipv6HeaderSlice::from_slice(bytes).expect("a whole IPv6 header");
    assert_eq!(usize::from(header.payload_length()) + 40, bytes.len());
    check_forwardable(header.source_addr(), header.destination_addr());
}

/// Neither address may be bound to its link or to nobody.
fn check_forwardable(src: Ipv6Addr, dst: Ipv6Addr) {
    let link_local = |address: Ipv6Addr| address.segments()[0] & 0xffc0 == 0xfe80;
    assert!(!link_local(src) && !link_local(dst), "left its link");
    for address in [src, dst] {
        assert!(!address.is_multicast() && !address.is_loopback() && !address.is_unspecified());
    }
}

/// The EtherType and payload of a frame from the relay to `to`, tagged or not.
fn link(bytes: &[u8], to: [u8; 6]) -> (EtherType, &[u8]) {
    let frame = Ethernet2Slice::from_slice_without_fcs(bytes).expect("an Ethernet header");
    assert_eq!((frame.source(), frame.destination()), (RELAY_MAC, to));
    if frame.ether_type() != EtherType::VLAN_TAGGED_FRAME {
        return (frame.ether_type(), frame.payload_slice());
    }
    let tag = SingleVlanSlice::from_slice(frame.payload_slice()).expect("a whole tag");
    assert_eq!(tag.vlan_identifier().value(), VLAN);
    (tag.ether_type(), tag.payload_slice())
}

fn check_ipv4(bytes: &[u8], answer: bool) {
    let packet = Ipv4Slice::from_slice(bytes).expect("a sound IPv4 packet");
    let header = packet.header();
    assert_eq!(usize::from(header.total_len()), bytes.len(), "no padding");
    assert_eq!(header.ihl(), 5, "no options");
    assert_eq!(header.protocol(), IpNumber::IPV6);
    let right = header.to_header().calc_header_checksum();
    assert_eq!(header.header_checksum(), right, "header checksum");
    assert!(LOCALS.contains(&header.source_addr()), "from one of ours");
    assert!(!header.is_fragmenting_payload(), "whole");
    assert!(header.ttl() > 0, "alive");
    check_ipv6(bytes.get(20..).unwrap_or(&[]), answer);
}

fn check_ipv6(bytes: &[u8], answer: bool) {
    let header = Ipv6HeaderSlice::from_slice(bytes).expect("a whole IPv6 header");
    let payload = bytes.get(40..).unwrap_or(&[]);
    assert_eq!(usize::from(header.payload_length()), payload.len());
    assert!(header.hop_limit() > 0, "hop limit used up");
    let (src, dst) = (header.source_addr(), header.destination_addr());
    assert!(!src.is_multicast() && !src.is_loopback() && !src.is_unspecified());
    if !answer {
        return check_forwardable(src, dst);
    }
    assert_eq!(header.next_header(), IpNumber::IPV6_ICMP, "an answer");
    let message = Icmpv6Slice::from_slice(payload).expect("a whole ICMPv6 header");
    match message.type_u8() {
        1..=4 => {
            assert!(
                bytes.len() <= ERROR_MAX,
                "an error of {} bytes",
                bytes.len()
            );
            assert!(message.is_checksum_valid(src.octets(), dst.octets()));
        }
        // a reply to a damaged request stays damaged: its checksum says nothing
        129 => {}
        136 => {
            assert_eq!(header.hop_limit(), 255, "RFC 4861 section 7.1.2");
            assert!(message.is_checksum_valid(src.octets(), dst.octets()));
        }
        other => panic!("answered with ICMPv6 type {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::{HOST, fix_ipv4_checksum, ipv6, udp, user};
    use sixferry_wire::{ether, ipv4};

    /// A packet into tunnel 0, as the relay should send it.
    fn sound() -> Vec<u8> {
        let inner = udp(HOST, user(0, 5), 63, 40);
        let mut frame = vec![0; 34];
        let header = frame.first_chunk_mut().expect("room");
        ether::emit(header, OUTSIDE_MAC, RELAY_MAC, ether::TYPE_IPV4);
        let repr = ipv4::Repr {
            tos: 0,
            total_len: 20 + inner.len() as u16,
            identification: 1,
            df: false,
            ttl: 64,
            protocol: ipv4::PROTO_IPV6,
            src: LOCALS[0].octets(),
            dst: [192, 0, 2, 10],
        };
        repr.emit(frame.last_chunk_mut().expect("room"));
        frame.extend(inner);
        frame
    }

    fn refused(frame: &[u8]) -> bool {
        std::panic::catch_unwind(|| check(OUTSIDE, frame, false)).is_err()
    }

    #[test]
    fn a_sound_packet_passes_and_no_damaged_header_does() {
        let frame = sound();
        check(OUTSIDE, &frame, false);
        // every bit of both IP headers but those a relay may choose: TOS, ID, inner class, flow
        // label, next header, hop limit and addresses
        let fixed = (0..14 + 20 + 6).filter(|at| ![15, 18, 19, 35, 36, 37].contains(at));
        for at in fixed {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            if at == 34 {
                damaged[at] ^= 0x30;
            }
            if (14..34).contains(&at) && ![24, 25].contains(&at) && at != 14 {
                fix_ipv4_checksum(&mut damaged[14..]);
            }
            // TTL and destination are free as long as the checksum is right
            let free = [22, 30, 31, 32, 33].contains(&at);
            assert_eq!(refused(&damaged), !free, "byte {at}");
        }
        assert!(refused(&frame[..frame.len() - 1]), "cut");
        assert!(refused(&[&frame[..], &[0]].concat()), "padded");
    }

    #[test]
    fn answers_are_icmpv6_with_a_right_checksum() {
        let error = crate::seeds::icmp6(HOST, user(0, 5), 64, &[3, 0, 0, 0, 0, 0, 0, 0]);
        check(TUN, &error, true);
        let mut wrong = error;
        wrong[45] ^= 1;
        assert!(std::panic::catch_unwind(|| check(TUN, &wrong, true)).is_err());
        let other = ipv6(HOST, user(0, 5), 17, 64, &[0; 8]);
        assert!(std::panic::catch_unwind(|| check(TUN, &other, true)).is_err());
    }
}
