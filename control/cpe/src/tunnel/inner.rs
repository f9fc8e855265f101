//! The inner packet: what every encapsulation checks of it, and the congestion mark it gets.
//!
//! RFC 4213 section 3.6 (checks at the exit); RFC 6040 section 4 (ECN).

use std::net::Ipv6Addr;

use sixferry_wire::ipv6;

use crate::counters::DropReason;

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
/// Congestion experienced; also the mask of the ECN field.
pub(super) const CE: u8 = 0b11;

/// A packet ready for the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'p> {
    /// The inner packet, without surplus bytes.
    pub inner: &'p [u8],
    /// TOS of the outer header: DSCP 0 (pipe model), the ECN field of the inner header
    /// (RFC 6040 section 4.1, normal mode).
    pub tos: u8,
}

/// Decides about a packet from the TUN device.
///
/// # Errors
/// The reason, when it is no sound IPv6 packet or larger than the tunnel's MTU (the kernel
/// keeps to the device's MTU; this holds when somebody raised that).
pub fn encap(packet: &[u8], mtu: u16) -> Result<Outgoing<'_>, DropReason> {
    let (header, inner) = parse(packet)?;
    if inner.len() > usize::from(mtu) {
        return Err(DropReason::V6TooBig);
    }
    Ok(Outgoing {
        inner,
        tos: header.traffic_class() & CE,
    })
}

/// Decides about the inner packet of a datagram whose outer header was accepted, and returns it
/// with the congestion mark of the outer header merged.
///
/// `own` are the addresses of this end: whoever uses them as a source out there is lying.
///
/// # Errors
/// The first check that failed, in the order of RFC 4213 section 3.6.
pub fn decap<'p>(
    payload: &'p mut [u8],
    outer_ecn: u8,
    own: &[Ipv6Addr],
) -> Result<&'p [u8], DropReason> {
    let (header, inner) = parse(payload)?;
    check_source(header.src(), own)?;
    let (class, inner_len) = (header.traffic_class(), inner.len());
    let merged = merge_ecn(class & CE, outer_ecn & CE)?;
    let inner = &mut payload[..inner_len];
    if let Some(header) = inner.first_chunk_mut() {
        ipv6::set_traffic_class(header, (class & !CE) | merged);
    }
    Ok(inner)
}

/// Source and destination, if it is an IPv6 packet.
pub(super) fn addresses(packet: &[u8]) -> Option<(u128, u128)> {
    let (header, _) = parse(packet).ok()?;
    Some((header.src(), header.dst()))
}

/// Checks an IPv6 header against the bytes that came with it; surplus bytes are cut, since
/// the inner length field alone is to be believed (RFC 4213 section 3.6).
fn parse(packet: &[u8]) -> Result<(ipv6::Header<'_>, &[u8]), DropReason> {
    let Some(header) = packet.first_chunk() else {
        // A short packet of another version is still that: name the likelier mistake.
        return Err(match packet.first() {
            Some(first) if first >> 4 != 6 => DropReason::InnerVersion,
            _ => DropReason::InnerTruncated,
        });
    };
    let header = ipv6::Header(header);
    if header.version() != 6 {
        return Err(DropReason::InnerVersion);
    }
    let inner = packet.get(..ipv6::HEADER_LEN + header.payload_len());
    Ok((header, inner.ok_or(DropReason::InnerLength)?))
}

/// Sources that no packet from a tunnel may have (RFC 4213 section 3.6), and our own (BCP 38,
/// seen from inside).
fn check_source(source: u128, own: &[Ipv6Addr]) -> Result<(), DropReason> {
    if ipv6::is_invalid_source(source) {
        return Err(DropReason::V6SrcInvalid);
    }
    if own.contains(&Ipv6Addr::from(source)) {
        return Err(DropReason::V6SrcOwn);
    }
    Ok(())
}

/// RFC 6040 section 4.2, figure 4.
fn merge_ecn(inner: u8, outer: u8) -> Result<u8, DropReason> {
    match (inner, outer) {
        // The sender does not understand marks: losing the packet is the only signal left.
        (NOT_ECT, CE) => Err(DropReason::EcnCeOnNotEct),
        (NOT_ECT, _) => Ok(NOT_ECT),
        (_, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}
