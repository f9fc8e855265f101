//! Rules of the forwarding core, one test each, where the vectors say nothing or too little.

mod answers;
mod errors;
mod fragments;
mod icmp4;
mod link;
mod loops;
mod mss;
mod outer_fields;
mod rebind;
mod received;
mod six_rd;
mod six_to_four;
mod sources;
mod tables;
mod udp_tunnels;

use sixferry_vectors::relay::Sent;
use sixferry_wire::{icmpv6, ipv4, ipv6};
use std::net::Ipv4Addr;

fn outer_header(packet: &[u8]) -> ipv4::Header<'_> {
    ipv4::Header(packet.first_chunk().expect("IPv4 header"))
}

fn inner_header(packet: &[u8]) -> ipv6::Header<'_> {
    ipv6::Header(packet.first_chunk().expect("IPv6 header"))
}

fn icmp_of(packet: &[u8]) -> (u8, u8, u32) {
    let header = inner_header(packet);
    assert_eq!(header.next_header(), ipv6::NH_ICMPV6);
    let message = &packet[40..];
    assert!(
        icmpv6::checksum_ok(header.src(), header.dst(), message),
        "checksum"
    );
    assert!(packet.len() <= 1280, "an error exceeds the minimum MTU");
    (
        message[0],
        message[1],
        u32::from_be_bytes(message[4..8].try_into().expect("4 bytes")),
    )
}

fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    ipv6::set_traffic_class(packet.first_chunk_mut().expect("header"), class);
    packet
}

/// Outer source and destination of what leaves.
fn sent_from(sent: &Sent) -> (Ipv4Addr, Ipv4Addr) {
    let header = outer_header(sent.ip());
    assert_eq!(header.version(), 4, "{:?}", sent.verdict);
    (header.src().into(), header.dst().into())
}
