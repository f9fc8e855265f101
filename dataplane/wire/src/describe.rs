//! One-line and multi-line text for a packet, for people: vector failures, replay, traces.

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use std::fmt::Write;

/// Describes an IP packet (IPv4 or IPv6 by its first nibble), nested protocol 41 included, one
/// indented line a header. Never fails: what cannot be read is said.
#[must_use]
pub fn packet(bytes: &[u8]) -> String {
    let mut out = String::new();
    layer(&mut out, bytes, 0);
    out
}

fn layer(out: &mut String, bytes: &[u8], depth: usize) {
    let pad = "  ".repeat(depth);
    let headers = match PacketHeaders::from_ip_slice(bytes) {
        Ok(headers) => headers,
        Err(error) => {
            _ = writeln!(out, "{pad}{} bytes, unreadable: {error}", bytes.len());
            return;
        }
    };
    let mut inner = None;
    match &headers.net {
        Some(NetHeaders::Ipv4(h, _)) => {
            _ = writeln!(
                out,
                "{pad}IPv4 {} > {} proto {} ttl {} tos {:#04x} id {:#06x}{}{} frag {} len {} sum {:#06x}{}",
                std::net::Ipv4Addr::from(h.source),
                std::net::Ipv4Addr::from(h.destination),
                h.protocol.0,
                h.time_to_live,
                (h.dscp.value() << 2) | h.ecn.value(),
                h.identification,
                if h.dont_fragment { " DF" } else { "" },
                if h.more_fragments { " MF" } else { "" },
                h.fragment_offset.value(),
                h.total_len,
                h.header_checksum,
                if h.header_checksum == h.calc_header_checksum() {
                    ""
                } else {
                    " (WRONG)"
                },
            );
            if h.protocol.0 == crate::ipv4::PROTO_IPV6 && h.fragment_offset.value() == 0 {
                inner = Some(headers.payload.slice());
            }
        }
        Some(NetHeaders::Ipv6(h, _)) => {
            _ = writeln!(
                out,
                "{pad}IPv6 {} > {} next {} hlim {} tc {:#04x} flow {:#07x} payload {}",
                std::net::Ipv6Addr::from(h.source),
                std::net::Ipv6Addr::from(h.destination),
                h.next_header.0,
                h.hop_limit,
                h.traffic_class,
                h.flow_label.value(),
                h.payload_length,
            );
        }
        _ => _ = writeln!(out, "{pad}no IP header"),
    }
    match &headers.transport {
        Some(TransportHeader::Udp(h)) => {
            _ = writeln!(
                out,
                "{pad}  UDP {} > {} len {}",
                h.source_port, h.destination_port, h.length
            );
        }
        Some(TransportHeader::Tcp(h)) => {
            _ = writeln!(
                out,
                "{pad}  TCP {} > {} seq {}",
                h.source_port, h.destination_port, h.sequence_number
            );
        }
        Some(TransportHeader::Icmpv6(h)) => {
            _ = writeln!(
                out,
                "{pad}  ICMPv6 {:?} sum {:#06x}",
                h.icmp_type, h.checksum
            );
        }
        Some(TransportHeader::Icmpv4(h)) => {
            _ = writeln!(
                out,
                "{pad}  ICMPv4 {:?} sum {:#06x}",
                h.icmp_type, h.checksum
            );
        }
        _ => {}
    }
    if let Some(payload) = inner {
        layer(out, payload, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_headers_are_shown() {
        let mut inner = [0u8; 48];
        crate::ipv6::Repr {
            payload_len: 8,
            next_header: 59,
            hop_limit: 9,
            src: 1,
            dst: 2,
        }
        .emit(inner.first_chunk_mut().unwrap_or(&mut [0; 40]));
        let mut outer = [0u8; 20];
        crate::ipv4::Repr {
            tos: 0,
            total_len: 68,
            identification: 0,
            df: true,
            ttl: 64,
            protocol: 41,
            src: [192, 0, 2, 1],
            dst: [192, 0, 2, 2],
        }
        .emit(&mut outer);
        let text = packet(&[&outer[..], &inner[..]].concat());
        assert!(
            text.contains("IPv4 192.0.2.1 > 192.0.2.2") && text.contains("IPv6 ::1 > ::2"),
            "{text}"
        );
    }

    #[test]
    fn garbage_is_described_without_panicking() {
        for len in 0..60 {
            assert!(!packet(&vec![0x4f; len]).is_empty());
        }
    }
}
