//! Protocol 41 at the user's end: what is believed when it comes out of the tunnel.
//!
//! Pure functions. The kernel writes and checks the outer header; we choose its TOS, read its
//! source, and never look past the 40 bytes of the inner header.
//!
//! ```text
//!  outer IPv4 (20, by the kernel)   inner IPv6 (40 + payload length)
//! +-------------------------------+----------------------------------+
//! | ver ihl TOS ... proto=41  src | ver  TC  flow | len nh hl src dst|
//! +-------------------------------+----------------------------------+
//! ```
//!
//! RFC 4213 sections 3.5 (outer header) and 3.6 (checks at the exit).

use std::net::{Ipv4Addr, Ipv6Addr};

use sixferry_wire::ipv4;

use super::inner::{self, CE};
use super::peers::Peers;
use crate::counters::DropReason;

/// Length of the outer header: never options (RFC 4213 section 3.5).
pub const OUTER_LEN: usize = ipv4::HEADER_LEN;

/// Decides about a datagram of protocol 41 and returns the packet for the TUN device.
///
/// `own` are the addresses of this end: whoever uses them as a source out there is lying.
///
/// # Errors
/// The first check that failed, in the order of RFC 4213 section 3.6.
pub fn decap<'p>(
    datagram: &'p mut [u8],
    peers: &Peers,
    own: &[Ipv6Addr],
) -> Result<&'p [u8], DropReason> {
    let outer = ipv4::Header(datagram.first_chunk().ok_or(DropReason::V4Truncated)?);
    if outer.version() != 4 {
        return Err(DropReason::V4Version);
    }
    let from = Ipv4Addr::from(outer.src());
    if let Peers::Relay(relay) = peers
        && *relay != from
    {
        // Said first: what strangers send is of no further interest.
        return Err(DropReason::NoTunnel);
    }
    let (header_len, total_len) = (outer.header_len(), outer.total_len());
    let outer_ecn = outer.tos() & CE;
    if header_len < OUTER_LEN || header_len > total_len {
        return Err(DropReason::V4Length);
    }
    let payload = datagram
        .get_mut(header_len..total_len)
        .ok_or(DropReason::V4Length)?;
    peers.accept(from, payload)?;
    inner::decap(payload, outer_ecn, own)
}

#[cfg(test)]
mod tests {
    use sixferry_wire::ipv6;

    use super::super::inner::encap;
    use super::*;

    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;

    const RELAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const PEERS: Peers = Peers::Relay(RELAY);
    const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
    const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

    fn inner(source: Ipv6Addr, ecn: u8, payload: &[u8]) -> Vec<u8> {
        // DSCP 46 and a flow label: neither may change on the way.
        let mut packet = vec![0x6b, 0x8a | (ecn << 4), 0xbc, 0xde];
        packet.extend_from_slice(&u16::try_from(payload.len()).expect("short").to_be_bytes());
        packet.extend_from_slice(&[17, 64]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&OWN.octets());
        packet.extend_from_slice(payload);
        packet
    }

