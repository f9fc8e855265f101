//! Valid Ethernet frames for measurements: headers only, the payload is whatever the frame held.

use sixferry_wire::{ether, ipv4, ipv6, udp};

/// The relay's hardware address on every port.
pub const RELAY_MAC: ether::Mac = [2, 0, 0, 0, 0, 1];
/// The IPv4 router that tunnel packets come from and go to.
pub const OUTSIDE_MAC: ether::Mac = [2, 0, 0, 0, 0, 2];
/// The IPv6 router on the native side.
pub const INSIDE_MAC: ether::Mac = [2, 0, 0, 0, 0, 3];

/// What one packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Outer addresses, for tunnel packets: the peer's and ours.
    pub outer: Option<([u8; 4], [u8; 4])>,
    /// Inner source.
    pub src: u128,
    /// Inner destination.
    pub dst: u128,
    /// Length of the IPv6 packet, header included.
    pub inner_len: usize,
}

/// Writes the headers of a flow's packet at the start of `out` and returns the frame's length.
///
/// # Panics
/// When `out` cannot hold the packet.
pub fn write(out: &mut [u8], flow: &Flow) -> usize {
    write_with(out, flow, None)
}

/// [`write`], tunnel packets being in UDP from and to these ports, if there are any.
///
/// # Panics
/// When `out` cannot hold the packet.
pub fn write_with(out: &mut [u8], flow: &Flow, ports: Option<[u16; 2]>) -> usize {
    let mut at = ether::HEADER_LEN;
    let ether_type = if let Some((src, dst)) = flow.outer {
        let udp_len = if ports.is_some() { udp::HEADER_LEN } else { 0 };
        let repr = ipv4::Repr {
            tos: 0,
            total_len: small(ipv4::HEADER_LEN + udp_len + flow.inner_len),
            identification: 0,
            df: false,
            ttl: 64,
            protocol: if ports.is_some() {
                ipv4::PROTO_UDP
            } else {
                ipv4::PROTO_IPV6
            },
            src,
            dst,
        };
        repr.emit(chunk(out, at));
        at += ipv4::HEADER_LEN;
        if let Some([from, to]) = ports {
            // without a checksum, as IPv4 permits
            udp::emit(chunk(out, at), from, to, small(udp_len + flow.inner_len));
            at += udp_len;
        }
        ether::TYPE_IPV4
    } else {
        ether::TYPE_IPV6
    };
    ether::emit(chunk(out, 0), RELAY_MAC, OUTSIDE_MAC, ether_type);
    let len = at + flow.inner_len;
    assert!(len <= out.len(), "a frame of {len} bytes does not fit");
    write_inner(&mut out[at..len], flow.src, flow.dst);
    len
}

/// Writes IPv6 and UDP headers of a packet that fills `out`.
///
/// # Panics
/// When `out` cannot hold the IPv6 header.
pub fn write_inner(out: &mut [u8], src: u128, dst: u128) {
    let payload_len = out.len() - ipv6::HEADER_LEN;
    let repr = ipv6::Repr {
        payload_len: small(payload_len),
        next_header: 17,
        hop_limit: 64,
        src,
        dst,
    };
    repr.emit(chunk(out, 0));
    if payload_len >= 8 {
        let [l0, l1] = small(payload_len).to_be_bytes();
        // to the discard port; nobody looks at the checksum on the way
        *chunk(out, ipv6::HEADER_LEN) = [0xc0, 0, 0, 9, l0, l1, 0x12, 0x34];
    }
}

fn small(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// `N` bytes of a frame.
///
/// # Panics
/// When they are not there.
pub(crate) fn chunk<const N: usize>(out: &mut [u8], at: usize) -> &mut [u8; N] {
    out.get_mut(at..)
        .and_then(<[u8]>::first_chunk_mut)
        .expect("the frame holds all headers")
}
