//! One datagram: which bytes are there, and the packet they make.

use crate::drop_reason::DropReason;
use sixferry_wire::{checksum, ipv4};

const NOT_ECT: u8 = 1 << 0;
const CE: u8 = 1 << 3;

/// What a fragment did to its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Insert {
    /// Bytes are missing.
    Incomplete,
    /// All there.
    Complete,
    /// It contradicts what is there.
    Overlap,
}

/// Payload between two offsets, `start` a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u16,
    end: u16,
}

/// The fragments of a datagram, as far as they have come. Its size is the caller's to bound.
#[derive(Debug, Default)]
pub(super) struct Datagram {
    /// In order, without overlap; no piece is empty, so the datagram's size bounds their number.
    pieces: Vec<Piece>,
    /// Payload, from offset 0 to the end of the last piece; gaps are zero.
    payload: Vec<u8>,
    /// Header of the fragment at offset 0.
    header: Vec<u8>,
    /// Payload length, once the last fragment is here.
    total: Option<u16>,
    /// The ECN codepoints seen, one bit each.
    ecn: u8,
}

impl Datagram {
    pub(super) fn memory(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
            + self.payload.capacity()
            + self.header.capacity()
    }

    pub(super) fn insert(
        &mut self,
        header: &[u8],
        payload: &[u8],
        offset: usize,
        more: bool,
    ) -> Insert {
        let (Ok(start), Ok(end)) = (u16::try_from(offset), u16::try_from(offset + payload.len()))
        else {
            return Insert::Overlap;
        };
        let piece = Piece { start, end };
        let at = self.pieces.partition_point(|old| old.start < start);
        let next = self.pieces.get(at).copied();
        let range = offset..offset + payload.len();
        let repeated = next == Some(piece)
            && more == (self.total != Some(end))
            && self.payload.get(range.clone()) == Some(payload);
        if repeated {
            return Insert::Incomplete;
        }
        let previous = at.checked_sub(1).and_then(|i| self.pieces.get(i));
        let last = self.pieces.last().map_or(0, |last| last.end);
        let overlaps = previous.is_some_and(|old| old.end > start)
            || next.is_some_and(|old| old.start < end)
            || self.total.is_some_and(|total| end > total || !more)
            || (!more && last > end);
        if overlaps {
            return Insert::Overlap;
        }
        if self.payload.len() < range.end {
            self.payload.reserve_exact(range.end - self.payload.len());
            self.payload.resize(range.end, 0);
        }
        if let Some(slot) = self.payload.get_mut(range) {
            slot.copy_from_slice(payload);
        }
        self.pieces.insert(at, piece);
        if !more {
            self.total = Some(end);
        }
        if offset == 0 {
            self.header = header.to_vec();
        }
        self.ecn |= 1 << (header.get(1).copied().unwrap_or(0) & 3);
        if self.is_whole() {
            Insert::Complete
        } else {
            Insert::Incomplete
        }
    }

    fn is_whole(&self) -> bool {
        let here: usize = self
            .pieces
            .iter()
            .map(|p| usize::from(p.end - p.start))
            .sum();
        self.total.map(usize::from) == Some(here)
    }

    /// The packet, once whole: the first fragment's header with the datagram's length.
    pub(super) fn rebuild(&self, packet_len: usize) -> Result<Vec<u8>, DropReason> {
        // RFC 3168 section 5.3: a mark on one fragment marks the packet, and a packet that is partly
        // not ECN-capable must not be marked
        if self.ecn & CE != 0 && self.ecn & NOT_ECT != 0 {
            return Err(DropReason::EcnCeOnNotEct);
        }
        let len = self.header.len() + self.payload.len();
        let total_len = u16::try_from(len)
            .ok()
            .filter(|_| len <= packet_len)
            .ok_or(DropReason::ReasmLimit)?;
        let mut packet = [self.header.as_slice(), &self.payload].concat();
        let Some(header) = packet.get_mut(..self.header.len()) else {
            return Err(DropReason::ReasmLimit);
        };
        if let [_, tos, l0, l1, _, _, f0, f1, _, _, c0, c1, ..] = header {
            if self.ecn & CE != 0 {
                *tos |= 3;
            }
            [*l0, *l1] = total_len.to_be_bytes();
            let df = u16::from_be_bytes([*f0, *f1]) & ipv4::DF;
            [*f0, *f1] = df.to_be_bytes();
            [*c0, *c1] = [0, 0];
        }
        let sum = checksum::finish(checksum::sum(header));
        if let Some(field) = header.get_mut(10..12) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(packet)
    }
}
