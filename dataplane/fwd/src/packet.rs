//! A packet inside its frame, with room to grow in front.

use crate::id::PortId;

/// Bytes of one frame (an AF_XDP umem chunk).
pub const FRAME_LEN: usize = 2048;

/// Bytes in front of a received packet. Encapsulation needs 20 (28 over UDP), an ICMPv6 error 48,
/// a VLAN tag 4.
pub const HEADROOM: usize = 256;

/// One packet in its frame.
///
/// On an Ethernet port the packet begins with its Ethernet header, on a raw IP port (TUN) with its
/// IP header. The frame is borrowed whole, so prefixing a header moves no byte.
#[derive(Debug)]
pub struct Packet<'f> {
    frame: &'f mut [u8],
    head: u16,
    tail: u16,
    rx_port: PortId,
}

impl<'f> Packet<'f> {
    /// A packet of `len` bytes at `head`; `None` when it does not lie inside the frame or the frame
    /// is longer than 65,535 bytes.
    #[must_use]
    pub fn new(frame: &'f mut [u8], head: usize, len: usize, rx_port: PortId) -> Option<Self> {
        let tail = head.checked_add(len)?;
        if tail > frame.len() || frame.len() > usize::from(u16::MAX) {
            return None;
        }
        Some(Self {
            frame,
            head: u16::try_from(head).ok()?,
            tail: u16::try_from(tail).ok()?,
            rx_port,
        })
    }

    /// Offset of the first byte in the frame.
    #[inline]
    #[must_use]
    pub const fn head(&self) -> usize {
        self.head as usize
    }

    #[inline]
    pub(crate) const fn head16(&self) -> u16 {
        self.head
    }

    /// Offset of the byte after the last.
    #[inline]
    #[must_use]
    pub const fn tail(&self) -> usize {
        self.tail as usize
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.tail.saturating_sub(self.head) as usize
    }

    /// Whether no byte is left.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The port it came in by.
    #[inline]
    #[must_use]
    pub const fn rx_port(&self) -> PortId {
        self.rx_port
    }

    /// The packet's bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.frame.get(self.head()..self.tail()).unwrap_or(&[])
    }

    /// The packet's bytes, to change.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (head, tail) = (self.head(), self.tail());
        self.frame.get_mut(head..tail).unwrap_or(&mut [])
    }

    /// Starts fetching what is read and written of it: the headers reach to byte 78 of an untagged
    /// frame.
    #[inline]
    pub(crate) fn prefetch(&self) {
        let head = self.head();
        prefetch_index::prefetch_index(&*self.frame, head);
        prefetch_index::prefetch_index(&*self.frame, head + 64);
    }

    /// Starts fetching the line in front, where new headers begin.
    #[inline]
    pub(crate) fn prefetch_before(&self) {
        prefetch_index::prefetch_index(&*self.frame, self.head().saturating_sub(1));
    }

    /// `N` bytes at frame offset `at`, whether or not they belong to the packet now.
    #[inline]
    pub(crate) fn array_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.frame.get_mut(at..)?.first_chunk_mut()
    }

    /// The frame from offset `at` to the packet's end.
    #[inline]
    pub(crate) fn from(&self, at: usize) -> &[u8] {
        self.frame.get(at..self.tail()).unwrap_or(&[])
    }

    /// Makes the packet `head..tail` of its frame; false (and no change) when that is not inside.
    #[inline]
    pub(crate) fn set_bounds(&mut self, head: usize, tail: usize) -> bool {
        match (u16::try_from(head), u16::try_from(tail)) {
            (Ok(head), Ok(tail)) => self.set_bounds16(head, tail),
            _ => false,
        }
    }

    /// [`Packet::set_bounds`] for offsets that are known to be small.
    #[inline]
    pub(crate) fn set_bounds16(&mut self, head: u16, tail: u16) -> bool {
        let inside = head <= tail && usize::from(tail) <= self.frame.len();
        if inside {
            self.head = head;
            self.tail = tail;
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_refused_outside_the_frame() {
        let mut frame = [0u8; 100];
        assert!(Packet::new(&mut frame, 50, 51, PortId(0)).is_none());
        assert!(Packet::new(&mut frame, usize::MAX, 2, PortId(0)).is_none());
        let mut packet = Packet::new(&mut frame, 50, 50, PortId(0)).expect("inside");
        assert!(!packet.set_bounds(60, 101) && !packet.set_bounds(61, 60));
        assert_eq!((packet.head(), packet.len()), (50, 50));
        assert!(packet.set_bounds(0, 100));
        assert_eq!(packet.bytes().len(), 100);
    }
}
