//! Lowering the MSS that TCP peers announce (RFC 4459 section 3.2), so that they never learn of the
//! tunnel's MTU by losing a packet. An option of the operator; off by default, as it reads beyond the
//! IPv6 header.

use crate::packet::Packet;
use crate::rewrite::Span;
use sixferry_wire::{checksum, ipv6};

const NH_TCP: u8 = 6;
const TCP_LEN: usize = 20;
const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Lowers the MSS option of the TCP SYN at `span` to what a path of `mtu` bytes takes. Anything else
/// stays as it is; so does a SYN with headers between IPv6 and TCP.
pub(crate) fn clamp(packet: &mut Packet<'_>, span: Span, mtu: u16) {
    let limit = mtu.saturating_sub(60);
    let tcp = span.start + ipv6::HEADER_LEN;
    let Some((at, announced)) = find(packet, span).filter(|(_, mss)| *mss > limit) else {
        return;
    };
    let Some(field) = packet.array_mut::<2>(at) else {
        return;
    };
    *field = limit.to_be_bytes();
    let Some(sum) = packet.array_mut::<2>(tcp + 16) else {
        return;
    };
    let old = u16::from_be_bytes(*sum);
    // an option may lie on an odd offset: then its bytes belong to two words of the sum
    let odd = (at - tcp) % 2 == 1;
    let new = if odd {
        checksum::update(old, announced.swap_bytes(), limit.swap_bytes())
    } else {
        checksum::update(old, announced, limit)
    };
    *sum = new.to_be_bytes();
}

/// Frame offset and value of the MSS of a TCP SYN.
fn find(packet: &Packet<'_>, span: Span) -> Option<(usize, u16)> {
    let bytes = packet.from(span.start).get(..span.len())?;
    let (header, segment) = bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
    if ipv6::Header(header).next_header() != NH_TCP {
        return None;
    }
    let fixed = segment.first_chunk::<TCP_LEN>()?;
    let len = usize::from(fixed[12] >> 4) * 4;
    if fixed[13] & SYN == 0 {
        return None;
    }
    let mut options = segment.get(TCP_LEN..len)?;
    let mut at = span.start + ipv6::HEADER_LEN + TCP_LEN;
    loop {
        let step = match options {
            [] | [OPTION_END, ..] => return None,
            [OPTION_NOP, ..] => 1,
            [OPTION_MSS, 4, hi, lo, ..] => return Some((at + 2, u16::from_be_bytes([*hi, *lo]))),
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => return None,
        };
        options = options.get(step..)?;
        at += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PortId;
    use crate::packet::FRAME_LEN;
    use proptest::prelude::*;

    const HEAD: usize = 300;

    /// A SYN between two addresses with these options, checksum right.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; TCP_LEN];
        tcp[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
        tcp[12] = u8::try_from((TCP_LEN + options.len()) / 4).expect("short") << 4;
        tcp[13] = SYN;
        tcp.extend_from_slice(options);
        let sum = sum_of(&tcp);
        tcp[16..18].copy_from_slice(&(!sum).to_be_bytes());
        let mut packet = [0; ipv6::HEADER_LEN];
        ipv6::Repr {
            payload_len: u16::try_from(tcp.len()).expect("short"),
            next_header: NH_TCP,
            hop_limit: 64,
            src: 1,
            dst: 2,
        }
        .emit(&mut packet);
        [packet.as_slice(), &tcp].concat()
    }

    fn sum_of(tcp: &[u8]) -> u16 {
        let len = u32::try_from(tcp.len()).expect("short");
        let pseudo = checksum::pseudo_v6(&1u128.to_be_bytes(), &2u128.to_be_bytes(), NH_TCP, len);
        checksum::fold(pseudo + checksum::sum(tcp))
    }

    fn clamped(bytes: &[u8], mtu: u16) -> Vec<u8> {
        let mut frame = vec![0; FRAME_LEN];
        frame[HEAD..HEAD + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut frame, HEAD, bytes.len(), PortId(0)).expect("fits");
        let span = Span {
            start: HEAD,
            end: HEAD + bytes.len(),
        };
        clamp(&mut packet, span, mtu);
        packet.bytes().to_vec()
    }

    #[test]
    fn lowers_and_never_raises() {
        let big = syn(&[2, 4, 0x05, 0xa0]);
        let out = clamped(&big, 1280);
        assert_eq!(out[62..64], 1220u16.to_be_bytes());
        assert_eq!(sum_of(&out[40..]), 0xffff);
        let small = syn(&[2, 4, 0x04, 0x00]);
        assert_eq!(clamped(&small, 1280), small);
    }

    #[test]
    fn an_option_on_an_odd_offset() {
        let bytes = syn(&[1, 2, 4, 0x05, 0xa0, 0, 0, 0]);
        let out = clamped(&bytes, 1280);
        assert_eq!(out[63..65], 1220u16.to_be_bytes());
        assert_eq!(sum_of(&out[40..]), 0xffff);
    }

    #[test]
    fn only_syns() {
        let mut ack = syn(&[2, 4, 0x05, 0xa0]);
        ack[40 + 13] = 0x10;
        assert_eq!(clamped(&ack, 1280), ack);
        let mut udp = syn(&[2, 4, 0x05, 0xa0]);
        udp[6] = 17;
        assert_eq!(clamped(&udp, 1280), udp);
    }

    proptest! {
        #[test]
        fn any_options_leave_a_right_checksum(
            words in 0usize..10, noise in prop::collection::vec(any::<u8>(), 40), mtu in 1280u16..1500,
        ) {
            let before = syn(&noise[..words * 4]);
            let after = clamped(&before, mtu);
            prop_assert_eq!(sum_of(&after[40..]), 0xffff);
            prop_assert_eq!(before.len(), after.len());
        }

        #[test]
        fn damaged_segments_are_harmless(at in 40usize..64, byte in any::<u8>(), cut in 0usize..64) {
            let mut bytes = syn(&[2, 4, 0x05, 0xa0]);
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            prop_assert_eq!(clamped(&bytes, 1280).len(), bytes.len());
        }
    }
}
