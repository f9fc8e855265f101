//! Fragments of an IPv4 packet (RFC 791 section 3.2).
//!
//! Only for what leaves the relay larger than its own link takes, with DF clear: the outer packet of
//! a tunnel whose MTU was set above the link's. Cutting happens behind the outer header, so a far end
//! needs all fragments (proto-41 section 1.1); [`crate::reassembly`] is the inverse.

use sixferry_wire::{checksum, ipv4};

/// The smallest MTU an internet link may have (RFC 791).
pub const MTU_MIN: usize = 68;

/// The longest header there is.
const HEADER_MAX: usize = 60;

/// Why a packet is not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentError {
    /// It is no IPv4 packet, or its lengths or options are wrong.
    Malformed,
    /// It is too large and says don't fragment.
    DontFragment,
    /// The MTU is below [`MTU_MIN`], or the buffer below the MTU.
    Mtu,
}

impl std::fmt::Display for FragmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a well-formed IPv4 packet",
            Self::DontFragment => "larger than the MTU and not to be fragmented",
            Self::Mtu => "MTU below 68 bytes, or larger than the buffer",
        })
    }
}

impl std::error::Error for FragmentError {}

/// Hands `packet` to `send` in pieces of at most `mtu` bytes, built one after the other in `buffer`,
/// and says how many there were. Bytes behind the packet's total length are left out; a packet that
/// fits goes as it is. A fragment may be cut again.
///
/// # Errors
/// See [`FragmentError`]; nothing was sent then.
pub fn fragment(
    packet: &[u8],
    mtu: usize,
    buffer: &mut [u8],
    mut send: impl FnMut(&[u8]),
) -> Result<usize, FragmentError> {
    let (header, payload) = parse(packet).ok_or(FragmentError::Malformed)?;
    if mtu < MTU_MIN {
        return Err(FragmentError::Mtu);
    }
    if let Some(whole) = packet.get(..header.len() + payload.len())
        && whole.len() <= mtu
    {
        send(whole);
        return Ok(1);
    }
    if buffer.len() < mtu {
        return Err(FragmentError::Mtu);
    }
    let word = fragment_word(header);
    if word & ipv4::DF != 0 {
        return Err(FragmentError::DontFragment);
    }
    let mut later = [0; HEADER_MAX];
    let later = later_header(header, &mut later).ok_or(FragmentError::Malformed)?;
    // a fragment of a fragment keeps its place in the whole
    let first_offset = usize::from(word & 0x1fff) * 8;
    if first_offset + payload.len() > usize::from(u16::MAX) {
        return Err(FragmentError::Malformed);
    }
    let (mut at, mut count) = (0, 0);
    while at < payload.len() {
        let header = if at == 0 { header } else { later };
        let room = (mtu - header.len()) / 8 * 8;
        let rest = payload.get(at..).unwrap_or(&[]);
        let last = header.len() + rest.len() <= mtu;
        let data = if last {
            rest
        } else {
            rest.get(..room).unwrap_or(rest)
        };
        let more = !last || word & ipv4::MF != 0;
        let len = emit(buffer, header, data, first_offset + at, more);
        send(buffer.get(..len).ok_or(FragmentError::Mtu)?);
        at += data.len();
        count += 1;
    }
    Ok(count)
}

fn parse(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = ipv4::Header(packet.first_chunk()?);
    if header.version() != 4 || header.header_len() < ipv4::HEADER_LEN {
        return None;
    }
    packet
        .get(..header.total_len())?
        .split_at_checked(header.header_len())
}

fn fragment_word(header: &[u8]) -> u16 {
    header
        .first_chunk()
        .map_or(0, |fixed| ipv4::Header(fixed).fragment_word())
}

/// The header of every fragment but the first: only options whose copied bit is set.
fn later_header<'a>(header: &[u8], out: &'a mut [u8; HEADER_MAX]) -> Option<&'a [u8]> {
    let (fixed, mut options) = header.split_at_checked(ipv4::HEADER_LEN)?;
    out.get_mut(..ipv4::HEADER_LEN)?.copy_from_slice(fixed);
    let mut len = ipv4::HEADER_LEN;
    while let Some((&kind, rest)) = options.split_first() {
        let option_len = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(*rest.first()?),
        };
        if kind > 1 && option_len < 2 {
            return None;
        }
        let (option, rest) = options.split_at_checked(option_len)?;
        if kind & 0x80 != 0 {
            out.get_mut(len..len + option_len)?.copy_from_slice(option);
            len += option_len;
        }
        options = rest;
    }
    // the rest of `out` is zero: end of options
    len = len.next_multiple_of(4);
    let ihl = u8::try_from(len / 4).ok()?;
    if let Some(first) = out.first_mut() {
        *first = 0x40 | ihl;
    }
    out.get(..len)
}