    fn outer(source: Ipv4Addr, tos: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(OUTER_LEN + payload.len()).expect("short");
        let mut packet = vec![0x45, tos];
        packet.extend_from_slice(&total.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 0, 64, 41, 0, 0]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&[192, 0, 2, 10]);
        packet.extend_from_slice(payload);
        packet
    }

    fn decap_from_relay(tos: u8, payload: &[u8]) -> Result<Vec<u8>, DropReason> {
        decap(&mut outer(RELAY, tos, payload), &PEERS, &[OWN]).map(<[u8]>::to_vec)
    }

    #[test]
    fn encap_then_decap_is_identity_for_every_ecn() {
        for field in [NOT_ECT, ECT_0, ECT_1, CE] {
            let packet = inner(PEER, field, b"some payload");
            let outgoing = encap(&packet, 1280).expect("sound packet");
            assert_eq!(outgoing.tos, field, "DSCP 0, ECN copied");
            let out = decap_from_relay(outgoing.tos, outgoing.inner).expect("sound packet");
            assert_eq!(out, packet);
        }
    }

    #[test]
    fn ecn_is_merged_as_rfc_6040_says() {
        // Rows inner Not-ECT, ECT(0), ECT(1), CE; columns outer in the same order.
        let drop = Err(DropReason::EcnCeOnNotEct);
        let order = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), drop],
            [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)],
            [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)],
            [Ok(CE), Ok(CE), Ok(CE), Ok(CE)],
        ];
        for (inner_field, row) in order.into_iter().zip(table) {
            for (outer_field, expected) in order.into_iter().zip(row) {
                let packet = inner(PEER, inner_field, b"x");
                let result = decap_from_relay(0xb8 | outer_field, &packet);
                let expected = expected.map(|field| inner(PEER, field, b"x"));
                assert_eq!(
                    result, expected,
                    "inner {inner_field:02b} outer {outer_field:02b}"
                );
            }
        }
    }

    #[test]
    fn only_the_relay_is_believed() {
        let mut datagram = outer(Ipv4Addr::new(198, 51, 100, 2), 0, &inner(PEER, 0, b"x"));
        assert_eq!(decap(&mut datagram, &PEERS, &[]), Err(DropReason::NoTunnel));
    }

    #[test]
    fn impossible_sources_are_refused() {
        for source in ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff02::1"] {
            let packet = inner(source.parse().expect("address"), 0, b"x");
            assert_eq!(
                decap_from_relay(0, &packet),
                Err(DropReason::V6SrcInvalid),
                "{source}"
            );
        }
        let packet = inner(OWN, 0, b"x");
        assert_eq!(decap_from_relay(0, &packet), Err(DropReason::V6SrcOwn));
        let packet = inner("fe80::c633:6401".parse().expect("address"), 0, b"x");
        assert!(
            decap_from_relay(0, &packet).is_ok(),
            "the relay's link-local may probe us"
        );
    }

    #[test]
    fn surplus_bytes_are_cut_on_both_layers() {
        let packet = inner(PEER, 0, b"data");
        let mut padded = packet.clone();
        padded.extend_from_slice(&[0xaa; 9]);
        assert_eq!(decap_from_relay(0, &padded), Ok(packet.clone()));
        assert_eq!(
            encap(&padded, 1280).map(|o| o.inner.to_vec()),
            Ok(packet.clone())
        );
        let mut datagram = outer(RELAY, 0, &packet);
        datagram.extend_from_slice(&[0xbb; 6]);
        assert_eq!(
            decap(&mut datagram, &PEERS, &[]).map(<[u8]>::to_vec),
            Ok(packet)
        );
    }

    #[test]
    fn outer_options_are_stepped_over() {
        let packet = inner(PEER, 0, b"data");
        let mut datagram = outer(RELAY, 0, &[&[1, 1, 1, 0], packet.as_slice()].concat());
        datagram[0] = 0x46;
        assert_eq!(
            decap(&mut datagram, &PEERS, &[]).map(<[u8]>::to_vec),
            Ok(packet)
        );
    }

    #[test]
    fn mtu_is_kept_to_the_byte() {
        let exact = inner(PEER, 0, &[7; 1240]);
        assert_eq!(encap(&exact, 1280).map(|o| o.inner.len()), Ok(1280));
        let larger = inner(PEER, 0, &[7; 1241]);
        assert_eq!(encap(&larger, 1280), Err(DropReason::V6TooBig));
    }

    #[test]
    fn every_truncation_is_refused_and_none_panics() {
        let datagram = outer(RELAY, 0, &inner(PEER, 0, b"0123456789"));
        for len in 0..datagram.len() {
            let mut cut = datagram[..len].to_vec();
            assert!(decap(&mut cut, &PEERS, &[OWN]).is_err(), "length {len}");
            // The same cut with an outer length that agrees with it.
            if len >= OUTER_LEN {
                cut[2..4].copy_from_slice(&u16::try_from(len).expect("short").to_be_bytes());
                assert!(
                    decap(&mut cut, &PEERS, &[OWN]).is_err(),
                    "length {len}, said so"
                );
            }
        }
        let packet = inner(PEER, 0, b"0123456789");
        for len in 0..packet.len() {
            assert!(encap(&packet[..len], 1280).is_err(), "length {len}");
        }
    }

    #[test]
    fn every_changed_byte_gives_a_packet_or_a_reason() {
        let datagram = outer(RELAY, 0, &inner(PEER, 0, b"0123456789"));
        for at in 0..datagram.len() {
            for value in 0..=u8::MAX {
                let mut changed = datagram.clone();
                changed[at] = value;
                let end = changed.len();
                if let Ok(out) = decap(&mut changed, &PEERS, &[OWN]) {
                    assert!(out.len() >= ipv6::HEADER_LEN && out.len() <= end - OUTER_LEN);
                }
            }
        }
    }

    #[test]
    fn other_versions_are_named() {
        let mut packet = inner(PEER, 0, b"x");
        packet[0] = 0x45;
        assert_eq!(decap_from_relay(0, &packet), Err(DropReason::InnerVersion));
        assert_eq!(encap(&packet, 1280), Err(DropReason::InnerVersion));
        let mut datagram = outer(RELAY, 0, &inner(PEER, 0, b"x"));
        datagram[0] = 0x65;
        assert_eq!(
            decap(&mut datagram, &PEERS, &[]),
            Err(DropReason::V4Version)
        );
    }
}
