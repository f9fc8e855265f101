//! The bodies of the fuzz targets, shared with the tests that replay the corpus.
//!
//! Each takes any bytes and panics when something that must always hold does not.

use crate::relay::{CheckedRelay, PACKET_MAX, Plan, Received};
use sixferry_fwd::{BATCH_MAX, Ipv4Prefix, Ipv6Prefix, PortId};
use sixferry_wire::{checksum, describe, ether, icmpv4, icmpv6, ipv4, ipv6};
use std::net::{Ipv4Addr, Ipv6Addr};

pub use crate::fuzz_dtcp::dtcp;

/// A fuzz target: its name, which is also its directory in the corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("process", process),
    ("wire", wire),
    ("prefix", prefix),
    ("dtcp", dtcp),
];

/// Sets a relay up from the first bytes and sends it the packets in the rest, as batches and one by
/// one.
///
/// # Panics
/// When [`CheckedRelay`] finds a packet treated wrongly, or the two ways differ.
pub fn process(data: &[u8]) {
    let (plan, rest) = Plan::split(data);
    let received = packets(rest);
    let mut together = CheckedRelay::new(&plan);
    let mut alone = CheckedRelay::new(&plan);
    for batch in received.chunks(BATCH_MAX) {
        let outcomes = together.outcomes(batch);
        for (packet, outcome) in batch.iter().zip(outcomes) {
            let single = alone.outcomes(std::slice::from_ref(packet));
            assert_eq!(single, [outcome], "a batch is the sum of its packets");
        }
    }
    assert_eq!(together.counters(), alone.counters());
}

/// Reads packets as [`pack`] wrote them; a last one may be shorter than it says.
#[must_use]
pub fn packets(mut data: &[u8]) -> Vec<Received> {
    let mut received = Vec::new();
    while let Some((&[port, l0, l1], rest)) = data.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([l0, l1])).min(PACKET_MAX);
        let (bytes, rest) = rest.split_at(len.min(rest.len()));
        received.push(Received {
            // the port after the last one does not exist
            port: PortId(port & 3),
            bytes: bytes.to_vec(),
        });
        data = rest;
    }
    received
}

/// Writes a plan and packets as [`process`] reads them.
#[must_use]
pub fn pack(plan: &Plan, received: &[Received]) -> Vec<u8> {
    let mut data = plan.bytes().to_vec();
    for packet in received {
        data.push(packet.port.0);
        let len = u16::try_from(packet.bytes.len()).unwrap_or(u16::MAX);
        data.extend(len.to_be_bytes());
        data.extend(&packet.bytes);
    }
    data
}

/// Every parser of `wire` on the same bytes.
///
/// # Panics
/// When a parser reads what is not there, or a checksum function contradicts RFC 1071.
pub fn wire(data: &[u8]) {
    if let Some(header) = ether::parse(data) {
        assert!(header.len <= data.len(), "a header longer than the frame");
        _ = describe::packet(&data[header.len..]);
    }
    assert!(!describe::packet(data).is_empty());
    if let Some(error) = icmpv4::parse_error(data) {
        assert!(error.payload.len() >= 8 && error.payload.len() + 28 <= data.len());
        _ = error.quoted.is_fragment();
    }
    if let Some((first, rest)) = data.split_first() {
        _ = icmpv6::is_error_or_redirect(*first, rest);
    }
    if let Some(header) = data.first_chunk() {
        let header = ipv4::Header(header);
        assert!(header.header_len() <= 60 && header.version() <= 15);
    }
    if let Some((header, message)) = data.split_first_chunk() {
        let header = ipv6::Header(header);
        icmpv6_checksums(header.src(), header.dst(), message);
    }
    assert_eq!(checksum::finish(checksum::sum(data)), rfc1071(data));
}

/// The computed checksum must verify, and any other must not.
fn icmpv6_checksums(src: u128, dst: u128, message: &[u8]) {
    let mut message = message.to_vec();
    let Some(field) = message.get_mut(2..4) else {
        return;
    };
    field.fill(0);
    let sum = icmpv6::compute_checksum(src, dst, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    assert!(icmpv6::checksum_ok(src, dst, &message), "own checksum");
    // by 1: never between the two zeroes of one's complement
    message[2..4].copy_from_slice(&(sum ^ 1).to_be_bytes());
    assert!(!icmpv6::checksum_ok(src, dst, &message), "any checksum");
}

/// RFC 1071 section 4.1, word by word.
fn rfc1071(data: &[u8]) -> u16 {
    let sum = data.chunks(2).fold(0_u32, |sum, word| {
        let low = word.get(1).copied().unwrap_or(0);
        let sum = sum + u32::from(u16::from_be_bytes([word[0], low]));
        (sum & 0xffff) + (sum >> 16)
    });
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0)
}

/// Prefixes from text.
///
/// # Panics
/// When text is accepted that is no prefix, or a prefix does not survive being printed.
pub fn prefix(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(prefix) = text.parse::<Ipv6Prefix>() {
        assert!(prefix.len() <= 128);
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
        assert_eq!(
            Ipv6Prefix::new(prefix.address(), prefix.len()),
            Some(prefix)
        );
        assert!(prefix.contains(prefix.address()) && prefix.covers(prefix));
        assert!(Ipv6Prefix::all().covers(prefix));
        let (address, _) = text.split_once('/').expect("a slash");
        assert_eq!(address.parse::<Ipv6Addr>(), Ok(prefix.address()));
    }
    if let Ok(prefix) = text.parse::<Ipv4Prefix>() {
        assert!(prefix.len() <= 32);
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
        assert_eq!(
            Ipv4Prefix::new(prefix.address(), prefix.len()),
            Some(prefix)
        );
        assert!(prefix.contains(prefix.address()) && prefix.covers(prefix));
        assert!(Ipv4Prefix::all().covers(prefix));
        let (address, _) = text.split_once('/').expect("a slash");
        assert_eq!(address.parse::<Ipv4Addr>(), Ok(prefix.address()));
    }
}