/// Writes one fragment and returns its length.
fn emit(buffer: &mut [u8], header: &[u8], data: &[u8], offset: usize, more: bool) -> usize {
    let len = header.len() + data.len();
    let Some((head, body)) = buffer
        .get_mut(..len)
        .and_then(|out| out.split_at_mut_checked(header.len()))
    else {
        return 0;
    };
    head.copy_from_slice(header);
    body.copy_from_slice(data);
    let flag = if more { ipv4::MF } else { 0 };
    // both were checked: a packet's length, and an offset inside 65,535
    let total_len = u16::try_from(len).unwrap_or(u16::MAX);
    let word = flag | u16::try_from(offset / 8).unwrap_or(0x1fff);
    if let [_, _, l0, l1, _, _, f0, f1, _, _, c0, c1, ..] = head {
        [*l0, *l1] = total_len.to_be_bytes();
        [*f0, *f1] = word.to_be_bytes();
        [*c0, *c1] = [0, 0];
    }
    let sum = checksum::finish(checksum::sum(head));
    if let Some(field) = head.get_mut(10..12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Ticks;
    use crate::reassembly::{Limits, MAX_PACKET, Outcome, Reassembler};
    use proptest::prelude::*;

    fn packet(options: &[u8], payload: &[u8], word: u16) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let total = u16::try_from(header_len + payload.len()).expect("short");
        let mut out = vec![0x40 | u8::try_from(header_len / 4).expect("short"), 0x2c];
        out.extend(total.to_be_bytes());
        out.extend([0x12, 0x34]);
        out.extend(word.to_be_bytes());
        out.extend([64, 41, 0, 0, 192, 0, 2, 10, 198, 51, 100, 1]);
        out.extend(options);
        let sum = checksum::finish(checksum::sum(&out));
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(payload);
        out
    }

    fn cut(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, FragmentError> {
        let mut out = Vec::new();
        let mut buffer = vec![0xee; mtu];
        let count = fragment(packet, mtu, &mut buffer, |piece| out.push(piece.to_vec()))?;
        assert_eq!(count, out.len());
        Ok(out)
    }

    #[test]
    fn packet_of_exactly_the_mtu_goes_whole() {
        let whole = packet(&[], &[7; 1480], 0);
        assert_eq!(cut(&whole, 1500), Ok(vec![whole.clone()]));
        let padded = [whole.as_slice(), &[0; 9]].concat();
        assert_eq!(
            cut(&padded, 1500),
            Ok(vec![whole.clone()]),
            "padding is left out"
        );
        let pieces = cut(&whole, 1499).expect("two");
        let lens: Vec<_> = pieces.iter().map(Vec::len).collect();
        assert_eq!(lens, [20 + 1472, 20 + 8]);
        let words: Vec<_> = pieces.iter().map(|p| fragment_word(p)).collect();
        assert_eq!(words, [ipv4::MF, 1472 / 8]);
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        let big = packet(&[], &[7; 600], ipv4::DF);
        assert_eq!(cut(&big, 576), Err(FragmentError::DontFragment));
        assert!(cut(&big, 620).is_ok(), "it fits");
        let free = packet(&[], &[7; 600], 0);
        assert_eq!(cut(&free, 67), Err(FragmentError::Mtu));
        let mut small = [0; 100];
        assert_eq!(
            fragment(&free, 576, &mut small, |_| ()),
            Err(FragmentError::Mtu)
        );
        for bad in [&free[..19], &free[..600], &[0x60; 700], &[0x44; 700]] {
            assert_eq!(cut(bad, 576), Err(FragmentError::Malformed));
        }
        for options in [[131, 9, 4, 0], [131, 1, 4, 0], [1, 1, 1, 131]] {
            let odd = packet(&options, &[7; 600], 0);
            assert_eq!(cut(&odd, 576), Err(FragmentError::Malformed), "{options:?}");
        }
    }

    #[test]
    fn later_fragments_carry_the_copied_options_only() {
        // record route is not copied, router alert is
        let options = [1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0, 0];
        let pieces = cut(&packet(&options, &[7; 300], 0), 100).expect("cut");
        assert_eq!(pieces[0][20..34], options);
        for piece in &pieces[1..] {
            assert_eq!((piece[0], &piece[20..24]), (0x46, &[148, 4, 0, 0][..]));
        }
    }

    #[test]
    fn fragment_of_a_fragment_keeps_its_place() {
        let pieces = cut(&packet(&[], &[7; 80], ipv4::MF | 100), 68).expect("cut");
        let words: Vec<_> = pieces.iter().map(|p| fragment_word(p)).collect();
        assert_eq!(words, [ipv4::MF | 100, ipv4::MF | 106]);
        let beyond = packet(&[], &[7; 80], 0x1fff);
        assert_eq!(cut(&beyond, 68), Err(FragmentError::Malformed));
    }

    proptest! {
        #[test]
        fn reassembly_is_the_inverse(
            payload in prop::collection::vec(any::<u8>(), 40..MAX_PACKET - 60),
            options in prop::sample::select(vec![&[][..], &[148, 4, 0, 0], &[1, 1, 7, 3, 4, 136, 4, 0, 9]]),
            mtu in 128usize..1800,
            seed in any::<u64>(),
        ) {
            let whole = packet(options, &payload, 0);
            let mut pieces = cut(&whole, mtu).expect("DF is clear");
            for piece in &pieces {
                prop_assert!(piece.len() <= mtu);
                prop_assert_eq!(checksum::fold(checksum::sum(&piece[..usize::from(piece[0] & 15) * 4])), 0xffff);
            }
            let turn = usize::try_from(seed % pieces.len() as u64).expect("small");
            pieces.rotate_left(turn);
            let mut reassembler = Reassembler::new(Limits::default());
            let mut last = Outcome::Held;
            for (i, piece) in pieces.iter().enumerate() {
                prop_assert_eq!(&last, &Outcome::Held, "before piece {}", i);
                last = reassembler.push(piece, true, Ticks(1));
            }
            let Outcome::Complete(rebuilt) = last else { panic!("{last:?}") };
            prop_assert_eq!(rebuilt.packet, whole);
            prop_assert_eq!(rebuilt.packets, pieces.len() as u64);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), mtu in 0usize..300) {
            let mut buffer = [0; 300];
            _ = fragment(&bytes, mtu, &mut buffer, |piece| assert!(piece.len() <= mtu));
        }
    }
}
